"""The process that interpreters are forked from. It imports their libraries once, which takes more than a second; an
interpreter then starts in milliseconds, and shares their memory with the others until it changes it.

`server_process` starts it, with a Unix socket as its stdin. A request is the path of an interpreter's folder, with four
descriptors: the pipe of its requests, the pipe of its answers, the file for what its cells print, and a socket. On that
socket the fork server tells the process ID with a handle of the process (pidfd), or why there is none, and later the
exit status. It reads nothing else, so no cell can tell it anything. It has no more than one thread: a lock that another
one holds would stay locked in a child for good, and a child would confine only itself.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import Final

from assistants_service.infra.sandbox import child, confinement

STATUS: Final = struct.Struct(">i")  # a process ID, or an exit status as in os.waitstatus_to_exitcode
MOST_REASON: Final = 1000  # characters of a reason
_DESCRIPTORS: Final = 4
_MOST_PATH: Final = 4096  # bytes
_SETTLING: Final = 5.0  # seconds in which threads may end that a library started while it was imported


def main() -> None:
    """Ends when the worker closes its end of the socket, or dies."""
    setup = child.Setup(**json.loads(sys.argv.pop()))
    confinement.end_with(setup.parent)
    confinement.give_way()
    sys.path[:] = [entry for entry in sys.path if child.is_within(entry, setup.readable)]
    control = socket.socket(fileno=0)
    if setup.preload:
        child.load(setup.modules)
    unfit = _unfit()
    control.send(json.dumps(unfit[:MOST_REASON]).encode())
    if unfit:
        return
    gc.collect()
    gc.freeze()  # the collector would write to the memory that children share
    _become(setup, _Server(control).serve())


def _become(setup: child.Setup, fork: child.Fork) -> None:
    """Turns this child into an interpreter. Never returns."""
    try:
        child.run(setup, fork)
    except confinement.ConfinementError as error:
        os.write(2, f"The interpreter cannot be confined: {error}\n".encode())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


class _Server:
    def __init__(self, control: socket.socket) -> None:
        self._control, self._pid = control, os.getpid()
        self._children: dict[int, tuple[int, socket.socket]] = {}  # process ID, and where to tell its end; by pidfd

    def serve(self) -> child.Fork:
        """Returns in children only."""
        while True:
            for descriptor in self._ready():
                if descriptor != self._control.fileno():
                    self._bury(descriptor)
                elif fork := self._request():
                    return fork

    def _ready(self) -> list[int]:
        poll = select.poll()
        for each in (self._control.fileno(), *self._children):
            poll.register(each, select.POLLIN)
        return [descriptor for descriptor, _ in poll.poll()]

    def _request(self) -> child.Fork | None:
        folder, descriptors, _, _ = socket.recv_fds(self._control, _MOST_PATH, _DESCRIPTORS)
        if not folder:
            os._exit(0)
        requests, answers, output, told = descriptors
        report = socket.socket(fileno=told)
        try:
            if self._forked(report):
                return child.Fork(self._pid, os.fsdecode(folder), requests, answers, output)
        except OSError as error:
            with contextlib.suppress(OSError):
                report.send(str(error)[:MOST_REASON].encode())
            report.close()
        for each in (requests, answers, output):
            os.close(each)
        return None

    def _forked(self, report: socket.socket) -> bool:
        """True in the child. Raises OSError."""
        if _threads() != 1:
            raise OSError("the fork server has more than one thread")
        if not (pid := os.fork()):
            self._close(report)
            return True
        try:
            handle = self._handed_over(pid, report)
        except OSError:  # no descriptor is left, or the worker has given up
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self._children[handle] = pid, report
        return False

    @staticmethod
    def _handed_over(pid: int, report: socket.socket) -> int:
        handle = os.pidfd_open(pid)
        try:
            socket.send_fds(report, [STATUS.pack(pid)], [handle])
        except OSError:
            os.close(handle)
            raise
        return handle

    def _bury(self, handle: int) -> None:
        pid, report = self._children.pop(handle)
        _, status = os.waitpid(pid, 0)
        os.close(handle)
        with contextlib.suppress(OSError):
            report.send(STATUS.pack(os.waitstatus_to_exitcode(status)))
        report.close()

    def _close(self, report: socket.socket) -> None:
        """Closes them now, so that no object of a child closes a descriptor that is another one's by then."""
        for each in (self._control, report, *(report for _, report in self._children.values())):
            each.close()


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def _unfit() -> str:
    """Why no interpreter can be forked from this process, or empty."""
    end = time.monotonic() + _SETTLING
    while _threads() > 1:
        if time.monotonic() > end:
            return "a library has started threads"
        time.sleep(0.005)
    for line in Path("/proc/self/maps").read_text().splitlines():
        rights = line.split()[1]
        if "w" in rights and "s" in rights:
            return "a library has mapped memory that all interpreters would share"
    return ""
