"""Real documents in three languages and ten formats, made of the texts in corpus/; and questions about them, of each of
which the file and a phrase of the passage that answers it are known."""

from __future__ import annotations

import html
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import docx
import fpdf
import openpyxl
import pptx

SOURCES = Path(__file__).with_name("corpus")


@dataclass(frozen=True)
class Question:
    question: str
    file: str
    phrase: str


def questions() -> list[Question]:
    return [Question(**entry) for entry in json.loads((SOURCES / "questions.json").read_text("utf-8"))]


def answers(question: Question, file: str, passage: str) -> bool:
    """Whether this passage is the one, however its lines are broken."""
    return file == question.file and question.phrase in " ".join(passage.split())


def build(folder: Path) -> list[Path]:
    """All documents, as files in this folder."""
    for source in sorted(SOURCES.iterdir()):
        if kind := KINDS.get(source.name):
            MAKERS[kind](list(_blocks(source.read_text("utf-8"))), folder / f"{source.stem}{kind}")
        elif source.name != "questions.json":
            shutil.copy(source, folder)
    return sorted(folder.iterdir())


@dataclass(frozen=True)
class Block:
    """A heading of a level, a table, or a paragraph (level 0, no rows)."""

    text: str = ""
    level: int = 0
    rows: tuple[tuple[str, ...], ...] = ()


def _blocks(source: str) -> Iterator[Block]:
    for block in source.strip().split("\n\n"):
        marks, _, title = block.partition(" ")
        if block.startswith("|"):
            lines = [line for line in block.splitlines() if "---" not in line]
            yield Block(rows=tuple(tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines))
        elif marks.strip("#"):
            yield Block(block)
        else:
            yield Block(title, len(marks))


def _pdf(blocks: list[Block], path: Path) -> None:
    pdf = fpdf.FPDF()
    pdf.add_page()
    for block in blocks:
        pdf.set_font("Helvetica", "B" if block.level else "", {0: 12, 1: 20, 2: 15}[block.level])
        pdf.multi_cell(0, text=block.text, new_x="LMARGIN", new_y="NEXT")
        pdf.ln(4)
    pdf.output(str(path))


def _docx(blocks: list[Block], path: Path) -> None:
    document = docx.Document()
    for block in blocks:
        if block.level:
            document.add_heading(block.text, block.level)
        else:
            document.add_paragraph(block.text)
    document.save(str(path))


def _pptx(blocks: list[Block], path: Path) -> None:
    deck = pptx.Presentation()
    for block in blocks:
        if block.level:
            slide = deck.slides.add_slide(deck.slide_layouts[1])
            slide.shapes.title.text = block.text
        elif body := slide.placeholders[1].text_frame.text:
            slide.notes_slide.notes_text_frame.text = block.text
            assert body
        else:
            slide.placeholders[1].text_frame.text = block.text
    deck.save(str(path))


def _xlsx(blocks: list[Block], path: Path) -> None:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for block in blocks:
        if block.level:
            sheet = book.create_sheet(block.text)
        for row in block.rows:
            sheet.append(row)
    book.save(str(path))


def _html(blocks: list[Block], path: Path) -> None:
    tags = {0: "p", 1: "h1", 2: "h2"}
    body = "".join(f"<{tags[block.level]}>{html.escape(block.text)}</{tags[block.level]}>\n" for block in blocks)
    path.write_text(f"<!DOCTYPE html><html><head><title>x</title></head><body>{body}</body></html>", "utf-8")


KINDS = {
    "befoerderung.md": ".pdf",
    "einstieg.md": ".pptx",
    "fleet.md": ".xlsx",
    "guide.md": ".html",
    "handbook.md": ".docx",
    "reglement.md": ".docx",
    "training.md": ".pptx",
    "vessel.md": ".pdf",
    "wartung.md": ".docx",
}
MAKERS: dict[str, Callable[[list[Block], Path], None]] = {
    ".docx": _docx,
    ".html": _html,
    ".pdf": _pdf,
    ".pptx": _pptx,
    ".xlsx": _xlsx,
}

if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    print(*build(target), sep="\n")
