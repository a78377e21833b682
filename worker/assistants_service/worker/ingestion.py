"""Ingestion: files become segments of a vector store's index; small segments are merged, and orphaned ones removed.

A segment is written, named by file and attempt, before the commit that makes it part of the store; until then the log
lists it as orphaned. store_work.py explains claims, and when a blob may be removed.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.files.service import decode_file
from assistants_service.core.ports.embeddings import EmbeddingError
from assistants_service.core.ports.extraction import Chunk, Chunking, Unreadable
from assistants_service.core.ports.storage import Conflict, StorageUnavailable
from assistants_service.core.protocol.files.resources import File
from assistants_service.core.protocol.objects import LastError
from assistants_service.core.protocol.vector_stores.resources import StaticChunking
from assistants_service.core.search.words import FORMAT
from assistants_service.core.threads.decide import Done, Wait
from assistants_service.core.vector_stores import events as e
from assistants_service.core.vector_stores.state import FileState, Reindexing, StoreState, segment_of
from assistants_service.core.work_items import MaintainStore, to_body
from assistants_service.worker.merging import merge
from assistants_service.worker.store_work import StoreWork

log = logging.getLogger(__name__)

CLAIMS: Final = 5  # of one file without a result; then it has failed
ITEM_TIME: Final = 120.0  # seconds after which an item claims no more files, and sends another one for the rest
INTERNAL_ERROR: Final = LastError(code="server_error", message="Sorry, something went wrong.")


@dataclass(slots=True)
class IngestionJob(StoreWork):
    """Ingests the files of a store, then merges its segments."""

    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)  # by segment
    _ended: int = 0  # number of files that have ended

    async def run(self) -> Wait | Done:
        """Raises StorageUnavailable: the claims stay for the item's next delivery; and NoSlot, if too many stores are
        in work."""
        state = await self.load()
        if state.version <= self.item.seen or not state.version:
            return Wait()
        if state.deleted:
            return Done()
        if self.count > 1:
            await self._project()
        # On a redelivery, an earlier holder may have made claims by this item, or may still do so. If the item were put
        # back under another id, no worker could take them over.
        again = self.count > 1
        async with self.context.jobs.slot(self.item.project, self.item.sent_at, stays=again):
            return await self._maintain()

    async def _maintain(self) -> Done:
        try:
            await self.remove_orphaned()
            await self._work()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await merge(self)
        if any(self._open(file) for file in self.unread(await self.load())):
            await self._hand_on()
        # Last: a file may have been detached while this item's claim was valid. No other item would remove its segment.
        await self.remove_orphaned()
        if self.count > 1:  # redelivered: earlier claims were valid until now, and their worker may have died since
            await self._project()
        await self.context.stores.index.remove_orphaned(self.store, self.known)
        return Done()

    async def _hand_on(self) -> None:
        """Send a new item for the remaining files, so that deliveries do not add up. It has another id, so the claims
        of this item's earlier deliveries are released to it, in the usual order: first the new item, then the commit.
        The new item waits for the commit if it arrives first: otherwise it would find every file claimed, and no other
        item would follow."""
        now = self.context.clock.now()

        def again(seen: int) -> MaintainStore:
            return MaintainStore(project=self.item.project, store_id=self.item.store_id, seen=seen, sent_at=now)

        if not await self.commit(self._release, again):  # the remaining files were never claimed
            await self.context.storage.send(to_body(again(0)))

    # -- files -----------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Processes files until none is left that this item may claim, or other projects should have their turn."""
        begun = self.context.clock.now()
        while True:
            renew = self.context.clock.now() - begun > ITEM_TIME or (
                self._ended > 0 and (self.count > 1 or self._should_yield())
            )
            if not renew and await self._claim() and not self._tasks:
                continue  # the open files have failed permanently
            if not self._tasks:
                return
            await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            for name, task in list(self._tasks.items()):
                if task.done():
                    del self._tasks[name]
                    task.result()
                    self._ended += 1

    def _should_yield(self) -> bool:
        """Whether another project, with fewer stores in work, waits for this one's slot."""
        return self.context.jobs.contested(self.item.project)

    async def _claim(self) -> bool:
        """Claim files without a holder, or left by this item's last holder, if there are any. A file that was claimed
        before is claimed alone, those with fewer claims first: if it kills workers, no other file dies with it."""
        room = self.context.at_once - len(self._tasks)
        if room <= 0:
            return False
        taken: list[tuple[str, int]] = []

        def decision(state: StoreState) -> Sequence[e.StoreEvent]:
            taken.clear()
            if not state.known or self.overtaken(state):
                return ()
            open_ = [file for file in self.unread(state) if self._open(file)]
            new = [file for file in open_ if not file.claims][:room]
            alone = [min(open_, key=lambda file: file.claims)] if open_ and not new and not self._tasks else []
            events: list[e.StoreEvent] = []
            for number, file in enumerate(new or alone, 1):
                if file.claims >= CLAIMS:
                    events.append(e.FileFailed(file_id=file.id, error=INTERNAL_ERROR))
                else:
                    attempt = state.attempt + number
                    taken.append((file.id, attempt))
                    events.append(e.FileClaimed(file_id=file.id, attempt=attempt, item=self.claimant))
            return events

        found = await self.commit(decision)
        for file_id, attempt in taken:
            name = segment_of(file_id, attempt)
            self._tasks[name] = asyncio.create_task(self._take(file_id, attempt))
        return found

    def _open(self, file: FileState | Reindexing) -> bool:
        """Whether it has no holder, or one that will not continue."""
        return not file.item or self.is_earlier(file.item) or self.abandoned(file.claimed_at)

    def _release(self, state: StoreState) -> Sequence[e.StoreEvent]:
        left = [file for file in self.unread(state) if file.item and self._open(file)]
        return [e.FileReleased(file_id=file.id) for file in left]

    async def _take(self, file_id: str, attempt: int) -> None:
        async with self.context.room.slot(self.item.project, stays=True):  # it is claimed
            try:
                await self._ingest(file_id, attempt)
            except StorageUnavailable:
                raise
            except Exception:
                log.exception("file %s of vector store %s: attempt %d failed", file_id, self.item.store_id, attempt)
                await self._fail(file_id, attempt, INTERNAL_ERROR)

    async def _ingest(self, file_id: str, attempt: int) -> None:
        file_state = await self._mine(file_id, attempt)
        if file_state is None:
            return
        try:
            file = decode_file((await self.context.files.fetch(self.item.project, file_id)).body)
        except ApiError:
            # Deleted or expired, perhaps before it was attached: its deletion did not find it in this store.
            detached = e.FileDetached(file_id=file_id)
            await self.commit(lambda state: [detached] if self._claimed_file(state, file_id, attempt) else ())
            note = names.document(self.item.project, file_id, self.item.store_id)
            await self.context.storage.remove(names.FILE_STORES, note)
            return
        try:
            chunks = await self._chunks(file, file_state.file.chunking_strategy.static)
            if await self._mine(file_id, attempt) is None:
                return
            vectors = await self.context.embeddings.embed([chunk.text for chunk in chunks])
        except Unreadable as error:
            await self._fail(file_id, attempt, LastError(code=error.code, message=error.message))
            return
        except EmbeddingError as error:
            await self._fail(file_id, attempt, LastError(code="server_error", message=str(error)))
            return
        if await self._mine(file_id, attempt) is None:
            return
        name, model = segment_of(file_id, attempt), self.context.embeddings.model
        # The segment first: what the log names must exist.
        try:
            size = await self.context.stores.index.put(self.store, name, chunks, vectors, model)
        except Conflict:  # removed by the worker that took over
            if await self._mine(file_id, attempt):
                raise
            return
        completed = e.FileCompleted(
            file_id=file_id,
            filename=file.filename,
            size=size,
            chunks=len(chunks),
            model=f"{model} {vectors.shape[1]}",
            format=FORMAT,
        )
        if not await self.commit(lambda state: [completed] if self._claimed_file(state, file_id, attempt) else ()):
            await self.discard(name)

    async def _chunks(self, file: File, chunking: StaticChunking) -> Sequence[Chunk]:
        sizes = Chunking(chunking.max_chunk_size_tokens, chunking.chunk_overlap_tokens)
        with tempfile.TemporaryDirectory(prefix="assistants-") as folder:
            path = Path(folder) / "content"
            with path.open("wb") as content:
                async for piece in self.context.files.read(self.item.project, file.id):
                    await asyncio.to_thread(content.write, piece)
            if path.stat().st_size != file.bytes:
                raise StorageUnavailable(f"file {file.id} was deleted in the meantime")
            return await self.context.extraction.chunks(self.item.project, path, file.filename, sizes)

    async def _fail(self, file_id: str, attempt: int, error: LastError) -> None:
        failed = e.FileFailed(file_id=file_id, error=error)
        await self.commit(lambda state: [failed] if self._claimed_file(state, file_id, attempt) else ())

    async def _mine(self, file_id: str, attempt: int) -> FileState | None:
        """The file, unless it was cancelled or detached, or another worker took over."""
        return self._claimed_file(await self.load(), file_id, attempt)

    def _claimed_file(self, state: StoreState, file_id: str, attempt: int) -> FileState | None:
        claim = state.to_read(file_id) if state.known else None
        return state.files[file_id] if claim and (claim.attempt, claim.item) == (attempt, self.claimant) else None

    async def give_up(self) -> None:
        """This item is poison: its files fail, so that no run waits for them."""

        def decision(state: StoreState) -> Sequence[e.StoreEvent]:
            left = [file for file in self.unread(state) if self._open(file)]
            return [e.FileFailed(file_id=file.id, error=INTERNAL_ERROR) for file in left]

        await self.commit(decision)
        await self.remove_orphaned()
        await self._project()

    async def _project(self) -> None:
        """Write documents of earlier deliveries' commits, whose workers may have died before writing them."""
        await self.context.stores.project(self.item.project, self.item.store_id, self.item_id)
