"""The limits of the served document are those of the request models."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import Field, StringConstraints

import openapi_limits
from assistants_service.api import handling
from assistants_service.core.errors import ApiError
from assistants_service.core.protocol.assistants.requests import CreateAssistant
from assistants_service.core.resources import RESOURCES
from cut_openapi import SERVED, render
from inprocess_service import in_process
from openapi_corrections import referenced
from openapi_limits import BODIES, FORMS, schema_of
from openapi_models import LIMITS, TAG, Narrowing

Json = Any
CHANGED = {*LIMITS} - {"required"}  # fields that only some of the merged objects require are not in the document
DOCUMENT = json.loads(SERVED.read_text(encoding="utf-8"))
OPERATIONS = {
    operation["operationId"]: (path, operation)
    for path, item in DOCUMENT["paths"].items()
    for operation in item.values()
    if "requestBody" in operation
}


def narrowed(operation: str, model: Json) -> Json:
    """The served document's schemas, given the limits of this model."""
    schemas = copy.deepcopy(DOCUMENT["components"]["schemas"])
    content = next(iter(OPERATIONS[operation][1]["requestBody"]["content"].values()))
    Narrowing(schemas).apply(schemas[referenced(content["schema"])], model)
    return schemas


def changed(model: Json) -> Iterator[tuple[str, Json]]:
    """The path of each limit in the model, and a copy of the model in which only this limit is changed."""
    for path in limits(model, ()):
        other = copy.deepcopy(model)
        node = other
        for key in path[:-1]:
            node = node[key]
        old = node[path[-1]]
        node[path[-1]] = f"{old}x" if isinstance(old, str) else [*old, "x"] if isinstance(old, list) else old + 1
        yield ".".join(map(str, path)), other


def limits(node: Json, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if key in CHANGED and not isinstance(value, dict) and TAG not in path:
            yield (*path, key)
        else:
            yield from limits(value, (*path, key))


def test_every_body_has_a_model() -> None:
    assert {*BODIES, *FORMS} == set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_limit_that_changes_in_a_model_changes_the_document(operation: str) -> None:
    model = schema_of(operation)
    assert narrowed(operation, model) == DOCUMENT["components"]["schemas"]
    for limit, other in changed(model):
        try:
            assert narrowed(operation, other) != DOCUMENT["components"]["schemas"], limit
        except ValueError:
            pass  # the document uses one schema in two places: an error names the conflict


def test_the_document_is_made_from_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(CreateAssistant):
        name: Annotated[str, StringConstraints(max_length=7)] | None = None
        temperature: Annotated[float, Field(ge=0, le=1.5)] | None = None

    monkeypatch.setitem(openapi_limits.BODIES, "createAssistant", Other)
    made = json.loads(render())["components"]["schemas"]["CreateAssistantRequest"]["properties"]
    assert made["name"]["anyOf"][0]["maxLength"] == 7
    assert made["temperature"]["anyOf"][0]["maximum"] == 1.5


def test_a_model_that_the_document_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(CreateAssistant):
        name: int | None = None  # type: ignore[assignment]

    monkeypatch.setitem(openapi_limits.BODIES, "createAssistant", Other)
    with pytest.raises(ValueError, match=r"body\.name: the document does not show"):
        render()


async def test_operations_parse_the_models_whose_limits_they_show(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Any] = []

    def parse(kind: Any, _: bytes) -> Any:
        parsed.append(kind)
        raise ApiError("Enough.")

    monkeypatch.setattr(handling, "parse_body", parse)
    ids = {resource.param: f"{resource.prefix}_1" for resource in RESOURCES}
    async with in_process() as service:
        for operation, model in BODIES.items():
            await service.api.refused("POST", OPERATIONS[operation][0].format_map(ids), {})
            assert parsed.pop() is model, operation
