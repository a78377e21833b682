"""The types of `code_interpreter` on the wire, and what the log knows of a call beside them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from pydantic import Field

from assistants_service.core.files.outputs import KeptFile
from assistants_service.core.protocol.bodies import Body, NamedFile
from assistants_service.core.protocol.objects import Struct
from assistants_service.core.tools.wire import Annotation, StepCall, ToolStruct


class CodeInterpreterBody(Body):
    type: Literal["code_interpreter"]


class CodeInterpreterTool(ToolStruct, frozen=True, kw_only=True, tag_field="type", tag="code_interpreter"):
    pass


class CodeInterpreterResources(Body):
    """In `tool_resources`."""

    file_ids: Annotated[list[NamedFile], Field(max_length=20)] | None = None


class CodeInterpreterFiles(Struct, frozen=True, kw_only=True):
    """In `tool_resources`."""

    file_ids: tuple[str, ...] = ()


class LogsOutput(Struct, frozen=True, kw_only=True, tag_field="type", tag="logs"):
    """What the code printed."""

    logs: str


class ShownImage(Struct, frozen=True, kw_only=True):
    file_id: str


class ImageOutput(Struct, frozen=True, kw_only=True, tag_field="type", tag="image"):
    image: ShownImage


class CodeInterpreter(Struct, frozen=True, kw_only=True):
    """`input` is the code."""

    input: str = ""
    outputs: tuple[LogsOutput | ImageOutput, ...] = ()


class Executed(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is stored of a call that is done. `state` names the state that it left in its interpreter, empty if it
    executed nothing; `files` are those that it created or changed, `removed` the paths of those that it removed,
    `images` what it showed, and `names` those under which it found users' files that no call had found before, by
    id."""

    state: str = ""
    logs: str = ""
    images: tuple[KeptFile, ...] = ()
    files: tuple[KeptFile, ...] = ()
    removed: tuple[str, ...] = ()
    names: dict[str, str] = msgspec.field(default_factory=dict)


class CodeRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the log stores of a call and the wire does not show: its arguments as the model gave them, the output for
    the model (None: it is not done yet), and the rest of `Executed`."""

    arguments: str
    output: str | None = None
    state: str = ""
    images: tuple[KeptFile, ...] = ()
    files: tuple[KeptFile, ...] = ()
    removed: tuple[str, ...] = ()
    names: dict[str, str] = msgspec.field(default_factory=dict)


NOT_SHOWN: Final = CodeRecord(arguments="{}", output="")


class CodeInterpreterToolCall(
    StepCall, frozen=True, kw_only=True, tag_field="type", tag="code_interpreter", omit_defaults=True
):
    """`record` never leaves the log."""

    code_interpreter: CodeInterpreter
    record: CodeRecord = NOT_SHOWN


class LinkedFile(Struct, frozen=True, kw_only=True):
    file_id: str


class FilePath(Annotation, frozen=True, kw_only=True, tag_field="type", tag="file_path"):
    file_path: LinkedFile

    @property
    def attached(self) -> str:
        return self.file_path.file_id
