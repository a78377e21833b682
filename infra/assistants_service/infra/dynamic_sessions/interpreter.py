"""One session of Azure, as an interpreter (ports.sandbox.Interpreter).

A failure ends the session: whether the code was executed is then unknown, and a session that Azure has started anew
under the same identifier has none of the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from typing import Final

from assistants_service.core.ports.sandbox import CellResult, InterpreterLost
from assistants_service.infra.dynamic_sessions import answers, programs
from assistants_service.infra.dynamic_sessions.answers import GONE, Report
from assistants_service.infra.dynamic_sessions.failures import Denied, PoolFull, RequestRefused, Unanswered
from assistants_service.infra.dynamic_sessions.pool import PAUSES, SessionExecution, SessionOutput, SessionPool
from assistants_service.infra.sandbox.data_folder import DATA
from assistants_service.infra.sandbox.figures import MOST_BYTES, PNG
from assistants_service.infra.sandbox.frames import ForgedFrame
from assistants_service.infra.sandbox.limits import InterpreterLimits, format_size
from assistants_service.infra.sandbox.results import Reported, cell_result, check_path, decoded, reason_of

log = logging.getLogger(__name__)

LONGEST: Final = 220  # seconds of an execution (learn.microsoft.com/azure/container-apps/sessions-code-interpreter)
STARTING: Final = 30.0  # seconds for the process of a session to load its libraries
COLLECTING: Final = 5.0  # seconds for the supervisor to find what a cell has changed
# The service's words, as users report them.
_ABORTED, _RESTARTED, _TIMED_OUT = "Execution aborted", "Kernel restarted", "Request timed out"
_PATIENCE: Final = 2.0  # seconds for further attempts to start a session; the caller tries again, too
ENDING: Final = 2.0  # seconds that `close` waits for Azure; then it continues in the background


class SessionInterpreter:
    """`identifier` is the session's name for Azure. `on_end` is called once, when the session is being ended."""

    def __init__(self, pool: SessionPool, identifier: str, limits: InterpreterLimits) -> None:
        self._pool, self._identifier, self._limits = pool, identifier, limits
        self._secret = secrets.token_hex(16)
        self._uploads: list[tuple[str, str]] = []  # names of files that are not in place yet, and their paths
        self._files: dict[str, tuple[str, int]] = {}  # names and sizes of the files of the last call, by path
        self._written = 0
        self._printed = ""  # by the last call
        self._closing: asyncio.Task[None] | None = None
        self.on_end: Callable[[], None] = lambda: None

    async def begin(self, libraries: Iterable[str]) -> None:
        """Start the session. Raises PoolFull, Denied, RequestRefused, Unanswered and InterpreterLost."""
        limits, call = self._limits, _new_name()
        setup = {
            "session": self._secret,
            "call": call,
            "data": DATA,
            "modules": list(libraries),
            "memory": limits.memory,
            "largest_file": limits.file,
            "kept": limits.kept,
            "logs": limits.logs,
            "images": limits.images,
            "seconds": limits.seconds,
            "grace": limits.grace,
            "start": STARTING,
        }
        execution = await self._pool.execute(self._identifier, programs.begin(setup), int(STARTING), _PATIENCE)
        try:
            report = await self._report(execution, call)
        except ForgedFrame:
            words = ((execution.result or SessionOutput()).stderr or "").strip().rpartition("\n")[2]
            raise InterpreterLost(f"cannot execute the supervisor: {words[:200]}") from None
        if report.state != "ready":
            raise InterpreterLost("was replaced by an empty one")

    @property
    def alive(self) -> bool:
        return not self._closing

    async def write(self, path: str, content: AsyncIterator[bytes]) -> None:
        check_path(path)
        with tempfile.TemporaryFile() as file:
            async for part in content:
                self._written += len(part)
                file.write(part)
                if file.tell() > self._limits.file:
                    raise ValueError(
                        f"{path} cannot be stored: File too large. A file may have {format_size(self._limits.file)}."
                    )
                if self._written > self._limits.folder:
                    raise ValueError(f"The files have more than {format_size(self._limits.folder)} in total.")
            file.flush()
            name = _new_name()
            async with self._call():
                try:
                    await self._pool.upload(self._identifier, name, file)
                except RequestRefused as refused:
                    raise ValueError(f"{path} cannot be stored: the session pool answered {refused}.") from None
        self._uploads.append((name, path))

    async def run(self, code: str) -> CellResult:
        call, limits, self._printed = _new_name(), self._limits, ""
        request = {"session": self._secret, "call": call, "uploads": self._uploads, "code": code}
        seconds = execution_seconds(limits)
        async with self._call(), asyncio.timeout(2 * seconds):
            report = await self._report(await self._executed(programs.call(request), seconds), call)
            self._uploads = []
            self._printed = report.logs
            if report.state != "done":
                raise InterpreterLost(self._reason(report), self._printed)
            result = decoded(report.result.encode(), Reported)
            images = await self._images(call, report.images)
            sizes = dict(result.changed)
            self._files = {
                path: (f"{call}-file-{place}", sizes[path]) for place, path in enumerate(report.files) if path in sizes
            }
            misplaced = [f"{path} cannot be stored: {reason}." for path, reason in report.misplaced]
            cell = cell_result(result, report.logs, report.left_out, images, report.interrupted, limits)
            return replace(cell, notes=(*misplaced, *cell.notes))

    async def read(self, path: str) -> AsyncIterator[bytes]:
        check_path(path)
        if path not in self._files:
            raise ValueError(f"{path} cannot be read: it is not a file that the last call changed.")
        name, size = self._files[path]
        async with self._call():
            async for piece in self._pool.download(self._identifier, name):
                size -= len(piece)
                if size < 0:
                    raise ForgedFrame
                yield piece
            if size:
                raise ForgedFrame

    async def close(self) -> None:
        """Returns after ENDING seconds at most; the session ends nevertheless."""
        await asyncio.wait([self.end()], timeout=ENDING)

    def end(self) -> asyncio.Task[None]:
        """Begin to end the session, so that nothing is paid for it any more."""
        if not self._closing:
            self._closing = asyncio.create_task(self._deleted())
            self.on_end()
        return self._closing

    async def _deleted(self) -> None:
        try:
            await self._pool.delete(self._identifier)
        except (Denied, RequestRefused, Unanswered) as error:
            log.warning("a session could not be ended, and lives until its cool-down: the session pool: %s", error)

    @contextlib.asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        """Every error inside this context ends the session, except ValueError: then it has answered completely."""
        if self._closing:
            raise InterpreterLost("was closed")
        try:
            yield
        except ValueError:
            raise
        except ForgedFrame:
            self.end()
            raise InterpreterLost("sent an answer that cannot be read", self._printed) from None
        except (Denied, PoolFull, RequestRefused, Unanswered, TimeoutError) as error:
            self.end()
            reason = f"was lost with the session pool: {error or 'it did not answer in time'}"
            raise InterpreterLost(reason, self._printed) from error
        except BaseException:
            self.end()
            raise

    async def _executed(self, code: str, seconds: int) -> SessionExecution:
        """The kernel drops what waits behind an execution that failed; then it is sent again."""
        for pause in PAUSES:
            execution = await self._pool.execute(self._identifier, code, seconds)
            if not _said(execution, _ABORTED):
                return execution
            await asyncio.sleep(pause)
        raise Unanswered("it aborted the execution")

    async def _report(self, execution: SessionExecution, call: str) -> Report:
        """Raises InterpreterLost, ForgedFrame, and what the pool raises."""
        output = execution.result or SessionOutput()
        try:
            packed = answers.printed(output.stdout or "", call)
        except ForgedFrame:
            if _said(execution, _RESTARTED):
                raise InterpreterLost("was restarted, perhaps because it used too much memory") from None
            if _said(execution, _TIMED_OUT):
                raise InterpreterLost("did not end in time") from None
            raise
        if packed == GONE:
            return Report(GONE)
        if packed.startswith("@"):
            return decoded(await self._whole(f"{call}-report", answers.MOST_REPORTED), answers.Report)
        return answers.unpacked(packed)

    async def _images(self, call: str, sizes: tuple[int, ...]) -> tuple[bytes, ...]:
        if len(sizes) > self._limits.images:
            raise ForgedFrame
        names = [f"{call}-image-{place}" for place in range(len(sizes))]
        images = [await self._whole(name, MOST_BYTES) for name in names]
        if any(len(image) != size or not image.startswith(PNG) for image, size in zip(images, sizes, strict=True)):
            raise ForgedFrame
        return tuple(images)

    async def _whole(self, name: str, most: int) -> bytes:
        content = bytearray()
        async for piece in self._pool.download(self._identifier, name):
            content += piece
            if len(content) > most:
                raise ForgedFrame
        return bytes(content)

    def _reason(self, report: Report) -> str:
        limits = self._limits
        if report.state == GONE:
            return "was replaced by an empty one, as its session had ended"
        if report.state == "timeout":
            return f"did not end within {limits.seconds:g} s and {limits.grace:g} s of grace"
        if report.state == "ended":
            return reason_of(report.status)
        if report.state == "aborted":
            return "was interrupted by the session pool"
        raise ForgedFrame


def execution_seconds(limits: InterpreterLimits) -> int:
    """What the service is asked to allow for a call, so that the supervisor ends it first."""
    return math.ceil(STARTING + limits.seconds + limits.grace + COLLECTING)


def _said(execution: SessionExecution, words: str) -> bool:
    return execution.status == "Failed" and ((execution.result or SessionOutput()).stderr or "").startswith(words)


def _new_name() -> str:
    return secrets.token_hex(16)
