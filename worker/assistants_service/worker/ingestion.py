"""The work on a vector store: files become segments of its index, small segments are merged, what is loose is removed.

A claim is a fence, as of runs: what comes of a file is committed only if its last claim is still this one. It is by a
delivery of a work item, and the holder of a later delivery takes over: the one before must have died, or is too late. A
segment is written under the name of file and attempt before the commit that makes it a part of the store; until then
the log has it among what is loose. Nothing is removed that a claim which still counts could make a part of the store:
first the claim is made void by a commit, then the blob goes, then its name. A holder whose claim is void removes what
it wrote; if it dies before that, the next work on the store finds a blob that the log does not know.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from assistants_service.core import events as e
from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.files.service import Files, decode_file
from assistants_service.core.log.repository import ItemOf
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.embeddings import EmbeddingError, Embeddings
from assistants_service.core.ports.extraction import Chunk, Chunking, Extraction, Unreadable
from assistants_service.core.ports.search import Merging, SegmentGone, Weight
from assistants_service.core.ports.storage import Conflict, Storage, StorageUnavailable
from assistants_service.core.protocol.files.resources import File
from assistants_service.core.protocol.objects import LastError
from assistants_service.core.protocol.vector_stores.resources import StaticChunking
from assistants_service.core.search.words import FORMAT
from assistants_service.core.threads.decide import Done, Wait
from assistants_service.core.vector_stores.fold import FileState, StoreState, merged_segment, segment_of
from assistants_service.core.vector_stores.repository import Decision, VectorStoreRepository
from assistants_service.core.work_items import MaintainStore, delivery_name, to_body
from assistants_service.worker.slots import Slots

log = logging.getLogger(__name__)

CLAIMS: Final = 5  # of one file without an end; then it has failed
SPELL: Final = 120.0  # seconds after which an item takes up no more files, and sends another one for the rest
ABANDONED: Final = 3600.0  # seconds after which a claim counts no more, if its item is gone: nothing takes so long
MERGES: Final = 16  # of one item, at most
JOBS: Final = 8  # stores that are in work in one worker
WENT_WRONG: Final = LastError(code="server_error", message="Sorry, something went wrong.")


@dataclass(slots=True)
class Ingestion:
    """What it takes. `at_once` files are in work in one worker; most of the time they wait for others."""

    storage: Storage
    stores: VectorStoreRepository
    files: Files
    extraction: Extraction
    embeddings: Embeddings
    clock: Clock
    jobs: Slots = field(default_factory=lambda: Slots(JOBS))
    at_once: int = 4
    room: Slots = field(init=False)
    merging: asyncio.Lock = field(default_factory=asyncio.Lock)  # a merge holds its segments in memory

    def __post_init__(self) -> None:
        self.room = Slots(self.at_once, self.jobs.size * self.at_once)


@dataclass(slots=True)
class IngestionJob:
    """The work on one store for one delivery of a work item, the `count`th."""

    context: Ingestion
    item: MaintainStore
    item_id: str
    count: int = 1
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)  # by segment
    _ended: int = 0  # files

    @property
    def me(self) -> str:
        """What this delivery claims by."""
        return delivery_name(self.item_id, self.count)

    @property
    def _store(self) -> str:
        return names.document(self.item.project, self.item.store_id)

    def _before(self, item: str) -> bool:
        """Whether this was an earlier delivery of the same item."""
        item_id, _, count = item.rpartition("/")
        return item_id == self.item_id and int(count) < self.count

    async def run(self) -> Wait | Done:
        """Raises StorageUnavailable: what was claimed stays so, for the item's next delivery; and GiveWay, if too many
        stores are in work."""
        state = await self._look()
        if state.version <= self.item.seen or not state.version:
            return Wait()
        if state.deleted:
            return Done()
        if self.count > 1:
            await self._project()
        # That came again: an earlier holder may have claimed by it, or live and do so yet. None could go on then if it
        # were put back under another id.
        again = self.count > 1
        async with self.context.jobs.slot(self.item.project, self.item.sent_at, stays=again):
            return await self._tend()

    async def _tend(self) -> Done:
        try:
            await self._remove_loose()
            await self._work()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._merge()
        if any(self._open(held) for held in self._waiting(await self._look())):
            await self._hand_on()
        # Last: of a file that this item's claim was on until just now, and that was taken out since, a segment may be
        # left, which no other item removes.
        await self._remove_loose()
        if self.count > 1:  # again: an earlier delivery's claims counted until now, and its worker may have died since
            await self._project()
        await self.context.stores.index.tidy(self._store, self._known)
        return Done()

    async def _hand_on(self) -> None:
        """Send a new item for the files that are left, so that deliveries do not add up. It has another id, so what
        earlier deliveries of this one claimed is released to it, in the order of every change: first the new item,
        then the commit. An item that comes before its commit waits for it: it would find every file claimed, and
        no other would come after it."""
        now = self.context.clock.now()

        def again(seen: int) -> MaintainStore:
            return MaintainStore(project=self.item.project, store_id=self.item.store_id, seen=seen, sent_at=now)

        if not await self._commit(self._release, again):  # what is left was never claimed
            await self.context.storage.send(to_body(again(0)))

    # -- files -----------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Until no file is left that this item may claim, or others should have their turn."""
        begun = self.context.clock.now()
        while True:
            renew = self.context.clock.now() - begun > SPELL or (self._ended > 0 and (self.count > 1 or self._unfair()))
            if not renew and await self._claim() and not self._tasks:
                continue  # what was open has failed for good
            if not self._tasks:
                return
            await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            for name, task in list(self._tasks.items()):
                if task.done():
                    del self._tasks[name]
                    task.result()
                    self._ended += 1

    def _unfair(self) -> bool:
        """Whether another project, with fewer stores in work, waits for this one's slot."""
        return self.context.jobs.contested(self.item.project)

    async def _claim(self) -> bool:
        """Files without a holder, or that this item's last one left, if there are any. One that was claimed before is
        claimed alone, those that were claimed less often first: if it is what kills workers, it takes no other with
        it."""
        room = self.context.at_once - len(self._tasks)
        if room <= 0:
            return False
        taken: list[tuple[str, int]] = []

        def decision(state: StoreState) -> Sequence[e.Event]:
            taken.clear()
            if not state.known or self._overtaken(state):
                return ()
            open_ = [held for held in self._waiting(state) if self._open(held)]
            new = [held for held in open_ if not held.claims][:room]
            alone = [min(open_, key=lambda held: held.claims)] if open_ and not new and not self._tasks else []
            events: list[e.Event] = []
            for number, held in enumerate(new or alone, 1):
                if held.claims >= CLAIMS:
                    events.append(e.FileFailed(file_id=held.id, error=WENT_WRONG))
                else:
                    attempt = state.attempt + number
                    taken.append((held.id, attempt))
                    events.append(e.FileClaimed(file_id=held.id, attempt=attempt, item=self.me))
            return events

        found = await self._commit(decision)
        for file_id, attempt in taken:
            name = segment_of(file_id, attempt)
            self._tasks[name] = asyncio.create_task(self._take(file_id, attempt))
        return found

    def _waiting(self, state: StoreState) -> Iterable[FileState]:
        return (state.files[file_id] for file_id in state.waiting) if state.known else ()

    def _open(self, held: FileState) -> bool:
        """Whether it has no holder, or one that will do no more to it."""
        return not held.item or self._before(held.item) or self._abandoned(held.claimed_at)

    def _abandoned(self, since: float) -> bool:
        return self.context.clock.now() - since > ABANDONED

    def _release(self, state: StoreState) -> Sequence[e.Event]:
        left = [held for held in self._waiting(state) if held.item and self._open(held)]
        return [e.FileReleased(file_id=held.id) for held in left]

    async def _take(self, file_id: str, attempt: int) -> None:
        async with self.context.room.slot(self.item.project, stays=True):  # it is claimed
            try:
                await self._ingest(file_id, attempt)
            except StorageUnavailable:
                raise
            except Exception:
                log.exception("file %s of vector store %s: attempt %d failed", file_id, self.item.store_id, attempt)
                await self._fail(file_id, attempt, WENT_WRONG)

    async def _ingest(self, file_id: str, attempt: int) -> None:
        held = await self._mine(file_id, attempt)
        if held is None:
            return
        try:
            file = decode_file((await self.context.files.fetch(self.item.project, file_id)).body)
        except ApiError:
            # Deleted, or expired, perhaps before it was attached: its deletion did not find it here.
            detached = e.FileDetached(file_id=file_id)
            await self._commit(lambda state: [detached] if self._held(state, file_id, attempt) else ())
            note = names.document(self.item.project, file_id, self.item.store_id)
            await self.context.storage.remove(names.FILE_STORES, note)
            return
        try:
            chunks = await self._chunks(file, held.file.chunking_strategy.static)
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
        # The segment first: what the log names is there.
        try:
            size = await self.context.stores.index.put(self._store, name, chunks, vectors, model)
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
        if not await self._commit(lambda state: [completed] if self._held(state, file_id, attempt) else ()):
            await self._discard(name)

    async def _chunks(self, file: File, chunking: StaticChunking) -> Sequence[Chunk]:
        sizes = Chunking(chunking.max_chunk_size_tokens, chunking.chunk_overlap_tokens)
        with tempfile.TemporaryDirectory(prefix="assistants-") as folder:
            path = Path(folder) / "content"
            with path.open("wb") as content:
                async for piece in self.context.files.read(self.item.project, file.id):
                    await asyncio.to_thread(content.write, piece)
            if path.stat().st_size != file.bytes:
                raise StorageUnavailable(f"file {file.id} was deleted meanwhile")
            return await self.context.extraction.chunks(path, file.filename, sizes)

    async def _fail(self, file_id: str, attempt: int, error: LastError) -> None:
        failed = e.FileFailed(file_id=file_id, error=error)
        await self._commit(lambda state: [failed] if self._held(state, file_id, attempt) else ())

    async def _mine(self, file_id: str, attempt: int) -> FileState | None:
        """The file, unless it was cancelled or taken out, or another worker took over."""
        return self._held(await self._look(), file_id, attempt)

    def _held(self, state: StoreState, file_id: str, attempt: int) -> FileState | None:
        held = state.files.get(file_id) if state.known and file_id in state.waiting else None
        return held if held and (held.attempt, held.item) == (attempt, self.me) else None

    async def give_up(self) -> None:
        """This item is poison: its files have failed, and no run waits for them."""

        def decision(state: StoreState) -> Sequence[e.Event]:
            left = [held for held in self._waiting(state) if self._open(held)]
            return [e.FileFailed(file_id=held.id, error=WENT_WRONG) for held in left]

        await self._commit(decision)
        await self._remove_loose()
        await self._project()

    async def _project(self) -> None:
        """Bring up what deliveries of this item committed whose workers did not live to do so."""
        await self.context.stores.project(self.item.project, self.item.store_id, self.item_id)

    # -- segments --------------------------------------------------------------------------------------------------

    async def _merge(self) -> None:
        merging = self.context.stores.index.merging
        for _ in range(MERGES if merging else 0):
            async with self.context.merging:
                if not merging or not await self._merge_some(merging):
                    return

    async def _merge_some(self, merging: Merging) -> bool:
        """One merge, if one is due and no other worker is at it."""
        plan: Sequence[str] = ()
        attempt = 0

        def claim(state: StoreState) -> Sequence[e.Event]:
            nonlocal plan, attempt
            plan, attempt = () if self._overtaken(state) else _plan(merging, state), state.attempt + 1
            return [e.MergeClaimed(attempt=attempt, item=self.me)] if plan else ()

        await self._commit(claim)
        if not plan:
            return False
        state = await self._look()
        if not state.segments.keys() >= set(plan):
            return False
        # Before the merge: meanwhile another task of this process may fold the end of one of them into this state.
        live = {source: chunks for name in plan for source, chunks in state.segments[name].sources.items()}
        into = merged_segment(attempt)
        try:
            size = await merging.merge(self._store, plan, set(live), into)
        except SegmentGone:
            state = await self._look()
            if state.known and state.segments.keys() >= set(plan):
                raise
            return False  # one of them went meanwhile, or the store
        except Conflict:  # removed by the worker that took over
            return False
        if size is None:
            return False

        def commit(state: StoreState) -> Sequence[e.Event]:
            # Nothing if another worker has merged one of them, took over from this one, or the store has expired.
            if not state.known or state.loose.get(into) != self.me or not state.segments.keys() >= set(plan):
                return ()
            return [_merged(state, plan, into, size, sum(live.values()))]

        if await self._commit(commit):
            return True
        await self._discard(into)
        return False

    def _take_over(self, state: StoreState) -> Sequence[e.Event]:
        """Earlier deliveries are not to take anything up any more, nor to commit a merge that they have begun, even if
        their holders live: once this one has ended there is no item by which another worker would take over. Nor is
        a merge to be committed that was begun so long ago that its item is gone: nothing would be merged any more."""
        if not state.known or self._overtaken(state):
            return ()
        old = self._abandoned(state.merging_since)
        begun = tuple(
            name
            for name, item in state.loose.items()
            if name.startswith("merged.") and item not in ("", self.me) and (old or self._before(item))
        )
        told = self.count == 1 or state.deliveries.get(self.item_id) == self.count
        return () if told and not begun else [e.ItemTakenOver(names=begun, item=self.me)]

    def _overtaken(self, state: StoreState) -> bool:
        return state.deliveries.get(self.item_id, 0) > self.count

    async def _remove_loose(self) -> None:
        """What can no longer become a part of the store."""
        state = await self._look()
        if self._take_over(state):
            await self._commit(self._take_over)
            state = await self._look()
        if not state.known:
            return
        counting = {held.source for held in self._waiting(state) if held.item}
        loose = [
            name
            for name, item in state.loose.items()
            if name not in counting
            and (item in ("", self.me) or (self._before(item) and not name.startswith("merged.")))
        ]
        if loose:
            await self._discard(*loose)
            await self._commit(lambda state: _dropped(state, loose))

    async def _discard(self, *segments: str) -> None:
        await self.context.stores.index.drop(self._store, segments)

    async def _known(self) -> Collection[str]:
        state = await self._look()
        return {*state.segments, *state.loose}

    # --------------------------------------------------------------------------------------------------------------

    async def _look(self) -> StoreState:
        return (await self.context.stores.look(self.item.project, self.item.store_id)).state

    async def _commit(self, decide: Decision, item_of: ItemOf | None = None) -> bool:
        """Whether there was something to commit."""
        events: Sequence[e.Event] = ()

        def deciding(state: StoreState) -> Sequence[e.Event]:
            nonlocal events
            events = decide(state)
            return events

        await self.context.stores.commit(self.item.project, self.item.store_id, deciding, item_of)
        return bool(events)


def _merged(state: StoreState, plan: Sequence[str], into: str, size: int, chunks: int) -> e.SegmentsMerged:
    sources = {source: number for name in plan for source, number in state.segments[name].sources.items()}
    model = state.segments[plan[0]].model
    return e.SegmentsMerged(
        into=into, merged=tuple(plan), size=size, chunks=chunks, model=model, sources=sources, format=FORMAT
    )


def _dropped(state: StoreState, loose: Collection[str]) -> Sequence[e.Event]:
    gone = tuple(name for name in loose if name in state.loose)
    return [e.SegmentsDropped(names=gone)] if gone and state.known else ()


def _plan(merging: Merging, state: StoreState) -> Sequence[str]:
    """The segments to merge; none while a worker is at it."""
    if not state.known or any(item and name.startswith("merged.") for name, item in state.loose.items()):
        return []
    return merging.plan(
        [
            Weight(name, held.size, sum(held.sources.values()) / held.chunks, held.model, held.format)
            for name, held in state.segments.items()
        ]
    )
