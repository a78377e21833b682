"""What request models check and the published document leaves to its prose, or leaves out."""

from __future__ import annotations

from typing import Any

from openapi_corrections import alternatives_of, every_node, first_with, reachable, referenced

Json = Any

# What core/protocol and core/search/request.py check and the published document leaves to its prose, or leaves out:
# by the property's name.
ID = {"minLength": 1, "maxLength": 256}
FILE, STORE = {"pattern": "^file", "maxLength": 256}, {"pattern": "^vs", "maxLength": 256}
LONG = {"maxLength": 256_000}
TOKENS = {"maximum": 2**31 - 1}
MANY = {"maxItems": 1000}
LIMITS: dict[str, Json] = {
    "additional_instructions": LONG,
    "additional_messages": MANY,
    "assistant_id": {"pattern": "^asst"},
    "attachments": {"maxItems": 500},
    "bytes": {"minimum": 1, "maximum": 8 * 1024**3},
    "chunk_overlap_tokens": {"minimum": 0, "maximum": 2048},  # and at most half of the chunk
    "data": {"minLength": 1},
    "file": {"minLength": 1},
    "file_id": FILE,
    "file_ids": FILE,
    "filename": {
        "pattern": r"^([^\u0000-\u001f\u007f-\u009f]*[/\\])?(?!\.{1,2}$)[^\u0000-\u001f\u007f-\u009f/\\]+$",
        "maxLength": 255,
    },
    "instructions": LONG,
    "max_completion_tokens": TOKENS,
    "max_prompt_tokens": TOKENS,
    "messages": MANY,
    "mime_type": ID,
    "model": ID,
    "output": {"maxLength": 1_048_576},
    "part_ids": {"minItems": 1, "maxItems": 10_000},
    "text": LONG,
    "tool_outputs": {"maxItems": 512},
    "url": {"pattern": "^(https?://|data:image/)", "maxLength": 20_000_000},
    "vector_store_ids": STORE,
}
LIMITS_OF_STORES = LIMITS | {"file_id": ID, "file_ids": ID}  # to them any other id is an unknown file
PREFIXES = {
    "assistant_id": "asst",
    "batch_id": "vsfb",
    "file_id": "file",
    "message_id": "msg",
    "run_id": "run",
    "step_id": "step",
    "thread_id": "thread",
    "upload_id": "upload",
    "vector_store_id": "vs",
}
LISTED = {"listAssistants": "asst", "listVectorStores": "vs"}  # what is listed as documents, and its ids' beginning


def exact(paths: Json, schemas: Json) -> None:
    """Whatever the document allows is accepted, as far as a schema can tell; what it forbids is refused."""
    operations = [each for item in paths.values() for each in item.values() if "operationId" in each]
    for operation in operations:
        for parameter in operation.get("parameters", ()):
            _exact_parameter(operation["operationId"], parameter)
    bodies = [operation["requestBody"] for operation in operations if "requestBody" in operation]
    for body in bodies:
        (content,) = body["content"].values()
        schema = schemas[referenced(content["schema"])]  # no body at all counts as an empty object
        body["required"] = all("required" in each for each in alternatives_of(schema) or [schema])
    for name in reachable(bodies, schemas):
        for node in every_node(schemas[name]):
            _exact_object(node, LIMITS_OF_STORES if "VectorStore" in name else LIMITS)
    function, answer = schemas["FunctionObject"], schemas["ResponseFormatJsonSchema"]["properties"]["json_schema"]
    _limit(function["properties"]["description"], {"maxLength": 65_536})
    for named in (function, answer):
        _limit(named["properties"]["name"], {"pattern": "^[a-zA-Z0-9_-]+$", "maxLength": 64})
    del schemas["FileSearchRankingOptions"]["required"]
    weight = {"type": "number", "minimum": 0, "maximum": 1}
    search = schemas["VectorStoreSearchRequest"]["properties"]["ranking_options"]
    for ranking in (schemas["FileSearchRankingOptions"], search):
        ranking["properties"]["hybrid_search"] = {
            "type": ["object", "null"],
            "description": "How much meaning and words count in a passage's score. One of them is above 0.",
            "properties": {"embedding_weight": weight, "text_weight": weight},
            "required": ["embedding_weight", "text_weight"],
            "additionalProperties": False,
        }
    message = schemas["CreateMessageRequest"]["properties"]
    _limit(alternatives_of(message["content"])[0], {"minLength": 1, "maxLength": 256_000})
    attachments = alternatives_of(message["attachments"])[0]
    attachments["items"]["required"] = [attachments.pop("required")[0]]
    attachments["items"]["properties"]["tools"]["maxItems"] = 2
    metadata = alternatives_of(schemas["Metadata"])[0]
    metadata |= {"maxProperties": 16, "propertyNames": {"maxLength": 64}}
    metadata["additionalProperties"]["maxLength"] = 512
    _exact_stores(schemas)
    for name in ("ThreadStreamEvent", "RunStreamEvent", "RunStepStreamEvent", "MessageStreamEvent", "ErrorEvent"):
        for event in alternatives_of(schemas[name]) or [schemas[name]]:
            _as_text(event["properties"])


def _exact_stores(schemas: Json) -> None:
    """Vector stores, what is in them, and searches."""
    attribute = alternatives_of(schemas["VectorStoreFileAttributes"])[0]["additionalProperties"]
    next(kind for kind in attribute["oneOf"] if kind["type"] == "number").update(minimum=-(2**53), maximum=2**53)
    for name in ("CreateAssistantRequest", "CreateThreadRequest"):
        search = first_with(schemas[name]["properties"]["tool_resources"], "properties")["properties"]["file_search"]
        del search["oneOf"]  # one of two; here also none, and an empty list counts as none
        search["anyOf"] = [{"properties": {each: {"maxItems": 0}}} for each in ("vector_store_ids", "vector_stores")]
        search["properties"]["vector_stores"]["items"]["properties"]["file_ids"] |= {
            "description": "A list of file IDs to add to the vector store, which holds at most 10,000 files.",
            "maxItems": 10_000,
        }
    create = schemas["CreateVectorStoreRequest"]
    for body in (create, schemas["UpdateVectorStoreRequest"]):
        _limit(body["properties"]["name"], {"maxLength": 256})
    _limit(create["properties"]["description"], {"maxLength": 512})
    create["anyOf"] = [
        {"required": ["file_ids"], "properties": {"file_ids": {"minItems": 1}}},
        {"properties": {"chunking_strategy": False}},
    ]
    batch = schemas["CreateVectorStoreFileBatchRequest"]
    batch["oneOf"] = batch.pop("anyOf")
    one, several = alternatives_of(schemas["VectorStoreSearchRequest"]["properties"]["query"])
    one |= {"minLength": 1, "maxLength": 32_768}
    several |= {"minItems": 1, "maxItems": 32, "items": one}
    schemas["CompoundFilter"]["properties"]["filters"]["minItems"] = 1
    comparison = schemas["ComparisonFilter"]
    orders = [order for order in comparison["properties"]["type"]["enum"] if order not in ("in", "nin")]
    comparison["oneOf"] = [
        {"properties": {"type": {"enum": orders}, "value": {"type": ["string", "number", "boolean"]}}},
        {"properties": {"type": {"enum": ["in", "nin"]}, "value": {"type": "array"}}},
    ]


def _exact_object(node: Json, limits: dict[str, Json]) -> None:
    """An object of a request: what it may hold, and nothing else."""
    if "properties" not in node:
        return
    node.setdefault("additionalProperties", False)
    for name, schema in node["properties"].items():
        _limit(schema, limits.get(name, {}))
        if "pattern" in schema:
            schema.pop("format", None)


def _as_text(event: Json) -> None:
    """The data of an event is a line of JSON. An error's is in its envelope, since the Python SDK looks for that."""
    event.pop("enabled", None)  # strayed into the document from another API
    kind = {"$ref": "#/components/schemas/ErrorResponse"} if event["event"]["enum"] == ["error"] else event["data"]
    event["data"] = {"type": "string", "contentMediaType": "application/json", "contentSchema": kind}


def _exact_parameter(operation: str, parameter: Json) -> None:
    name, schema = parameter["name"], parameter["schema"]
    if name in PREFIXES:
        schema["pattern"] = f"^{PREFIXES[name]}" if parameter["in"] == "path" else f"^({PREFIXES[name]}|$)"
    elif name in ("after", "before") and operation in LISTED:
        schema["pattern"] = f"^({LISTED[operation]}|$)"
    elif name == "limit":
        schema |= {"minimum": 1, "maximum": max(100, schema["default"])}


def _limit(schema: Json, limit: Json) -> None:
    """On the strings, numbers or arrays that a schema allows; a string's limit also on an array's items."""
    wanted = "array" if "maxItems" in limit else "integer" if "maximum" in limit else "string"
    for node in [schema, *alternatives_of(schema), schema.get("items", {})]:
        if wanted in node.get("type", ()):
            node.update(limit)
