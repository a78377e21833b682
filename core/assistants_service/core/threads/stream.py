"""The stream of a run: a log of its own that carries the wire's events in order, deltas included.

It exists only where a client asked to stream. Deltas are not history: everything else on it follows from the thread's
log, so a process that finds the stream behind brings it up, and two at once cannot write the same event twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence, Set

import msgspec

from assistants_service.core import names
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.storage import Conflict, Logs, Mark
from assistants_service.core.protocol.runs.resources import Run, Step
from assistants_service.core.protocol.threads.resources import Message
from assistants_service.core.threads import sse
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.threads.state import Change

TRIES = 50  # a stream has few writers at a time; each lost race means that another one wrote


class StreamWriter:
    """Writes one run's stream. Every append is conditional on where this writer believes that the stream ends."""

    def __init__(self, logs: Logs, notifier: Notifier, project: str, thread_id: str, run_id: str) -> None:
        self._logs, self._notifier = logs, notifier
        self.name = names.document(project, thread_id, run_id)
        self._scanned = False
        self._mark: Mark | None = None
        self._version = 0
        self._started = False  # it was not there before
        self._ended = False  # its last event ended the run: nothing follows
        self._owned = False  # the mark was read before the log last said that the run is this worker's
        self._renderer = sse.Renderer()

    async def publish(self, threads: ThreadRepository, project: str, thread_id: str, run_id: str) -> None:
        """Bring the stream up to the log."""
        if not self._scanned:
            await self._scan()
        if self._ended:
            return  # an item that comes late need not read the history of its thread to learn that
        await self.catch_up(await threads.run_history(project, thread_id, run_id))
        if self._started:  # perhaps after a purge had dropped it, of which the history did not know
            self._started = False
            state = (await threads.look(project, thread_id)).state
            if state.thread is None or state.deleted:
                await self._logs.drop(names.STREAMS, self.name)

    async def catch_up(self, history: Sequence[Change]) -> None:
        """Write the events of `history` that the stream does not show yet. Idempotent: run it after every commit, and
        again after a crash."""
        for _ in range(TRIES):
            began = self._mark is not None
            if not self._scanned:
                await self._scan()
            if began and self._mark is None:
                return None  # its thread was deleted, and nothing is to be written here again
            missing = self._missing(history)
            if not missing:
                return None
            try:
                return await self._append(missing)
            except Conflict:
                self._scanned = False
        raise Conflict

    async def emit(self, events: Iterable[sse.Event]) -> None:
        """Write what a model says at this moment. Raises Conflict if another process wrote: take over first."""
        if not self._owned:
            raise Conflict
        await self._append([(self._version, event) for event in events])

    async def take_over(
        self, run: Run, *, mine: Callable[[], Awaitable[Set[str]]], opened: Set[str], now: float
    ) -> None:
        """Close what another worker left open. `mine` looks at the log: the ids that it knows, or an exception if the
        run is another worker's by now. `opened` are the ids that this worker opened."""
        for _ in range(TRIES):
            # The order matters: a later claim of the run finds the stream no shorter than the first
            # one did, and what it writes makes the next append here fail.
            await self._scan()
            keep = await mine() | opened
            self._owned = True
            torn = [(self._version, event) for event in self._renderer.abandoned(run, keep, int(now))]
            if not torn:
                return None
            try:
                return await self._append(torn)
            except Conflict:
                continue
        raise Conflict

    def _missing(self, history: Sequence[Change]) -> list[tuple[int, sse.Event]]:
        missing: list[tuple[int, sse.Event]] = []
        known, run = {change.object.id for change in history}, None
        for change in history:
            run = change.object if isinstance(change.object, Run) else run
            if change.version > self._version:
                for event in self._events_of(change, run, known):
                    self._renderer.observe(*event)
                    missing.append((change.version, event))
        return missing

    def _events_of(self, change: Change, run: Run | None, known: Set[str]) -> Iterator[sse.Event]:
        step = change.object
        if isinstance(step, Step) and run and not self._renderer.begun(step.id):
            # A worker that had lost the run may have opened another one since the last look: steps do not overlap.
            yield from self._renderer.abandoned(run, known, step.created_at)
        yield from self._renderer.render(change)

    async def _append(self, events: list[tuple[int, sse.Event]]) -> None:
        block = b"".join(sse.to_bytes(events, self._mark.offset if self._mark else 0))
        # At the mark: another worker, or an API process that cancels, may be writing to the same stream.
        if self._mark is None:
            self._mark, _ = await self._logs.start(names.STREAMS, self.name, block)
            self._started = True
        else:
            self._mark, _ = await self._logs.append(names.STREAMS, self.name, self._mark, block)
        self._version = max(self._version, events[-1][0])
        for _, event in events:
            self._renderer.observe(*event)
        self._notifier.notify(f"{names.STREAMS}/{self.name}")

    async def _scan(self) -> None:
        """Read the whole stream: what it shows, and what is open on it."""
        self._owned = False
        tail = await self._logs.read(names.STREAMS, self.name, None)
        self._mark, self._version, self._renderer = (tail.mark if tail else None), 0, sse.Renderer()
        self._ended = False
        for _, version, name, payload in sse.parse(tail.data if tail else b""):
            self._ended = name in sse.ENDINGS
            self._version = max(self._version, version)
            if name.startswith("thread.run.step.") and not name.endswith(".delta"):
                self._renderer.observe(name, msgspec.json.decode(payload, type=Step))
            elif name == "thread.message.delta":
                self._renderer.observe(name, msgspec.json.decode(payload, type=sse.Delta))
            elif name.startswith("thread.message."):
                self._renderer.observe(name, msgspec.json.decode(payload, type=Message))
        self._scanned = True


async def last_published(logs: Logs, name: str, object_id: str) -> Message | Step | None:
    """The message or the step as the stream of this name showed it last, deltas aside. None: it never did."""
    tail = await logs.read(names.STREAMS, name, None)
    found: Message | Step | None = None
    for _, _, event, payload in sse.parse(tail.data if tail else b""):
        if event.endswith(".delta") or object_id.encode() not in payload:
            continue
        thing: Message | Step | None = None
        if event.startswith("thread.run.step."):
            thing = msgspec.json.decode(payload, type=Step)
        elif event.startswith("thread.message."):
            thing = msgspec.json.decode(payload, type=Message)
        found = thing if thing and thing.id == object_id else found
    return found


def replay(history: Sequence[Change]) -> Iterator[bytes]:
    """The events of the stream as it would be without streaming: the same ones with the same ids, each message as
    one delta."""
    return sse.to_bytes(_events_of(history), 0)


def _events_of(history: Sequence[Change]) -> Iterator[tuple[int, sse.Event]]:
    renderer = sse.Renderer()
    for change in history:
        for event in renderer.render(change):
            renderer.observe(*event)
            yield change.version, event
