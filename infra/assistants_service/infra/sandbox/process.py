"""The process of an interpreter, from the worker's side: sending requests, pausing it, killing it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import threading
from typing import Final

from assistants_service.infra.sandbox import frames
from assistants_service.infra.sandbox.figures import MOST_BYTES
from assistants_service.infra.sandbox.fork_server import STATUS
from assistants_service.infra.sandbox.frames import ForgedFrame
from assistants_service.infra.sandbox.limits import MIB

logger = logging.getLogger(__name__)

_LARGEST: Final = {  # bytes of a frame
    frames.READY: 64 * 1024,
    frames.IMAGE: MOST_BYTES,
    frames.RESULT: 16 * MIB,
    frames.DATA: frames.CHUNK,
    frames.END: 0,
    frames.REFUSED: 4096,
}
_KILL_TIMEOUT: Final = 5.0  # seconds for a killed process to end


class ChildProcess:
    """Created by `ForkServer.fork` only. It is a child of the fork server, which waits for it: `handle` (a pidfd)
    signals it and nothing else, and `life` is the socket on which the fork server tells its exit status."""

    def __init__(self, pid: int, handle: int, life: socket.socket) -> None:
        self.pid = pid
        self._handle, self._life = handle, life
        self._status: int | None = None
        self._answers = asyncio.StreamReader()
        self._requests: asyncio.StreamWriter | None = None
        self._reading: asyncio.BaseTransport | None = None
        # No signal is sent to a handle that was closed, whose number may be in use again.
        self._signalling = threading.Lock()

    @classmethod
    async def opened(cls, pid: int, handle: int, life: socket.socket, requests: int, answers: int) -> ChildProcess:
        """A process with its pipes, which it closes."""
        process = cls(pid, handle, life)
        try:
            await process._open(requests, answers)
        except BaseException:
            await process.end()
            raise
        return process

    async def _open(self, requests: int, answers: int) -> None:
        loop = asyncio.get_running_loop()
        files = os.fdopen(requests, "wb", 0), os.fdopen(answers, "rb", 0)
        try:
            writing, protocol = await loop.connect_write_pipe(_unread, files[0])
            self._requests = asyncio.StreamWriter(writing, protocol, None, loop)
            self._reading, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(self._answers), files[1]
            )
        except BaseException:
            for each in files:
                each.close()
            raise

    async def send(self, data: bytes) -> None:
        """Raises OSError if the process has ended."""
        assert self._requests  # noqa: S101
        self._requests.write(data)
        await self._requests.drain()

    async def receive(self, nonce: bytes) -> tuple[bytes, bytes]:
        """A frame's kind and payload. Raises EOFError if the process has ended or closed the pipe; and ForgedFrame."""
        size, answered, kind = frames.HEADER.unpack(await self._answers.readexactly(frames.HEADER.size))
        if answered != nonce or size > _LARGEST.get(kind, -1):
            raise ForgedFrame
        return kind, await self._answers.readexactly(size)

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
        """Kill it, wait, and return the exit status: negative for a signal, None if it is not known."""
        if self._handle < 0:
            return self._status
        self.kill()
        try:
            async with asyncio.timeout(_KILL_TIMEOUT):
                self._status = await self._exit_status()
        except TimeoutError:
            logger.error("the interpreter with the process id %d was killed and does not end", self.pid)
        self._close()
        return self._status

    @property
    def ended(self) -> bool:
        return self._handle < 0 or has_ended(self._handle)

    async def _exit_status(self) -> int | None:
        await readable(self._life.fileno())
        if told := self._life.recv(STATUS.size):
            return int(STATUS.unpack(told)[0])
        await readable(self._handle)  # the fork server has ended, with which the kernel kills its children
        with contextlib.suppress(ChildProcessError):  # orphans are adopted by this process only if it is the first one
            os.waitid(os.P_PIDFD, self._handle, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222 # it does not wait
        return None

    def _close(self) -> None:
        if self._requests and not self._requests.transport.is_closing():
            self._requests.transport.abort()
        if self._reading:
            self._reading.close()
        self._life.close()
        with self._signalling:
            os.close(self._handle)
            self._handle = -1

    def _signal(self, number: signal.Signals) -> None:
        with self._signalling, contextlib.suppress(ProcessLookupError):
            if self._handle >= 0:
                signal.pidfd_send_signal(self._handle, number)


def _unread() -> asyncio.StreamReaderProtocol:
    """The protocol of a pipe that is written to: the writer waits where the other end does not read."""
    return asyncio.StreamReaderProtocol(asyncio.StreamReader())


def has_ended(handle: int) -> bool:
    """Whether the process of a pidfd has ended."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(0))


async def readable(descriptor: int) -> None:
    """Wait until a socket or a pidfd has something to read, or has ended."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
