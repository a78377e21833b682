"""The process of an interpreter, from the worker's side: starting it, sending requests, pausing it, killing it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Final

from assistants_service.infra.sandbox import frames
from assistants_service.infra.sandbox.child import Setup
from assistants_service.infra.sandbox.figures import MOST_BYTES
from assistants_service.infra.sandbox.frames import ForgedFrame
from assistants_service.infra.sandbox.limits import MIB

logger = logging.getLogger(__name__)

# Isolated from its surroundings (-I), but with the modules of this process, wherever a platform puts them.
_PROGRAM: Final = (
    "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); "
    "from assistants_service.infra.sandbox.child import main; main()"
)
# The environment at exec stays readable to the process, so it must not contain secrets. Each library computes in one
# thread.
_ENVIRONMENT: Final = {
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "MPLBACKEND": "agg",
    "MALLOC_ARENA_MAX": "2",
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
}
_INHERITED: Final = ("LD_LIBRARY_PATH",)  # what Python itself may need to start
_LARGEST: Final = {  # bytes of a frame
    frames.READY: 64 * 1024,
    frames.IMAGE: MOST_BYTES,
    frames.RESULT: 16 * MIB,
    frames.DATA: frames.CHUNK,
    frames.END: 0,
    frames.REFUSED: 4096,
}
_LAST_BREATH: Final = 5.0  # seconds for a killed process to end


class ChildProcess:
    """Created by `start` only."""

    def __init__(self, process: asyncio.subprocess.Process, handle: int) -> None:
        self.pid = process.pid
        self._process, self._handle = process, handle
        self._signalling = (
            threading.Lock()
        )  # no signal is sent to a handle that was closed, whose number may be in use again

    @classmethod
    async def start(cls, setup: Setup, logs: int) -> ChildProcess:
        """`logs` is the descriptor of the file for its stderr, which has what cells print. Raises OSError."""
        modules = "\n".join(str(Path(entry).absolute()) for entry in sys.path)
        place = f"{setup.folder}/scratch"
        own = {"TMPDIR": place, "HOME": place, "MPLCONFIGDIR": place}
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-B", "-c", _PROGRAM, modules, json.dumps(asdict(setup))),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=logs,
                env=inherited | _ENVIRONMENT | own,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the parent
            )
        )
        try:
            process = await asyncio.shield(starting)
            return cls(process, os.pidfd_open(process.pid))
        except BaseException:  # cancelled while asyncio started the process, or the process has ended
            process = await starting
            if process.returncode is None:
                process.kill()
            await process.communicate()
            raise

    async def send(self, data: bytes) -> None:
        """Raises OSError if the process has ended."""
        stdin = self._process.stdin
        assert stdin  # noqa: S101
        stdin.write(data)
        await stdin.drain()

    async def receive(self, nonce: bytes) -> tuple[bytes, bytes]:
        """A frame's kind and payload. Raises EOFError if the process has ended or closed the pipe; and ForgedFrame."""
        stdout = self._process.stdout
        assert stdout  # noqa: S101
        size, answered, kind = frames.HEADER.unpack(await stdout.readexactly(frames.HEADER.size))
        if answered != nonce or size > _LARGEST.get(kind, -1):
            raise ForgedFrame
        return kind, await stdout.readexactly(size)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def pause(self) -> None:
        """Stop the process until the next request, including threads that a cell has left running."""
        self._signal(signal.SIGSTOP)

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill it. May be called from any thread."""
        self._signal(signal.SIGKILL)

    async def end(self) -> int | None:
        """Kill it, wait, and return the exit status: negative for a signal, None if it does not end in time."""
        if self._handle < 0:
            return self._process.returncode
        self.kill()
        try:
            async with asyncio.timeout(_LAST_BREATH):
                await self._process.communicate()
        except TimeoutError:
            logger.error("The interpreter with the process id %d was killed and does not end", self.pid)
        with self._signalling:
            os.close(self._handle)
            self._handle = -1
        return self._process.returncode

    @property
    def ended(self) -> bool:
        return self._process.returncode is not None

    def _signal(self, number: signal.Signals) -> None:
        with self._signalling, contextlib.suppress(ProcessLookupError):
            if self._handle >= 0:
                signal.pidfd_send_signal(self._handle, number)
