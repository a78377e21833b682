"""The documents of a thread's objects, in wire format, as of a version of the thread."""

from __future__ import annotations

from collections.abc import Sequence

from assistants_service.core import names
from assistants_service.core.ports.documents import Document
from assistants_service.core.protocol.files.resources import File
from assistants_service.core.protocol.objects import encode
from assistants_service.core.protocol.runs.resources import Run, Step, step_on_wire
from assistants_service.core.protocol.threads.resources import Message, Thread
from assistants_service.core.resources import STEP
from assistants_service.core.threads.lookups import message_of, run_of, thread_of
from assistants_service.core.threads.state import ThreadChange, ThreadObject, ThreadState


def documents(project: str, changes: Sequence[ThreadChange]) -> list[Document]:
    """The projections of the changes: the last state of each object, in wire format."""
    last = {change.object.id: change for change in changes}
    first = {change.object.id: change for change in reversed(changes)}
    return [_document(project, change, first[key]) for key, change in last.items()]


def _place(resource: ThreadObject) -> tuple[str, ...]:
    """The container of an object's document, and the ids that make up its name."""
    match resource:
        case Thread():
            return names.THREADS, resource.id
        case Message():
            return names.MESSAGES, resource.thread_id, resource.id
        case Run():
            return names.RUNS, resource.thread_id, resource.id
        case Step():
            return names.STEPS, resource.thread_id, resource.run_id, resource.id
        case File():
            return names.FILES, resource.id


def _document(project: str, change: ThreadChange, first: ThreadChange) -> Document:
    # All clients get the same document of a step, whatever the run's client asked for.
    resource = step_on_wire(change.object) if isinstance(change.object, Step) else change.object
    container, *ids = _place(resource)
    gone = change.name in ("thread.deleted", "thread.message.deleted")
    return Document(
        container,
        names.document(project, *ids),
        b"" if gone else encode(resource),
        change.version,
        created=first.name.endswith(("message.completed", "message.incomplete", ".created")),
    )


def find(state: ThreadState, container: str, ids: tuple[str, ...]) -> ThreadObject:
    """The object that this document shows. Raises the 404 if there is none."""
    match container:
        case names.MESSAGES:
            return message_of(state, ids[1])
        case names.RUNS:
            return run_of(state, ids[1]).run
        case names.STEPS:
            step = run_of(state, ids[1]).steps.get(ids[2])
            if step is None:
                raise STEP.unknown(ids[2])
            return step_on_wire(step)
    return thread_of(state, ids[0])
