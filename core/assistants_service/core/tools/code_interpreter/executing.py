"""Executes a call: in the interpreter of its thread, whose files are as the log has them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from assistants_service.core.ports.sandbox import InterpreterLost, SandboxBusy, SandboxUnavailable
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.tools.code_interpreter import model_texts
from assistants_service.core.tools.code_interpreter.arguments import code_of
from assistants_service.core.tools.code_interpreter.interpreters import Session
from assistants_service.core.tools.code_interpreter.keeping import Keeping
from assistants_service.core.tools.code_interpreter.resources import files_in
from assistants_service.core.tools.code_interpreter.restoring import Restoring
from assistants_service.core.tools.code_interpreter.services import CodeServices
from assistants_service.core.tools.code_interpreter.wire import CodeInterpreterToolCall, Executed
from assistants_service.core.tools.run_info import RunInfo, ThreadInfo
from assistants_service.core.tools.tool import Execution, Output

log = logging.getLogger(__name__)

MOST_CODE: Final = 1024 * 1024  # characters


def files_of(run: RunInfo) -> tuple[str, ...]:
    """The user's files: the assistant's, and the thread's with those of its messages, as the run has them."""
    return files_in(run.tool_resources)


async def execute(execution: Execution[CodeInterpreterToolCall], services: CodeServices) -> Output:
    """Executes the call at least once, and each time from the files that the last finished call left. Raises
    StorageUnavailable."""
    code, interpreters = code_of(execution.call.record.arguments), services.interpreters
    if not code.strip():
        return Output(model_texts.NO_CODE, Executed())
    if len(code) > MOST_CODE:
        return Output(model_texts.TOO_LONG.format(len(code), MOST_CODE), Executed())
    if interpreters is None:
        return Output(model_texts.OFF, Executed())
    project, thread, thread_id = execution.project, execution.thread, execution.run.thread_id
    try:
        async with interpreters.session(project, thread_id, thread.executed) as session:
            call = Call(project, execution.run, thread, session, services)
            output = await call.execute(code, state=interpreters.new_state())
            session.state = output.stored.state
            return output
    except InterpreterLost as lost:
        log.warning("run %s: its interpreter was lost: %s", execution.run.id, lost.reason)
        return _lost(lost, interpreters.new_state())
    except SandboxBusy as busy:
        log.warning("run %s: its code was not executed, as no interpreter was free", execution.run.id)
        return Output(model_texts.BUSY, Executed(), type(busy).__name__)
    except SandboxUnavailable as unavailable:
        return Output(model_texts.OFF, Executed(), type(unavailable).__name__)
    except StorageUnavailable:
        raise
    except Exception as error:  # a model's answer that says so is worth more than a run that fails
        log.exception("run %s: a call of code failed", execution.run.id)
        return Output(model_texts.FAILED, Executed(state=interpreters.new_state()), type(error).__name__)


def _lost(lost: InterpreterLost, state: str) -> Output:
    """The result of a lost call, with what the code printed before its interpreter ended."""
    logs = model_texts.storable(lost.logs)
    stored = Executed(state=state, logs=model_texts.cut_to(logs, model_texts.MOST_LOGS))
    return Output(model_texts.lost(lost.reason, logs), stored, type(lost).__name__)


@dataclass(slots=True)
class Call:
    """A call in a session."""

    project: str
    run: RunInfo
    thread: ThreadInfo
    session: Session
    services: CodeServices

    async def execute(self, code: str, state: str) -> Output:
        restarted = not self.session.state and self.thread.executed != ""
        restoring = Restoring(self.project, self.thread, self.session, self.services)
        if not self.session.state:
            await restoring.restore()
        await restoring.give(files_of(self.run))
        result = await self.session.interpreter.run(code)
        names, read = {**self.thread.file_names, **restoring.names}, self.session.interpreter.read
        keeping = Keeping(self.project, self.thread, self.run.thread_id, {*names, *names.values()}, read, self.services)
        left = await keeping.keep(result)
        if left.full:
            log.warning("run %s: what its code wrote is not kept (PROJECT_STORED_BYTES)", self.run.id)
        logs = model_texts.storable(result.logs)
        stored = Executed(
            state=state,
            logs=model_texts.cut_to(logs, model_texts.MOST_LOGS),
            images=tuple(left.images),
            files=tuple(left.files),
            removed=tuple(left.removed),
            names=dict(restoring.names),
        )
        notes = [*restoring.notes, *keeping.notes, *result.notes]
        text = model_texts.output_of(result, left.images, left.files, notes, restarted=restarted)
        return Output(model_texts.storable(text), stored)
