"""`tool_choice` of runs, as it goes over the wire and as the log has it."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from assistants_service.core.protocol.objects import Struct


class ChosenFunction(Struct, frozen=True, kw_only=True):
    name: str


class ChosenTool(Struct, frozen=True, kw_only=True):
    """What the model is to call: a function, or the tool of this type."""

    type: str
    function: ChosenFunction | UnsetType = UNSET


ToolChoice = str | ChosenTool  # or none, auto, required
