"""The supported formats, by extension: those of OpenAI's file search, and related ones. Files without such an extension
are recognised by their content.
https://developers.openai.com/api/docs/assistants/tools/file-search#supported-files
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

DOCUMENTS: Final = {
    ".doc": "application/msword",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".epub": "application/epub+zip",
    ".htm": "text/html",
    ".html": "text/html",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".pdf": "application/pdf",
    ".ppt": "application/vnd.ms-powerpoint",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".rtf": "application/rtf",
    ".xls": "application/vnd.ms-excel",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}

_TEXTS = """
    .bash .bat .bib .c .cc .cfg .clj .conf .cpp .cs .css .csv .cxx .dart .diff .eml .erl .ex .f90 .go .gradle
    .graphql .groovy .h .hpp .hs .hxx .ics .ini .java .jl .js .json .jsonl .jsx .kt .kts .less .log .lua .m
    .markdown .md .mjs .ml .mts .ndjson .org .patch .php .pl .pm .properties .proto .ps1 .py .r .rb .rs .rst .scala
    .scss .sh .sql .srt .svg .swift .tex .text .tf .toml .ts .tsv .tsx .txt .vb .vtt .vue .xml .yaml .yml .zsh
"""
TEXTS: Final = frozenset(_TEXTS.split())

ZIPPED: Final = frozenset({".docx", ".epub", ".odt", ".pptx", ".xlsx"})
MAGIC: Final = {
    **dict.fromkeys(ZIPPED, b"PK\x03\x04"),
    **dict.fromkeys((".doc", ".ppt", ".xls"), b"\xd0\xcf\x11\xe0"),
    ".rtf": b"{\\rtf",
}
UNMISTAKABLE: Final = {".pdf": b"%PDF-", ".rtf": MAGIC[".rtf"]}  # regardless of the file's name


def extension(filename: str) -> str:
    """Lower-case and with its dot; empty if there is none."""
    return PurePosixPath(filename.replace("\\", "/")).suffix.lower()
