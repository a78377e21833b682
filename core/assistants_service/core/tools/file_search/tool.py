"""The tool `file_search`: the model searches the vector stores of the assistant and of the thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from assistants_service.core.ports.models import Function, ToolCall
from assistants_service.core.tools.file_search.citations import MarkerCiter, sources_of
from assistants_service.core.tools.file_search.passages import numbered, output_of, ranking_of, stores_of, tool_in
from assistants_service.core.tools.file_search.resources import FileSearchRules
from assistants_service.core.tools.file_search.searching import WAIT, SearchServices, ready, search
from assistants_service.core.tools.file_search.wire import (
    CONTENTS,
    NOT_SHOWN,
    FileCitation,
    FileSearch,
    FileSearchBody,
    FileSearchResult,
    FileSearchSettings,
    FileSearchTool,
    FileSearchToolCall,
    SearchRecord,
)
from assistants_service.core.tools.run_info import RunInfo, StepInfo, ThreadInfo
from assistants_service.core.tools.tool import Citer, Execution, Output, Tool
from assistants_service.core.tools.worker_parts import WorkerParts

DESCRIPTION: Final = (
    "Searches the files that the user has provided, and returns the passages that match best. Use it for every question"
    " that these files may answer, before you answer. Each passage comes with a marker such as 【4:0†report.pdf】. When"
    " a statement of your answer rests on a passage, copy the passage's marker unchanged, right behind the statement."
    " Never make up a marker. If the passages do not answer the question, search again in other words, or say so."
)
PARAMETERS: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "queries": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Up to 5 queries. Each is a question or a phrase that makes sense without the conversation.",
        }
    },
    "required": ["queries"],
}
FUNCTION: Final = Function("file_search", DESCRIPTION, PARAMETERS)


class FileSearchTools(Tool[FileSearchBody, FileSearchTool, FileSearchToolCall, SearchServices]):
    kind = "file_search"
    body = FileSearchBody
    definition = FileSearchTool
    call = FileSearchToolCall
    resource_rules = FileSearchRules()
    includes = (CONTENTS,)
    annotation = FileCitation

    def start(self, worker: WorkerParts) -> SearchServices:
        return SearchServices(worker.search, worker.stores, worker.clock, worker.tokenizer.count, worker.window)

    def definition_of(self, body: FileSearchBody) -> FileSearchTool:
        """Normalised as recorded."""
        settings = body.file_search.as_given() if body.file_search else {}
        return FileSearchTool(file_search=msgspec.convert(settings, FileSearchSettings))

    def function(self, run: RunInfo) -> Function | None:
        """Not offered without stores: a search that can find nothing would cost a turn."""
        return FUNCTION if tool_in(run) and stores_of(run) else None

    def begin(self, call: ToolCall, run: RunInfo, number: int) -> FileSearchToolCall:
        record = SearchRecord(arguments=call.arguments, number=number)
        return FileSearchToolCall(id=call.id, file_search=FileSearch(ranking_options=ranking_of(run)), record=record)

    async def execute(self, execution: Execution[FileSearchToolCall], services: SearchServices) -> Output:
        run = execution.run
        # Files that were attached a moment ago must be found: users and programs expect it.
        until = (run.started_at or run.created_at) + WAIT
        for store_id in stores_of(run):
            await ready(services, execution.project, store_id, until)
        return await search(execution, services)

    def completed(self, call: FileSearchToolCall, output: str, stored: msgspec.Raw | None) -> FileSearchToolCall:
        results = msgspec.json.decode(stored, type=tuple[FileSearchResult, ...]) if stored is not None else ()
        found = replace(call.file_search, results=results)
        return replace(call, record=replace(call.record, note=output), file_search=found)

    def is_pending(self, call: FileSearchToolCall) -> bool:
        return call.record.note is None

    def on_wire(self, call: FileSearchToolCall, *, included: bool) -> FileSearchToolCall:
        if included:
            return replace(call, record=NOT_SHOWN)
        results = tuple(replace(result, content=UNSET) for result in call.file_search.results)
        return replace(call, record=NOT_SHOWN, file_search=replace(call.file_search, results=results))

    def called_with(self, call: FileSearchToolCall) -> tuple[None, str]:
        return None, call.record.arguments

    def outputs(self, calls: Sequence[FileSearchToolCall]) -> Iterable[str]:
        return [output_of(call, found) for call, found in numbered(calls)]

    async def citer(
        self, project: str, thread: ThreadInfo, run: RunInfo, steps: Sequence[StepInfo], services: SearchServices
    ) -> Citer | None:
        sources = sources_of(thread, steps)
        return MarkerCiter(sources) if sources else None

    def as_begun(self, call: FileSearchToolCall) -> FileSearchToolCall:
        return replace(call, file_search=replace(call.file_search, results=()))


FILE_SEARCH: Final = FileSearchTools()
