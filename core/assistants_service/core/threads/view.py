"""A thread in memory: its folded state, its position in the log, and the streamed changes of its last runs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from assistants_service.core.files.outputs import KeptFile
from assistants_service.core.log.state import View
from assistants_service.core.paging import Index, PackedLayout
from assistants_service.core.protocol.objects import Struct, encode
from assistants_service.core.protocol.runs.resources import Run, Step
from assistants_service.core.protocol.threads.resources import Message, Thread
from assistants_service.core.threads import events as e
from assistants_service.core.threads.fold import apply
from assistants_service.core.threads.renderer import streamed
from assistants_service.core.threads.state import RunState, ThreadChange, ThreadObject, ThreadState


class StoredChange(Struct, frozen=True):
    """A change as stored in a snapshot."""

    version: int
    name: str
    object: msgspec.Raw


class ThreadSnapshot(Struct, kw_only=True, frozen=True, rename={"latest_run": "trail", "previous_run": "trail_before"}):
    """The first line of a snapshot: the state, and the streamed changes of the last two runs, because a stream may lag
    behind its log. The messages follow, then the runs."""

    version: int
    thread: Thread | None
    deleted: bool
    messages: PackedLayout
    runs: PackedLayout
    latest_run: tuple[StoredChange, ...]
    previous_run: tuple[StoredChange, ...]
    files: dict[str, KeptFile] = msgspec.field(default_factory=dict)
    shown: set[str] = msgspec.field(default_factory=set)
    executed: str = ""
    file_names: dict[str, str] = msgspec.field(default_factory=dict)
    removed: set[str] = msgspec.field(default_factory=set)


class ThreadView(View[ThreadState, ThreadChange]):
    def reset(self) -> None:
        super().reset()
        self.latest_run: list[ThreadChange] = []  # streamed changes of the newest run, from its creation on
        self.previous_run: list[ThreadChange] = []  # and of the run before, which may end as the newest begins

    def blank(self) -> ThreadState:
        return ThreadState()

    def unpack(self, snapshot: bytes) -> None:
        head = snapshot.index(b"\n") + 1
        line, rest = _decoder.decode(snapshot[:head]), memoryview(snapshot)[head:]
        runs_at = sum(line.messages.groups)
        self.state = ThreadState(
            version=line.version,
            thread=line.thread,
            deleted=line.deleted,
            messages=Index.unpack(line.messages, rest[:runs_at], Message, self.opened),
            runs=Index.unpack(line.runs, rest[runs_at:], RunState, self.opened),
            files=line.files,
            shown=line.shown,
            executed=line.executed,
            file_names=line.file_names,
            removed=line.removed,
        )
        self.latest_run, self.previous_run = _changes(line.latest_run), _changes(line.previous_run)

    def snapshot(self) -> bytes:
        state = self.state
        (messages, message_bodies), (runs, run_bodies) = state.messages.pack(), state.runs.pack()
        head = ThreadSnapshot(
            version=state.version,
            thread=state.thread,
            deleted=state.deleted,
            messages=messages,
            runs=runs,
            latest_run=_stored(state, self.latest_run),
            previous_run=_stored(state, self.previous_run),
            files=state.files,
            shown=state.shown,
            executed=state.executed,
            file_names=state.file_names,
            removed=state.removed,
        )
        return b"".join((encode(head), b"\n", *message_bodies, *run_bodies))

    def fold(self, commits: Sequence[e.Commit]) -> list[ThreadChange]:
        changes: list[ThreadChange] = []
        for commit in commits:
            folded = apply(self.state, commit)
            self.blocks += 1
            for change in folded:
                if change.name == "thread.run.created":
                    # The stream of create-thread-and-run begins with the thread.
                    self.previous_run = self.latest_run
                    self.latest_run = [before for before in folded if before.name == "thread.created"]
                if streamed(change):
                    self.latest_run.append(change)
            changes += folded
        return changes

    def run_history(self, run_id: str) -> list[ThreadChange]:
        """The streamed changes of one of the last two runs; empty for others."""
        for history in (self.latest_run, self.previous_run):
            if any(change.object.id == run_id for change in history):
                return list(history)
        return []


_decoder = msgspec.json.Decoder(ThreadSnapshot)


def _stored(state: ThreadState, history: Sequence[ThreadChange]) -> tuple[StoredChange, ...]:
    run_state = state.runs.get(next((change.object.id for change in history if isinstance(change.object, Run)), ""))
    if run_state is None or not run_state.stream:
        return ()
    return tuple(StoredChange(c.version, c.name, msgspec.Raw(encode(c.object))) for c in history)


def _changes(stored: Sequence[StoredChange]) -> list[ThreadChange]:
    return [
        ThreadChange(each.version, each.name, msgspec.json.decode(each.object, type=_kind(each.name)))
        for each in stored
    ]


def _kind(name: str) -> type[ThreadObject]:
    if name.startswith("thread.run.step."):
        return Step
    if name.startswith("thread.run."):
        return Run
    return Message if name.startswith("thread.message.") else Thread
