"""The service of vector stores.

The order of an attach: 1. write notes that the store may contain the file, by which a deleted file is found there; 2.
enqueue; 3. commit; 4. project. The repository does the last three. A crash after the first leaves an extra note, which
is removed with its file. So is the note of a detached file: removing it earlier would race with the next attach.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from assistants_service.core import names
from assistants_service.core.errors import no_such_file
from assistants_service.core.fanout import fan_out
from assistants_service.core.files.service import FileService
from assistants_service.core.ids import SAFE_ID
from assistants_service.core.log.repository import Command, ItemOf
from assistants_service.core.ports.storage import Conflict, Storage
from assistants_service.core.protocol.vector_stores.requests import UpdateVectorStore, UpdateVectorStoreFile
from assistants_service.core.protocol.vector_stores.resources import (
    ExpiresAfter,
    VectorStore,
    VectorStoreFile,
    VectorStoreFileBatch,
)
from assistants_service.core.request_context import RequestContext
from assistants_service.core.vector_stores.commands import VectorStoreCommands
from assistants_service.core.vector_stores.fold_store import expiry
from assistants_service.core.vector_stores.lookups import batch_of, file_of, store_of
from assistants_service.core.vector_stores.new import NewFile, NewStore
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.vector_stores.state import StoreChange, StoreState
from assistants_service.core.work_items import MAX_DELAY, CleanUpStore, MaintainStore, PurgeStore, to_body


@dataclass(frozen=True, slots=True)
class VectorStoreService:
    """The vector stores of all projects, their files and batches of files."""

    storage: Storage
    repository: VectorStoreRepository
    files: FileService

    async def create(self, context: RequestContext, store_id: str, new: NewStore) -> VectorStore:
        """If a store with this id exists, the same request came before: return it as it is now. Raises the 404 for an
        unknown file."""
        project = context.project
        events = VectorStoreCommands(context.now).create(store_id, new)
        await self._note(context, store_id, new.files)
        await self._enqueue_expiry(context, store_id, new.expires_after)
        try:
            changes = await self.repository.start(project, store_id, events, self._item(context, store_id))
        except Conflict:
            # So that it is listed, even after a crash.
            await self.repository.fetch(names.VECTOR_STORES, project, store_id)
            return store_of(await self.repository.read(project, store_id))
        return next(change.object for change in reversed(changes) if isinstance(change.object, VectorStore))

    async def update(self, context: RequestContext, store_id: str, body: UpdateVectorStore) -> VectorStore:
        project = context.project
        before = store_of(await self.repository.read(project, store_id)).expires_at
        after = ExpiresAfter(days=body.expires_after.days) if body.expires_after else None
        if before is None or before > (expiry(after, int(context.now)) or before):  # otherwise an item arrives in time
            await self._enqueue_expiry(context, store_id, after)
        update = partial(VectorStoreCommands(context.now).update, body=body)
        await self.repository.commit(project, store_id, update, by_client=True)
        return store_of(await self.repository.cached(project, store_id))

    async def delete(self, context: RequestContext, store_id: str) -> None:
        """The store is gone at once; the worker removes the rest."""
        item = PurgeStore(project=context.project, store_id=store_id, sent_at=context.now)
        delete = VectorStoreCommands(context.now).delete
        await self.repository.commit(context.project, store_id, delete, lambda _: item, by_client=True)

    # -- files -----------------------------------------------------------------------------------------------------

    async def attach(self, context: RequestContext, store_id: str, files: Sequence[NewFile]) -> VectorStoreFile:
        """Returns the last of the files. Raises the 404 for an unknown store or file."""
        attach = partial(VectorStoreCommands(context.now).attach, files=files)
        changes = await self._add(context, store_id, files, attach)
        attached = [change.object for change in changes if isinstance(change.object, VectorStoreFile)]
        if attached:
            return attached[-1]
        return file_of(await self.repository.cached(context.project, store_id), files[-1].file_id).file

    async def update_file(
        self, context: RequestContext, store_id: str, file_id: str, body: UpdateVectorStoreFile
    ) -> VectorStoreFile:
        commands = VectorStoreCommands(context.now)
        update = partial(commands.update_file, file_id=file_id, attributes=body.attributes or {})
        await self.repository.commit(context.project, store_id, update, by_client=True)
        return file_of(await self.repository.cached(context.project, store_id), file_id).file

    async def detach(self, context: RequestContext, store_id: str, file_id: str) -> None:
        """The file itself stays. Raises the 404 for one that is not in the store."""
        await self._commit(context, store_id, partial(VectorStoreCommands(context.now).detach, file_id=file_id))

    # -- batches ---------------------------------------------------------------------------------------------------

    async def create_batch(
        self, context: RequestContext, store_id: str, batch_id: str, files: Sequence[NewFile]
    ) -> VectorStoreFileBatch:
        create = partial(VectorStoreCommands(context.now).create_batch, batch_id=batch_id, files=files)
        changes = await self._add(context, store_id, files, create)
        created = [change.object for change in changes if isinstance(change.object, VectorStoreFileBatch)]
        return (
            created[-1]
            if created
            else batch_of(await self.repository.cached(context.project, store_id), batch_id).batch
        )

    async def cancel_batch(self, context: RequestContext, store_id: str, batch_id: str) -> VectorStoreFileBatch:
        await self._commit(context, store_id, partial(VectorStoreCommands(context.now).cancel_batch, batch_id=batch_id))
        return batch_of(await self.repository.cached(context.project, store_id), batch_id).batch

    # --------------------------------------------------------------------------------------------------------------

    async def _add(
        self, context: RequestContext, store_id: str, files: Sequence[NewFile], command: Command[StoreState]
    ) -> list[StoreChange]:
        command(await self.repository.read(context.project, store_id))  # a refused request leaves no note
        await self._note(context, store_id, files)
        return await self._commit(context, store_id, command)

    async def _commit(self, context: RequestContext, store_id: str, command: Command[StoreState]) -> list[StoreChange]:
        item_of = self._item(context, store_id)
        return await self.repository.commit(context.project, store_id, command, item_of, by_client=True)

    def _item(self, context: RequestContext, store_id: str) -> ItemOf:
        return lambda seen: MaintainStore(project=context.project, store_id=store_id, seen=seen, sent_at=context.now)

    async def _note(self, context: RequestContext, store_id: str, files: Sequence[NewFile]) -> None:
        """Raises the 404 for an unknown file, before anything is written."""
        file_ids = list(dict.fromkeys(file.file_id for file in files))
        unsafe = next((file_id for file_id in file_ids if not SAFE_ID.fullmatch(file_id)), None)
        if unsafe is not None:
            raise no_such_file(unsafe[:200])
        await fan_out(partial(self.files.fetch, context.project), file_ids)
        await fan_out(partial(self._note_one, context.project, store_id), file_ids)

    async def _note_one(self, project: str, store_id: str, file_id: str) -> None:
        with contextlib.suppress(Conflict):  # it exists
            await self.storage.create(names.FILE_STORES, names.document(project, file_id, store_id), b"{}")

    async def _enqueue_expiry(self, context: RequestContext, store_id: str, after: ExpiresAfter | None) -> None:
        """Called before the commit: a crash in between leaves an item that finds nothing to do."""
        until = expiry(after, int(context.now))
        if until is not None:
            item = CleanUpStore(project=context.project, store_id=store_id, sent_at=context.now)
            await self.storage.send(to_body(item), delay=min(until - context.now, MAX_DELAY))
