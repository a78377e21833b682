"""A storage engine: documents, logs, contents and a queue, each a port of its own; and how a call to one fails."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from assistants_service.core.ports.contents import Contents
from assistants_service.core.ports.documents import Documents
from assistants_service.core.ports.logs import Logs
from assistants_service.core.ports.queue import Queue


class Conflict(Exception):
    """A condition of a write failed because another process has written. Nothing was written: read and decide again."""


class StorageUnavailable(Exception):
    """The store did not respond, or responded that it is unavailable. A write may or may not have taken effect."""


class ContentGone(StorageUnavailable):
    """The content was discarded while it was read: the data read so far is incomplete."""


class Unsent(StorageUnavailable):
    """The write certainly had no effect: the request was not sent, or was rolled back."""


class Full(Unsent):
    """The store is full."""


class Undecided(StorageUnavailable):
    """A commit was sent, and it is unknown whether it is in the log."""


class Storage(Documents, Logs, Contents, Queue, Protocol):
    """A storage engine. It counts its operations by kind, and its retries by reason."""

    operations: Counter[str]
    retries: Counter[str]

    async def open(self) -> None:
        """Connect, and create what is missing. Raises StorageUnavailable, or ValueError for a bad configuration."""

    async def close(self) -> None: ...

    async def ping(self) -> None:
        """Raises StorageUnavailable unless the store responds."""
