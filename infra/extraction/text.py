"""Plain text: which bytes are some, and in which encoding."""

from __future__ import annotations

import codecs
import contextlib
from typing import BinaryIO, Final

from core.ports import Unreadable

MOST_TEXT: Final = 32 * 1024**2  # bytes of a text file, and code points of any text
SNIFFED: Final = 256 * 1024  # bytes from which it is told what an unknown file, or its encoding, is
_WIDE: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CONTROLS: Final = bytes(set(range(32)) - set(b"\a\b\t\n\v\f\r\x1b"))  # that no text has, as file(1) tells it


def is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a text, in whatever encoding."""
    if head.startswith(_WIDE):
        with contextlib.suppress(UnicodeDecodeError):  # pairs of random bytes are no UTF-16 for long
            head = codecs.getincrementaldecoder("utf-16")().decode(head).encode()
    return len(head.translate(None, _CONTROLS)) == len(head)


def decoded(file: BinaryIO, size: int) -> str:
    """UTF-8 or UTF-16, as OpenAI takes them, or what else it may be. Raises Unreadable."""
    if size > MOST_TEXT:
        raise Unreadable("invalid_file", f"The file has more than {MOST_TEXT:,} bytes.")
    data = file.read()
    wide = data.startswith(_WIDE)
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        if wide:
            raise Unreadable("invalid_file", "The file is not valid UTF-16, which it begins like.") from None
        text = _guessed(data)
    if "\x00" in text:
        raise Unreadable("invalid_file", "The file holds binary data, and not only text.")
    return text


def _guessed(data: bytes) -> str:
    from charset_normalizer import from_bytes

    if b"\x00" not in data and (found := from_bytes(data[:SNIFFED]).best()):
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(found.encoding)
    raise Unreadable("invalid_file", "The encoding of the file is not known: save it as UTF-8.")
