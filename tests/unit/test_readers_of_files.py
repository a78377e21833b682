"""The processes that read files: how many, how long, what they may, and what is left when one of them ends."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import fpdf
import pytest

import hostile_files
from assistants_service.core.ports.extraction import Chunk, Chunking
from assistants_service.infra.extraction import pool
from assistants_service.infra.extraction.pool import ReaderPool
from reader_pools import failure, read, text_file


@pytest.fixture
async def readers() -> AsyncIterator[ReaderPool]:
    one = ReaderPool(processes=1)
    yield one
    await one.close()


def children(of: int | None = None) -> set[int]:
    """Processes that a process, by default this one, started and that live."""
    pid = of or os.getpid()
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def slow_file(folder: Path) -> Path:
    """It takes seconds to read."""
    path = folder / "slow.txt"
    path.write_text("The ferry leaves at noon. " * 800_000)
    return path


async def test_a_file_that_takes_too_long_fails_and_its_process_is_gone(tmp_path: Path) -> None:
    readers = ReaderPool(processes=1, timeout=0.01)
    error = await failure(readers, text_file(tmp_path))
    assert (error.code, error.message) == ("invalid_file", "Reading the file takes more than 0.01 seconds.")
    assert not children()
    await readers.close()


async def test_a_process_that_is_killed_fails_its_file_alone(readers: ReaderPool, tmp_path: Path) -> None:
    path = slow_file(tmp_path)
    reading = asyncio.create_task(failure(readers, path))
    waiting = asyncio.create_task(read(readers, text_file(tmp_path)))
    while not (found := children()):
        await asyncio.sleep(0.01)
    os.kill(found.pop(), signal.SIGKILL)
    assert (await reading).code == "server_error"
    assert await waiting == [Chunk(hostile_files.HARMLESS, 0, 6)]


async def test_a_cancelled_call_ends_its_process(readers: ReaderPool, tmp_path: Path) -> None:
    reading = asyncio.create_task(read(readers, slow_file(tmp_path)))
    while not children():
        await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not children()
    assert await read(readers, text_file(tmp_path))


async def test_what_a_process_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the pipes of its parent open."""
    note = tmp_path / "pid"
    program = "import subprocess, sys, time; child = subprocess.Popen(['sleep', '120'], stderr=subprocess.DEVNULL);"
    monkeypatch.setattr(pool, "_PROGRAM", f"{program} open({str(note)!r}, 'w').write(str(child.pid)); time.sleep(120)")
    readers = ReaderPool(processes=1, timeout=4)
    async with asyncio.timeout(60):
        assert "takes more than 4 seconds" in (await failure(readers, text_file(tmp_path))).message
    child = Path(f"/proc/{note.read_text()}")
    async with asyncio.timeout(20):
        while child.exists() and ") Z " not in (child / "stat").read_text():
            await asyncio.sleep(0.01)
    await readers.close()


async def test_a_process_that_does_not_end_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that hangs in the system, as on a disk that does not answer."""
    readers = ReaderPool(processes=1)
    await read(readers, text_file(tmp_path))
    process, ends = readers._idle[0]._process, asyncio.Event()
    monkeypatch.setattr(pool, "_EXIT_TIMEOUT", 0.05)
    monkeypatch.setattr(process, "communicate", ends.wait)
    async with asyncio.timeout(20):
        await readers.close()
    assert "was killed but does not end" in caplog.text
    await process.wait()


async def test_processes_stay_warm_and_are_no_more_than_allowed(tmp_path: Path) -> None:
    readers = ReaderPool(processes=2)
    await asyncio.gather(*(read(readers, text_file(tmp_path)) for _ in range(20)))
    warm = children()
    assert len(warm) == 2
    await asyncio.gather(*(read(readers, text_file(tmp_path)) for _ in range(20)))
    assert children() == warm
    await readers.close()
    assert not children()


async def test_a_process_reads_files_of_one_project_only(tmp_path: Path) -> None:
    """A process that a file has taken over would see what it reads next."""
    readers, used = ReaderPool(processes=2), dict[int, str]()

    async def reader_of(project: str) -> int:
        await read(readers, text_file(tmp_path), project=project)
        process = readers._idle[-1]._process
        assert used.setdefault(process.pid, project) == project
        assert len(children()) <= 2
        return process.pid

    one, two = await reader_of("one"), await reader_of("two")
    assert await reader_of("one") == one  # which now is idle for less time than the other
    await reader_of("three")
    assert children() == {one, readers._idle[-1]._process.pid}, "of two idle ones, the one that was idle longest goes"
    assert await reader_of("one") == one
    assert await reader_of("two") != two
    await readers.close()
    assert not children()


async def test_projects_at_once_share_no_process_and_have_no_more_than_allowed(tmp_path: Path) -> None:
    readers, projects, most = ReaderPool(processes=2), dict[int, set[str]](), 0
    path, ask = text_file(tmp_path), pool._Reader.ask

    async def noted(reader: pool._Reader, request: pool.Request) -> pool.Answer:
        nonlocal most
        most = max(most, len(children()))
        projects.setdefault(reader._process.pid, set()).add(request.filename)
        return await ask(reader, request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool._Reader, "ask", noted)
        await asyncio.gather(*(readers.chunks(name, path, name, Chunking()) for name in ("a.txt", "b.md", "c.py") * 2))
    assert all(len(names) == 1 for names in projects.values())
    assert {name for names in projects.values() for name in names} == {"a.txt", "b.md", "c.py"}
    assert most == 2
    await readers.close()


async def test_processes_that_have_nothing_to_do_are_let_go(
    readers: ReaderPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "IDLE", 0)
    await read(readers, text_file(tmp_path))
    while children():
        await asyncio.sleep(0.01)
    assert await read(readers, text_file(tmp_path))


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


# --- pdfium, which the library unpacks before it can load it ------------------------------------------------------


@pytest.fixture
def pdf(tmp_path: Path) -> Path:
    made = fpdf.FPDF()
    made.add_page()
    made.set_font("helvetica")
    made.cell(text=hostile_files.HARMLESS)
    made.output(str(tmp_path / "tide.pdf"))
    return tmp_path / "tide.pdf"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of a machine where no file was read before."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


async def test_pdfium_is_loaded_from_a_private_folder_that_is_gone_at_once(
    readers: ReaderPool, pdf: Path, temporary: Path
) -> None:
    planted = temporary / "kreuzberg-pdfium/libpdfium.so"  # where the library itself would look
    planted.parent.mkdir()
    planted.write_bytes(b"not pdfium")
    (chunk,) = await read(readers, pdf)
    assert chunk.text.strip() == hostile_files.HARMLESS
    loaded = [line for line in Path(f"/proc/{children().pop()}/maps").read_text().splitlines() if "pdfium" in line]
    assert loaded
    assert all(f"{temporary}/assistants-reader-" in line and line.endswith("(deleted)") for line in loaded)
    (home,) = temporary.glob("assistants-reader-*")  # of the process, and empty
    assert {*temporary.rglob("*")} == {planted.parent, planted, home}
    assert planted.read_bytes() == b"not pdfium"


async def test_what_a_killed_process_left_unpacked_is_removed(
    readers: ReaderPool, tmp_path: Path, temporary: Path
) -> None:
    young, old = temporary / "assistants-reader-young", temporary / "assistants-reader-old"
    for folder in (young, old):
        folder.mkdir()
        (folder / "libpdfium.so").touch()
    os.utime(old, (0, 0))
    await read(readers, text_file(tmp_path))
    assert young in temporary.iterdir()
    assert old not in temporary.iterdir()
    await readers.close()
    assert [*temporary.iterdir()] == [young]


async def test_an_error_of_the_library_is_no_damaged_file_and_is_logged(
    readers: ReaderPool, pdf: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, unlimited[1]))  # pdfium has 8 MiB
    try:
        error = await failure(readers, pdf)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert (error.code, str(error)) == ("server_error", "The service failed to read this .pdf file.")
    assert "pdfium cannot be loaded" in caplog.text
    assert await read(readers, text_file(tmp_path)) == [Chunk(hostile_files.HARMLESS, 0, 6)]


async def test_a_process_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    readers = ReaderPool(processes=1)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [])
        assert (await failure(readers, text_file(tmp_path))).code == "server_error"
    await readers.close()
    assert "ModuleNotFoundError" in capfd.readouterr().err


# --- how a process ends, and where it comes from ------------------------------------------------------------------


async def test_a_process_ends_with_its_parent_even_while_it_reads(tmp_path: Path) -> None:
    program = """
import asyncio, sys
from pathlib import Path
from assistants_service.core.ports.extraction import Chunking
from assistants_service.infra.extraction.pool import ReaderPool
asyncio.run(ReaderPool().chunks("p", Path(sys.argv[1]), "slow.txt", Chunking()))
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(slow_file(tmp_path)))
    while not (found := children(parent.pid)):
        await asyncio.sleep(0.01)
    reader = Path(f"/proc/{found.pop()}")
    while "NoNewPrivs:\t1" not in (reader / "status").read_text():  # by then it has asked for its end, too
        await asyncio.sleep(0.01)
    parent.kill()
    await parent.wait()
    while reader.exists():
        await asyncio.sleep(0.01)


async def test_a_process_has_the_modules_of_its_parent_wherever_they_are(tmp_path: Path) -> None:
    """As on App Service, where the code is a folder and not installed. Beside the one that the tests run."""
    for name in ("core", "infra"):
        package = Path(__file__).parents[2] / name / "assistants_service"
        shutil.copytree(package, tmp_path / "site" / package.name, dirs_exist_ok=True)
    reader = tmp_path / "site/assistants_service/infra/extraction/reader.py"
    reader.write_text(reader.read_text().replace("are not supported", "are not supported over there"))
    (tmp_path / "x").write_bytes(b"\0")
    program = """
import asyncio, sys
sys.path.insert(0, "site")
from pathlib import Path
from assistants_service.core.ports.extraction import Chunking, Unreadable
from assistants_service.infra.extraction.pool import ReaderPool
async def main():
    readers = ReaderPool()
    try:
        await readers.chunks("p", Path("x"), "x.png", Chunking())
    except Unreadable as error:
        print(error)
    await readers.close()
asyncio.run(main())
"""
    command = (sys.executable, "-c", program)
    done = await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "over there" in done.stdout


# --- a process that a file has taken over --------------------------------------------------------------------------

TAKEN_OVER = """
import os, socket, subprocess
from assistants_service.infra.extraction import reader

def attempts(request):
    yield "read the store", lambda: open(request.filename).read()
    yield "write the store", lambda: open(request.filename, "a")
    yield "list other files", lambda: os.listdir(os.path.dirname(request.filename))
    yield "read the environment of the service", lambda: open(f"/proc/{os.getppid()}/environ").read()
    yield "write a file", lambda: os.write(os.open(request.path + ".new", os.O_WRONLY | os.O_CREAT), b"x")
    yield "reach a server", lambda: socket.socket(socket.AF_INET)
    yield "reach a local service", lambda: socket.socket(socket.AF_UNIX)
    yield "run a program", lambda: subprocess.run(["true"])
    yield "fork", lambda: os.fork() or os._exit(0)
    yield "signal the service", lambda: os.kill(os.getppid(), 0)

def taken_over(request):
    done = []
    for name, attempt in attempts(request):
        try:
            attempt()
        except OSError:
            continue
        done.append(name)
    text = repr((len(open(request.path).read()), done))
    return reader.Answer(text, [(0, len(text), 1)])

reader.read = taken_over
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the confinement is Linux's")
async def test_a_process_that_a_file_takes_over_reaches_nothing(
    readers: ReaderPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    store = tmp_path / "store" / "assistants.db"
    store.write_text("secret")
    program = pool._PROGRAM.replace("from assist", f"exec({TAKEN_OVER!r}); from assist", 1)
    monkeypatch.setattr(pool, "_PROGRAM", program)
    (chunk,) = await readers.chunks("p", text_file(tmp_path), str(store), Chunking())
    assert chunk.text == repr((len(hostile_files.HARMLESS), []))
    assert store.read_text() == "secret"


REMEMBERS = """
from assistants_service.infra.extraction import reader
seen = []

def taken_over(request):
    seen.append(open(request.path).read())
    text = repr(seen)
    return reader.Answer(text, [(0, len(text), 1)])

reader.read = taken_over
"""


async def test_a_process_that_a_file_takes_over_sees_no_file_of_another_project(
    readers: ReaderPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = pool._PROGRAM.replace("from assist", f"exec({REMEMBERS!r}); from assist", 1)
    monkeypatch.setattr(pool, "_PROGRAM", program)
    for project in ("one", "two", "one"):
        (chunk,) = await read(readers, text_file(tmp_path, project), project=project)
        assert chunk.text == repr([project])


async def test_a_workbook_is_read_whatever_its_file_is_called(readers: ReaderPool, tmp_path: Path) -> None:
    """The worker's copy has no extension, by which the library decides whether it needs 512 GiB."""
    hostile_files.wide_workbook(tmp_path / "wide.xlsx")
    path = (tmp_path / "wide.xlsx").rename(tmp_path / "content")
    (chunk,) = await readers.chunks("p", path, "wide.xlsx", Chunking())
    assert hostile_files.HARMLESS in chunk.text
