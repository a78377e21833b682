"""One session: requests to its process, and their results (ports.sandbox.Interpreter).

A cell can control what its process answers. So every answer is limited and checked, and the worker opens no file that a
cell created."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from assistants_service.core.ports.sandbox import CellResult, InterpreterLost
from assistants_service.infra.sandbox import frames
from assistants_service.infra.sandbox.data_folder import DATA
from assistants_service.infra.sandbox.figures import PNG
from assistants_service.infra.sandbox.frames import ForgedFrame
from assistants_service.infra.sandbox.limits import InterpreterLimits, format_size
from assistants_service.infra.sandbox.logs import OutputLog
from assistants_service.infra.sandbox.process import ChildProcess
from assistants_service.infra.sandbox.results import (
    Reported,
    cell_result,
    check_path,
    decoded,
    reason_of,
    valid_text,
)
from assistants_service.infra.sandbox.server_process import ForkServer
from assistants_service.infra.sandbox.watch import Watch
from assistants_service.infra.sandbox.workspace import Workspace

# Seconds for all files between two cells, and bytes for which there is one more: code can replace what reads them.
_TRANSFER: Final = 30.0
_SLOWEST: Final = 10 * 1024**2


@dataclass(slots=True)
class _Call:
    nonce: bytes
    watch: Watch
    interrupted: bool = False


class LocalInterpreter:
    """Created by `start` only. `on_end` is called once, when its process has ended. `missing` are the libraries that
    should have been loaded and are not installed."""

    def __init__(
        self, process: ChildProcess, folder: Path, logs: OutputLog, workspace: Workspace, limits: InterpreterLimits
    ) -> None:
        self._process, self._folder, self._logs = process, folder, logs
        self._workspace, self._limits = workspace, limits
        self._closing: asyncio.Task[int | None] | None = None
        self._written = 0
        self._patience = _TRANSFER  # seconds that are left for files until the next cell
        self._printed = ""  # when the process ended
        self.missing: tuple[str, ...] = ()
        self.on_end: Callable[[], None] = lambda: None

    @classmethod
    async def start(cls, workspace: Workspace, limits: InterpreterLimits, server: ForkServer) -> LocalInterpreter:
        """Start an interpreter and wait until it is ready for the first cell. Raises InterpreterLost and OSError."""
        folder = workspace.folder()
        logs = OutputLog(folder)
        try:
            process = await server.fork(folder, logs.descriptor)
        except BaseException:
            logs.close()
            await workspace.discard(folder)
            raise
        started = cls(process, folder, logs, workspace, limits)
        await started._wait_until_ready()
        return started

    async def run(self, code: str) -> CellResult:
        images: list[bytes] = []
        async with self._call(frames.EXECUTE, code.encode(errors="replace")) as call, self._limited(call):
            while (frame := await self._process.receive(call.nonce))[0] == frames.IMAGE:
                if len(images) == self._limits.images or not frame[1].startswith(PNG):
                    raise ForgedFrame
                images.append(frame[1])
            if frame[0] != frames.RESULT:
                raise ForgedFrame
            self._patience = _TRANSFER
            result = decoded(frame[1], Reported)
            logs, left_out = self._logs.text(self._limits.logs)
            return cell_result(
                result, logs, left_out, tuple(images), call.interrupted, self._limits, mapped=self._mapped
            )

    async def write(self, path: str, content: AsyncIterator[bytes]) -> None:
        check_path(path)
        async with self._call(frames.WRITE, path.encode()) as call:
            fits = True
            async for part in content:
                self._written += len(part)
                if not (fits := self._written <= self._limits.folder):
                    break
                for start in range(0, len(part), frames.CHUNK):
                    await self._transfer(call, frames.DATA, part[start : start + frames.CHUNK])
            await self._transfer(call, frames.END if fits else frames.DROP)
            kind, said = await self._answer(call)
            if not fits:
                raise ValueError(f"The files have more than {format_size(self._limits.folder)} in total.")
            if kind == frames.REFUSED:
                reason = said.decode(errors="replace")
                raise ValueError(
                    f"{path} cannot be stored: {reason}. A file may have {format_size(self._limits.file)}."
                )
            if kind != frames.END:
                raise ForgedFrame

    async def read(self, path: str) -> AsyncIterator[bytes]:
        check_path(path)
        size = 0
        async with self._call(frames.READ, path.encode()) as call:
            while (frame := await self._answer(call))[0] == frames.DATA:
                size += len(frame[1])
                if size > self._limits.file:
                    raise ForgedFrame
                yield frame[1]
            if frame[0] == frames.REFUSED:
                raise ValueError(f"{path} cannot be read: {frame[1].decode(errors='replace')}.")
            if frame[0] != frames.END:
                raise ForgedFrame

    async def close(self) -> None:
        await self._ended()
        await self._workspace.discard(self._folder)

    @property
    def alive(self) -> bool:
        return not self._closing and not self._process.ended

    @contextlib.asynccontextmanager
    async def _call(self, kind: bytes, payload: bytes) -> AsyncIterator[_Call]:
        """The process runs only inside this context. Every error ends it, except ValueError: then it has answered
        completely and can be used again."""
        if self._closing:
            raise InterpreterLost("was closed")
        if kind != frames.READ:  # which belongs to the cell that wrote the file
            self._logs.clear()
        call = _Call(secrets.token_bytes(16), Watch(self._process.pid, self._folder, self._limits, self._process.kill))
        try:
            self._process.resume()
            await self._process.send(frames.pack(call.nonce, kind, payload))
            yield call
        except ValueError:
            raise
        except ForgedFrame:
            raise await self._lost("wrote to the channel that its answers take") from None
        except TimeoutError:
            raise await self._lost("took too long to read and write files") from None
        except (EOFError, OSError):
            status = await self._ended()
            raise await self._lost(call.watch.reason or reason_of(status)) from None
        except BaseException:
            await self._ended()
            raise
        finally:
            call.watch.stop()
            self._process.pause()

    @contextlib.asynccontextmanager
    async def _limited(self, call: _Call) -> AsyncIterator[None]:
        """Send SIGINT at the time limit, and SIGKILL at the end of the grace period."""
        limits = self._limits

        def interrupt() -> None:
            call.interrupted = True
            self._process.interrupt()

        alarm = asyncio.get_running_loop().call_later(limits.seconds, interrupt)
        try:
            async with asyncio.timeout(limits.seconds + limits.grace):
                yield
        except TimeoutError:
            raise await self._lost(f"did not end within {limits.seconds:g} s and {limits.grace:g} s of grace") from None
        finally:
            alarm.cancel()

    async def _transfer(self, call: _Call, kind: bytes, payload: bytes = b"") -> None:
        async with self._transferring():
            await self._process.send(frames.pack(call.nonce, kind, payload))
        self._patience += len(payload) / _SLOWEST

    async def _answer(self, call: _Call) -> tuple[bytes, bytes]:
        async with self._transferring():
            frame = await self._process.receive(call.nonce)
        self._patience += len(frame[1]) / _SLOWEST
        return frame

    @contextlib.asynccontextmanager
    async def _transferring(self) -> AsyncIterator[None]:
        began = time.monotonic()
        async with asyncio.timeout(self._patience):
            yield
        self._patience -= time.monotonic() - began

    async def _lost(self, reason: str) -> InterpreterLost:
        await self._ended()
        return InterpreterLost(reason, self._printed)

    async def _ended(self) -> int | None:
        """Kill the process once, and return its exit status. This completes even if all callers are cancelled."""
        self._closing = self._closing or asyncio.ensure_future(self._ending())
        return await asyncio.shield(self._closing)

    async def _ending(self) -> int | None:
        try:
            return await self._process.end()
        finally:
            self._printed = valid_text(self._logs.text(self._limits.logs)[0], self._mapped)
            self._logs.close()
            self._workspace.discard(self._folder)
            self.on_end()

    async def _wait_until_ready(self) -> None:
        try:
            async with asyncio.timeout(self._limits.start):
                kind, payload = await self._process.receive(frames.NO_NONCE)
            if kind != frames.READY:
                raise ForgedFrame
            self.missing = tuple(decoded(payload, list[str]))
        except (EOFError, ForgedFrame, TimeoutError):
            said = self._logs.text(1000)[0].strip().rpartition("\n")[2]
            reason = reason_of(await self._ended())
            raise InterpreterLost(said or reason) from None
        except BaseException:
            await self._ended()
            raise
        self._process.pause()

    def _mapped(self, text: str) -> str:
        """The text, in which the real path of the folder is replaced by the one that cells use."""
        return text.replace(f"{self._folder}/data", DATA)
