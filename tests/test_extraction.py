"""Files to chunks: every format, and files that want to hurt, within limits and without harm to any other file."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import documents
import hostile
import pytest

from core.ports import Chunk, Chunking, Unreadable
from infra.extraction import pool
from infra.extraction.formats import DOCUMENTS, TEXTS
from infra.extraction.pool import ReaderPool

PAGE = 4096
LINUX = sys.platform == "linux"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return documents.build(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
async def readers() -> AsyncIterator[ReaderPool]:
    one = ReaderPool(processes=1, memory=256, timeout=20)
    yield one
    await one.close()


async def read(readers: ReaderPool, path: Path, chunking: Chunking = Chunking()) -> list[Chunk]:  # noqa: B008
    return list(await readers.chunks(path, path.name, chunking))


async def failure(readers: ReaderPool, path: Path) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        await read(readers, path)
    return caught.value


def children() -> set[int]:
    """Processes that this one started."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def text_file(folder: Path, text: str = hostile.HARMLESS) -> Path:
    path = folder / "note.txt"
    path.write_text(text)
    return path


# --- what is read -------------------------------------------------------------------------------------------------


async def test_every_passage_of_the_corpus_is_in_a_chunk_of_its_file(readers: ReaderPool, corpus: list[Path]) -> None:
    chunks = {path.name: await read(readers, path) for path in corpus}
    assert {Path(name).suffix for name in chunks} == {
        *(".csv", ".docx", ".html", ".json", ".md", ".pdf", ".pptx", ".py", ".txt", ".xlsx")
    }
    for question in documents.questions():
        assert any(documents.answers(question, question.file, chunk.text) for chunk in chunks[question.file]), question


async def test_chunks_are_cut_as_asked_and_the_same_each_time(readers: ReaderPool, corpus: list[Path]) -> None:
    path = next(path for path in corpus if path.name == "vessel.pdf")
    whole = await read(readers, path, Chunking(4096, 0))
    small = await read(readers, path, Chunking(100, 50))
    assert [len(whole), whole[0].start] == [1, 0]
    assert len(small) > 15
    assert max(chunk.tokens for chunk in small) <= 100
    assert all(whole[0].text[chunk.start :].startswith(chunk.text) for chunk in small)
    assert small == await read(readers, path, Chunking(100, 50))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "cp1251", "shift-jis"])
async def test_encodings_are_recognised(encoding: str, readers: ReaderPool, tmp_path: Path) -> None:
    text = {
        "cp1251": "Паром отходит от причала в полдень и возвращается в четыре часа. " * 5,
        "shift-jis": "フェリーは正午に出発し、四時に戻ります。港までの道は晴れています。" * 5,
    }.get(encoding, "Die Fähre fährt täglich über den Fjord, außer bei Sturm. Größere Schiffe müssen warten. " * 5)
    path = tmp_path / "note.txt"
    path.write_bytes(text.encode(encoding))
    assert [chunk.text for chunk in await read(readers, path)] == [text]


async def test_extensions_are_those_of_openai_and_their_case_says_nothing(readers: ReaderPool, tmp_path: Path) -> None:
    published = ".c .cpp .cs .css .doc .docx .go .html .java .js .json .md .pdf .php .pptx .py .rb .sh .tex .ts .txt"
    assert set(published.split()) <= DOCUMENTS.keys() | TEXTS
    assert await readers.chunks(text_file(tmp_path), "NOTE.TXT", Chunking())
    assert await readers.chunks(text_file(tmp_path), "a/b.c\\note.Py", Chunking())


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", hostile.FILES)
async def test_a_hostile_file_fails_alone_within_limits(name: str, tmp_path: Path) -> None:
    make, extension, code = hostile.FILES[name]
    path = tmp_path / f"file{extension}"
    make(path)
    readers = ReaderPool(processes=1, memory=256, timeout=20)
    try:
        before, began = memory(), time.monotonic()
        if code:
            error = await failure(readers, path)
            assert (error.code, bool(error.message)) == (code, True)
            assert str(tmp_path) not in error.message
            print(f"{name}: {error.message}", end=" ")
        else:
            chunks = await read(readers, path)
            assert name == "one word" or hostile.HARMLESS in chunks[0].text
        took, grown = time.monotonic() - began, memory() - before
        print(f"{took:.1f} s, {grown / 2**20:.0f} MiB")
        assert took < 25
        assert grown < 64 * 2**20  # of the parent, for whatever text there is
        assert await read(readers, text_file(tmp_path)) == [Chunk(hostile.HARMLESS, 0, 6)]
        assert not list(Path("/tmp").glob(hostile.SECRET))
    finally:
        await readers.close()


def memory() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


async def test_a_file_that_takes_too_long_fails_and_its_process_is_gone(tmp_path: Path) -> None:
    readers = ReaderPool(processes=1, timeout=0.01)
    error = await failure(readers, text_file(tmp_path))
    assert (error.code, error.message) == ("invalid_file", "Reading the file takes more than 0.01 seconds.")
    assert not children()
    await readers.close()


async def test_a_process_that_is_killed_fails_its_file_alone(readers: ReaderPool, tmp_path: Path) -> None:
    path = tmp_path / "pipe.txt"
    os.mkfifo(path)  # a read of it lasts until somebody writes
    reading = asyncio.create_task(failure(readers, path))
    waiting = asyncio.create_task(read(readers, text_file(tmp_path)))
    while not (found := children()):
        await asyncio.sleep(0.01)
    os.kill(found.pop(), signal.SIGKILL)
    assert (await reading).code == "server_error"
    assert await waiting == [Chunk(hostile.HARMLESS, 0, 6)]


async def test_a_cancelled_call_ends_its_process(readers: ReaderPool, tmp_path: Path) -> None:
    path = tmp_path / "pipe.txt"
    os.mkfifo(path)
    reading = asyncio.create_task(read(readers, path))
    while not children():
        await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not children()
    assert await read(readers, text_file(tmp_path))


# --- the processes ------------------------------------------------------------------------------------------------


async def test_processes_stay_warm_and_are_no_more_than_allowed(tmp_path: Path) -> None:
    readers = ReaderPool(processes=2)
    await asyncio.gather(*(read(readers, text_file(tmp_path)) for _ in range(20)))
    warm = children()
    assert len(warm) == 2
    await asyncio.gather(*(read(readers, text_file(tmp_path)) for _ in range(20)))
    assert children() == warm
    await readers.close()
    assert not children()


async def test_processes_that_have_nothing_to_do_are_let_go(
    readers: ReaderPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "IDLE", 0)
    await read(readers, text_file(tmp_path))
    while children():
        await asyncio.sleep(0.01)
    assert await read(readers, text_file(tmp_path))


@pytest.mark.skipif(not LINUX, reason="/proc is Linux")
async def test_a_process_knows_no_secrets_and_reaches_no_network(
    readers: ReaderPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    await read(readers, text_file(tmp_path))
    home = Path(f"/proc/{children().pop()}")
    assert b"sk-secret" not in (home / "environ").read_bytes()
    limits = (home / "limits").read_text()
    assert all(line.split()[3:5] == ["0", "0"] for line in limits.splitlines() if line.startswith("Max file size"))
    assert "NoNewPrivs:\t1" in (home / "status").read_text()
    if (home / "ns/net").readlink() != Path("/proc/self/ns/net").readlink():  # where the system allows it
        assert [line.split(":")[0].strip() for line in (home / "net/dev").read_text().splitlines()[2:]] == ["lo"]
    else:
        assert os.geteuid() != 0


async def test_where_no_process_can_be_started_the_file_is_not_to_blame(
    readers: ReaderPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert (await failure(readers, text_file(tmp_path))).code == "server_error"
