"""The work on a vector store: files become segments of its index, small segments are merged, what is loose is removed.

A claim is a fence, as of runs: what comes of a file is committed only if its last claim is still this one. It is by a
work item, whose next holder goes on where the last one died. A segment is written under the name of file and attempt
before the commit that makes it a part of the store; until then the log has it among what is loose, and the holder of
the item that claimed it removes what is never committed.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from core import events as e
from core import names
from core.decide import Done, Wait
from core.errors import ApiError
from core.files import Files, decode_file
from core.ports import (
    Chunking,
    Clock,
    EmbeddingError,
    Embeddings,
    Extraction,
    Storage,
    StorageUnavailable,
    Unreadable,
)
from core.resources import File, LastError, StaticChunking
from core.search import segment, tiers
from core.stores.fold import FileState, StoreState, merged_segment, segment_of
from core.stores.ledger import Decision, Stores
from core.work import TendStore, to_body

log = logging.getLogger(__name__)

CLAIMS: Final = 5  # of one file without an end; then it has failed
SPELL: Final = 120.0  # seconds after which an item takes up no more files, and sends another one for the rest
MERGES: Final = 16  # of one item, at most
WENT_WRONG: Final = LastError(code="server_error", message="Sorry, something went wrong.")


@dataclass(slots=True)
class Ingestion:
    """What it takes. `at_once` files are in work in one worker; most of the time they wait for others."""

    storage: Storage
    stores: Stores
    files: Files
    extraction: Extraction
    embeddings: Embeddings
    clock: Clock
    at_once: int = 4
    room: asyncio.Semaphore = field(init=False)
    merging: asyncio.Lock = field(default_factory=asyncio.Lock)  # a merge holds its segments in memory

    def __post_init__(self) -> None:
        self.room = asyncio.Semaphore(self.at_once)


@dataclass(slots=True)
class Shift:
    """The work on one store for one delivery of a work item, the `count`th."""

    kit: Ingestion
    item: TendStore
    item_id: str
    count: int = 1
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)  # by segment
    _ended: int = 0  # files

    async def run(self) -> Wait | Done:
        """Raises StorageUnavailable: what was claimed stays so, for the item's next delivery."""
        state = await self._look()
        if state.version <= self.item.seen or not state.version:
            return Wait()
        if state.deleted:
            return Done()
        if self.count > 1:
            await self.kit.stores.project(self.item.project, self.item.store_id, self.item_id)
        try:
            await self._remove_loose()
            await self._work()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._merge()
        await self._remove_loose()
        if any(self._open(held) for held in self._waiting(await self._look())):
            # First the item that will ring, then the end of this one. It is a new one: deliveries do not add up.
            again = TendStore(project=self.item.project, store_id=self.item.store_id, sent_at=self.kit.clock.now())
            await self.kit.storage.send(to_body(again))
        return Done()

    # -- files -----------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Until no file is left that this item may claim, or others should have their turn."""
        begun = self.kit.clock.now()
        while True:
            renew = self.kit.clock.now() - begun > SPELL or (self.count > 1 and self._ended > 0)
            if not renew:
                await self._claim()
            if not self._tasks:
                return
            await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            for name, task in list(self._tasks.items()):
                if task.done():
                    del self._tasks[name]
                    task.result()
                    self._ended += 1

    async def _claim(self) -> None:
        """Files that nobody has, or whom this item's last holder left. One that was claimed before is claimed alone: if
        it is what kills workers, it takes no other file with it."""
        room = self.kit.at_once - len(self._tasks)
        if room <= 0:
            return
        taken: list[tuple[str, int]] = []

        def decision(state: StoreState) -> Sequence[e.Event]:
            taken.clear()
            if not state.known:
                return ()
            open_ = [held for held in self._waiting(state) if self._open(held)]
            new = [held for held in open_ if not held.claims][:room]
            alone = open_[:1] if not new and not self._tasks else []
            events: list[e.Event] = []
            for number, held in enumerate(new or alone, 1):
                if held.claims >= CLAIMS:
                    events.append(e.FileFailed(file_id=held.id, error=WENT_WRONG))
                else:
                    attempt = state.attempt + number
                    taken.append((held.id, attempt))
                    events.append(e.FileClaimed(file_id=held.id, attempt=attempt, item=self.item_id))
            return events

        await self._commit(decision)
        for file_id, attempt in taken:
            name = segment_of(file_id, attempt)
            self._tasks[name] = asyncio.create_task(self._take(file_id, attempt))

    def _waiting(self, state: StoreState) -> Iterable[FileState]:
        return (state.files[file_id] for file_id in state.waiting) if state.known else ()

    def _open(self, held: FileState) -> bool:
        return not held.item or (held.item == self.item_id and held.source not in self._tasks)

    async def _take(self, file_id: str, attempt: int) -> None:
        async with self.kit.room:
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
            file = decode_file((await self.kit.files.fetch(self.item.project, file_id)).body)
        except ApiError:
            # Deleted, or expired, perhaps before it was attached: whoever deleted it did not find it here.
            await self._commit(
                lambda state: [e.FileDetached(file_id=file_id)] if _held(state, file_id, attempt) else ()
            )
            return
        try:
            chunks = await self._chunks(file, held.file.chunking_strategy.static)
            if await self._mine(file_id, attempt) is None:
                return
            vectors = await self.kit.embeddings.embed([chunk.text for chunk in chunks])
        except Unreadable as error:
            await self._fail(file_id, attempt, LastError(code=error.code, message=error.message))
            return
        except EmbeddingError as error:
            await self._fail(file_id, attempt, LastError(code="server_error", message=str(error)))
            return
        name, model = segment_of(file_id, attempt), self.kit.embeddings.model
        blob = await asyncio.to_thread(segment.build, name, chunks, vectors, model)
        if await self._mine(file_id, attempt) is None:
            return
        # The blob first: what the log names is there.
        await self._put(name, blob)
        completed = e.FileCompleted(
            file_id=file_id,
            filename=file.filename,
            size=len(blob),
            chunks=len(chunks),
            model=f"{model} {vectors.shape[1]}",
        )
        await self._commit(lambda state: [completed] if _held(state, file_id, attempt) else ())

    async def _chunks(self, file: File, chunking: StaticChunking) -> Sequence[segment.Chunk]:
        sizes = Chunking(chunking.max_chunk_size_tokens, chunking.chunk_overlap_tokens)
        with tempfile.TemporaryDirectory(prefix="assistants-") as folder:
            path = Path(folder) / "content"
            with path.open("wb") as content:
                async for piece in self.kit.files.read(self.item.project, file.id):
                    await asyncio.to_thread(content.write, piece)
            if path.stat().st_size != file.bytes:
                raise StorageUnavailable(f"file {file.id} was deleted meanwhile")
            found = await self.kit.extraction.chunks(path, file.filename, sizes)
        return [segment.Chunk(chunk.text, chunk.start) for chunk in found]

    async def _fail(self, file_id: str, attempt: int, error: LastError) -> None:
        await self.kit.stores.discard(self.item.project, self.item.store_id, [segment_of(file_id, attempt)])
        failed = e.FileFailed(file_id=file_id, error=error)
        await self._commit(lambda state: [failed] if _held(state, file_id, attempt) else ())

    async def _mine(self, file_id: str, attempt: int) -> FileState | None:
        """The file, unless it was cancelled or taken out, or somebody else took over."""
        return _held(await self._look(), file_id, attempt)

    async def give_up(self) -> None:
        """This item is poison: its files have failed, and nobody waits for them."""

        def decision(state: StoreState) -> Sequence[e.Event]:
            left = [held for held in self._waiting(state) if self._open(held)]
            return [e.FileFailed(file_id=held.id, error=WENT_WRONG) for held in left]

        await self._remove_loose()
        await self._commit(decision)

    # -- segments --------------------------------------------------------------------------------------------------

    async def _merge(self) -> None:
        for _ in range(MERGES):
            async with self.kit.merging:
                if not await self._merge_some():
                    return

    async def _merge_some(self) -> bool:
        """One merge, if one is due and nobody else is at it."""
        plan: list[str] = []
        attempt = 0

        def claim(state: StoreState) -> Sequence[e.Event]:
            nonlocal plan, attempt
            plan, attempt = _plan(state), state.attempt + 1
            return [e.MergeClaimed(attempt=attempt, item=self.item_id)] if plan else ()

        await self._commit(claim)
        if not plan:
            return False
        state = await self._look()
        if not state.segments.keys() >= set(plan):
            return False
        live = {source for name in plan for source in state.segments[name].sources}
        blobs = [await self._blob(name) for name in plan]
        merged = await asyncio.to_thread(segment.merge, blobs, live)
        if merged is None:
            return False
        into = merged_segment(attempt)
        await self._put(into, merged)
        chunks = sum(chunks for name in plan for chunks in state.segments[name].sources.values())

        def commit(state: StoreState) -> Sequence[e.Event]:
            # Somebody else may have merged one of them, or the store has expired: then this one is not needed.
            if not state.known or not state.segments.keys() >= set(plan):
                return ()
            sources = {source: number for name in plan for source, number in state.segments[name].sources.items()}
            model = state.segments[plan[0]].model
            return [
                e.SegmentsMerged(
                    into=into, merged=tuple(plan), size=len(merged), chunks=chunks, model=model, sources=sources
                )
            ]

        return bool(await self._commit(commit))

    async def _remove_loose(self) -> None:
        state = await self._look()
        loose = [name for name, item in state.loose.items() if item in ("", self.item_id) and name not in self._tasks]
        if not loose or not state.known:
            return
        await self.kit.stores.discard(self.item.project, self.item.store_id, loose)
        await self._commit(lambda state: _dropped(state, loose))

    async def _put(self, name: str, blob: bytes) -> None:
        place = names.document(self.item.project, self.item.store_id, name)
        part = await self.kit.storage.stage(names.SEGMENTS, place, "whole", _once(blob))
        await self.kit.storage.commit(names.SEGMENTS, place, [part])

    async def _blob(self, name: str) -> bytes:
        place = names.document(self.item.project, self.item.store_id, name)
        return b"".join([piece async for piece in self.kit.storage.download(names.SEGMENTS, place)])

    # --------------------------------------------------------------------------------------------------------------

    async def _look(self) -> StoreState:
        return (await self.kit.stores.look(self.item.project, self.item.store_id)).state

    async def _commit(self, decide: Decision) -> bool:
        return bool(await self.kit.stores.commit(self.item.project, self.item.store_id, decide))


def _held(state: StoreState, file_id: str, attempt: int) -> FileState | None:
    held = state.files.get(file_id) if state.known else None
    return held if held and held.attempt == attempt and file_id in state.waiting else None


def _dropped(state: StoreState, loose: Collection[str]) -> Sequence[e.Event]:
    gone = tuple(name for name in loose if name in state.loose)
    return [e.SegmentsDropped(names=gone)] if gone and state.known else ()


def _plan(state: StoreState) -> list[str]:
    """The segments to merge; none while somebody is at it."""
    if not state.known or any(item and name.startswith("merged.") for name, item in state.loose.items()):
        return []
    return tiers.plan(
        [
            tiers.Weight(name, held.size, sum(held.sources.values()) / held.chunks, held.model)
            for name, held in state.segments.items()
        ]
    )


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
