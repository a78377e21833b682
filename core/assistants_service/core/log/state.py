"""What every aggregate has in common: a thread or a vector store is a log, and the state that it folds into."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from assistants_service.core.log.events import Commit
from assistants_service.core.paging import Opened
from assistants_service.core.ports.storage import Mark

VIEW_BYTES: Final = 2_000  # of an aggregate without anything in it


class UnreadableLog(Exception):
    """What a log says cannot be known: a snapshot that it goes on from is missing, as in a restore without that
    container, or bytes are not what this version writes. Trying again does not help. The message names what it is, and
    quotes nothing of it."""


@contextlib.contextmanager
def decoding(what: str) -> Iterator[None]:
    """Raises UnreadableLog for what cannot be decoded."""
    try:
        yield
    except (msgspec.DecodeError, ValueError) as error:
        # Without the cause, which may quote content.
        raise UnreadableLog(f"{what} cannot be decoded: {type(error).__name__}") from None


class State(msgspec.Struct):
    """Everything that a log says. `version` is the number of commits folded; 0: there is no such log."""

    version: int = 0
    deleted: bool = False

    @property
    def known(self) -> bool:
        return self.version > 0 and not self.deleted

    @property
    def busy(self) -> bool:
        """Its log is not rolled over meanwhile."""
        return False


class Change(Protocol):
    """What one event did: its name, and the version of the aggregate that it made."""

    @property
    def version(self) -> int: ...

    @property
    def name(self) -> str: ...


S = TypeVar("S", bound=State)
C = TypeVar("C", bound=Change)


class View(ABC, Generic[S, C]):
    """A folded aggregate in memory, and where its log was read to. `lock` orders the commits and refreshes of this
    process; other processes meet at the log."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.counted = 0  # the part of `weight` that the repository's total knows; 0 if it does not keep this view
        self.grown: set[View[S, C]] = set()  # the repository's: views that have grown since they were counted
        self.reset()

    def reset(self) -> None:
        """Forget the aggregate, but not who waits for the lock."""
        self.state: S = self.blank()
        self.mark: Mark | None = None
        self.blocks = 0  # commits in this generation of the log
        self.base = 0  # bytes of the snapshot that the generation began with
        # Bytes of log and snapshot that were folded, of what was unpacked since, and of a view without any.
        self.weight = VIEW_BYTES

    def begin(self, snapshot: bytes) -> None:
        """Start over from what `snapshot` made, of this view or of another process's."""
        self.unpack(snapshot)
        self.base, self.weight = len(snapshot), self.weight + len(snapshot)

    @property
    def opened(self) -> Opened:
        """Hears how many bytes were unpacked, whenever they are asked for. It knows this view weakly: in a cycle, a
        view that was forgotten would stay in memory for a while."""
        me = weakref.ref(self)

        def opened(size: int) -> None:
            if view := me():
                view.weight += size
                view.grown.add(view)

        return opened

    @abstractmethod
    def blank(self) -> S:
        """The state before the first commit."""

    @abstractmethod
    def unpack(self, snapshot: bytes) -> None: ...

    @abstractmethod
    def snapshot(self) -> bytes:
        """What a generation of the log begins with. Of an aggregate that is not busy."""

    @abstractmethod
    def fold(self, commits: Sequence[Commit[Any]]) -> list[C]: ...
