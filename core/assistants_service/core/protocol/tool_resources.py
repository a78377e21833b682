"""`tool_resources` of assistants, threads and runs, as on the wire and in the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypedDict

from assistants_service.core.protocol.objects import Struct
from assistants_service.core.tools.registry import TOOLS
from assistants_service.core.tools.resource_rules import AnyRules

RULES: Final[Mapping[str, AnyRules]] = {tool.kind: tool.resource_rules for tool in TOOLS if tool.resource_rules}

# The entry of each tool that has any. Never changed in place. This is a dict and not a struct because its order is that
# in which a thread got its entries.
if TYPE_CHECKING:
    ToolResources = Mapping[str, Struct]
else:
    ToolResources = TypedDict("ToolResources", {kind: rules.stored for kind, rules in RULES.items()}, total=False)
