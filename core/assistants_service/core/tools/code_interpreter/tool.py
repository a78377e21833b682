"""The tool `code_interpreter`: the model runs Python in a session of its thread, on the user's files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from assistants_service.core.ports.models import Function, ToolCall
from assistants_service.core.tools.code_interpreter.arguments import as_json, code_of, code_so_far
from assistants_service.core.tools.code_interpreter.executing import execute, files_of
from assistants_service.core.tools.code_interpreter.links import LinkCiter, files_to_link
from assistants_service.core.tools.code_interpreter.model_texts import function_of
from assistants_service.core.tools.code_interpreter.naming import users_files
from assistants_service.core.tools.code_interpreter.resources import CodeInterpreterRules
from assistants_service.core.tools.code_interpreter.services import CodeServices, services_of
from assistants_service.core.tools.code_interpreter.wire import (
    NOT_SHOWN,
    CodeInterpreter,
    CodeInterpreterBody,
    CodeInterpreterTool,
    CodeInterpreterToolCall,
    CodeRecord,
    Executed,
    FilePath,
    ImageOutput,
    LogsOutput,
    ShownImage,
)
from assistants_service.core.tools.run_info import RunInfo, StepInfo, ThreadInfo
from assistants_service.core.tools.tool import (
    Citer,
    Execution,
    FileChanges,
    Output,
    Tool,
    free_name,
)
from assistants_service.core.tools.worker_parts import WorkerParts

FUNCTION: Final = "python"


class CodeInterpreterTools(Tool[CodeInterpreterBody, CodeInterpreterTool, CodeInterpreterToolCall, CodeServices]):
    kind = "code_interpreter"
    body = CodeInterpreterBody
    definition = CodeInterpreterTool
    call = CodeInterpreterToolCall
    resource_rules = CodeInterpreterRules()
    aliases = (kind, f"{FUNCTION}_2")  # models know the first from the original service
    annotation = FilePath
    streams = "input"
    alone = True

    def start(self, worker: WorkerParts) -> CodeServices:
        return services_of(worker, worker.for_tools.get(self.kind))

    async def offer(
        self, project: str, thread: ThreadInfo, run: RunInfo, taken: Collection[str], services: CodeServices
    ) -> Sequence[Function]:
        if not self._used_by(run) or services.interpreters is None or not await services.interpreters.available():
            return []
        users = await users_files(project, thread, files_of(run), services)
        files = {each.name: each.filename for each in users.values() if each.name not in thread.removed}
        return [function_of(free_name(FUNCTION, taken), files, services.interpreters.seconds)]

    def _used_by(self, run: RunInfo) -> bool:
        return any(isinstance(tool, CodeInterpreterTool) for tool in run.tools)

    def begin(self, call: ToolCall, run: RunInfo, number: int) -> CodeInterpreterToolCall:
        code = CodeInterpreter(input=code_of(call.arguments))
        return CodeInterpreterToolCall(id=call.id, code_interpreter=code, record=CodeRecord(arguments=call.arguments))

    async def execute(self, execution: Execution[CodeInterpreterToolCall], services: CodeServices) -> Output:
        return await execute(execution, services)

    def completed(
        self, call: CodeInterpreterToolCall, output: str, stored: msgspec.Raw | None
    ) -> CodeInterpreterToolCall:
        done = msgspec.json.decode(stored, type=Executed) if stored is not None else Executed()
        logs = [LogsOutput(logs=done.logs)] if done.logs else []
        images = [ImageOutput(image=ShownImage(file_id=image.file_id)) for image in done.images]
        record = replace(
            call.record,
            output=output,
            state=done.state,
            images=done.images,
            files=done.files,
            removed=done.removed,
            names=done.names,
        )
        code = replace(call.code_interpreter, outputs=(*logs, *images))
        return replace(call, code_interpreter=code, record=record)

    def is_pending(self, call: CodeInterpreterToolCall) -> bool:
        return call.record.output is None

    def file_changes(self, call: CodeInterpreterToolCall) -> FileChanges:
        record = call.record
        return FileChanges(record.state, record.files, record.removed, record.images, record.names)

    def on_wire(self, call: CodeInterpreterToolCall, *, included: bool) -> CodeInterpreterToolCall:
        return replace(call, record=NOT_SHOWN)

    def called_with(self, call: CodeInterpreterToolCall) -> tuple[None, str]:
        return None, as_json(call.record.arguments)

    def outputs(self, calls: Sequence[CodeInterpreterToolCall]) -> Iterable[str]:
        return [call.record.output or "" for call in calls]

    async def citer(
        self, project: str, thread: ThreadInfo, run: RunInfo, steps: Sequence[StepInfo], services: CodeServices
    ) -> Citer | None:
        files = await files_to_link(project, thread, files_of(run) if self._used_by(run) else (), services)
        return LinkCiter(files) if files else None

    def as_begun(self, call: CodeInterpreterToolCall) -> CodeInterpreterToolCall:
        return replace(call, code_interpreter=CodeInterpreter())

    def partial_text(self, arguments: str) -> str:
        return code_so_far(arguments)

    def result_delta(self, call: CodeInterpreterToolCall) -> Mapping[str, Any] | None:
        outputs = msgspec.to_builtins(call.code_interpreter.outputs)
        return {"outputs": [{"index": index, **output} for index, output in enumerate(outputs)]} if outputs else None


CODE_INTERPRETER: Final = CodeInterpreterTools()
