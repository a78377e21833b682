"""What the domain asks of a storage engine: append-only logs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from assistants_service.core.ports.documents import Document


@dataclass(frozen=True, slots=True)
class Mark:
    """The end of a log when it was last read or written: the condition of the next append.

    `generation` counts roll-overs, `offset` is in bytes from the start of that generation. `etag` is the engine's own
    (empty where it needs none).
    """

    generation: int
    offset: int
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Tail:
    """What a log contains beyond a mark, and where it ends now.

    `data` starts at the given mark; if `restarted`, the log has been rolled over since, and `data` is the whole new
    generation, to be folded on top of its snapshot.
    """

    data: bytes
    mark: Mark
    restarted: bool = False


Project = Callable[[], Sequence[Document]]


def no_documents() -> Sequence[Document]:
    """The projection of a log that has no documents."""
    return ()


class Logs(Protocol):
    """Append-only logs. A block is stored whole or not at all, and only at the position that the writer expects."""

    async def start(
        self, container: str, name: str, block: bytes, project: Project = no_documents
    ) -> tuple[Mark, Sequence[Document]]:
        """Create a log with its first block. Raises Conflict if it exists. Returns the same as `append`."""

    async def append(
        self, container: str, name: str, mark: Mark, block: bytes, project: Project = no_documents
    ) -> tuple[Mark, Sequence[Document]]:
        """Append at `mark` and return the new mark. Raises Conflict if the log has changed or is gone, and ValueError
        for a block of more than 64 MiB.

        `project` makes the documents of this block; it is called once, when the condition is met. An engine with
        transactions stores them in the same one, any other returns them, and the caller has to `write_if_newer` them.

        A lost response is no conflict: the engine reads back, and its own block at the mark means success.
        """

    async def read(self, container: str, name: str, since: Mark | None, *, limit: int | None = None) -> Tail | None:
        """Everything after `since` (None: from the start of the current generation). None if there is no such log.

        With a `limit`, at most that many bytes after `since`, wherever that cuts a block, and the returned mark is
        where they end. A newer generation is returned as a whole.
        """

    async def roll_over(self, container: str, name: str, mark: Mark) -> Mark:
        """Begin the next generation: an empty log, conditional on `mark`. Raises Conflict if the log has changed.

        The old generation is kept under `name` + `.` + its number.
        """

    async def drop(self, container: str, name: str) -> None:
        """Delete a log, if it exists."""

    async def logs(self, container: str) -> Sequence[str]:
        """The names of all logs that end in `.log`, without their old generations, unordered. Lists the whole
        container: never called on the path of a request."""

    async def weigh(self, container: str, prefix: str) -> int:
        """The total size in bytes of logs, documents and contents whose names start with `prefix`. Lists all of them:
        never called on the path of a request."""
