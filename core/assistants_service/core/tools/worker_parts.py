"""What a worker offers to tools when it starts, from which each makes its services."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from assistants_service.core.files.outputs import OutputFiles
from assistants_service.core.files.service import FileService
from assistants_service.core.ids import Ids
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.models import Function, Tokenizer
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.vector_stores.search import Search


class Functions(Protocol):
    """The functions that this process executes: worker.actions.Actions."""

    @property
    def definitions(self) -> Mapping[str, Function]: ...

    async def call(self, project: str, name: str, arguments: str) -> str:
        """The output for the model. Exceptions of the function become part of it."""


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """`window` returns the context size of a model in tokens. `for_tools` has what one tool alone needs and what the
    composition creates from the settings, by the tool's type."""

    functions: Functions
    search: Search
    stores: VectorStoreRepository
    files: FileService
    outputs: OutputFiles
    clock: Clock
    ids: Ids
    tokenizer: Tokenizer
    window: Callable[[str], int]
    for_tools: Mapping[str, object]
