"""The fork server, from the worker's side: starting it, asking it for interpreters, ending it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from assistants_service.infra.sandbox import confinement
from assistants_service.infra.sandbox.child import Setup, places
from assistants_service.infra.sandbox.fork_server import MOST_REASON, STATUS
from assistants_service.infra.sandbox.limits import InterpreterLimits
from assistants_service.infra.sandbox.logs import OutputLog
from assistants_service.infra.sandbox.process import ChildProcess, has_ended, readable
from assistants_service.infra.sandbox.workspace import Workspace

logger = logging.getLogger(__name__)

# Isolated from its surroundings (-I), but with the modules of this process, wherever a platform puts them.
_PROGRAM: Final = (
    "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); "
    "from assistants_service.infra.sandbox.fork_server import main; main()"
)
# The environment at exec stays readable to interpreters, so it must not contain secrets. Each library computes in one
# thread.
_ENVIRONMENT: Final = {
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "MPLBACKEND": "agg",
    "MALLOC_ARENA_MAX": "2",
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
}
_INHERITED: Final = ("LD_LIBRARY_PATH",)  # what Python itself may need to start
_FORK: Final = 20.0  # maximum seconds for a fork, on a machine with too much to do
_KILL_TIMEOUT: Final = 5.0  # seconds for a killed process to end


class Unfit(Exception):
    """No interpreter can be forked from a process with these libraries, however often it is tried. The message is the
    reason."""


class ForkServer:
    """Created by `start` only."""

    def __init__(
        self, process: asyncio.subprocess.Process, control: socket.socket, workspace: Workspace, folder: Path
    ) -> None:
        self.pid = process.pid
        self._handle = os.pidfd_open(process.pid)  # to kill it by asyncio would race with asyncio for its exit status
        self._process, self._control, self._workspace, self._folder = process, control, workspace, folder

    @classmethod
    async def start(
        cls, workspace: Workspace, limits: InterpreterLimits, modules: Sequence[str], *, preload: bool = True
    ) -> ForkServer:
        """Start it and wait until it has imported the modules; without `preload`, interpreters import them themselves.
        Raises Unfit and OSError."""
        setup = Setup(
            parent=os.getpid(),
            readable=confinement.readable(),
            modules=tuple(modules),
            preload=preload,
            memory=limits.memory,
            largest_file=limits.file,
            images=limits.images,
        )
        folder = workspace.folder()
        log = OutputLog(folder)
        try:
            server = await cls._executed(setup, workspace, folder, log.descriptor)
            await server._wait_until_ready(log, limits.start)
        finally:
            log.close()
        return server

    @classmethod
    async def _executed(cls, setup: Setup, workspace: Workspace, folder: Path, log: int) -> ForkServer:
        modules = "\n".join(str(Path(entry).absolute()) for entry in sys.path)
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-B", "-c", _PROGRAM, modules, json.dumps(asdict(setup))),
                stdin=theirs.fileno(),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
                env=inherited | _ENVIRONMENT | places(f"{folder}/scratch"),
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the parent
            )
        )
        try:
            return cls(await asyncio.shield(starting), ours, workspace, folder)
        except BaseException:  # such as a cancellation while asyncio starts the process
            ours.close()
            with contextlib.suppress(OSError):
                process = await starting
                process.kill()
                await process.wait()
            await workspace.discard(folder)
            raise
        finally:
            theirs.close()

    async def fork(self, folder: Path, output: int) -> ChildProcess:
        """An interpreter's process, with its folder. `output` is the descriptor of the file for what cells print.
        Raises OSError. If it is cancelled, the process ends as soon as it finds that its requests end."""
        life, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        life.setblocking(False)
        with contextlib.ExitStack() as ours:
            ours.callback(life.close)
            with theirs, contextlib.ExitStack() as given:
                requests, send = _pipe(given, ours)
                receive, answers = _pipe(ours, given)
                descriptors = [requests, answers, output, theirs.fileno()]
                socket.send_fds(self._control, [os.fsencode(folder)], descriptors)
            await self._answer(life)
            told, handles, _, _ = socket.recv_fds(life, MOST_REASON, 1)
            if not handles:
                raise OSError(told.decode() or "the fork server has ended")
            ours.pop_all()
            return await ChildProcess.opened(STATUS.unpack(told)[0], handles[0], life, send, receive)

    async def _answer(self, life: socket.socket) -> None:
        try:
            async with asyncio.timeout(_FORK):
                await readable(life.fileno())
        except TimeoutError:
            raise TimeoutError(f"the fork server does not answer within {_FORK:g} s") from None

    async def close(self) -> None:
        """End it, with all interpreters that were forked from it. Harmless if repeated."""
        if self._handle >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            os.close(self._handle)
            self._handle = -1
            self._control.close()
        try:
            async with asyncio.timeout(_KILL_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            logger.error("the fork server with the process id %d was killed and does not end", self.pid)
        await self._workspace.discard(self._folder)

    @property
    def ended(self) -> bool:
        return self._handle < 0 or has_ended(self._handle)

    async def _wait_until_ready(self, log: OutputLog, patience: float) -> None:
        """Otherwise it is closed."""
        try:
            async with asyncio.timeout(patience):
                await readable(self._control.fileno())
            if not (told := self._control.recv(4 * MOST_REASON)):
                raise OSError(log.text(1000)[0].strip().rpartition("\n")[2] or "the process has ended")
            if unfit := json.loads(told):
                raise Unfit(unfit)
        except TimeoutError:
            await self.close()
            raise TimeoutError(f"the process was not ready within {patience:g} s") from None
        except BaseException:
            await self.close()
            raise


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """Each end is closed by one of them."""
    ends = os.pipe()
    reader.callback(os.close, ends[0])
    writer.callback(os.close, ends[1])
    return ends
