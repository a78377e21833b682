"""What a tool sees of the run that it works for, and of its thread. The types of threads and runs are derived from the
registry of tools, so a tool's module cannot import them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Protocol

from assistants_service.core.files.outputs import KeptFile
from assistants_service.core.protocol.objects import Struct
from assistants_service.core.tools.wire import Annotation, StepCall, ToolStruct


class RunInfo(Protocol):
    """`tools` and `tool_resources` are those of all tools. Times are in Unix seconds."""

    @property
    def id(self) -> str: ...
    @property
    def thread_id(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def tools(self) -> Sequence[ToolStruct]: ...
    @property
    def tool_resources(self) -> Mapping[str, Struct]: ...
    @property
    def created_at(self) -> int: ...
    @property
    def started_at(self) -> int | None: ...


class StepInfo(Protocol):
    @property
    def calls(self) -> Sequence[StepCall]: ...


class ThreadInfo(Protocol):
    """`files` are those that tools have created, by path, and `shown` the ids of those that clients were shown.
    `executed` identifies the interpreter's state after the last call that executed code. `file_names` are the names
    under which calls found users' files, by id, and `removed` the paths of such files that a call removed."""

    @property
    def files(self) -> Mapping[str, KeptFile]: ...
    @property
    def shown(self) -> Set[str]: ...
    @property
    def executed(self) -> str: ...
    @property
    def file_names(self) -> Mapping[str, str]: ...
    @property
    def removed(self) -> Set[str]: ...
    def annotations(self, messages: int) -> Iterator[Annotation]:
        """The annotations of that number of newest messages, beginning with the newest message."""
