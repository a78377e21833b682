"""Files to chunks: every format, and files that want to hurt, within limits and without harm to any other file."""

from __future__ import annotations

import math
import random
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import hostile_files
import sample_documents
from assistants_service.core.ports.extraction import Chunk, Chunking, Unreadable
from assistants_service.infra.extraction.formats import DOCUMENTS, TEXTS
from assistants_service.infra.extraction.pool import ReaderPool
from reader_pools import failure, read, text_file

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = 4096


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sample_documents.build(tmp_path_factory.mktemp("corpus"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def readers() -> AsyncIterator[ReaderPool]:
    """One pool for most tests: a process takes a second of CPU to start."""
    one = ReaderPool(processes=1, memory=256, timeout=20)
    yield one
    await one.close()


# --- what is read -------------------------------------------------------------------------------------------------


async def test_every_passage_of_the_corpus_is_in_a_chunk_of_its_file(readers: ReaderPool, corpus: list[Path]) -> None:
    chunks = {path.name: await read(readers, path) for path in corpus}
    assert {Path(name).suffix for name in chunks} == {
        *(".csv", ".docx", ".html", ".json", ".md", ".pdf", ".pptx", ".py", ".txt", ".xlsx")
    }
    for question in sample_documents.questions():
        assert any(sample_documents.answers(question, question.file, chunk.text) for chunk in chunks[question.file]), (
            question
        )


async def test_chunks_are_cut_as_asked_and_the_same_each_time(readers: ReaderPool, corpus: list[Path]) -> None:
    path = next(path for path in corpus if path.name == "vessel.pdf")
    whole = await read(readers, path, Chunking(4096, 0))
    small = await read(readers, path, Chunking(100, 50))
    assert [len(whole), whole[0].start] == [1, 0]
    assert len(small) > 15
    assert max(chunk.tokens for chunk in small) <= 100
    assert all(whole[0].text[chunk.start :].startswith(chunk.text) for chunk in small)
    assert small == await read(readers, path, Chunking(100, 50))


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "cp1251", "shift-jis"]


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_encodings_are_recognised(encoding: str, readers: ReaderPool, tmp_path: Path) -> None:
    text = {
        "cp1251": "Паром отходит от причала в полдень и возвращается в четыре часа. " * 5,
        "shift-jis": "フェリーは正午に出発し、四時に戻ります。港までの道は晴れています。" * 5,
    }.get(encoding, "Die Fähre fährt täglich über den Fjord, außer bei Sturm. Größere Schiffe müssen warten. " * 5)
    path = tmp_path / "note.txt"
    path.write_bytes(text.encode(encoding))
    assert [chunk.text for chunk in await read(readers, path)] == [text]


@pytest.mark.parametrize(
    "script", ["Паром отходит\nв полдень. ", "渡轮中午出发\n四点返回\n", "العبّارة ٥\n", "😀 ferry\n"]
)
@pytest.mark.parametrize("order", ["le", "be"])
async def test_utf_16_without_a_mark_is_told_by_its_zeros(
    script: str, order: str, readers: ReaderPool, tmp_path: Path
) -> None:
    path = tmp_path / "note.txt"
    path.write_bytes((script * 9).encode(f"utf-16-{order}"))
    assert [chunk.text for chunk in await read(readers, path)] == [script * 9]


@pytest.mark.parametrize("name", ["note.txt", "README"])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16", "utf-16-le"])
async def test_the_end_of_file_of_dos_is_no_part_of_a_text(
    name: str, encoding: str, readers: ReaderPool, tmp_path: Path
) -> None:
    """Once, or until its last record is full."""
    text = "Die Fähre fährt täglich über den Fjord, außer bei Sturm. Größere Schiffe müssen warten.\n" * 5
    path = tmp_path / name
    for end in ("\x1a", "\x1a" * 100):
        path.write_bytes((text + end).encode(encoding))
        assert [chunk.text for chunk in await read(readers, path)] == [text]


WORDS = b"The tide turns at noon."
DATA = {
    "numbers of 16 bits": struct.pack("<200h", *range(-100, 100)),
    "numbers of 32 bits": struct.pack("<100i", *range(40, 140)),
    "sound": struct.pack("<300h", *(int(9000 * math.sin(n / 7)) for n in range(300))),
    "names of one length": b"Jan\0Feb\0Mar\0" * 20,
    "lines with zeros between": b"".join(b"%d is the tide\n\0" % 3**n for n in range(40)),
    "random pairs": random.Random(1).randbytes(400) + b"a\0",
    "an end within": WORDS + b"\x1a\0" + WORDS,
    "half a character": (WORDS.decode() * 9).encode("utf-16-le") + b"a",
    "half of UTF-32": "noon".encode("utf-32") + b"a",
}


@pytest.mark.parametrize("name", ["note.txt", "README"])
@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
async def test_what_is_no_text_in_any_encoding_is_refused(
    data: bytes, name: str, readers: ReaderPool, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(Unreadable, match=r"binary data|not valid UTF-|encoding|not supported"):
        await read(readers, path)


async def test_a_page_says_its_encoding_itself(readers: ReaderPool, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    page = "<html><head><meta charset='{}'><script>x()</script></head><body><p>Größe der Fähre</p></body></html>"
    for encoding in ("iso-8859-1", "utf-8", "utf-16"):
        path.write_bytes(page.format(encoding).encode(encoding))
        assert [chunk.text for chunk in await read(readers, path)] == ["Größe der Fähre"], encoding


async def test_extensions_are_those_of_openai_and_their_case_says_nothing(readers: ReaderPool, tmp_path: Path) -> None:
    published = ".c .cpp .cs .css .doc .docx .go .html .java .js .json .md .pdf .php .pptx .py .rb .sh .tex .ts .txt"
    assert set(published.split()) <= DOCUMENTS.keys() | TEXTS
    assert await readers.chunks("p", text_file(tmp_path), "NOTE.TXT", Chunking())
    assert await readers.chunks("p", text_file(tmp_path), "a/b.c\\note.Py", Chunking())


# The SDK for Python calls a BytesIO without a name `upload`.
@pytest.mark.parametrize("name", ["README", "Makefile", ".env", "upload", "notes.2026-11", "LICENSE.orig", "a.png"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
async def test_text_is_told_by_its_bytes_where_its_name_says_nothing(
    name: str, encoding: str, readers: ReaderPool, tmp_path: Path
) -> None:
    text = "# Fähren\r\nFERRY = täglich\fund\tbei Sturm nicht. Größere Schiffe müssen warten.\n" * 5
    path = tmp_path / "content"
    path.write_bytes(text.encode(encoding))
    (chunk,) = await readers.chunks("p", path, name, Chunking())
    assert chunk.text == text.replace("\r\n", "\n")


async def test_a_document_that_begins_like_no_other_needs_no_extension(readers: ReaderPool, corpus: list[Path]) -> None:
    path = next(path for path in corpus if path.name == "vessel.pdf")
    assert await readers.chunks("p", path, "upload", Chunking()) == await read(readers, path)


# --- what is refused ----------------------------------------------------------------------------------------------


async def test_hostile_files_fail_alone_and_within_limits(readers: ReaderPool, tmp_path: Path) -> None:
    """One after the other by one pool, with a right file after each."""
    good = text_file(tmp_path)
    await read(readers, good)
    files = [
        (tmp_path / f"file{place}{extension}", make, name, code)
        for place, (name, (make, extension, code)) in enumerate(hostile_files.FILES.items())
    ]
    for path, make, _, _ in files:
        make(path)
    at_first, worst = memory(), 0.0
    for path, _, name, code in files:
        began = time.monotonic()
        if code:
            error = await failure(readers, path)
            assert (name, error.code, bool(error.message)) == (name, code, True)
            assert str(tmp_path) not in error.message
            said = f"{error.code}: {error.message}"
        else:
            chunks = await read(readers, path)
            assert len(chunks) == 1, name
            assert hostile_files.HARMLESS in chunks[0].text, name
            said = "its text"
        took = time.monotonic() - began
        worst = max(worst, took)
        print(f"{name:20} {took:5.1f} s  {(memory() - at_first) / 2**20:4.0f} MiB  {said}")
        assert took < 60, name  # the limit of the clock (20), and a start
        assert await read(readers, good) == [Chunk(hostile_files.HARMLESS, 0, 6)], name
        assert not list(Path("/tmp").glob(hostile_files.SECRET))
    assert memory() - at_first < 32 * 2**20  # of the parent


def memory() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
