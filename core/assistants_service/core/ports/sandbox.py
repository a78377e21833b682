"""What the domain asks of a sandbox: interpreters for Python that a model wrote, each confined to its own folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


class SandboxUnavailable(Exception):
    """No code is executed here: CODE_INTERPRETER is off, or this machine cannot confine an interpreter. Final for this
    process. `reason` is one sentence for the log and for clients."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SandboxBusy(Exception):
    """No interpreter is free, or none could be started just now. Nothing was executed. The caller waits and tries
    again."""


class InterpreterLost(Exception):
    """The interpreter ended during a call (killed, crashed, gone). The code may have been executed in part. `reason` is
    plain English for the model and the log: "used more than 2 GiB of memory". `logs` is what the code had printed until
    then, as in CellResult."""

    def __init__(self, reason: str, logs: str = "") -> None:
        super().__init__(reason)
        self.reason, self.logs = reason, logs


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """`path` is relative to /mnt/data, with slashes, in UTF-8, without control characters and without `..`. `size` is
    in bytes."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class CellResult:
    """What one call of `run` did.

    `logs` is stdout and stderr as they were printed, up to 64 KiB: head and tail. `value` is the repr of a bare last
    expression that is not None. `error` is the traceback of an exception, from the cell's own first frame on. `images`
    are PNGs in the order in which they were shown (plt.show(), and figures left open at the end). `changed` are the
    regular files that the call created or changed, and `removed` the paths that it removed, or whose new content is too
    large to be kept, both sorted by path.
    `notes` say what was cut, refused or interrupted, one sentence each, for the model and the log.
    """

    logs: str = ""
    value: str | None = None
    error: str | None = None
    images: tuple[bytes, ...] = ()
    changed: tuple[ChangedFile, ...] = ()
    removed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Interpreter(Protocol):
    """One session: its variables live as long as it does. Calls come one at a time."""

    @property
    def alive(self) -> bool:
        """False if it is known to have ended: then a call would raise InterpreterLost. Asks nothing of the network."""

    async def write(self, path: str, content: AsyncIterator[bytes]) -> None:
        """Put a file under /mnt/data. It does not count as changed by the next call. Raises InterpreterLost, and
        ValueError for a path that is not valid or a file that does not fit. If it turns out only later that the file
        cannot be put there, the next call has a note."""

    async def run(self, code: str) -> CellResult:
        """Execute a cell. Raises InterpreterLost. If it is cancelled, the interpreter is killed and of no further
        use."""

    def read(self, path: str) -> AsyncIterator[bytes]:
        """The bytes of a file of `changed`, which the interpreter opens, since a cell may have replaced it. Raises
        InterpreterLost, and ValueError if there is no such file any more."""

    async def close(self) -> None:
        """Kill the interpreter and remove its folder. Harmless if repeated."""


class Sandbox(Protocol):
    """Starts interpreters, a limited number at the same time. Which of them are idle, and which one is given up for
    another session, its caller decides."""

    async def unavailable_reason(self) -> str:
        """Empty, or why no code is executed here: one sentence, for the log and for health checks. The first call
        finds out, which takes up to a few seconds; later ones answer from memory. An answer about this machine never
        changes; one about a remote service may."""

    async def warm(self) -> None:
        """Begin to prepare what `start` needs, which may take seconds. Does not wait for it."""

    async def start(self, session: str) -> Interpreter:
        """An interpreter with an empty /mnt/data. `session` is an opaque name that cannot be guessed, another one for
        each interpreter, so that two workers never meet in one. Raises SandboxUnavailable and SandboxBusy."""

    async def close(self) -> None:
        """Close all interpreters."""
