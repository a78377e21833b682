"""The state of a thread: the files that its tools create."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from assistants_service.core.files.outputs import KeptFile
from assistants_service.core.protocol.tools.resources import StepToolCall
from assistants_service.core.threads.fold_names import ThreadEffects
from assistants_service.core.threads.state import ShownFile, ThreadState
from assistants_service.core.tools.registry import tool_of


def keep_files(state: ThreadState, call: StepToolCall) -> Sequence[KeptFile]:
    """What a call has done to the thread's files. Returns the images that it shows."""
    changes = tool_of(call).file_changes(call)
    if changes is None:
        return ()
    if changes.files or changes.removed:
        left = {path: file for path, file in state.files.items() if path not in changes.removed}
        state.files = {**left, **{file.path: file for file in changes.files}}
    state.executed = changes.state or state.executed
    if changes.names:
        state.file_names = {**state.file_names, **changes.names}
    if changes.removed or state.removed:
        users = {*state.file_names, *state.file_names.values()}
        state.removed = (state.removed | users.intersection(changes.removed)) - state.files.keys()
    return changes.images


def show_files(state: ThreadState, run_id: str, files: Iterable[KeptFile], at: int) -> ThreadEffects:
    """The files of the API that those become which clients were not shown before."""
    new = [ShownFile(state.version, at, kept) for kept in files if kept.file_id not in state.shown]
    for shown in new:
        run_state, file_id = state.runs[run_id], shown.kept.file_id
        run_state.files = {**run_state.files, file_id: shown}
        state.shown.add(file_id)
    return [("file.created", shown.file) for shown in new]
