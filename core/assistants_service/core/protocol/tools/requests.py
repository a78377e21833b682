"""Tools in request bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, create_model

from assistants_service.core.protocol.bodies import Body
from assistants_service.core.protocol.tool_resources import RULES
from assistants_service.core.tools.registry import TOOLS, union_of

if TYPE_CHECKING:

    class ToolBody(Body):
        type: str

else:
    ToolBody = Annotated[union_of([tool.body for tool in TOOLS]), Field(discriminator="type")]

Tools = Annotated[list[ToolBody], Field(max_length=128)]


if TYPE_CHECKING:

    class ToolResourcesBody(Body): ...

    class NewToolResources(ToolResourcesBody):
        """`tool_resources` of new objects: tools may create what these entries describe."""

else:
    ToolResourcesBody = create_model(
        "ToolResourcesBody", __base__=Body, **{kind: (rules.body | None, None) for kind, rules in RULES.items()}
    )
    NewToolResources = create_model(
        "NewToolResources",
        __base__=ToolResourcesBody,
        **{kind: (rules.new_body | None, None) for kind, rules in RULES.items() if rules.new_body},
    )
