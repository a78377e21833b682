"""The service of runs: enqueue, commit, project, then update the run's stream.

The repository does the first three. After a crash before the last one, the run's work item makes up for it.
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
from assistants_service.core.protocol.runs.requests import (
    CreateRun,
    CreateThreadAndRun,
    RunFields,
    SubmitToolOutputsBody,
)
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.protocol.threads.requests import UpdateMetadata
from assistants_service.core.references import References
from assistants_service.core.request_context import RequestContext
from assistants_service.core.threads.attachments import ThreadPreparation
from assistants_service.core.threads.lookups import object_after, run_of
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.threads.run_commands import RunCommands
from assistants_service.core.threads.state import ThreadChange, ThreadState
from assistants_service.core.threads.stream import StreamWriter
from assistants_service.core.work_items import AdvanceRun


class RunLimit(Protocol):
    """The limit of a project's active runs."""

    def beginning(self, project: str, thread_id: str) -> AbstractAsyncContextManager[None]:
        """Wraps the creation of a run. Raises the 429 for a project that has too many."""


class NoLimit:
    def beginning(self, project: str, thread_id: str) -> AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()


@dataclass(frozen=True, slots=True)
class RunService:
    """The runs of all projects. Changes return the run as this request left it, regardless of later changes by others.
    `lifetime` of a run in seconds."""

    storage: Storage
    notifier: Notifier
    repository: ThreadRepository
    assistants: AssistantService
    references: References
    preparation: ThreadPreparation
    limit: RunLimit
    lifetime: int

    async def create(
        self, context: RequestContext, thread_id: str, run_id: str, body: CreateRun, *, with_results: bool = False
    ) -> Run:
        """If a run with this id exists, the same request came before: return it as it is. Raises the 404 for an unknown
        thread or assistant, and the 400 for a thread that has an active run. `with_results`: the client wants the
        contents of search results."""
        assistant = await self._assistant(context, body)
        create = partial(
            self._commands(context).create_run, body=body, assistant=assistant, run_id=run_id, with_results=with_results
        )
        async with self.limit.beginning(context.project, thread_id):
            prepared = await self.preparation.for_messages(context, thread_id, run_id, body.additional_messages, create)
            changes = await self._commit(context, thread_id, run_id, partial(create, prepared=prepared))
        return object_after(changes, "thread.run.created", Run) or await self._run(context, thread_id, run_id)

    async def create_with_thread(self, context: RequestContext, thread_id: str, body: CreateThreadAndRun) -> Run:
        """If a thread with this id exists, the same request came before: return its run as it is."""
        run_id = thread_id.replace("thread", "run", 1)  # one Idempotency-Key reserves both
        assistant = await self._assistant(context, body)
        create = partial(
            self._commands(context).create_thread_and_run, assistant=assistant, thread_id=thread_id, run_id=run_id
        )
        async with self.limit.beginning(context.project, thread_id):
            events = create(body)
            if body.thread:  # a refused request has prepared nothing at this point
                thread = await self.preparation.for_new_thread(context, thread_id, body.thread)
                events = events if thread is body.thread else create(body.model_copy(update={"thread": thread}))
            changes: list[ThreadChange] = []
            with contextlib.suppress(Conflict):  # the thread exists
                item_of = self._item(context, thread_id, run_id)
                changes = await self.repository.start(context.project, thread_id, events, item_of)
                await self._stream(context.project, thread_id, run_id)
        return object_after(changes, "thread.run.created", Run) or await self._run(context, thread_id, run_id)

    async def update(self, context: RequestContext, thread_id: str, run_id: str, body: UpdateMetadata) -> Run:
        update = partial(self._commands(context).update_run, run_id=run_id, body=body)
        changes = await self.repository.commit(context.project, thread_id, update, by_client=True)
        return object_after(changes, "thread.run.updated", Run) or await self._run(context, thread_id, run_id)

    async def submit_tool_outputs(
        self, context: RequestContext, thread_id: str, run_id: str, body: SubmitToolOutputsBody
    ) -> tuple[Run, int]:
        """The run, queued again, and the previous version of its thread: later events are new to the client."""
        submit = partial(self._commands(context).submit_tool_outputs, run_id=run_id, body=body)
        changes = await self._commit(context, thread_id, run_id, submit)
        run = object_after(changes, "thread.run.queued", Run) or await self._run(context, thread_id, run_id)
        return run, changes[0].version - 1

    async def cancel(self, context: RequestContext, thread_id: str, run_id: str) -> Run:
        cancel = partial(self._commands(context).cancel_run, run_id=run_id)
        changes = await self._commit(context, thread_id, run_id, cancel)
        return object_after(changes, "thread.run.cancelling", Run) or await self._run(context, thread_id, run_id)

    # --------------------------------------------------------------------------------------------------------------

    def _commands(self, context: RequestContext) -> RunCommands:
        return RunCommands(context, self.lifetime)

    async def _assistant(self, context: RequestContext, body: RunFields) -> StoredAssistant:
        """Raises the 404 for an unknown assistant, and the 400 for a model that no provider has."""
        assistant = await self.assistants.get(context.project, body.assistant_id)
        await self.references.check_model(body.model or assistant.model)
        return assistant

    async def _run(self, context: RequestContext, thread_id: str, run_id: str) -> Run:
        return run_of(await self.repository.cached(context.project, thread_id), run_id).run

    async def _commit(
        self, context: RequestContext, thread_id: str, run_id: str, command: Command[ThreadState]
    ) -> list[ThreadChange]:
        """Commit a change after which a worker has to continue, and update the run's stream."""
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
        """Bring the run's stream, if there is one, up to the last commit.

        The commit is stored, so a failure here is not the client's: the worker writes what is missing.
        """
        with contextlib.suppress(Conflict, StorageUnavailable):
            run_state = (await self.repository.cached(project, thread_id)).runs.get(run_id)
            if run_state is not None and run_state.stream:
                writer = StreamWriter(self.storage, self.notifier, project, thread_id, run_id)
                await writer.publish(self.repository, project, thread_id, run_id)
