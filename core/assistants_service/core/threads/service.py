"""What the API does for a client who starts or changes a run: enqueue, commit, project, then bring the run's stream up.

The first three are the repository's. The stream follows the log: a crash before it leaves that to the run's work item.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from assistants_service.core.ids import Ids
from assistants_service.core.log.repository import ItemOf
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.storage import Conflict, Storage, StorageUnavailable
from assistants_service.core.ports.telemetry import SILENCE, Telemetry
from assistants_service.core.protocol.assistants.resources import StoredAssistant
from assistants_service.core.protocol.runs.requests import CreateRun, CreateThreadAndRun, SubmitToolOutputs
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.threads.commands import Filing, ThreadCommands
from assistants_service.core.threads.fold import Change
from assistants_service.core.threads.lookups import run_of
from assistants_service.core.threads.repository import Decision, ThreadRepository
from assistants_service.core.threads.stream import StreamWriter
from assistants_service.core.work_items import AdvanceRun, PurgeThread


@dataclass(frozen=True, slots=True)
class ThreadService:
    """Serves all projects. `lifetime` of a run in seconds."""

    storage: Storage
    threads: ThreadRepository
    clock: Clock
    ids: Ids
    notifier: Notifier
    lifetime: int = 600
    telemetry: Telemetry = SILENCE

    def commands(self) -> ThreadCommands:
        return ThreadCommands(self.ids, self.clock.now(), self.lifetime, self.telemetry.trace())

    async def create_run(
        self,
        project: str,
        thread_id: str,
        run_id: str,
        body: CreateRun,
        assistant: StoredAssistant,
        filing: Filing | None = None,
        *,
        contents: bool = False,
    ) -> Run:
        commands = self.commands()
        changes = await self._change(
            project,
            thread_id,
            run_id,
            lambda state: commands.create_run(state, body, assistant, run_id, filing, contents=contents),
        )
        return await self._run(changes, "thread.run.created", project, thread_id, run_id)

    async def create_thread_and_run(
        self, project: str, thread_id: str, run_id: str, body: CreateThreadAndRun, assistant: StoredAssistant
    ) -> Run:
        events = self.commands().create_thread_and_run(body, assistant, thread_id, run_id)
        changes: list[Change] = []
        with contextlib.suppress(Conflict):  # there is such a thread: the same request came before
            changes = await self.threads.start(project, thread_id, events, self._item_of(project, thread_id, run_id))
            await self._show(project, thread_id, run_id)
        return await self._run(changes, "thread.run.created", project, thread_id, run_id)

    async def submit_tool_outputs(
        self, project: str, thread_id: str, run_id: str, body: SubmitToolOutputs
    ) -> tuple[Run, int]:
        """The run, queued again, and the version of its thread before: what comes later is new to the client."""
        commands = self.commands()
        changes = await self._change(
            project, thread_id, run_id, lambda state: commands.submit_tool_outputs(state, run_id, body)
        )
        return _run_in(changes, "thread.run.queued"), changes[0].version - 1

    async def cancel_run(self, project: str, thread_id: str, run_id: str) -> Run:
        commands = self.commands()
        changes = await self._change(project, thread_id, run_id, lambda state: commands.cancel_run(state, run_id))
        return await self._run(changes, "thread.run.cancelling", project, thread_id, run_id)

    async def delete_thread(self, project: str, thread_id: str) -> None:
        """A tombstone at once; the worker empties what is left."""
        item = PurgeThread(project=project, thread_id=thread_id, sent_at=self.clock.now())
        await self.threads.command(project, thread_id, self.commands().delete_thread, lambda _: item)

    async def _run(self, changes: Sequence[Change], name: str, project: str, thread_id: str, run_id: str) -> Run:
        """The run as this event left it; where nothing changed, as it is."""
        if changes:
            return _run_in(changes, name)
        return run_of(await self.threads.recall(project, thread_id), run_id).run

    async def _change(self, project: str, thread_id: str, run_id: str, decide: Decision) -> list[Change]:
        changes = await self.threads.command(project, thread_id, decide, self._item_of(project, thread_id, run_id))
        await self._show(project, thread_id, run_id)
        return changes

    def _item_of(self, project: str, thread_id: str, run_id: str) -> ItemOf:
        now, trace = self.clock.now(), self.telemetry.trace()
        return lambda seen: AdvanceRun(
            project=project, thread_id=thread_id, run_id=run_id, seen=seen, sent_at=now, trace=trace
        )

    async def _show(self, project: str, thread_id: str, run_id: str) -> None:
        """Bring the run's stream, if a client asked for one, up to what was just committed.

        The commit stands whatever becomes of this, so its client is told; what is missing here, the worker writes.
        """
        with contextlib.suppress(Conflict, StorageUnavailable):
            held = (await self.threads.recall(project, thread_id)).runs.get(run_id)
            if held is not None and held.stream:
                writer = StreamWriter(self.storage, self.notifier, project, thread_id, run_id)
                await writer.publish(self.threads, project, thread_id, run_id)


def _run_in(changes: Sequence[Change], name: str) -> Run:
    return next(change.object for change in changes if change.name == name and isinstance(change.object, Run))
