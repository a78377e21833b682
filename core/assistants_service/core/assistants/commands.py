"""What clients may do to an assistant: pure functions of the request and the current assistant."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import UNSET
from msgspec.structs import replace

from assistants_service.core.protocol.assistants.requests import AssistantFields, CreateAssistant, UpdateAssistant
from assistants_service.core.protocol.assistants.resources import StoredAssistant
from assistants_service.core.protocol.runs.requests import RunFields
from assistants_service.core.tool_resources import overridden, resources_from, with_tools
from assistants_service.core.tools.setup import format_from, tools_from

SAMPLING = ("temperature", "top_p")


def assistant_from(body: CreateAssistant, assistant_id: str, now: float) -> StoredAssistant:
    return StoredAssistant(
        id=assistant_id,
        created_at=int(now),
        name=body.name,
        description=body.description,
        model=body.model,
        instructions=body.instructions,
        tools=tools_from(body.tools),
        top_p=1.0 if body.top_p is None else body.top_p,
        temperature=1.0 if body.temperature is None else body.temperature,
        reasoning_effort=body.reasoning_effort,
        tool_resources=with_tools(resources_from(body.tool_resources), tools_from(body.tools)),
        metadata=body.metadata or {},
        response_format=format_from(body.response_format),
        chosen=chosen_of(body) or UNSET,
    )


def chosen_of(body: AssistantFields | RunFields, inherited: Iterable[str] = ()) -> tuple[str, ...]:
    """Which of the parameters with default 1 were set explicitly. Values that are not given are inherited."""
    inherited_names = {name for name in inherited if getattr(body, name) is None}
    return tuple(name for name in SAMPLING if name in inherited_names or getattr(body, name) == 1)


def updated_assistant(old: StoredAssistant, body: UpdateAssistant) -> StoredAssistant:
    """The given keys replace the old ones, `tool_resources` is merged; others stay."""
    new = assistant_from(
        CreateAssistant.model_construct(
            _fields_set=body.model_fields_set, **{**dict(body), "model": body.model or old.model}
        ),
        old.id,
        old.created_at,
    )
    changed = {key: getattr(new, key) for key in body.model_fields_set}
    if "tool_resources" in changed:
        changed["tool_resources"] = overridden(old.tool_resources, body.tool_resources)
    left = [name for name in old.chosen or () if name not in body.model_fields_set]
    updated = replace(old, **changed, chosen=chosen_of(body, left) or UNSET)
    return replace(updated, tool_resources=with_tools(updated.tool_resources, updated.tools))
