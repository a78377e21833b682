"""A thread's whole past: every commit that the store took, at the instant when it did, folded one by one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from assistants_service.core.protocol.objects import encode
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.protocol.threads.resources import Message, TextPart
from assistants_service.core.threads import events as e
from assistants_service.core.threads.fold import apply
from assistants_service.core.threads.renderer import streamed
from assistants_service.core.threads.state import ThreadChange, ThreadState
from simulated_service import Block

_sorted = msgspec.json.Encoder(order="deterministic").encode  # sets


@dataclass(frozen=True)
class Moment:
    """What held from a commit on, until the next one. Version 0 is before the thread was there. `messages` and `steps`
    are those of lists, with those in the making."""

    since: float
    deleted: bool = False
    there: bool = False
    active: str | None = None
    messages: tuple[str, ...] = ()
    runs: dict[str, str] = field(default_factory=dict)  # statuses
    steps: dict[str, tuple[str, ...]] = field(default_factory=dict)
    in_progress: str | None = None  # the message


class Past:
    """`bodies` are the objects' JSON, each with the version from which on it was so."""

    def __init__(self, thread_id: str, blocks: Sequence[Block]) -> None:
        self.thread_id, self.state = thread_id, ThreadState()
        self.commits = e.from_lines(b"".join(block.data for block in blocks))
        self.moments = [Moment(float("-inf"))]
        self.changes: list[ThreadChange] = []
        self.bodies: defaultdict[str, list[tuple[int, bytes]]] = defaultdict(list)
        self.claims: Counter[str] = Counter()  # take-overs, by run
        self.turns: Counter[str] = Counter()  # model calls that came to something, by run
        self.marks: defaultdict[str, list[int]] = defaultdict(list)  # versions that bear a client's mark
        self.most_active = 0
        self.in_progress: dict[str, e.StepBegun] = {}  # by run
        for commit, block in zip(self.commits, blocks, strict=True):
            self._fold(commit, block.at)

    def _fold(self, commit: e.Commit, at: float) -> None:
        state, before = self.state, self.moments[-1]
        for event in commit.events:
            if isinstance(event, e.RunClaimed) and state.runs[event.run_id].run.status != "queued":
                self.claims[event.run_id] += 1
        if not any(isinstance(event, e.RunFailed | e.RunCancelled | e.RunExpired) for event in commit.events):
            self.turns.update({event.step.run_id for event in commit.events if isinstance(event, e.StepCreated)})
        changes = apply(state, commit)
        for mark in {mark for event in commit.events for mark in _marks_of(event)}:
            self.marks[mark].append(state.version)
        self.changes += changes
        for change in changes:
            self.bodies[change.object.id].append((change.version, encode(change.object)))
        self.most_active = max(self.most_active, sum(run_state.run.active for run_state in state.runs))
        self._make(commit)
        said = before.in_progress or any(change.name.startswith("thread.message.") for change in changes)
        messages = tuple(message.id for message in state.messages) if said else before.messages
        runs = {run_state.id: run_state.run.status for run_state in state.runs}
        steps = {run_state.id: tuple(step.id for step in run_state.steps) for run_state in state.runs}
        in_progress = None
        for run_id, begun in self.in_progress.items():
            steps[run_id] += (begun.step.id,)
            in_progress = begun.message.id if begun.message else None
        messages += (in_progress,) if in_progress else ()
        self.moments.append(Moment(at, state.deleted, True, state.active, messages, runs, steps, in_progress))

    def _make(self, commit: e.Commit) -> None:
        """What is in the making, until it is whole, its run has ended, or its worker was taken for dead."""
        for event in commit.events:
            match event:
                case e.StepBegun(step=step, message=message):
                    self.in_progress[step.run_id] = event
                    for thing in (step, message):
                        if thing:
                            self.bodies[thing.id].append((self.state.version, encode(thing)))
                case e.StepCreated(step=step):
                    self.in_progress.pop(step.run_id, None)
                case e.RunClaimed() | e.RunFailed() | e.RunCancelled() | e.RunExpired():
                    self.in_progress.pop(event.run_id, None)
                case e.RunCompleted() | e.RunIncomplete():
                    self.in_progress.pop(event.run_id, None)
                case e.ThreadDeleted():
                    self.in_progress.clear()

    @property
    def deleted(self) -> bool:
        return self.state.deleted

    def at(self, version: int) -> float:
        return self.moments[version].since

    def during(self, since: float, until: float) -> range:
        """The versions that held at some time in between."""
        first = max(version for version, moment in enumerate(self.moments) if moment.since <= since)
        last = max(version for version, moment in enumerate(self.moments) if moment.since <= until)
        return range(first, last + 1)

    def body_at(self, object_id: str, version: int) -> bytes:
        """What an object was after a commit."""
        return [body for then, body in self.bodies[object_id] if then <= version][-1]

    def bodies_during(self, object_id: str, versions: range) -> set[bytes]:
        """What an object was at some time."""
        before = [body for version, body in self.bodies[object_id] if version <= versions[0]][-1:]
        return {*before, *(body for version, body in self.bodies[object_id] if version in versions)}

    def of(self, run_id: str) -> list[ThreadChange]:
        """What the wire hears of a run."""
        found = [change for change in self.changes if _run_of(change) == run_id]
        began = next(change.version for change in found if change.name == "thread.run.created")
        first = [c for c in self.changes if c.name == "thread.created" and c.version == began]
        return [*first, *(c for c in found if streamed(c))]

    def events(self, kind: type[e.ThreadEvent]) -> Iterator[tuple[int, e.ThreadEvent]]:
        """With the version of their commit."""
        for version, commit in enumerate(self.commits, 1):
            for event in commit.events:
                if isinstance(event, kind):
                    yield version, event


def _run_of(change: ThreadChange) -> str | None:
    return change.object.id if isinstance(change.object, Run) else getattr(change.object, "run_id", None)


def _marks_of(event: e.ThreadEvent) -> set[str]:
    match event:
        case e.ThreadCreated(thread=thread):
            return set(thread.metadata.values())
        case e.ThreadUpdated(metadata=metadata) | e.MessageUpdated(metadata=metadata) | e.RunUpdated(metadata=metadata):
            return set((metadata or {}).values())
        case e.MessageCreated(message=message):
            return {said(message).partition(" ")[2]}
        case e.RunCreated(run=run):
            return {run.model.partition("/")[2]}
        case e.StepCompleted(outputs=outputs):
            return {output.partition(" ")[2] for output in outputs.values()}
    return set()


def said(message: Message) -> str:
    return next(part.text.value for part in message.content if isinstance(part, TextPart))


def whole(state: ThreadState) -> bytes:
    """Everything that a state says, whether parts of it are packed or not."""
    indexes = [(index.order, list(index)) for index in (state.messages, state.runs)]
    files = state.files, state.shown, state.executed
    return _sorted((state.version, state.thread, state.deleted, state.active, indexes, files))
