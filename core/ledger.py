"""Threads: load one, change it, project what changed. The commit orders stand here, and nowhere else.

A view is a thread's folded state, kept in memory; it is refreshed by reading only what the log gained since.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from core import events as e
from core import names
from core.bell import Bell, Listener
from core.commands import thread_of
from core.errors import ApiError, no_such
from core.fold import Change, Resource, ThreadState
from core.frames import ENDINGS
from core.ids import Ids
from core.ports import (
    SILENCE,
    Clock,
    Conflict,
    Document,
    Storage,
    StorageUnavailable,
    Stored,
    Telemetry,
    Undecided,
    Unsent,
)
from core.projection import documents, find
from core.resources import Run, encode
from core.view import View
from core.work import WorkItem, to_body

MAX_BLOCK: Final = 4 * 1024 * 1024  # bytes of one commit
# Changes that no work item stands for. What was created needs none either: `fetch` makes up for a missing document.
MENDED: Final = frozenset(
    {"thread.updated", "thread.deleted", "thread.message.updated", "thread.message.deleted", "thread.run.updated"}
)
MEND_WINDOW: Final = 60.0  # seconds that a commit may wait for its projection before its writer counts as dead
ROLL_SHARE: Final = 16  # a generation grows to this part of its snapshot: what a first touch folds stays the less
ROLL_AT_LAST: Final = 40_000  # commits: Azure takes 50,000 blocks, and no generation ends during a run
TRIES: Final = 500  # of one command; each lost race means that another writer's commit went through

Decision = Callable[[ThreadState], Sequence[e.Event]]
Ring = Callable[[int], WorkItem]  # from the version seen to the work item


class Ledger:
    """The threads of all projects, over one store.

    `roll_after`: commits after which a log begins a new generation, once no run is active. It waits for more of them
    where the state is large, so that rewriting that costs each commit little, but never for `ROLL_AT_LAST`.
    `view_bytes`: how much log the views in memory may stand for.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        ids: Ids,
        bell: Bell,
        *,
        roll_after: int = 500,
        view_bytes: int = 32 * 1024 * 1024,
        telemetry: Telemetry = SILENCE,
    ) -> None:
        self._storage, self._clock, self._ids, self._bell = storage, clock, ids, bell
        self._telemetry = telemetry
        self._roll_after, self._view_bytes = roll_after, view_bytes
        self._views: OrderedDict[tuple[str, str], View] = OrderedDict()
        self._weight = 0
        self._late: set[asyncio.Task[None]] = set()  # projections that the store refused at first

    # -- reading ---------------------------------------------------------------------------------------------------

    async def look(self, project: str, thread_id: str) -> View:
        """The thread as the log has it now. Its state is empty (version 0) if there is no such thread."""
        view = self._view(project, thread_id)
        try:
            async with view.lock:
                await self._refresh(view, project, thread_id)
        finally:
            self._keep(view, project, thread_id)
        return view

    async def read(self, project: str, thread_id: str) -> ThreadState:
        """The state of a thread. Raises the 404 of an unknown one, or of a deleted one."""
        state = (await self.look(project, thread_id)).state
        if state.thread is None or state.deleted:
            raise no_such("thread", thread_id)
        return state

    async def recall(self, project: str, thread_id: str) -> ThreadState:
        """The state as this process knows it, without a look at the log if it has one in memory: for whoever commits
        next, and so will hear if it is stale."""
        view = self._views.get((project, thread_id))
        if view is None or view.mark is None:
            view = await self.look(project, thread_id)
        return view.state

    def listen(self, project: str, thread_id: str) -> Listener:
        """Hear of the next commit of this process to the thread."""
        return self._bell.listen(_topic(project, thread_id))

    async def trail(self, project: str, thread_id: str, run_id: str) -> list[Change]:
        """What the wire hears of a run."""
        view = await self.look(project, thread_id)
        return view.trail_of(run_id) or await self._old_trail(project, thread_id, run_id)

    async def _old_trail(self, project: str, thread_id: str, run_id: str) -> list[Change]:
        """Of a run that others followed: told again from the log's very beginning, over all its generations."""
        log = names.thread_log(project, thread_id)
        tail = await self._storage.read(names.THREADS, log, None)
        older = range(tail.mark.generation if tail else 0)
        pieces = [*[await self._storage.read(names.THREADS, f"{log}.{old}", None) for old in older], tail]
        again = View()
        for commit in e.from_lines(b"".join(piece.data for piece in pieces if piece)):
            again.fold([commit])
            held = again.state.runs.get(run_id)
            if held and not held.run.active:
                return again.trail_of(run_id)
        return []

    # -- writing ---------------------------------------------------------------------------------------------------

    async def start(
        self, project: str, thread_id: str, events: Sequence[e.Event], ring: Ring | None = None
    ) -> list[Change]:
        """A new thread (with a run, if one is rung for)."""
        view = View()
        async with view.lock:
            await self._ring(ring, 0)
            changes, rest = await self._append(view, project, thread_id, events)
        self._keep(view, project, thread_id)
        await self._after(project, thread_id, rest, rung=ring is not None, told=True)
        return changes

    async def command(self, project: str, thread_id: str, decide: Decision, ring: Ring | None = None) -> list[Change]:
        """A client's `commit`: raises the 404 of a thread that is unknown or deleted. Once the commit stands its client
        is told so, even if the store refuses the documents for a while."""

        def decision(state: ThreadState) -> Sequence[e.Event]:
            thread_of(state, thread_id)
            return decide(state)

        return await self.commit(project, thread_id, decision, ring, told=True)

    async def commit(
        self, project: str, thread_id: str, decide: Decision, ring: Ring | None = None, *, told: bool = False
    ) -> list[Change]:
        """Commit what `decide` makes of the state, as one transaction; nothing if it makes nothing.

        Raises what `decide` raises, once it has seen the newest state.
        """
        view = self._view(project, thread_id)
        try:
            async with view.lock:
                changes, rest = await self._commit(view, project, thread_id, decide, ring)
        finally:
            self._keep(view, project, thread_id)
        # 4. project: any crash before leaves a document behind the log, never the other way round.
        await self._after(project, thread_id, rest, rung=ring is not None, told=told)
        return changes

    async def _commit(
        self, view: View, project: str, thread_id: str, decide: Decision, ring: Ring | None
    ) -> tuple[list[Change], Sequence[Document]]:
        fresh = view.mark is None
        if fresh:
            await self._refresh(view, project, thread_id)
        for _ in range(TRIES):
            try:
                # 1. decide, on the view as it is: if it is stale, the append finds out.
                events = decide(view.state)
            except ApiError:
                if fresh:
                    raise
                events = ()
            if not events and fresh:
                return [], ()
            if not events:  # no refusal on old news, nor the answer that there is nothing to do
                await self._refresh(view, project, thread_id)
                fresh = True
                continue
            if view.mark is None:
                raise no_such("thread", thread_id)
            try:
                await self._roll(view, project, thread_id)
                # 2. ring: a crash after this leaves a doorbell that finds nothing new, and is dropped.
                await self._ring(ring, view.state.version)
                # 3. append, where this decision's state ends: whoever else moved in between makes it void.
                return await self._append(view, project, thread_id, events)
            except Conflict:
                await self._refresh(view, project, thread_id)
                fresh = True
        raise Conflict

    async def _append(
        self, view: View, project: str, thread_id: str, events: Sequence[e.Event]
    ) -> tuple[list[Change], Sequence[Document]]:
        commit = e.Commit(id=self._ids.nonce(), at=self._clock.now(), events=tuple(events))
        block = e.to_block(commit)
        if len(block) > MAX_BLOCK:
            raise ApiError(f"The request is too large: it makes {len(block)} bytes, and {MAX_BLOCK} are the limit.")
        changes: list[Change] = []

        def fold() -> Sequence[Document]:
            changes.extend(view.fold([commit]))
            return documents(project, changes)

        name = names.thread_log(project, thread_id)
        mark, view.mark = view.mark, None  # whatever ends the append half-way: the log is read anew
        try:
            if mark is None:
                # Create-if-missing: an id made twice.
                view.mark, rest = await self._storage.start(names.THREADS, name, block, fold)
            else:
                view.mark, rest = await self._storage.append(names.THREADS, name, mark, block, fold)
        except (Conflict, Unsent):
            view.mark = mark
            raise
        except StorageUnavailable as error:
            raise Undecided(str(error)) from error
        view.weight += len(block)
        for change in changes:
            if change.name in ENDINGS and isinstance(change.object, Run):
                self._ended(project, change.object)
        return changes, rest

    def _ended(self, project: str, run: Run) -> None:
        self._telemetry.count(
            "run", project=project, status=run.status, error=run.last_error.code if run.last_error else ""
        )

    async def _ring(self, ring: Ring | None, seen: int) -> None:
        if ring is not None:
            await self._storage.send(to_body(ring(seen)))

    async def _after(self, project: str, thread_id: str, rest: Sequence[Document], *, rung: bool, told: bool) -> None:
        self._bell.ring(_topic(project, thread_id))
        if rung:
            self._bell.ring("work")
        try:
            await self._advance(rest)
        except StorageUnavailable:
            if not told:
                raise  # the work item stays, and whoever gets it next projects
            # The commit stands, so its client is told: an error would make him do it again.
            late = asyncio.create_task(self._advance_late(project, thread_id, rest))
            self._late.add(late)
            late.add_done_callback(self._late.discard)

    async def _advance(self, documents: Sequence[Document]) -> None:
        await asyncio.gather(*(self._storage.advance(document) for document in documents))

    async def _advance_late(self, project: str, thread_id: str, documents: Sequence[Document]) -> None:
        pause = 0.5
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 30.0)
            with contextlib.suppress(StorageUnavailable):
                state = (await self.look(project, thread_id)).state
                # The outage may have outlasted the thread, and even its tombstones.
                return await self._advance(documents) if state.thread and not state.deleted else None

    async def project(self, project: str, thread_id: str, run_id: str, since: int = 0) -> None:
        """Bring up the documents of a run, its steps and its messages, whoever died before he did: all of them, or what
        changed since a version of the thread."""
        view = await self.look(project, thread_id)
        held = view.state.runs.get(run_id)
        if held is None or view.state.deleted:  # under the deletion's version they would keep its tombstones away
            return
        messages = (view.state.messages.get(key) for key in sorted(held.known))
        things: list[Resource] = [held.run, *held.steps, *(message for message in messages if message)]
        if since:
            changed = {change.object.id for change in view.trail_of(run_id) if change.version > since}
            things = [thing for thing in things if thing.id in changed]
        await self._advance(documents(project, [Change(view.state.version, "", thing) for thing in things]))

    async def fetch(self, container: str, project: str, *ids: str) -> Stored:
        """The document of an object: `ids` are the thread's, then its own. Raises the 404 of what is not there."""
        view = self._views.get((project, ids[0]))
        if view and view.state.deleted:
            raise no_such("thread", ids[0])
        name = names.document(project, *ids)
        stored = await self._storage.get(container, name)
        if stored is None:
            # Unknown; or its writer died between commit and projection, and the log knows better.
            state = await self.read(project, ids[0])
            body = encode(find(state, container, ids))
            await self._storage.advance(Document(container, name, body, state.version))
            stored = await self._storage.get(container, name)
        if stored is None:
            raise no_such(container.removesuffix("s"), ids[-1])
        return stored

    async def purge(self, project: str, thread_id: str) -> None:
        """Empty what a deleted thread left. Tombstones stay until `sweep`: no late writer brings a document back."""
        view = await self.look(project, thread_id)
        state = view.state
        if view.mark is None:  # a purge that died after its last step but one
            return await self._forget_snapshots(project, thread_id)
        if not state.deleted or state.thread is None:
            return None
        runs = list(state.runs)
        steps = [step for held in runs for step in held.steps]
        things: list[Resource] = [state.thread, *state.messages, *(held.run for held in runs), *steps]
        emptied = documents(project, [Change(state.version, "thread.deleted", thing) for thing in things])
        await self._advance(emptied)
        for held in runs:
            await self._storage.drop(names.STREAMS, names.document(project, thread_id, held.run.id))
        # A purge that dies before this is done again from the log. Nobody can read a log without its snapshot.
        await self._storage.drop(names.THREADS, names.thread_log(project, thread_id))
        self._forget((project, thread_id))
        await self._forget_snapshots(project, thread_id)

    async def sweep(self, project: str, thread_id: str) -> None:
        """Delete the tombstones of a thread that was purged long ago."""
        await self._storage.remove(names.THREADS, names.document(project, thread_id))
        for container in (names.MESSAGES, names.RUNS, names.STEPS):
            await self._storage.sweep(container, names.document(project, thread_id, ""))

    async def _forget_snapshots(self, project: str, thread_id: str) -> None:
        prefix = f"{names.document(project, thread_id)}."
        for stored in await self._storage.page(names.SNAPSHOTS, prefix, after=None, limit=10, newest_first=False):
            await self._storage.remove(names.SNAPSHOTS, stored.name)

    # -- views -----------------------------------------------------------------------------------------------------

    async def _refresh(self, view: View, project: str, thread_id: str) -> None:
        """Fold what the log gained. The caller holds the view's lock."""
        cold = view.mark is None
        tail = await self._storage.read(names.THREADS, names.thread_log(project, thread_id), view.mark)
        if cold or tail is None or tail.restarted:
            view.reset()
        if tail is None:
            return None
        if view.mark is None and tail.mark.generation:
            snapshot = await self._snapshot(project, thread_id, tail.mark.generation)
            if snapshot is None:  # rolled over once more in between
                return await self._refresh(view, project, thread_id)
            view.begin(snapshot)
        commits = e.from_lines(tail.data)
        before = view.state.version
        changes = view.fold(commits)
        view.mark, view.weight = tail.mark, view.weight + len(tail.data)
        # Whoever folds a commit after its writer's death mends it before he commits himself. So of a log that this
        # process never saw, only the last moments can lack a projection: of all others somebody saw the end.
        recent = len(commits) if not cold else sum(c.at > commits[-1].at - MEND_WINDOW for c in commits)
        await self._mend(project, [c for c in changes if c.version > before + len(commits) - recent])

    async def _mend(self, project: str, changes: list[Change]) -> None:
        """Bring up documents whose writer may have died between commit and projection."""
        await self._advance(documents(project, [change for change in changes if change.name in MENDED]))

    async def _roll(self, view: View, project: str, thread_id: str) -> None:
        """Begin a new generation of a long log, while nothing runs."""
        if view.blocks < self._roll_after or view.state.active or view.mark is None:
            return
        if view.mark.offset * ROLL_SHARE < view.base and view.blocks < ROLL_AT_LAST:
            return
        # 1. the snapshot: until 2. nobody looks for it, and a later version of it wins.
        name = names.snapshot(project, thread_id, view.mark.generation + 1)
        body = view.snapshot()
        await self._storage.advance(Document(names.SNAPSHOTS, name, body, view.state.version))
        # 2. the new generation, where this snapshot's state ends.
        log = names.thread_log(project, thread_id)
        try:
            view.mark = await self._storage.roll(names.THREADS, log, view.mark)
        except Conflict:
            if await self._storage.read(names.THREADS, log, None) is None:  # purged before 1.: nobody else removes it
                await self._storage.remove(names.SNAPSHOTS, name)
            raise
        view.blocks, view.base = 0, len(body)
        # 3. the snapshot before: whoever was about to read it finds the log restarted, and looks again.
        if view.mark.generation > 1:
            await self._storage.remove(names.SNAPSHOTS, names.snapshot(project, thread_id, view.mark.generation - 1))

    async def _snapshot(self, project: str, thread_id: str, generation: int) -> bytes | None:
        """The snapshot that a generation begins with."""
        stored = await self._storage.get(names.SNAPSHOTS, names.snapshot(project, thread_id, generation))
        return stored.body if stored else None

    def _view(self, project: str, thread_id: str) -> View:
        return self._views.setdefault((project, thread_id), View())

    def _keep(self, view: View, project: str, thread_id: str) -> None:
        """Remember the view, if there is such a thread, and forget the ones that nobody asked for lately."""
        key = (project, thread_id)
        if view.mark is None and not view.lock.locked():
            self._forget(key)
            return
        if self._views.get(key) is not view:
            self._forget(key)
            self._views[key] = view
        self._views.move_to_end(key)
        self._weight += view.weight - view.counted
        view.counted = view.weight
        while len(self._views) > 1 and self._weight > self._view_bytes:
            self._forget(next(iter(self._views)))

    def _forget(self, key: tuple[str, str]) -> None:
        view = self._views.pop(key, None)
        if view:
            self._weight -= view.counted
            view.counted = 0


def _topic(project: str, thread_id: str) -> str:
    return f"{names.THREADS}/{project}/{thread_id}"
