"""The stream of a run: a log of its own with the wire's events in order, deltas included.

It exists only if a client asked to stream. Deltas are not history: everything else on it follows from the thread's log,
so any process can bring it up to date, and two at once cannot write the same event twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence, Set

import msgspec

from assistants_service.core import names
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.logs import Logs, Mark
from assistants_service.core.ports.storage import Conflict
from assistants_service.core.protocol.runs.resources import Run, Step
from assistants_service.core.protocol.threads.resources import Message
from assistants_service.core.threads import delta_events, sse
from assistants_service.core.threads.renderer import Renderer
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.threads.state import ThreadChange

TRIES = 50  # a stream has few concurrent writers; each lost race means that another one wrote


class StreamWriter:
    """Writes one run's stream. Every append is conditional on the position where this writer expects the stream to
    end."""

    def __init__(self, logs: Logs, notifier: Notifier, project: str, thread_id: str, run_id: str) -> None:
        self._logs, self._notifier = logs, notifier
        self.name = names.document(project, thread_id, run_id)
        self._scanned = False
        self._mark: Mark | None = None
        self._version = 0
        self._started = False  # it was created by this writer
        self._ended = False  # its last event ended the run: nothing follows
        self._owned = False  # the mark was read before the log last confirmed this worker's claim
        self._renderer = Renderer()

    async def publish(self, threads: ThreadRepository, project: str, thread_id: str, run_id: str) -> None:
        """Bring the stream up to the log."""
        if not self._scanned:
            await self._scan()
        if self._ended:
            return  # a late item need not read the thread's history
        await self.catch_up(await threads.run_history(project, thread_id, run_id))
        if self._started:  # perhaps after a purge had removed it, which the history did not show
            self._started = False
            state = (await threads.load(project, thread_id)).state
            if state.thread is None or state.deleted:
                await self._logs.drop(names.STREAMS, self.name)

    async def catch_up(self, history: Sequence[ThreadChange]) -> None:
        """Write the events of `history` that the stream does not have yet. Idempotent: called after every commit, and
        again after a crash."""
        for _ in range(TRIES):
            began = self._mark is not None
            if not self._scanned:
                await self._scan()
            if began and self._mark is None:
                return None  # its thread was deleted, and nothing may be written here again
            missing = self._missing(history)
            if not missing:
                return None
            try:
                return await self._append(missing)
            except Conflict:
                self._scanned = False
        raise Conflict

    async def emit(self, events: Iterable[sse.StreamEvent]) -> None:
        """Write what a model is producing. Raises Conflict if another process wrote: take over first."""
        if not self._owned:
            raise Conflict
        await self._append([(self._version, event) for event in events])

    async def take_over(
        self, run: Run, *, mine: Callable[[], Awaitable[Set[str]]], opened: Set[str], now: float
    ) -> None:
        """Close what another worker left open. `mine` reads the log: it returns the ids that the log has, or raises if
        another worker has the run by now. `opened` are the ids that this worker opened."""
        for _ in range(TRIES):
            # The order matters: a later claim of the run finds the stream at least as long as the first one did, and
            # what it writes makes the next append here fail.
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

    def _missing(self, history: Sequence[ThreadChange]) -> list[tuple[int, sse.StreamEvent]]:
        missing: list[tuple[int, sse.StreamEvent]] = []
        known, run = {change.object.id for change in history}, None
        for change in history:
            run = change.object if isinstance(change.object, Run) else run
            if change.version > self._version:
                for event in self._events_of(change, run, known):
                    self._renderer.observe(*event)
                    missing.append((change.version, event))
        return missing

    def _events_of(self, change: ThreadChange, run: Run | None, known: Set[str]) -> Iterator[sse.StreamEvent]:
        step = change.object
        if isinstance(step, Step) and run and not self._renderer.begun(step.id):
            # A worker that lost the run may have opened another step since the last read: steps must not overlap.
            yield from self._renderer.abandoned(run, known, step.created_at)
        yield from self._renderer.render(change)

    async def _append(self, events: list[tuple[int, sse.StreamEvent]]) -> None:
        block = b"".join(sse.to_bytes(events, self._mark.offset if self._mark else 0))
        # Conditional on the mark: another worker, or an API process that cancels, may be writing to the same stream.
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
        """Read the whole stream: what it contains, and what is open on it."""
        self._owned = False
        tail = await self._logs.read(names.STREAMS, self.name, None)
        self._mark, self._version, self._renderer = (tail.mark if tail else None), 0, Renderer()
        self._ended = False
        for _, version, name, payload in sse.parse(tail.data if tail else b""):
            self._ended = name in sse.ENDINGS
            self._version = max(self._version, version)
            if name.startswith("thread.run.step.") and not name.endswith(".delta"):
                self._renderer.observe(name, msgspec.json.decode(payload, type=Step))
            elif name == "thread.message.delta":
                self._renderer.observe(name, msgspec.json.decode(payload, type=delta_events.Delta))
            elif name.startswith("thread.message."):
                self._renderer.observe(name, msgspec.json.decode(payload, type=Message))
        self._scanned = True


async def last_published(logs: Logs, name: str, object_id: str) -> Message | Step | None:
    """The last state of the message or step on this stream, without deltas. None if it is not there."""
    tail = await logs.read(names.STREAMS, name, None)
    found: Message | Step | None = None
    for _, _, event, payload in sse.parse(tail.data if tail else b""):
        if event.endswith(".delta") or object_id.encode() not in payload:
            continue
        resource: Message | Step | None = None
        if event.startswith("thread.run.step."):
            resource = msgspec.json.decode(payload, type=Step)
        elif event.startswith("thread.message."):
            resource = msgspec.json.decode(payload, type=Message)
        found = resource if resource and resource.id == object_id else found
    return found


def replay(history: Sequence[ThreadChange]) -> Iterator[bytes]:
    """The stream's events for a run that was not streamed: the same events with the same ids, each message as one
    delta."""
    return sse.to_bytes(_events_of(history), 0)


def _events_of(history: Sequence[ThreadChange]) -> Iterator[tuple[int, sse.StreamEvent]]:
    renderer = Renderer()
    for change in history:
        for event in renderer.render(change):
            renderer.observe(*event)
            yield change.version, event
