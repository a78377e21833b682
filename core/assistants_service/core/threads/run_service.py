"""What the API does for a client who starts or changes a run: enqueue, commit, project, then bring the run's stream up.

The first three are the repository's. The stream follows the log: a crash before it leaves that to the run's work item.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from assistants_service.core.assistants.service import AssistantService
from assistants_service.core.log.repository import Command, ItemOf
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.storage import Conflict, Storage, StorageUnavailable
from assistants_service.core.protocol.assistants.resources import StoredAssistant
from assistants_service.core.protocol.runs.requests import CreateRun, CreateThreadAndRun, RunFields, SubmitToolOutputs
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.protocol.threads.requests import UpdateMetadata
from assistants_service.core.references import References
from assistants_service.core.request_context import RequestContext
from assistants_service.core.threads.attachments import AttachmentIndexing
from assistants_service.core.threads.lookups import made, run_of
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.threads.run_commands import RunCommands
from assistants_service.core.threads.state import Change, ThreadState
from assistants_service.core.threads.stream import StreamWriter
from assistants_service.core.vector_stores.implicit_stores import ImplicitStores
from assistants_service.core.work_items import AdvanceRun


class RunLimit(Protocol):
    """How many runs a project may have at once."""

    def beginning(self, project: str, thread_id: str) -> AbstractAsyncContextManager[None]:
        """Around the beginning of a run. Raises the 429 of a project that has too many."""


class NoLimit:
    def beginning(self, project: str, thread_id: str) -> AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()


@dataclass(frozen=True, slots=True)
class RunService:
    """The runs of all projects. What changes a run returns it as this request made it, whatever others do to it by now.
    `lifetime` of a run in seconds."""

    storage: Storage
    notifier: Notifier
    repository: ThreadRepository
    assistants: AssistantService
    references: References
    attachments: AttachmentIndexing
    implicit_stores: ImplicitStores
    limit: RunLimit
    lifetime: int

    async def create(
        self, context: RequestContext, thread_id: str, run_id: str, body: CreateRun, *, contents: bool = False
    ) -> Run:
        """If there is a run of this id, the same request came before: that one, as it is. Raises the 404 of an unknown
        thread or assistant, and the 400 of a thread that has an active run. `contents`: its client wants to see what
        was found in files."""
        assistant = await self._assistant(context, body)
        create = partial(
            self._commands(context).create_run, body=body, assistant=assistant, run_id=run_id, contents=contents
        )
        async with self.limit.beginning(context.project, thread_id):
            indexed = await self.attachments.index(context, thread_id, run_id, body.additional_messages, create)
            changes = await self._commit(context, thread_id, run_id, partial(create, indexed=indexed))
        return made(changes, "thread.run.created", Run) or await self._run(context, thread_id, run_id)

    async def create_with_thread(self, context: RequestContext, thread_id: str, body: CreateThreadAndRun) -> Run:
        """If there is a thread of this id, the same request came before: its run, as it is."""
        run_id = thread_id.replace("thread", "run", 1)  # one Idempotency-Key stands for both
        assistant = await self._assistant(context, body)
        create = partial(
            self._commands(context).create_thread_and_run, assistant=assistant, thread_id=thread_id, run_id=run_id
        )
        async with self.limit.beginning(context.project, thread_id):
            events = create(body)
            if body.thread:  # what is refused has no store by now
                thread = await self.implicit_stores.for_new_thread(context, thread_id, body.thread)
                events = events if thread is body.thread else create(body.model_copy(update={"thread": thread}))
            changes: list[Change] = []
            with contextlib.suppress(Conflict):  # there is such a thread
                item_of = self._item(context, thread_id, run_id)
                changes = await self.repository.start(context.project, thread_id, events, item_of)
                await self._stream(context.project, thread_id, run_id)
        return made(changes, "thread.run.created", Run) or await self._run(context, thread_id, run_id)

    async def update(self, context: RequestContext, thread_id: str, run_id: str, body: UpdateMetadata) -> Run:
        update = partial(self._commands(context).update_run, run_id=run_id, body=body)
        changes = await self.repository.commit(context.project, thread_id, update, by_client=True)
        return made(changes, "thread.run.updated", Run) or await self._run(context, thread_id, run_id)

    async def submit_tool_outputs(
        self, context: RequestContext, thread_id: str, run_id: str, body: SubmitToolOutputs
    ) -> tuple[Run, int]:
        """The run, queued again, and the version of its thread before: what comes later is new to the client."""
        submit = partial(self._commands(context).submit_tool_outputs, run_id=run_id, body=body)
        changes = await self._commit(context, thread_id, run_id, submit)
        run = made(changes, "thread.run.queued", Run) or await self._run(context, thread_id, run_id)
        return run, changes[0].version - 1

    async def cancel(self, context: RequestContext, thread_id: str, run_id: str) -> Run:
        cancel = partial(self._commands(context).cancel_run, run_id=run_id)
        changes = await self._commit(context, thread_id, run_id, cancel)
        return made(changes, "thread.run.cancelling", Run) or await self._run(context, thread_id, run_id)

    # --------------------------------------------------------------------------------------------------------------

    def _commands(self, context: RequestContext) -> RunCommands:
        return RunCommands(context, self.lifetime)

    async def _assistant(self, context: RequestContext, body: RunFields) -> StoredAssistant:
        """Raises the 404 of an unknown assistant, and the 400 of a model that no provider has."""
        assistant = await self.assistants.get(context.project, body.assistant_id)
        await self.references.check_model(body.model or assistant.model)
        return assistant

    async def _run(self, context: RequestContext, thread_id: str, run_id: str) -> Run:
        return run_of(await self.repository.recall(context.project, thread_id), run_id).run

    async def _commit(
        self, context: RequestContext, thread_id: str, run_id: str, command: Command[ThreadState]
    ) -> list[Change]:
        """A change that a worker has to go on with, and that those hear of who follow the run."""
        item_of = self._item(context, thread_id, run_id)
        changes = await self.repository.commit(context.project, thread_id, command, item_of, by_client=True)
        await self._stream(context.project, thread_id, run_id)
        return changes

    def _item(self, context: RequestContext, thread_id: str, run_id: str) -> ItemOf:
        return lambda seen: AdvanceRun(
            project=context.project,
            thread_id=thread_id,
            run_id=run_id,
            seen=seen,
            sent_at=context.now,
            trace=context.trace,
        )

    async def _stream(self, project: str, thread_id: str, run_id: str) -> None:
        """Bring the run's stream, if a client asked for one, up to what was just committed.

        The commit stands whatever becomes of this, so its client is told; what is missing here, the worker writes.
        """
        with contextlib.suppress(Conflict, StorageUnavailable):
            run_state = (await self.repository.recall(project, thread_id)).runs.get(run_id)
            if run_state is not None and run_state.stream:
                writer = StreamWriter(self.storage, self.notifier, project, thread_id, run_id)
                await writer.publish(self.repository, project, thread_id, run_id)
