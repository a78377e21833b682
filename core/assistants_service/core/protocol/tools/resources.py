"""Tools as they go over the wire, and what messages cite of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistants_service.core.tools.registry import CLIENTS, TOOLS, union_of
from assistants_service.core.tools.wire import Annotation, StepCall, ToolStruct

if TYPE_CHECKING:
    Tool = ToolStruct
    StepToolCall = StepCall
    ClientToolCall = StepCall
    TextAnnotation = Annotation
else:
    Tool = union_of([tool.definition for tool in TOOLS])
    StepToolCall = union_of([tool.call for tool in TOOLS if tool.call])
    ClientToolCall = CLIENTS.call
    TextAnnotation = union_of([tool.annotation for tool in TOOLS if tool.annotation])
