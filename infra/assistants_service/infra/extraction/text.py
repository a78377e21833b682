"""Plain text: recognises it, and its encoding."""

from __future__ import annotations

import codecs
import contextlib
import unicodedata
from typing import BinaryIO, Final

from assistants_service.core.ports.extraction import Unreadable

MOST_TEXT: Final = 32 * 1024**2  # bytes of a text file, and code points of any text
SNIFFED: Final = 256 * 1024  # bytes examined to recognise an unknown file, or its encoding
_MARKS: Final = {  # longest first: the mark of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_CONTROLS: Final = bytes(set(range(32)) - set(b"\a\b\t\n\v\f\r\x1b"))  # bytes that never occur in text, as in file(1)


_END: Final = "\x1a"  # end of a text file in CP/M and DOS, which some programs still write


def is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are text, in any encoding."""
    if wide := _wide(head):
        with contextlib.suppress(UnicodeDecodeError):  # random bytes are rarely valid UTF-16 for long
            head = codecs.getincrementaldecoder(wide)().decode(head).encode()
    return not _controls(head.rstrip(_END.encode()))


def decode_text(file: BinaryIO, size: int) -> str:
    """Text in UTF-8 or UTF-16, as OpenAI accepts them, in UTF-32, or in a guessed encoding. Raises Unreadable."""
    if size > MOST_TEXT:
        raise Unreadable("invalid_file", f"The file has more than {MOST_TEXT:,} bytes.")
    data = file.read()
    wide = _wide(data[:SNIFFED])
    try:
        text = data.decode(wide or "utf-8-sig")
    except UnicodeDecodeError:
        if wide:
            named = wide[:6].upper()
            raise Unreadable("invalid_file", f"The file begins like {named}, but is not valid {named}.") from None
        text = _guessed(data)
    text = text.rstrip(_END)
    if "\x00" in text:
        raise Unreadable("invalid_file", "The file contains binary data.")
    return text


def _wide(head: bytes) -> str | None:
    """The encoding, if it uses two or four bytes per character: by its mark, or for UTF-16 without a mark by its zeros.
    Spaces, line ends, digits and Latin letters all have a zero as their first byte, or all as their second."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    first, second = head[::2].count(0), head[1::2].count(0)
    more, fewer = max(first, second), min(first, second)  # others have zeros, too: the Chinese character for one
    if more < 4 * fewer or 32 * more < len(head) or not more:
        return None
    encoding = "utf-16-be" if first > second else "utf-16-le"
    return encoding if _reads_as(encoding, head) else None


def _reads_as(encoding: str, head: bytes) -> bool:
    """Whether the decoded text is plausible: with spaces, and without unassigned characters."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    found = set(text.rstrip(_END))
    strange = any(unicodedata.category(each) in ("Cn", "Co") for each in found)
    return not strange and bool(found & {" ", "\n"}) and not _controls("".join(found).encode())


def _controls(data: bytes) -> bool:
    return len(data.translate(None, _CONTROLS)) != len(data)


def _guessed(data: bytes) -> str:
    from charset_normalizer import from_bytes

    if b"\x00" not in data and (found := from_bytes(data[:SNIFFED]).best()):
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(found.encoding)
    raise Unreadable("invalid_file", "The encoding of the file is unknown: save it as UTF-8.")
