"""What the published document says and the wire does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from openapi_texts import DOWNLOAD

Json = Any


def corrected(document: Json) -> Json:
    """The published document, with OpenAPI 3.0's `nullable` in the words of 3.1 and the known errors mended."""
    document = _without_nullable(document)
    schemas = document["components"]["schemas"]
    run, step = schemas["RunObject"]["properties"], schemas["RunStepObject"]["properties"]

    for schema in schemas.values():  # an empty list has no ids
        if {"first_id", "last_id"} <= schema.get("properties", {}).keys():
            _allow_null(schema, "first_id", "last_id")
    _allow_null(schemas["RunObject"], "instructions")
    _allow_null(schemas["VectorStoreObject"], "name", "expires_after")
    _allow_null(schemas["OpenAIFile"], "expires_at", "status_details")
    schemas["OpenAIFile"]["properties"]["purpose"]["enum"] += ["evals"]
    schemas["Upload"]["properties"]["file"] = _or_null({"$ref": "#/components/schemas/OpenAIFile"})
    document["paths"]["/files/{file_id}/content"]["get"]["responses"] = DOWNLOAD
    schemas["VectorStoreFileBatchObject"]["properties"]["object"]["enum"] += ["vector_store.file_batch"]

    run["tool_resources"] = _of_two(schemas["ThreadObject"]["properties"]["tool_resources"])
    run["reasoning_effort"] = {"$ref": "#/components/schemas/ReasoningEffort"}
    schemas["AssistantObject"]["properties"]["reasoning_effort"] = {"$ref": "#/components/schemas/ReasoningEffort"}
    step["expires_at"] = {"anyOf": [{"type": "integer", "format": "unixtime"}, {"type": "null"}]}
    for name in ("RunCompletionUsage", "RunStepCompletionUsage"):
        usage = schemas[name]["anyOf"][0]["properties"]
        usage["prompt_token_details"] = _counts("cached_tokens")
        usage["completion_tokens_details"] = _counts("reasoning_tokens")
    of_assistant = first_with(schemas["AssistantObject"]["properties"]["tools"], "maxItems")["maxItems"]
    first_with(run["tools"], "maxItems")["maxItems"] = of_assistant
    for limit in ("max_prompt_tokens", "max_completion_tokens"):  # 16 was accepted
        first_with(run[limit], "minimum")["minimum"] = 1
    return document


def _without_nullable(node: Json) -> Json:
    if isinstance(node, list):
        return [_without_nullable(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _without_nullable(value) for key, value in node.items()}
    if node.pop("nullable", None) is True:
        return _or_null(node) if node else {"nullable": True}  # the latter is a member of the allOf one level up
    if {"nullable": True} in node.get("allOf", ()):
        return {
            "anyOf": [part for part in node.pop("allOf") if part != {"nullable": True}] + [{"type": "null"}],
            **node,
        }
    return node


def _or_null(schema: Json) -> Json:
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return {"anyOf": [schema, {"type": "null"}]}


def _of_two(node: Json) -> Json:
    """Arrays of twice as many items: a run has the files and stores of its assistant and of its thread."""
    if not isinstance(node, dict):
        return [_of_two(item) for item in node] if isinstance(node, list) else node
    return {key: value * 2 if key == "maxItems" else _of_two(value) for key, value in node.items()}


def _allow_null(schema: Json, *names: str) -> None:
    for name in names:
        schema["properties"][name] = _or_null(schema["properties"][name])


def _counts(name: str) -> Json:
    return {"type": "object", "properties": {name: {"type": "integer"}}}


def first_with(schema: Json, keyword: str) -> Json:
    return next(node for node in every_node(schema) if keyword in node)


def every_node(node: Json) -> Iterator[dict[str, Json]]:
    """Every object of a JSON document."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from every_node(item)


def alternatives_of(schema: Json) -> list[Json]:
    return schema.get("anyOf") or schema.get("oneOf") or []


def reachable(nodes: list[Json], schemas: Json) -> set[str]:
    """The schemas that these parts of the document refer to, directly or not."""
    reached: set[str] = set()
    todo = list(nodes)
    while todo:
        new = {referenced(node) for node in every_node(todo.pop()) if "$ref" in node} & schemas.keys() - reached
        reached |= new
        todo += [schemas[name] for name in new]
    return reached


def referenced(reference: Json) -> str:
    return str(reference["$ref"].rsplit("/", 1)[1])
