"""Cut the Debian FAQ into sections: `python tests/bench/faq/cut.py FOLDER`, where debian-faq.LANGUAGE.txt.gz are (the
packages debian-faq, debian-faq-de, ... put them into /usr/share/doc/debian/FAQ)."""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
LANGUAGES = ("en", "de", "ru", "ja")
SECTION = re.compile(r"\d+\.\d+(\.\d+)?\. ")  # at the beginning of a line; in the table of contents it is indented


def sections(text: str) -> list[tuple[str, str]]:
    """The title of each, without its number, and its paragraphs, a line each."""
    found: list[tuple[str, list[str]]] = []
    inside = False
    for block in re.split(r"\n[ \t]*\n", text.replace("\xa0", " ")):
        said = " ".join(block.split())
        if SECTION.match(block.strip("\n")):
            found.append((said.split(" ", 1)[1], []))
            inside = True
        elif not block.strip("\n").startswith(" "):  # the title of a chapter
            inside = False
        elif inside and len(said) > 1:
            found[-1][1].append(said)
    return [(title, "\n".join(paragraphs)) for title, paragraphs in found if paragraphs]


def main(folder: Path) -> None:
    for language in LANGUAGES:
        text = gzip.decompress((folder / f"debian-faq.{language}.txt.gz").read_bytes()).decode()
        rows = ",\n".join(json.dumps(section, ensure_ascii=False) for section in sections(text))
        (HERE / f"{language}.json").write_text(f"[\n{rows}\n]\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
