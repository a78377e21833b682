"""What the API does for a client who makes or changes a vector store.

The order of an attach: 1. notes that the store may hold the file, by which a file that is deleted is found there;
2. enqueue; 3. commit; 4. project. The last three are the repository's. What a crash after the first leaves is a note
too many, which goes with its file. So does the note of a file that is detached: to remove it would race with the next
attach.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from assistants_service.core import names
from assistants_service.core.errors import no_such_file
from assistants_service.core.fanout import fan_out
from assistants_service.core.files.service import Files
from assistants_service.core.ids import SAFE_ID
from assistants_service.core.log.repository import ItemOf
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.storage import Conflict, Storage
from assistants_service.core.protocol.vector_stores.requests import UpdateVectorStore, UpdateVectorStoreFile
from assistants_service.core.protocol.vector_stores.resources import (
    ExpiresAfter,
    VectorStore,
    VectorStoreFile,
    VectorStoreFileBatch,
)
from assistants_service.core.vector_stores.commands import NewFile, VectorStoreCommands
from assistants_service.core.vector_stores.fold import expiry
from assistants_service.core.vector_stores.repository import VectorStoreRepository, batch_of, file_of, store_of
from assistants_service.core.work_items import MAX_DELAY, CleanUpStore, MaintainStore, PurgeStore, to_body


@dataclass(frozen=True, slots=True)
class VectorStoreService:
    storage: Storage
    stores: VectorStoreRepository
    files: Files
    clock: Clock

    @property
    def commands(self) -> VectorStoreCommands:
        return VectorStoreCommands(self.clock.now())

    async def create(
        self,
        project: str,
        store_id: str,
        files: Sequence[NewFile],
        *,
        name: str | None = None,
        description: str | None = None,
        expires_after: ExpiresAfter | None = None,
        metadata: dict[str, str] | None = None,
    ) -> VectorStore:
        """If there is a store of this id, the same request came before: that one, as it is now. Raises the 404 of an
        unknown file."""
        events = self.commands.create(
            store_id, files, name=name, description=description, expires_after=expires_after, metadata=metadata
        )
        await self._note(project, store_id, files)
        await self._ring_expiry(project, store_id, expires_after)
        try:
            changes = await self.stores.start(project, store_id, events, self._item_of(project, store_id))
        except Conflict:
            await self.stores.fetch(names.VECTOR_STORES, project, store_id)  # so that it is listed, even after a crash
            return store_of(await self.stores.read(project, store_id))
        return next(change.object for change in reversed(changes) if isinstance(change.object, VectorStore))

    async def update(self, project: str, store_id: str, body: UpdateVectorStore) -> VectorStore:
        commands = self.commands
        before = store_of(await self.stores.read(project, store_id)).expires_at
        after = ExpiresAfter(days=body.expires_after.days) if body.expires_after else None
        if before is None or before > (expiry(after, int(commands.now)) or before):  # else an item comes in time
            await self._ring_expiry(project, store_id, after)
        await self.stores.command(project, store_id, lambda state: commands.update(state, body))
        return store_of(await self.stores.recall(project, store_id))

    async def delete(self, project: str, store_id: str) -> None:
        """It is gone at once; the worker empties what is left."""
        item = PurgeStore(project=project, store_id=store_id, sent_at=self.clock.now())
        await self.stores.command(project, store_id, self.commands.delete, lambda _: item)

    # -- files -----------------------------------------------------------------------------------------------------

    async def attach(self, project: str, store_id: str, files: Sequence[NewFile]) -> VectorStoreFile:
        """The last of the files. Raises the 404 of an unknown store or file."""
        commands = self.commands
        commands.attach(await self.stores.read(project, store_id), files)  # what is refused leaves no note
        await self._note(project, store_id, files)
        item_of = self._item_of(project, store_id)
        changes = await self.stores.command(project, store_id, lambda state: commands.attach(state, files), item_of)
        made = [change.object for change in changes if isinstance(change.object, VectorStoreFile)]
        return made[-1] if made else file_of(await self.stores.recall(project, store_id), files[-1].file_id).file

    async def update_file(
        self, project: str, store_id: str, file_id: str, body: UpdateVectorStoreFile
    ) -> VectorStoreFile:
        commands, attributes = self.commands, body.attributes or {}
        await self.stores.command(project, store_id, lambda state: commands.update_file(state, file_id, attributes))
        return file_of(await self.stores.recall(project, store_id), file_id).file

    async def detach(self, project: str, store_id: str, file_id: str) -> None:
        """The file itself stays. Raises the 404 of one that is not in the store."""
        commands, item_of = self.commands, self._item_of(project, store_id)
        await self.stores.command(project, store_id, lambda state: commands.detach(state, file_id), item_of)

    # -- batches ---------------------------------------------------------------------------------------------------

    async def create_batch(
        self, project: str, store_id: str, batch_id: str, files: Sequence[NewFile]
    ) -> VectorStoreFileBatch:
        commands, item_of = self.commands, self._item_of(project, store_id)
        commands.create_batch(await self.stores.read(project, store_id), batch_id, files)
        await self._note(project, store_id, files)
        changes = await self.stores.command(
            project, store_id, lambda state: commands.create_batch(state, batch_id, files), item_of
        )
        made = [change.object for change in changes if isinstance(change.object, VectorStoreFileBatch)]
        return made[-1] if made else batch_of(await self.stores.recall(project, store_id), batch_id).batch

    async def cancel_batch(self, project: str, store_id: str, batch_id: str) -> VectorStoreFileBatch:
        commands, item_of = self.commands, self._item_of(project, store_id)
        await self.stores.command(project, store_id, lambda state: commands.cancel_batch(state, batch_id), item_of)
        return batch_of(await self.stores.recall(project, store_id), batch_id).batch

    # --------------------------------------------------------------------------------------------------------------

    async def _note(self, project: str, store_id: str, files: Sequence[NewFile]) -> None:
        """Raises the 404 of an unknown file, before anything is written."""
        file_ids = list(dict.fromkeys(file.file_id for file in files))
        unsafe = next((file_id for file_id in file_ids if not SAFE_ID.fullmatch(file_id)), None)
        if unsafe is not None:
            raise no_such_file(unsafe[:200])
        await fan_out(partial(self.files.fetch, project), file_ids)
        await fan_out(partial(self._note_one, project, store_id), file_ids)

    async def _note_one(self, project: str, store_id: str, file_id: str) -> None:
        with contextlib.suppress(Conflict):  # there is one
            await self.storage.create(names.FILE_STORES, names.document(project, file_id, store_id), b"{}")

    async def _ring_expiry(self, project: str, store_id: str, after: ExpiresAfter | None) -> None:
        """Before the commit: a crash in between leaves an item that finds nothing to do."""
        until = expiry(after, int(self.clock.now()))
        if until is not None:
            item = CleanUpStore(project=project, store_id=store_id, sent_at=self.clock.now())
            await self.storage.send(to_body(item), delay=min(until - self.clock.now(), MAX_DELAY))

    def _item_of(self, project: str, store_id: str) -> ItemOf:
        now = self.clock.now()
        return lambda seen: MaintainStore(project=project, store_id=store_id, seen=seen, sent_at=now)
