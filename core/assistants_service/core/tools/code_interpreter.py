"""The tool `code_interpreter`: accepted and shown. No model is offered it yet."""

from __future__ import annotations

from typing import Final, Literal

from assistants_service.core.protocol.bodies import Body
from assistants_service.core.tools.tool import StepCall, Tool, ToolStruct


class CodeInterpreterBody(Body):
    type: Literal["code_interpreter"]


class CodeInterpreterTool(ToolStruct, frozen=True, kw_only=True, tag_field="type", tag="code_interpreter"):
    pass


class CodeInterpreter(Tool[CodeInterpreterBody, CodeInterpreterTool, StepCall]):
    kind = "code_interpreter"
    body = CodeInterpreterBody
    resource = CodeInterpreterTool


CODE_INTERPRETER: Final = CodeInterpreter()
