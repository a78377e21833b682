"""What holds for texts in the code: log lines have one style, and no comment cites a document that is not here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import assistants_service

LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
NAMES = ("API ", "SQLite: ")  # are in capitals wherever they stand
CITED = re.compile(r"(?<!RFC \d{4}, )\bsections? \d|wire contract")
SOURCES = [path for root in assistants_service.__path__ for path in sorted(Path(root).rglob("*.py"))]


def log_lines(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="log" | "logger"), attr=level),
                args=[ast.Constant(value=str() as line), *_],
            ) if level in LEVELS:
                yield line


def test_lines_of_the_log_begin_in_lower_case() -> None:
    lines = [line for path in SOURCES for line in log_lines(path.read_text(encoding="utf-8"))]
    assert len(lines) > 70
    assert not [line for line in lines if line[0].isupper() and not line.startswith(NAMES)]


def test_no_text_cites_a_document_that_is_not_here() -> None:
    assert len(SOURCES) > 300
    assert not [str(path) for path in SOURCES if CITED.search(path.read_text(encoding="utf-8"))]
