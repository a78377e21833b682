"""What code_interpreter uses in a worker."""

from __future__ import annotations

from dataclasses import dataclass

from assistants_service.core.files.named import NamedFiles
from assistants_service.core.files.outputs import OutputFiles
from assistants_service.core.files.service import FileService
from assistants_service.core.ports.sandbox import Sandbox
from assistants_service.core.tools.code_interpreter.interpreters import MOST, SECONDS, Interpreters
from assistants_service.core.tools.tool import ToolServices
from assistants_service.core.tools.worker_parts import WorkerParts


@dataclass(frozen=True, slots=True)
class CodeExecution:
    """Where code is executed. `most`: interpreters in this process, one for each thread. `seconds` of a call."""

    sandbox: Sandbox
    most: int = MOST
    seconds: float = SECONDS


@dataclass(frozen=True, slots=True)
class CodeServices(ToolServices):
    """`interpreters` is None if no code is executed."""

    files: FileService
    named_files: NamedFiles
    outputs: OutputFiles
    interpreters: Interpreters | None

    async def check(self) -> None:
        if self.interpreters:
            await self.interpreters.check()

    async def close(self) -> None:
        if self.interpreters:
            await self.interpreters.close()


def services_of(worker: WorkerParts, execution: object) -> CodeServices:
    """`execution` is None if nothing executes code."""
    interpreters = None
    if isinstance(execution, CodeExecution):
        interpreters = Interpreters(
            execution.sandbox, worker.clock, worker.ids, most=execution.most, seconds=execution.seconds
        )
    return CodeServices(worker.files, NamedFiles(worker.files), worker.outputs, interpreters)
