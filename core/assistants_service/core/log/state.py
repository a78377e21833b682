"""What all aggregates have in common: a log, and the state that it folds into."""

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
from assistants_service.core.ports.logs import Mark

VIEW_BYTES: Final = 2_000  # of an empty aggregate


class UnreadableLog(Exception):
    """A log cannot be read: its snapshot is missing, as after a restore without that container, or its bytes are not in
    a format of this version. Retrying does not help. The message names the object, and contains nothing of its
    content."""


@contextlib.contextmanager
def decoding(what: str) -> Iterator[None]:
    """Raises UnreadableLog for what cannot be decoded."""
    try:
        yield
    except (msgspec.DecodeError, ValueError) as error:
        # Without the cause, which may quote content.
        raise UnreadableLog(f"{what} cannot be decoded: {type(error).__name__}") from None


class State(msgspec.Struct):
    """The folded log. `version` is the number of commits folded; 0: there is no log."""

    version: int = 0
    deleted: bool = False

    @property
    def known(self) -> bool:
        return self.version > 0 and not self.deleted

    @property
    def busy(self) -> bool:
        """While it is busy, its log is not rolled over."""
        return False


class Change(Protocol):
    """The effect of one event: its name, and the resulting version of the aggregate."""

    @property
    def version(self) -> int: ...

    @property
    def name(self) -> str: ...


S = TypeVar("S", bound=State)
C = TypeVar("C", bound=Change)


class View(ABC, Generic[S, C]):
    """A folded aggregate in memory, and the log position that it corresponds to. `lock` serialises commits and
    refreshes within this process; between processes the log's conditions do."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.counted = 0  # the part of `weight` in the repository's total; 0 if the view is not cached
        self.grown: set[View[S, C]] = set()  # the repository's: views that have grown since they were counted
        self.reset()

    def reset(self) -> None:
        """Forget the aggregate, but keep the lock and its waiters."""
        self.state: S = self.blank()
        self.mark: Mark | None = None
        self.blocks = 0  # commits in this generation of the log
        self.base = 0  # bytes of the snapshot that the generation began with
        # Bytes of log and snapshot that were folded, plus those unpacked since, plus a constant.
        self.weight = VIEW_BYTES

    def begin(self, snapshot: bytes) -> None:
        """Start from a snapshot, made by this view or by another process."""
        self.unpack(snapshot)
        self.base, self.weight = len(snapshot), self.weight + len(snapshot)

    @property
    def opened(self) -> Opened:
        """A callback that counts the bytes unpacked on demand. It refers to this view weakly: a cycle would keep a
        forgotten view in memory for a while."""
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
        """What the next generation of the log begins with. The aggregate must not be busy."""

    @abstractmethod
    def fold(self, commits: Sequence[Commit[Any]]) -> list[C]: ...
