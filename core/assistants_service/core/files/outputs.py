"""Files that tools create for a thread. They exist because the thread's log names them.

1. A work item is sent, then the contents are stored, each under the id that its file will have. The commit of the call
   names them. A day later, the worker removes contents that no commit names.
2. The commit that shows a file to clients also writes its document, as for messages and steps. So the document has a
   version, and a tombstone replaces it in the end: a late write does not restore it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from assistants_service.core import names
from assistants_service.core.fanout import fan_out
from assistants_service.core.files.service import LAST, PATIENCE, FileService, decode_file
from assistants_service.core.ids import Ids
from assistants_service.core.ports.documents import Document
from assistants_service.core.protocol.files.resources import File
from assistants_service.core.protocol.objects import Struct, encode
from assistants_service.core.resources import FILE
from assistants_service.core.stored_bytes import StoredBytes
from assistants_service.core.work_items import CleanUpFile, CleanUpOutputs

NAMED_AT_ONCE: Final = 500  # files of one work item, which may have 48 KiB


class KeptFile(Struct, frozen=True, kw_only=True):
    """A file that a call created, as stored in the log. `path` is relative to the thread's folder. `file_id` is the id
    of its content, and of the file that clients are shown. An empty file has no content."""

    path: str
    bytes: int
    file_id: str


@dataclass(frozen=True, slots=True)
class CreatedFile:
    """A file to store. `read` returns its content."""

    path: str
    size: int
    read: Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class OutputFiles:
    """`retention`: seconds for which files that clients were shown are kept after their thread is deleted.
    `stored`: the limit of a project's bytes, if there is one."""

    files: FileService
    ids: Ids
    retention: float = 0.0
    stored: StoredBytes | None = None

    def is_full(self, project: str) -> bool:
        """Whether the project may store no more."""
        return self.stored is not None and self.stored.is_full(project)

    async def keep(
        self, project: str, thread_id: str, created: Sequence[CreatedFile], replaced: Iterable[str]
    ) -> list[KeptFile]:
        """Store the contents, one after the other, and return the stored files, which the caller commits. A file whose
        `read` raises ValueError is skipped. `replaced` are the ids of files that the same commit removes from the
        thread. Raises StorageUnavailable, and other errors of `read`."""
        files = [KeptFile(path=new.path, bytes=new.size, file_id=self.ids.new(FILE.prefix)) for new in created]
        # 1. enqueue: whenever this process crashes, the worker finds what it left.
        await self._enqueue(project, thread_id, [*(file.file_id for file in files), *replaced])
        # 2. contents
        stored = [await self._store(project, new, file) for new, file in zip(created, files, strict=True)]
        there = [file for file in stored if file]
        if self.stored:
            self.stored.add(project, sum(file.bytes for file in there))
        return there

    async def _enqueue(self, project: str, thread_id: str, file_ids: Sequence[str]) -> None:
        for start in range(0, len(file_ids), NAMED_AT_ONCE):
            item = CleanUpOutputs(
                project=project,
                thread_id=thread_id,
                file_ids=tuple(file_ids[start : start + NAMED_AT_ONCE]),
                sent_at=self.files.clock.now(),
            )
            await self.files.enqueue(item, delay=PATIENCE)

    async def _store(self, project: str, new: CreatedFile, file: KeptFile) -> KeptFile | None:
        if not new.size:
            return file
        storage, name = self.files.storage, names.document(project, file.file_id)
        try:
            part = await storage.stage(names.CONTENTS, name, "whole", new.read())
        except ValueError:
            return None
        await storage.commit(names.CONTENTS, name, [part])
        return KeptFile(path=file.path, bytes=part.size, file_id=file.file_id)

    async def clean_up(self, item: CleanUpOutputs, in_use: Iterable[str]) -> None:
        """Remove the contents that neither the thread (`in_use`) nor a document refers to."""
        used = set(in_use)
        for file_id in item.file_ids:
            if file_id not in used and await self._document(item.project, file_id) is None:
                await self.files.empty(item.project, file_id)

    async def withdraw(self, project: str, file_ids: Iterable[str]) -> None:
        """Remove files of a thread that was deleted, or let them expire. Idempotent. Their tombstones stay until
        `remove`."""

        async def withdraw(file_id: str) -> None:
            if not await self._expires(project, file_id):
                await self.files.withdraw(project, file_id)

        await fan_out(withdraw, file_ids)

    async def remove(self, project: str, file_ids: Iterable[str]) -> None:
        """Like `withdraw`, and without tombstones. Call this when no late write can arrive any more."""

        async def remove(file_id: str) -> None:
            if not await self._expires(project, file_id):
                await self.files.storage.remove(names.FILES, names.document(project, file_id))
                await self.files.empty(project, file_id)

        await fan_out(remove, file_ids)

    async def _expires(self, project: str, file_id: str) -> bool:
        """Whether the file outlives its thread, as those do that clients were shown and have not deleted. Then its
        expiry is set."""
        shown = await self._document(project, file_id) if self.retention else None
        if shown and shown.expires_at is None:
            expired = replace(shown, expires_at=int(self.files.clock.now() + self.retention))
            # 1. enqueue: a crash after this leaves a file without an expiry, and the purge is repeated.
            item = CleanUpFile(project=project, file_id=file_id, sent_at=self.files.clock.now())
            await self.files.enqueue(item, delay=self.retention)
            # 2. document, which no late writer replaces
            name = names.document(project, file_id)
            await self.files.storage.write_if_newer(Document(names.FILES, name, encode(expired), LAST - 1))
        return shown is not None

    async def _document(self, project: str, file_id: str) -> File | None:
        stored = await self.files.storage.get(names.FILES, names.document(project, file_id))
        return decode_file(stored.body) if stored else None
