"""One session: requests to its process, and their results (ports.sandbox.Interpreter).

A cell can control what its process answers. So every answer is limited and checked, and the worker opens no file that a
cell created."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from assistants_service.core.ports.sandbox import CellResult, ChangedFile, InterpreterLost
from assistants_service.infra.sandbox import confinement, frames
from assistants_service.infra.sandbox.child import Setup
from assistants_service.infra.sandbox.data_folder import DATA
from assistants_service.infra.sandbox.folder import is_valid
from assistants_service.infra.sandbox.limits import InterpreterLimits, shown
from assistants_service.infra.sandbox.logs import OutputLog
from assistants_service.infra.sandbox.process import ChildProcess, ForgedFrame
from assistants_service.infra.sandbox.watch import Watch
from assistants_service.infra.sandbox.workspace import Workspace

T = TypeVar("T")

_TRANSFER: Final = 30.0  # maximum seconds for a frame of a file
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_MOST_NOTES: Final = 10


class _Result(msgspec.Struct, frozen=True):
    value: str | None
    error: str | None
    changed: list[tuple[str, int]]
    removed: list[str]
    notes: list[str]


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
        self.missing: tuple[str, ...] = ()
        self.on_end: Callable[[], None] = lambda: None

    @classmethod
    async def start(cls, workspace: Workspace, limits: InterpreterLimits, modules: Iterable[str]) -> LocalInterpreter:
        """Start an interpreter and wait until it is ready for the first cell. Raises InterpreterLost and OSError."""
        folder = workspace.folder()
        logs = OutputLog(folder)
        setup = Setup(
            parent=os.getpid(),
            folder=str(folder),
            readable=confinement.readable(),
            modules=tuple(modules),
            memory=limits.memory,
            largest_file=limits.file,
            images=limits.images,
        )
        try:
            process = await ChildProcess.start(setup, logs.descriptor)
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
                if len(images) == self._limits.images or not frame[1].startswith(_PNG):
                    raise ForgedFrame
                images.append(frame[1])
            if frame[0] != frames.RESULT:
                raise ForgedFrame
            result = _decoded(frame[1], _Result)
            return self._cell_result(result, tuple(images), call.interrupted)

    async def write(self, path: str, content: AsyncIterator[bytes]) -> None:
        _check(path)
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
                raise ValueError(f"The files have more than {shown(self._limits.folder)} in total.")
            if kind == frames.REFUSED:
                reason = said.decode(errors="replace")
                raise ValueError(f"{path} cannot be stored: {reason}. A file may have {shown(self._limits.file)}.")
            if kind != frames.END:
                raise ForgedFrame

    async def read(self, path: str) -> AsyncIterator[bytes]:
        _check(path)
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
        self._logs.clear()
        call = _Call(secrets.token_bytes(16), Watch(self._process.pid, self._folder, self._limits, self._process.kill))
        try:
            self._process.resume()
            await self._process.send(frames.pack(call.nonce, kind, payload))
            yield call
        except ValueError:
            raise
        except ForgedFrame:
            await self._ended()
            raise InterpreterLost("wrote to the channel that its answers take") from None
        except TimeoutError:
            await self._ended()
            raise InterpreterLost(f"did not answer within {_TRANSFER:g} s") from None
        except (EOFError, OSError):
            status = await self._ended()
            raise InterpreterLost(call.watch.reason or _reason(status)) from None
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
            await self._ended()
            raise InterpreterLost(f"did not end within {limits.seconds:g} s and {limits.grace:g} s of grace") from None
        finally:
            alarm.cancel()

    async def _transfer(self, call: _Call, kind: bytes, payload: bytes = b"") -> None:
        async with asyncio.timeout(_TRANSFER):
            await self._process.send(frames.pack(call.nonce, kind, payload))

    async def _answer(self, call: _Call) -> tuple[bytes, bytes]:
        async with asyncio.timeout(_TRANSFER):
            return await self._process.receive(call.nonce)

    async def _ended(self) -> int | None:
        """Kill the process once, and return its exit status. This completes even if all callers are cancelled."""
        self._closing = self._closing or asyncio.ensure_future(self._ending())
        return await asyncio.shield(self._closing)

    async def _ending(self) -> int | None:
        try:
            return await self._process.end()
        finally:
            self._logs.close()
            self._workspace.discard(self._folder)
            self.on_end()

    async def _wait_until_ready(self) -> None:
        try:
            async with asyncio.timeout(self._limits.start):
                kind, payload = await self._process.receive(frames.NO_NONCE)
            if kind != frames.READY:
                raise ForgedFrame
            self.missing = tuple(_decoded(payload, list[str]))
        except (EOFError, ForgedFrame, TimeoutError):
            said = self._logs.text(1000)[0].strip().rpartition("\n")[2]
            reason = _reason(await self._ended())
            raise InterpreterLost(said or reason) from None
        except BaseException:
            await self._ended()
            raise
        self._process.pause()

    def _cell_result(self, result: _Result, images: tuple[bytes, ...], interrupted: bool) -> CellResult:
        limits = self._limits
        logs, left_out = self._logs.text(limits.logs)
        notes = [self._mapped(note) or "" for note in result.notes[:_MOST_NOTES]]
        if interrupted:
            notes.append(f"The code was interrupted after {limits.seconds:g} seconds.")
        if left_out:
            notes.append(f"The output was cut to {shown(limits.logs)}: {left_out:,} bytes were left out in the middle.")
        changed, dropped = self._kept(result.changed)
        if dropped:
            notes.append(
                f"Only files of {shown(limits.kept)} in total are kept of a call; not kept: {', '.join(dropped[:20])}."
            )
        removed = tuple(path for path in result.removed if is_valid(path))
        value, error = self._mapped(result.value), self._mapped(result.error)
        return CellResult(self._mapped(logs) or "", value, error, images, changed, removed, tuple(notes))

    def _kept(self, reported: list[tuple[str, int]]) -> tuple[tuple[ChangedFile, ...], list[str]]:
        kept, dropped, total = [], [], 0
        for path, size in reported:
            if not is_valid(path) or size < 0:
                raise ForgedFrame
            if total + size > self._limits.kept:
                dropped.append(path)
            else:
                total += size
                kept.append(ChangedFile(path, size))
        return tuple(kept), dropped

    def _mapped(self, text: str | None) -> str | None:
        """The text as valid Unicode, in which the real path of the folder is replaced by the one that cells use."""
        if text is None:
            return None
        own = f"{self._folder}/data"
        return text.replace(own, DATA).encode(errors="backslashreplace").decode()


def _decoded(payload: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(payload, type=kind)
    except msgspec.DecodeError:  # it is a ValueError, which would blame the caller
        raise ForgedFrame from None


def _check(path: str) -> None:
    if not is_valid(path):
        raise ValueError(f"{path!r} is no valid path of a file in {DATA}.")


def _reason(status: int | None) -> str:
    if status is None or status == -signal.SIGKILL:
        return "was killed, perhaps because the machine is short of memory"
    if status == -signal.SIGSYS:
        return "made a system call of another architecture"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"crashed ({signal.Signals(-status).name})"
    return f"ended its own process (status {status})"
