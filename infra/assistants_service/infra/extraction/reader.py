"""The process that reads files, one after another: requests on stdin, answers on stdout, with minimal privileges.

`pool` starts it. Only this module and `pdfium` use the extraction library.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec

from assistants_service.core.chunking import spans
from assistants_service.core.ports.extraction import Chunking, Unreadable
from assistants_service.infra.extraction import pdfium
from assistants_service.infra.extraction.confinement import confine, forbid_writing, limit_memory, limit_time
from assistants_service.infra.extraction.formats import DOCUMENTS, MAGIC, TEXTS, UNMISTAKABLE, ZIPPED, extension
from assistants_service.infra.extraction.text import MOST_TEXT, SNIFFED, decode_text, is_text

if TYPE_CHECKING:
    import kreuzberg

MOST_TOKENS: Final = 5_000_000  # of a file, as OpenAI publishes it for file search
MOST_UNPACKED: Final = 512 * 1024**2  # total bytes that a zipped document may declare
MOST_ENTRIES: Final = 10_000  # files in a zipped document
FAULT: Final = 3  # exit code of a process that a file crashed, if no signal ended it


class Request(msgspec.Struct, frozen=True):
    path: str
    filename: str
    size: int
    overlap: int


class Answer(msgspec.Struct, frozen=True):
    """The answer to a request: text and spans, or a failure. A span is (start, end, tokens), in code points. `fault` is
    for the log: the library's failure, without content of the file."""

    text: str = ""
    spans: list[tuple[int, int, int]] = []
    code: str = ""
    message: str = ""
    fault: str = ""


class LibraryError(Exception):
    """The extraction library failed. The message contains nothing of the file."""


def read(request: Request) -> Answer:
    """Returns all errors of a file as answers, unless they end the process."""
    from assistants_service.infra.extraction.tokens import token_bounds

    try:
        text = _text(request.path, request.filename)
        places = token_bounds(text)
        if len(places) > MOST_TOKENS:
            raise Unreadable("invalid_file", f"The file has more than {MOST_TOKENS:,} tokens.")
        chunking = Chunking(request.size, request.overlap)
        return Answer(text, [(places[a], places[b], b - a) for a, b in spans(text, places, chunking)])
    except Unreadable as error:
        return Answer(code=error.code, message=error.message)
    except LibraryError as error:
        named = f"{extension(request.filename)} file".strip()
        return Answer(code="server_error", message=f"The service failed to read this {named}.", fault=str(error))
    except MemoryError:
        return Answer(code="invalid_file", message="The file needs too much memory to be read.")


def _text(path: str, filename: str) -> str:
    size = Path(path).stat().st_size
    if not size:
        raise Unreadable("invalid_file", "The file is empty.")
    with Path(path).open("rb") as file:
        kind = _kind(file, extension(filename))
        text = _document(file, size, kind) if kind in DOCUMENTS else decode_text(file, size)
    text = text.replace("\r\n", "\n").replace("\r", "\n").encode(errors="replace").decode()
    if not text.strip():
        raise Unreadable("invalid_file", "The file contains no text; text in scanned pages is not recognised.")
    if len(text) > MOST_TEXT:
        raise Unreadable("invalid_file", f"The file has more than {MOST_TEXT:,} characters.")
    return text


def _kind(file: BinaryIO, kind: str) -> str:
    """The type: the extension, or else by the first bytes, if they are unmistakably those of a text or a document."""
    if kind in DOCUMENTS or kind in TEXTS:
        return kind
    head = file.read(SNIFFED)
    file.seek(0)
    for document, magic in UNMISTAKABLE.items():
        if head.startswith(magic):
            return document
    if not is_text(head):
        named = f"the extension '{kind}'" if kind else "no extension"
        message = f"Files with {named} are not supported for retrieval, unless they are plain text."
        raise Unreadable("unsupported_file", message)
    return kind


def _document(file: BinaryIO, size: int, kind: str) -> str:
    head = file.read(1024)
    if kind in ZIPPED and head.startswith(MAGIC[".doc"]):
        raise Unreadable("invalid_file", f"The file is encrypted with a password, or is not a {kind} file.")
    if not head.startswith(MAGIC.get(kind, b"")) or (kind == ".pdf" and b"%PDF-" not in head):
        raise Unreadable("invalid_file", f"The file is not a {kind} file, as its extension says.")
    if kind in ZIPPED:
        _check_entries(file)
    file.seek(0)
    # The library reads every HTML file as UTF-8.
    source = decode_text(file, size).encode() if kind in (".html", ".htm") else None
    import kreuzberg

    if kind == ".pdf" and (unusable := pdfium.unavailable_reason()):
        raise LibraryError(unusable)
    try:
        if source is None:
            return kreuzberg.extract_file_sync(file.name, DOCUMENTS[kind], _config(kind)).content
        return kreuzberg.extract_bytes_sync(source, DOCUMENTS[kind], _config(kind)).content
    except MemoryError:
        raise
    except kreuzberg.ParsingError as error:
        text = str(error).lower()
        if "password" in text or "encrypt" in text:
            raise Unreadable("invalid_file", "The file is encrypted with a password.") from None
        raise Unreadable("invalid_file", f"The file is damaged, or is not a {kind} file.") from None
    except BaseException as error:  # Rust panics are not Exceptions; their messages may quote the file
        raise LibraryError(f"{type(error).__name__} at a {kind} file") from None


def _check_entries(file: BinaryIO) -> None:
    """Checks what a zip bomb declares. If it lies, the limits of the process stop it."""
    try:
        entries = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        raise Unreadable("invalid_file", "The file is damaged.") from None
    if len(entries) > MOST_ENTRIES or sum(entry.file_size for entry in entries) > MOST_UNPACKED:
        raise Unreadable("invalid_file", "The file unpacks to more than a document may contain.")
    if any(entry.flag_bits & 1 for entry in entries):
        raise Unreadable("invalid_file", "The file is encrypted with a password.")


def _config(kind: str) -> kreuzberg.ExtractionConfig:
    """Extracts all content. As Markdown, tables stay tables; but for PDF and HTML files that drops titles, and makes
    lists of other text."""
    import kreuzberg

    return kreuzberg.ExtractionConfig(
        output_format="plain" if kind in (".pdf", ".html", ".htm") else "markdown",
        use_cache=False,
        disable_ocr=True,  # type: ignore[call-arg] # missing in its stub
        enable_quality_processing=False,
        content_filter=kreuzberg.ContentFilterConfig(
            include_headers=True, include_footers=True, strip_repeating_text=False
        ),
    )


def main() -> None:
    """Arguments: MiB of memory, CPU seconds per file. Requests and answers are 4 bytes of length and msgpack."""
    memory, seconds = int(sys.argv[1]), int(sys.argv[2])
    answers, nowhere = os.fdopen(os.dup(1), "wb"), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # libraries may print
    mapped = confine(tempfile.gettempdir())
    _warm()
    os.dup2(nowhere, 2)  # until here the service's own, so that a failed start is logged; now it may quote files
    forbid_writing()
    limit_memory(memory, mapped)
    while head := sys.stdin.buffer.read(4):
        request = msgspec.msgpack.decode(sys.stdin.buffer.read(int.from_bytes(head)), type=Request)
        limit_time(seconds)
        try:
            answer = msgspec.msgpack.encode(read(request))
        except BaseException:  # such as no memory even for the answer
            sys.exit(FAULT)
        answers.write(len(answer).to_bytes(4) + answer)
        answers.flush()


def _warm() -> None:
    import charset_normalizer  # noqa: F401
    import kreuzberg  # noqa: F401

    from assistants_service.infra.extraction.tokens import token_bounds

    token_bounds("warm")
    pdfium.unavailable_reason()
