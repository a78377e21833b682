"""A pool of warm reader processes. Each reads one file at a time, all of one project, and is killed when it exceeds a
limit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from assistants_service.core.ports.extraction import Chunk, Chunking, Unreadable
from assistants_service.infra.extraction.formats import DOCUMENTS, extension
from assistants_service.infra.extraction.reader import FAULT, Answer, Request
from assistants_service.infra.extraction.reader_folder import ReaderFolder

logger = logging.getLogger(__name__)

MOST_ANSWER: Final = 256 * 1024**2  # bytes; twice the maximum of what a reader may send
IDLE: Final = 60.0  # seconds after which an idle reader is stopped
# Environment variables that Python may need to start; no secrets.
_INHERITED: Final = ("LD_LIBRARY_PATH", "SYSTEMROOT")
_EXIT_TIMEOUT: Final = 5.0  # seconds for a process to exit that is about to
_FROM_OUTSIDE: Final = (-signal.SIGKILL, -signal.SIGTERM)  # exit codes that no file can cause
# Isolated from its environment (-I), but with the modules of this process, wherever they are installed.
_PROGRAM: Final = (
    "import sys; sys.path[:] = sys.argv.pop().split('\\n'); "
    "from assistants_service.infra.extraction.reader import main; main()"
)
_ENVIRONMENT: Final = {  # one thread each: the pool runs processes in parallel
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "2",
    "RAYON_NUM_THREADS": "1",
    "TOKIO_WORKER_THREADS": "1",
}


class _Reader:
    """One process, for files of one project: whatever takes it over could see what it reads later. After an exception
    or a cancellation in `ask`, the caller must `kill` it."""

    def __init__(self, project: str, process: asyncio.subprocess.Process, folder: ReaderFolder) -> None:
        self.project, self._process, self._folder = project, process, folder
        self.retiring: asyncio.TimerHandle | None = None

    @classmethod
    async def start(cls, project: str, memory: int, timeout: float) -> _Reader:
        """`memory` in MiB, `timeout` in seconds. Raises OSError."""
        modules = "\n".join(str(Path(entry).absolute()) for entry in sys.path)
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        folder = ReaderFolder()
        places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder.path))
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-c", _PROGRAM, str(memory), str(int(timeout) + 1), modules),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=None,  # the service's own, until the process is ready
                env=environment | _ENVIRONMENT | places,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the parent only
            )
        except BaseException:
            folder.remove()
            raise
        return cls(project, process, folder)

    async def ask(self, request: Request) -> Answer:
        """Raises EOFError or OSError if the process ended, ValueError for an invalid answer."""
        kind = extension(request.filename)
        with self._folder.linked(Path(request.path), kind if kind in DOCUMENTS else "") as path:
            return await self._ask(msgspec.structs.replace(request, path=str(path)))

    async def _ask(self, request: Request) -> Answer:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin  # noqa: S101
        assert stdout  # noqa: S101
        body = msgspec.msgpack.encode(request)
        stdin.write(len(body).to_bytes(4) + body)
        await stdin.drain()
        size = int.from_bytes(await stdout.readexactly(4))
        if size > MOST_ANSWER:
            raise ValueError("the answer is too long")
        return msgspec.msgpack.decode(await stdout.readexactly(size), type=Answer)

    async def end(self) -> int:
        """The exit code of a process that has closed its side. Killing it now would race with asyncio for the code."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_TIMEOUT):
                await self._process.wait()
        return await self.kill()

    async def kill(self) -> int:
        """The exit code; -SIGKILL also for a process that does not end in time."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)  # including its children, which may hold its pipes open
        try:
            async with asyncio.timeout(_EXIT_TIMEOUT):
                await self._process.communicate()
        except TimeoutError:
            logger.error("the reader process %d was killed but does not end", self._process.pid)
        self._folder.remove()
        code = self._process.returncode
        return -signal.SIGKILL if code is None else code

    @property
    def ended(self) -> bool:
        return self._process.returncode is not None


class ReaderPool:
    """Extracts the text of files in chunks (ports.extraction.Extraction), `processes` at a time.

    `memory` is in MiB, per process beyond its baseline; `timeout` in seconds, per file. A file that exceeds a limit
    affects no other file.
    """

    def __init__(self, *, processes: int = 2, memory: int = 1024, timeout: float = 60) -> None:
        self._places, self._reading = processes, 0
        self._turns = asyncio.Semaphore(processes)
        self._memory, self._timeout = memory, timeout
        self._idle: list[_Reader] = []  # the one that has been idle longest first
        self._retired: set[asyncio.Task[int]] = set()

    async def chunks(self, project: str, path: Path, filename: str, chunking: Chunking) -> Sequence[Chunk]:
        request = Request(str(path.absolute()), filename, chunking.size, chunking.overlap)
        async with self._turns:
            self._reading += 1
            try:
                answer = await self._read(project, request)
            finally:
                self._reading -= 1
        if answer.fault:
            logger.warning("the extraction library failed: %s", answer.fault)
        if answer.code:
            raise Unreadable(answer.code, answer.message)
        return [Chunk(answer.text[start:end], start, tokens) for start, end, tokens in answer.spans]

    async def close(self) -> None:
        for reader in [*self._idle]:
            self._retire(reader)
        await asyncio.gather(*self._retired)

    async def _read(self, project: str, request: Request) -> Answer:
        try:
            reader = await self._take(project)
        except OSError as error:
            logger.warning("cannot start a reader process: %s", error)
            raise Unreadable("server_error", "The process that reads files could not be started.") from error
        try:
            async with asyncio.timeout(self._timeout):
                answer = await reader.ask(request)
        except TimeoutError:
            await reader.kill()
            raise Unreadable("invalid_file", f"Reading the file takes more than {self._timeout:g} seconds.") from None
        except (EOFError, OSError, ValueError) as error:
            raise self._broken(await reader.end(), error) from None
        except BaseException:
            await asyncio.shield(self._kill(reader))
            raise
        self._idle.append(reader)
        reader.retiring = asyncio.get_running_loop().call_later(IDLE, self._retire, reader)
        return answer

    async def _take(self, project: str) -> _Reader:
        for reader in [reader for reader in self._idle if reader.ended]:
            self._retire(reader)
        for reader in reversed(self._idle):
            if reader.project == project:
                self._unlist(reader)
                return reader
        if len(self._idle) + self._reading > self._places:  # no await since it was counted
            await asyncio.shield(self._retire(self._idle[0]))
        return await _Reader.start(project, self._memory, self._timeout)

    def _retire(self, reader: _Reader) -> asyncio.Task[int]:
        self._unlist(reader)
        return self._kill(reader)

    def _unlist(self, reader: _Reader) -> None:
        self._idle.remove(reader)
        assert reader.retiring  # noqa: S101
        reader.retiring.cancel()

    def _kill(self, reader: _Reader) -> asyncio.Task[int]:
        task = asyncio.ensure_future(reader.kill())
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)
        return task

    def _broken(self, code: int, error: Exception) -> Unreadable:
        logger.warning("a reader process exited with %s: %r", code, error)
        if code == -signal.SIGXCPU:
            return Unreadable("invalid_file", f"Reading the file takes more than {self._timeout:g} seconds.")
        if code == FAULT or (code < 0 and code not in _FROM_OUTSIDE):
            return Unreadable(
                "invalid_file", f"The file cannot be read, at least not with {self._memory} MiB of memory."
            )
        return Unreadable("server_error", "The process that read the file was stopped.")
