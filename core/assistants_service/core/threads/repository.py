"""The repository of threads. Streams are made from the histories of their runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from assistants_service.core import names
from assistants_service.core.log.repository import Repository
from assistants_service.core.ports.documents import Document
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.resources import THREAD
from assistants_service.core.threads import events as e
from assistants_service.core.threads.projection import documents, find
from assistants_service.core.threads.sse import ENDINGS
from assistants_service.core.threads.state import ThreadChange, ThreadObject, ThreadState
from assistants_service.core.threads.view import ThreadView


class ThreadRepository(Repository[ThreadState, ThreadChange]):
    logs = names.THREADS
    resource = THREAD
    projected_again = frozenset(
        {"thread.updated", "thread.deleted", "thread.message.updated", "thread.message.deleted", "thread.run.updated"}
        | {"file.created"}  # `fetch` cannot make up for it: the id of a file does not tell its thread
    )

    def _blank(self) -> ThreadView:
        return ThreadView()

    def _commits(self, data: bytes) -> list[e.Commit]:
        return e.from_lines(data)

    def _documents(self, project: str, changes: Sequence[ThreadChange]) -> list[Document]:
        return documents(project, changes)

    def _find(self, state: ThreadState, container: str, ids: tuple[str, ...]) -> ThreadObject:
        return find(state, container, ids)

    def _record_metrics(self, project: str, changes: Sequence[ThreadChange]) -> None:
        for change in changes:
            if change.name in ENDINGS and isinstance(change.object, Run):
                run = change.object
                error = run.last_error.code if run.last_error else ""
                self._telemetry.count("run", project=project, status=run.status, error=error)

    async def _thread(self, project: str, thread_id: str) -> ThreadView:
        view = await self.load(project, thread_id)
        assert isinstance(view, ThreadView)  # noqa: S101
        return view

    async def run_history(self, project: str, thread_id: str, run_id: str) -> list[ThreadChange]:
        """The changes of a run, from which its stream is made."""
        view = await self._thread(project, thread_id)
        return view.run_history(run_id) or await self._old_run_history(project, thread_id, run_id)

    async def _old_run_history(self, project: str, thread_id: str, run_id: str) -> list[ThreadChange]:
        """The same for a run before the last ones: folds the log from its very beginning, over all generations."""
        log = names.log(project, thread_id)
        tail = await self._storage.read(names.THREADS, log, None)
        older = range(tail.mark.generation if tail else 0)
        pieces = [*[await self._storage.read(names.THREADS, f"{log}.{old}", None) for old in older], tail]
        if None in pieces:
            return []  # a purge is deleting them
        again = ThreadView()
        for commit in e.from_lines(b"".join(piece.data for piece in pieces if piece)):
            again.fold([commit])
            run_state = again.state.runs.get(run_id)
            if run_state and not run_state.run.active:
                return again.run_history(run_id)
        return []

    async def project(self, project: str, thread_id: str, run_id: str, since: int = 0) -> None:
        """Write the documents of a run, its steps and its messages that a dead process may not have written: all, or
        those that changed since a version of the thread."""
        view = await self._thread(project, thread_id)
        run_state = view.state.runs.get(run_id)
        if run_state is None or view.state.deleted:  # they would keep the deletion's tombstones from being written
            return
        messages = (view.state.messages.get(key) for key in sorted(run_state.known))
        objects: list[ThreadObject] = [run_state.run, *run_state.steps, *(message for message in messages if message)]
        if since:
            changed = {change.object.id for change in view.run_history(run_id) if change.version > since}
            objects = [resource for resource in objects if resource.id in changed]
        objects += [shown.file for shown in run_state.files.values() if shown.version > since]
        await self._writer.write(
            documents(project, [ThreadChange(view.state.version, "", resource) for resource in objects])
        )

    async def purge(self, project: str, thread_id: str) -> None:
        """Empty the documents of a deleted thread and remove its streams. Tombstones stay until `purge_tombstones`, so
        that no late writer restores a document; the log stays, too, so that a late creation with the same id fails."""
        state = (await self.load(project, thread_id)).state
        if state.thread is None or not state.deleted:
            return
        runs = list(state.runs)
        steps = [step for run_state in runs for step in run_state.steps]
        objects: Iterable[ThreadObject] = itertools.chain(
            [state.thread], state.messages, (run_state.run for run_state in runs), steps
        )
        deleted = (ThreadChange(state.version, "thread.deleted", resource) for resource in objects)
        emptied = (document for change in deleted for document in documents(project, [change]))
        await self._writer.write(emptied)
        for run_state in runs:
            await self._storage.drop(names.STREAMS, names.document(project, thread_id, run_state.run.id))

    async def purge_tombstones(self, project: str, thread_id: str) -> None:
        """Remove the last traces of a thread that was purged long ago. Idempotent."""
        await self._storage.remove(names.THREADS, names.document(project, thread_id))
        for container in (names.MESSAGES, names.RUNS, names.STEPS):
            await self._storage.remove_tombstones(container, names.document(project, thread_id, ""))
        # The log goes last, then its snapshot, without which it cannot be read: if this is interrupted, `assistants
        # resume` finds the rest by them.
        await self._storage.drop(names.THREADS, names.log(project, thread_id))
        self._views.forget(project, thread_id)
        await self._generations.remove_snapshots(project, thread_id)
