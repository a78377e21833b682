"""multipart/form-data with one file: the file is streamed, and never wholly in memory."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from email.errors import MessageError
from email.header import decode_header
from encodings.aliases import aliases
from typing import Final
from urllib.parse import unquote_to_bytes

from aiohttp import web
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from assistants_service.api.bodies import invite, waits
from assistants_service.core.errors import ApiError

MAX_TEXT = 4096  # bytes of a field that is not a file
OVERHEAD = 64 * 1024  # bytes that a form may have in addition to its file
MAX_PIECES: Final = 100  # of one file name
CHARSETS: Final = frozenset((*aliases, *aliases.values()))
_PARAMETER: Final = re.compile(r';\s*([^\s;="]+)\s*=\s*("(?:\\.|[^"\\])*"|[^;"]*)')
_ESCAPED: Final = re.compile(r"\\(.)")
_WORD: Final = r"=\?[^?\s]+\?[BbQq]\?[^?]*\?="
_WORDS: Final = re.compile(rf"{_WORD}(?:\s*{_WORD})*")


class Form:
    """Fields may come before and after the file: first `begin`, then all `chunks`, then `fields` is complete.

    All raise the ApiError for an invalid form. `file` names the field of the file, which may have `limit` bytes, and
    `fields` the others.
    """

    def __init__(self, request: web.Request, file: str, fields: Collection[str] = (), *, limit: int) -> None:
        kind, options = parse_options_header(request.headers.get("Content-Type", ""))  # type: ignore[no-untyped-call]
        if kind != "multipart/form-data" or not options.get("boundary"):
            raise ApiError(f"Expected a body of type 'multipart/form-data', but got '{kind[:100]}' instead.")
        self._file, self._names, self._limit = file, fields, limit
        if (request.content_length or 0) > limit + OVERHEAD:
            raise self._too_large()
        self._events = self._parsed(request, options["boundary"])
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.digest = hashlib.sha256() if "Idempotency-Key" in request.headers else None  # of the file

    async def begin(self) -> None:
        """Read what comes before the file."""
        if not await self._read_fields():
            message = f"Missing required parameter: '{self._file}'."
            raise ApiError(message, param=self._file, code="missing_required_parameter")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes of the file; then the rest of the form is read."""
        size = 0
        async for event in self._events:
            if not isinstance(event, bytes):
                break
            size += len(event)
            if size > self._limit:
                raise self._too_large()
            if self.digest:
                self.digest.update(event)
            yield event
        if await self._read_fields():
            raise _twice(self._file)

    async def _read_fields(self) -> bool:
        """Returns whether the file comes next, or else the end."""
        name, text = "", bytearray()
        async for event in self._events:
            if isinstance(event, bytes):
                text += event
                if len(text) > MAX_TEXT:
                    raise ApiError(f"Invalid '{name}': string too long.", param=name, code="string_above_max_length")
            elif event is None and text:  # browsers send empty fields
                self.fields[name] = text.decode(errors="replace")
            elif event is not None:
                name, text = decoded(event.name or ""), bytearray()
                if name == self._file:
                    self.filename = file_name(event)
                    return True
                if name not in self._names:
                    message = f"Unknown parameter: '{name[:200]}'."
                    raise ApiError(message, param=name[:200], code="unknown_parameter")
                if name in self.fields:
                    raise _twice(name)
        return False

    async def _parsed(
        self, request: web.Request, boundary: str
    ) -> AsyncGenerator[MultipartSegment | bytes | None, None]:
        """Yields each field's head, its bytes and, at its end, None. What follows the last field is read as well: a
        body that is shorter than announced ends there, or never, and is refused."""
        left = self._limit + OVERHEAD
        if waits(request):
            await invite(request)

        async def read(size: int) -> bytes:
            nonlocal left
            data = await request.content.read(size)
            left -= len(data)
            if left < 0:
                raise self._too_large()
            return data

        try:
            async for event in PushMultipartParser(boundary, header_charset="latin-1").parse_async(read):
                yield event
        except MultipartError as error:
            raise ApiError(f"We could not parse the form in the body of your request: {error}") from None

    def _too_large(self) -> ApiError:
        message = f"The file is too large: the limit is {self._limit} bytes."
        return ApiError(message, status=413, param=self._file)


def decoded(text: str) -> str:
    """Text that was read as Latin-1: UTF-8, as browsers and nearly all clients send it, or else Windows-1252, which has
    the printable characters of Latin-1 (encoding.spec.whatwg.org/#names-and-labels)."""
    sent = text.encode("latin-1")
    try:
        return sent.decode()
    except UnicodeDecodeError:
        return sent.decode("cp1252", errors="replace")


def file_name(segment: MultipartSegment) -> str | None:
    """The file name that the sender gives: `filename*` (RFC 8187), also in numbered pieces (RFC 2231, 3), or else
    `filename`, in which MIME encoded words (RFC 2047) are decoded. `segment` was read as Latin-1, which loses no byte.

    Forms should contain neither encoding (RFC 7578), but .NET sends both, and urllib3 before 1.25 only `filename*`:
    https://github.com/dotnet/core/issues/782, https://github.com/psf/requests/issues/4652
    """
    header, plain = segment.header("Content-Disposition", ""), segment.filename and decoded(segment.filename)
    with contextlib.suppress(LookupError, ValueError):  # what cannot be decoded is ignored, and what is empty
        if "filename*" in header.lower() and (extended := _extended(header)):
            return extended
    with contextlib.suppress(MessageError, LookupError, ValueError):
        return _words(plain) if plain and "=?" in plain else plain
    return plain


def _extended(header: str) -> str:
    """Empty if there is none. The last of several counts, as for `filename`."""
    found = {name.lower(): _unquoted(value) for name, value in _PARAMETER.findall(header)}
    if "filename*" in found:
        return _joined([("*", found["filename*"])])
    pieces: list[tuple[str, str]] = []
    for number in range(MAX_PIECES):
        star = "*" if f"filename*{number}*" in found else ""
        if f"filename*{number}{star}" not in found:
            break
        pieces.append((star, found[f"filename*{number}{star}"]))
    return _joined(pieces)


def _unquoted(value: str) -> str:
    return _ESCAPED.sub(r"\1", value[1:-1]) if value.startswith('"') else value.strip()


def _joined(pieces: list[tuple[str, str]]) -> str:
    """A value in pieces. Those with a star are percent-encoded; if the first is one, the charset stands before it.
    Raises ValueError and LookupError for what cannot be decoded."""
    charset = ""
    if pieces and pieces[0][0]:
        charset, _, first = pieces[0][1].split("'", 2)
        pieces = [("*", first), *pieces[1:]]
    sent = [(star, text.encode("latin-1")) for star, text in pieces]
    whole = b"".join(unquote_to_bytes(text) if star else text for star, text in sent)
    return whole.decode(_known(charset or "utf-8"))


def _words(name: str) -> str:
    """White space between two encoded words is dropped; everything else around them is kept."""
    return _WORDS.sub(lambda found: "".join(_word(*part) for part in decode_header(found[0])), name)


def _word(sent: bytes, charset: str | None) -> str:
    return sent.decode(_known((charset or "").partition("*")[0]))  # without the language of RFC 2231, 5


def _known(charset: str) -> str:
    """The charset; raises LookupError. The check comes first because Python caches every unknown name that is looked
    up."""
    if charset.lower().replace("-", "_") not in CHARSETS:
        raise LookupError(charset)
    return charset


def _twice(name: str) -> ApiError:
    return ApiError(f"The parameter '{name}' is given twice.", param=name, code="invalid_value")
