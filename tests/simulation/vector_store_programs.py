"""Vector stores in random histories: programs that make, fill, empty and delete them over HTTP while workers die, and
what must hold of each store in the end (P9): every file comes to an end, counts add up, every chunk is there once, and
of what was removed nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from assistants_service.core import names
from simulated_clients import Client, Refused, Unanswered
from simulated_service import PROJECT, World
from test_stores_crash import Owner, check_stores, folded

Json = Any
STATUSES = ("in_progress", "completed", "failed", "cancelled")


@dataclass
class Notes:
    """What the programs know of a store: files and batches of which they were told that they are in it, and files that
    may have been taken out."""

    files: set[str] = field(default_factory=set)
    batches: set[str] = field(default_factory=set)
    taken_out: set[str] = field(default_factory=set)
    completed: set[str] = field(default_factory=set)  # files that were shown so
    told: set[str] = field(default_factory=set)  # likewise, by their own documents, which may lag behind lists
    gone: bool = False  # its deletion was asked for


@dataclass
class SharedNotes:
    """What the programs share."""

    owner: Owner  # who puts files into the store, where nothing fails
    stores: dict[str, Notes] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)  # files whose deletion was asked for

    async def some_files(self, chance: random.Random, most: int) -> list[str]:
        """New ones mostly, and now and then one that may be in a store already, or is broken."""
        new = [each.file_id for each in await self.owner.files(chance.randint(1, most))]
        if chance.random() < 0.2:
            new += [each.file_id for each in await self.owner.files(1, "broken.pdf")]
        old = [each for each in self.files if each not in self.deleted]
        self.files += new
        return new + (chance.sample(old, 1) if old and chance.random() < 0.2 else [])


@dataclass
class StoreProgram(Client):
    """Does one thing after the other to stores that others use too."""

    chance: random.Random = None  # type: ignore[assignment]
    shared: SharedNotes = None  # type: ignore[assignment]
    haste: float = 1.0  # seconds between two requests, at the mean

    @classmethod
    def of(cls, world: World, chance: random.Random, shared: SharedNotes, number: int) -> StoreProgram:
        patience = chance.choice((4.0, 20.0, 100.0))
        retries, haste = chance.choice((0, 2)), chance.choice((0.05, 0.5, 2.0))
        name = f"program {number}"
        return cls(world, retries, name, patience=patience, chance=chance, shared=shared, haste=haste)

    async def live(self) -> None:
        deeds = list(DEEDS)
        for _ in range(self.chance.randint(3, 7)):
            await asyncio.sleep(self.chance.expovariate(1 / self.haste))
            there = [store_id for store_id, notes in self.shared.stores.items() if not notes.gone]
            with contextlib.suppress(Unanswered, Refused):
                if not there:
                    await self.create()
                    continue
                deed = self.chance.choices(deeds, [DEEDS[each] for each in deeds])[0]
                await deed(self, self.chance.choice(there))

    def _some(self, things: set[str] | list[str]) -> str | None:
        return self.chance.choice(sorted(things)) if things else None

    async def create(self) -> None:
        ids = await self.shared.some_files(self.chance, 12) if self.chance.random() < 0.8 else []
        store = (await self.ask("create vector store", "POST", "/vector_stores", {"file_ids": ids})).answer
        self.shared.stores[store["id"]] = Notes(files=set(ids))

    async def attach(self, store_id: str) -> None:
        file_id = (await self.shared.some_files(self.chance, 1))[-1]
        await self.ask("attach a file", "POST", f"/vector_stores/{store_id}/files", {"file_id": file_id})
        self.shared.stores[store_id].files.add(file_id)

    async def batch(self, store_id: str) -> None:
        ids = await self.shared.some_files(self.chance, 8)
        path = f"/vector_stores/{store_id}/file_batches"
        batch = (await self.ask("create file batch", "POST", path, {"file_ids": ids})).answer
        self.shared.stores[store_id].batches.add(batch["id"])
        self.shared.stores[store_id].files.update(ids)

    async def cancel(self, store_id: str) -> None:
        if batch := self._some(self.shared.stores[store_id].batches):
            await self.ask("cancel file batch", "POST", f"/vector_stores/{store_id}/file_batches/{batch}/cancel")

    async def detach(self, store_id: str) -> None:
        if file_id := self._some(self.shared.stores[store_id].files):
            self.shared.stores[store_id].taken_out.add(file_id)
            await self.ask("detach a file", "DELETE", f"/vector_stores/{store_id}/files/{file_id}")

    async def delete_file(self, _: str) -> None:
        if file_id := self._some(self.shared.files):
            self.shared.deleted.add(file_id)
            await self.ask("delete file", "DELETE", f"/files/{file_id}")

    async def delete(self, store_id: str) -> None:
        self.shared.stores[store_id].gone = True
        await self.ask("delete vector store", "DELETE", f"/vector_stores/{store_id}")

    async def reindex(self, store_id: str) -> None:
        """As `assistants reindex --all` asks for it, in a process that may die of it."""
        await self.shared.owner.reindex(store_id)

    async def look(self, store_id: str) -> None:  # type: ignore[override]
        at = f"/vector_stores/{store_id}"
        self._add_up((await self.ask("get vector store", "GET", at)).answer)
        for batch in sorted(self.shared.stores[store_id].batches):
            self._add_up((await self.ask("get file batch", "GET", f"{at}/file_batches/{batch}")).answer)
        await self.look_at_files(store_id)

    async def look_at_files(self, store_id: str) -> list[Json]:
        """All of them, and one by itself. What was completed once stays so until it is taken out."""
        at, notes = f"/vector_stores/{store_id}/files", self.shared.stores[store_id]
        known = set(notes.completed)
        listed: list[Json] = (await self.ask("list files of a store", "GET", f"{at}?limit=100")).answer["data"]
        self._stay_completed(store_id, known, listed)
        lost = self._still(notes, known) - {file["id"] for file in listed}
        assert not lost, f"P9: {lost} are not in {store_id} any more"
        if listed:
            await self.look_at_a_file(store_id, self.chance.choice(listed)["id"])
        return listed

    async def look_at_a_file(self, store_id: str, file_id: str) -> Json:
        notes = self.shared.stores[store_id]
        known, path = set(notes.told), f"/vector_stores/{store_id}/files/{file_id}"
        file = (await self.ask("get a file of a store", "GET", path)).answer
        self._stay_completed(store_id, known, [file])
        if _completed(file):
            notes.told.add(file_id)
        return file

    def _stay_completed(self, store_id: str, known: set[str], shown: list[Json]) -> None:
        """`known` before the request."""
        notes = self.shared.stores[store_id]
        back = [file for file in shown if file["id"] in self._still(notes, known) and not _completed(file)]
        assert not back, f"P9: {back} were completed before"
        notes.completed.update(file["id"] for file in shown if _completed(file))

    def _still(self, notes: Notes, known: set[str]) -> set[str]:
        """Those that must be there, by now."""
        return set() if notes.gone else known - notes.taken_out - self.shared.deleted

    async def look_at_the_end(self, store_id: str) -> None:
        """Every file has come to an end by its own document, to the one that the store counts."""
        counts = (await self.ask("get vector store", "GET", f"/vector_stores/{store_id}")).answer["file_counts"]
        listed = await self.look_at_files(store_id)
        for file in listed:
            assert await self.look_at_a_file(store_id, file["id"]) == file, f"P9: {file} is another by itself"
        shown = Counter(file["status"] for file in listed)
        assert not shown["in_progress"], f"P9: a file of {store_id} never ends"
        told = {status: counts[status] for status in STATUSES if counts[status]}
        assert shown == told, f"P9: {store_id} has {shown}, and says {told}"

    def _add_up(self, thing: Json) -> None:
        counts = thing["file_counts"]
        assert sum(counts[status] for status in STATUSES) == counts["total"], f"P9: {thing} does not add up"


def _completed(file: Json) -> bool:
    return bool(file["status"] == "completed")


DEEDS: dict[Callable[[StoreProgram, str], Any], float] = {
    StoreProgram.batch: 4,
    StoreProgram.attach: 2,
    StoreProgram.cancel: 1,
    StoreProgram.detach: 1,
    StoreProgram.delete_file: 0.7,
    StoreProgram.delete: 0.5,
    StoreProgram.look: 2,
    lambda program, _: program.create(): 0.6,
    StoreProgram.reindex: 0.4,
}


async def take_one_more(world: World, shared: SharedNotes) -> None:
    """Whatever happened, a store takes another file. Call it last: its work item would hide that there was none."""
    program = StoreProgram(world, name="epilogue", shared=shared, chance=random.Random(f"epilogue {world.seed}"))
    for store_id, notes in shared.stores.items():
        if not notes.gone:
            await program.attach(store_id)
    await world.at_rest()
    for store_id, notes in shared.stores.items():
        if not notes.gone:
            await program.look_at_the_end(store_id)
    await p9_stores_are_whole(world, shared, tidied=True)
    await count(world, shared)


async def p9_stores_are_whole(world: World, shared: SharedNotes, *, tidied: bool = False) -> None:
    """Call it when the world is at rest. `tidied`: every store was worked on since the last process died."""
    there = {store_id for store_id, notes in shared.stores.items() if not notes.gone}
    await check_stores(world, there, lenient=True, tidied=tidied)
    for store_id, notes in shared.stores.items():
        if notes.gone and await world.store.read(names.STORE_LOGS, names.log(PROJECT, store_id), None) is None:
            continue
        state = await folded(world, store_id)
        missing = notes.files - notes.taken_out - shared.deleted - {file_state.id for file_state in state.files}
        assert not missing, f"P9: {missing} were attached to {store_id}, and are not there"
        assert notes.batches <= {each.id for each in state.batches}, f"P9: a batch of {store_id} is not there"
        world.counts["checked: vector stores"] += 1


async def count(world: World, shared: SharedNotes) -> None:
    for store_id, notes in shared.stores.items():
        if notes.gone:
            world.counts["happened: vector stores deleted"] += 1
            continue
        state = await folded(world, store_id)
        world.counts.update(f"files: {file_state.file.status}" for file_state in state.files)
        world.counts["happened: files claimed again"] += sum(file_state.claims > 1 for file_state in state.files)
        world.counts["happened: segments merged"] += any(name.startswith("merged.") for name in state.segments)
