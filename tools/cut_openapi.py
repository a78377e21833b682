"""Make api/openapi.json, the served document, from the published one in tests/contract.

    python tools/cut_openapi.py

It keeps the operations that are implemented, corrects what the wire is known to do otherwise, and adds what is ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = Any

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "tests" / "contract" / "assistants-openapi.json"
SERVED = ROOT / "app" / "assistants_service" / "api" / "openapi.json"

KEEP = re.compile(r"/(assistants|threads|files|uploads|vector_stores|models)(/|$)")
DROP = {("/models/{model}", "delete")}
# An operation's tag is that of the first pattern that its path matches; the published one has one tag for nearly all.
TAGS = [
    (r"^/assistants", "Assistants"),
    (r"/steps", "Run steps"),
    (r"/runs", "Runs"),
    (r"/messages", "Messages"),
    (r"^/threads", "Threads"),
    (r"^/vector_stores/.*/file_batches", "Vector store file batches"),
    (r"^/vector_stores/.*/files", "Vector store files"),
    (r"^/vector_stores", "Vector stores"),
    (r"^/files", "Files"),
    (r"^/uploads", "Uploads"),
    (r"^/models", "Models"),
]
TAG_TEXTS = {
    "Assistants": "A model with instructions and tools.",
    "Threads": "A conversation.",
    "Messages": "What was said in a thread.",
    "Runs": "An assistant at work on a thread.",
    "Run steps": "What a run did, step by step.",
    "Files": "Documents and other data, for assistants to use.",
    "Uploads": "Large files, sent in parts.",
    "Vector stores": "Files that can be searched.",
    "Vector store files": "A file in a vector store.",
    "Vector store file batches": "Files that were added to a vector store together.",
    "Models": "The models that assistants can use.",
    "Service": "The service itself.",
}
SUMMARIES = {  # where the published one is too long for a heading on the page
    "listModels": "Returns a list of models.",
    "retrieveModel": "Retrieves a model.",
    "submitToolOuputsToRun": "Submits the outputs of tool calls to a run that requires action.",
}
TEXTS = {  # summary and description, where the published ones tell of the vendor's limits
    "createFile": (
        "Uploads a file.",
        "The file is streamed to storage. `FILE_MAX_MB` limits its size (512 MB). "
        "A larger one can be sent in parts: see Uploads.",
    ),
    "deleteFile": ("Deletes a file.", "It is unknown at once; its content is removed soon after."),
    "downloadFile": ("Downloads the content of a file.", "Of any purpose; as a whole, or a range of bytes."),
    "createUpload": (
        "Creates an upload, to which parts can be added.",
        "It has to be completed within an hour. `UPLOAD_MAX_MB` limits its size (8 GB).",
    ),
    "addUploadPart": (
        "Adds a part to an upload.",
        "A part has 64 MB at most. Parts may be sent at the same time and in any order.",
    ),
    "completeUpload": (
        "Completes an upload: its parts become a file.",
        "`part_ids` names the parts in their order. They must have as many bytes as the upload was created for. "
        "If an `md5` is given and does not match, the upload is cancelled.",
    ),
    "cancelUpload": ("Cancels an upload.", "Its parts are removed soon after."),
    "createVectorStoreFile": (
        "Adds a file to a vector store.",
        "A worker reads it, cuts it into chunks and embeds them: it is `in_progress` until then. A file that is in "
        "the store already stays as it is.",
    ),
    "deleteVectorStoreFile": ("Takes a file out of a vector store.", "The file itself stays."),
    "createVectorStoreFileBatch": (
        "Adds files to a vector store, up to 2,000 at once.",
        "`file_ids` shares `attributes` and `chunking_strategy`; `files` gives each file its own.",
    ),
    "cancelVectorStoreFileBatch": (
        "Cancels a batch of files.",
        "Those of its files that are in progress are cancelled. A batch that has ended stays as it is.",
    ),
    "searchVectorStore": (
        "Searches a vector store.",
        "By meaning and by words, over the files whose attributes pass the filters.",
    ),
}
STREAMS = {"createRun", "createThreadAndRun", "submitToolOuputsToRun"}

DESCRIPTION = """\
The OpenAI Assistants API, self-hosted. With the built-in model `offline` everything here can be tried without a key
of any provider: create an assistant, then create a thread and run it with the assistant's id, then read the run's
events.

Optional fields of a request also take null.

**Authorize** takes one of the service's API keys; a service that has none needs none. This page sends the header
`OpenAI-Beta: assistants=v2` by itself; official SDKs do so too."""

MODEL_TEXT = "A name from the list of models; `provider/model` names the provider. `offline` is built in."


# --- corrections: what the document says and the wire does not -----------------------------------------------------


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
    schemas["CreateUploadRequest"]["properties"]["purpose"]["enum"] += ["user_data", "evals"]  # as the SDKs have it
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
    for name in ("RunObject", "CreateRunRequest", "CreateThreadAndRunRequest"):  # as many as an assistant has
        properties = schemas[name]["properties"]
        _find(properties["tools"], "maxItems")["maxItems"] = 128
        for limit in ("max_prompt_tokens", "max_completion_tokens"):  # 16 was accepted
            _find(properties[limit], "minimum")["minimum"] = 1
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


def _find(schema: Json, keyword: str) -> Json:
    return next(node for node in _nodes(schema) if keyword in node)


def _nodes(node: Json) -> Iterator[dict[str, Json]]:
    """Every object of a JSON document."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _nodes(item)


# --- the cut -------------------------------------------------------------------------------------------------------


def cut(published: Json) -> Json:
    """The served document."""
    document = corrected(published)
    paths = {
        path: {verb: operation for verb, operation in item.items() if (path, verb) not in DROP}
        for path, item in document["paths"].items()
        if KEEP.match(path)
    }
    for path, item in paths.items():
        for operation in item.values():
            _dress(path, operation)
    _put_after(paths, "/threads/{thread_id}/runs/{run_id}/cancel", EVENTS_PATH, EVENTS)
    paths["/files/{file_id}/content"]["get"]["parameters"].append(RANGE)
    paths |= HEALTH
    components = document["components"]
    components["responses"] = {"Error": ERROR}
    components["securitySchemes"] = {"ApiKeyAuth": components["securitySchemes"]["ApiKeyAuth"]}
    _any_model(components["schemas"])
    _flatten_form(components["schemas"]["CreateFileRequest"], components["schemas"]["FileExpirationAfter"])
    _exact(paths, components["schemas"])
    served = _plain(
        {
            "openapi": document["openapi"],
            "info": {
                "title": "Assistants Service",
                "description": DESCRIPTION,
                "version": document["info"]["version"],
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "servers": [{"url": "/v1"}],
            "security": [{"ApiKeyAuth": []}, {}],
            "tags": [{"name": name, "description": text} for name, text in TAG_TEXTS.items()],
            "paths": paths,
            "components": components,
        }
    )
    _sweep(served)
    return served


def _put_after(paths: Json, before: str, path: str, item: Json) -> None:
    items = list(paths.items())
    items.insert([name for name, _ in items].index(before), (path, item))
    paths.clear()
    paths.update(items)


def _dress(path: str, operation: Json) -> None:
    """One operation: its tag, its errors, its streams and its examples."""
    name = operation["operationId"]
    operation["tags"] = [next(tag for pattern, tag in TAGS if re.search(pattern, path))]
    if name in TEXTS:
        operation["summary"], operation["description"] = TEXTS[name]
    if name in SUMMARIES:
        operation["description"], operation["summary"] = operation["summary"], SUMMARIES[name]
    operation["summary"] = operation["summary"].replace("`", "")
    operation["responses"].pop("429", None)
    operation["responses"]["default"] = {"$ref": "#/components/responses/Error"}
    if name in STREAMS:
        operation["responses"]["200"]["content"] |= EVENT_STREAM
    if name in EXAMPLES:
        (body,) = operation["requestBody"]["content"].values()
        body["examples"] = {
            f"example{number}": {"summary": summary, "value": value}
            for number, (summary, value) in enumerate(EXAMPLES[name], 1)
        }
    for parameter in operation.get("parameters", ()):
        if parameter["name"] == "model":
            parameter["schema"]["example"] = "offline"


def _any_model(schemas: Json) -> None:
    """The document lists its vendor's models; here any model goes."""
    for schema in schemas.values():
        model = schema.get("properties", {}).get("model")
        if model and ("anyOf" in model or model.get("description", "").startswith("ID of the model to use")):
            null = {"type": "null"} in model.get("anyOf", ())
            schema["properties"]["model"] = {"type": ["string", "null"] if null else "string"} | {
                "description": MODEL_TEXT,
                "example": "offline",
            }


def _flatten_form(form: Json, expiry: Json) -> None:
    """The fields of the form as they go over the wire. Without the empty example, the page would send one of its own:
    files would expire after an hour."""
    del form["properties"]["expires_after"]
    for name, schema in expiry["properties"].items():
        form["properties"][f"expires_after[{name}]"] = {**schema, "example": ""}


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


def _exact(paths: Json, schemas: Json) -> None:
    """Whatever the document allows is accepted, as far as a schema can tell; what it forbids is refused."""
    operations = [each for item in paths.values() for each in item.values() if "operationId" in each]
    for operation in operations:
        for parameter in operation.get("parameters", ()):
            _exact_parameter(operation["operationId"], parameter)
    bodies = [operation["requestBody"] for operation in operations if "requestBody" in operation]
    for body in bodies:
        (content,) = body["content"].values()
        schema = schemas[_name(content["schema"])]  # no body at all counts as an empty object
        body["required"] = all("required" in each for each in _alternatives(schema) or [schema])
    for name in _reached(bodies, schemas):
        for node in _nodes(schemas[name]):
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
    _limit(_alternatives(message["content"])[0], {"minLength": 1, "maxLength": 256_000})
    attachments = _alternatives(message["attachments"])[0]
    attachments["items"]["required"] = [attachments.pop("required")[0]]
    attachments["items"]["properties"]["tools"]["maxItems"] = 2
    metadata = _alternatives(schemas["Metadata"])[0]
    metadata |= {"maxProperties": 16, "propertyNames": {"maxLength": 64}}
    metadata["additionalProperties"]["maxLength"] = 512
    _exact_stores(schemas)
    for name in ("ThreadStreamEvent", "RunStreamEvent", "RunStepStreamEvent", "MessageStreamEvent", "ErrorEvent"):
        for event in _alternatives(schemas[name]) or [schemas[name]]:
            _as_text(event["properties"])


def _exact_stores(schemas: Json) -> None:
    """Vector stores, what is in them, and searches."""
    attribute = _alternatives(schemas["VectorStoreFileAttributes"])[0]["additionalProperties"]
    next(kind for kind in attribute["oneOf"] if kind["type"] == "number").update(minimum=-(2**53), maximum=2**53)
    for name in ("CreateAssistantRequest", "CreateThreadRequest"):
        search = _find(schemas[name]["properties"]["tool_resources"], "properties")["properties"]["file_search"]
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
    one, several = _alternatives(schemas["VectorStoreSearchRequest"]["properties"]["query"])
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
    for node in [schema, *_alternatives(schema), schema.get("items", {})]:
        if wanted in node.get("type", ()):
            node.update(limit)


def _alternatives(schema: Json) -> list[Json]:
    return schema.get("anyOf") or schema.get("oneOf") or []


def _plain(node: Json) -> Json:
    """Without the vendor's own keys, its links, and its deprecation."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {}
    for key, value in node.items():
        if key.startswith("x-") or (key == "deprecated" and value is True):
            continue
        plain[key] = _prose(value) if key == "description" and isinstance(value, str) else _plain(value)
    return plain


# Sentences about the vendor's other pages and models, and links to those pages.
SENTENCES = re.compile(
    r"\s*(?:See the|(?:To )?[Ll]earn (?:more|how))[^.]*\]\((?:/docs|https?:)[^)]*\)[^.]*\."
    r"|\s*Compatible with \[GPT.*?-1106`\."
)
LINKS = re.compile(r"\[([^\]]+)\]\((?:/docs|https://platform\.)[^)]*\)")


def _prose(text: str) -> str:
    text = SENTENCES.sub("", text)
    return LINKS.sub(r"\1", text).replace("Describes an OpenAI model offering", "Describes a model").strip()


def _sweep(document: Json) -> None:
    """Drop the schemas that nothing refers to any more."""
    schemas = document["components"]["schemas"]
    rest = {key: value for key, value in document.items() if key != "components"}
    alive = _reached([rest, document["components"]["responses"]], schemas)
    document["components"]["schemas"] = {name: schema for name, schema in schemas.items() if name in alive}


def _reached(nodes: list[Json], schemas: Json) -> set[str]:
    """The schemas that these parts of the document refer to, directly or not."""
    reached: set[str] = set()
    todo = list(nodes)
    while todo:
        new = {_name(node) for node in _nodes(todo.pop()) if "$ref" in node} & schemas.keys() - reached
        reached |= new
        todo += [schemas[name] for name in new]
    return reached


def _name(reference: Json) -> str:
    return str(reference["$ref"].rsplit("/", 1)[1])


# --- what is ours ---------------------------------------------------------------------------------------------------

EVENT_STREAM = {
    "text/event-stream": {
        "schema": {"$ref": "#/components/schemas/AssistantStreamEvent"},
        "example": (
            'event: thread.run.created\ndata: {"id":"run_abc123","object":"thread.run",...}\n\n'
            'event: thread.message.delta\ndata: {"id":"msg_abc123","object":"thread.message.delta",...}\n\n'
            "event: done\ndata: [DONE]\n\n"
        ),
    }
}

ERROR = {
    "description": "An error: 4xx is the client's, 5xx is ours.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}},
}

BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
DOWNLOAD = {
    "200": {"description": "The content.", "content": BYTES},
    "206": {"description": "The bytes that the header `Range` asks for.", "content": BYTES},
}

RANGE = {
    "in": "header",
    "name": "Range",
    "schema": {"type": "string"},
    "description": "The bytes that are wanted, such as `bytes=0-999`. Without it: all.",
}

EVENTS_PATH = "/threads/{thread_id}/runs/{run_id}/events"
EVENTS = {
    "get": {
        "operationId": "streamRunEvents",
        "tags": ["Runs"],
        "summary": "Streams the events of a run, from its start or from where a reader was.",
        "description": (
            "Server-sent events, as a run created with `stream` sends them. The stream ends with `done` when the run "
            "has ended or waits for tool outputs. Any number of readers can watch; a reader that was cut off goes on "
            "where it was by sending the `id` of the last event it has seen."
        ),
        "parameters": [
            {
                "in": "path",
                "name": "thread_id",
                "required": True,
                "schema": {"type": "string"},
                "description": "The ID of the thread that was run.",
            },
            {
                "in": "path",
                "name": "run_id",
                "required": True,
                "schema": {"type": "string"},
                "description": "The ID of the run to watch.",
            },
            {
                "in": "header",
                "name": "Last-Event-ID",
                "schema": {"type": "string", "pattern": r"^(\d{1,12}\.\d{1,12})?$"},
                "description": "The `id` of the last event that was seen. Without it: from the start.",
            },
        ],
        "responses": {
            "200": {"description": "OK", "content": EVENT_STREAM},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
}


def _probe(name: str, summary: str, failure: str = "") -> Json:
    responses = {"200": {"description": "It does."}} | ({"503": {"description": failure}} if failure else {})
    operation = {"operationId": name, "tags": ["Service"], "summary": summary, "security": [], "responses": responses}
    return {"servers": [{"url": "/"}], "get": operation}


HEALTH = {
    "/health": _probe(
        "getHealth", "Tells whether the service works, its storage included.", "Storage does not answer."
    ),
    "/health/live": _probe("getLiveness", "Tells whether this process answers."),
    "/health/ready": _probe(
        "getReadiness",
        "Tells whether this process takes requests.",
        "Storage does not answer, or the process is about to end.",
    ),
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
GUIDE = {"model": "offline", "name": "Guide", "instructions": "You answer questions about Paris."}
FORECASTER = {
    "model": "offline",
    "name": "Forecaster",
    "instructions": "You answer questions about the weather.",
    "tools": [WEATHER],
}
HELLO = {"role": "user", "content": "Hello! What is worth a visit in Paris?"}
ASK = {"role": "user", "content": "What is the weather in Paris?"}
ASSISTANT = {"assistant_id": "asst_ID_OF_YOUR_ASSISTANT"}
OUTPUTS = {"tool_outputs": [{"tool_call_id": "call_ID_OF_THE_CALL", "output": '{"degrees": 21, "sky": "clear"}'}]}

# By operation: (summary, body); the first one is what "Try it out" starts with.
EXAMPLES: dict[str, list[tuple[str, Json]]] = {
    "createAssistant": [("An assistant that talks", GUIDE), ("An assistant with a function tool", FORECASTER)],
    "modifyAssistant": [("New instructions", {"instructions": "You answer in one sentence."})],
    "createThread": [("With a first message", {"messages": [HELLO]}), ("Empty", {})],
    "modifyThread": [("Metadata", {"metadata": {"topic": "Paris"}})],
    "createMessage": [("A question", HELLO)],
    "modifyMessage": [("Metadata", {"metadata": {"seen": "yes"}})],
    "createRun": [("A run", ASSISTANT), ("A streamed run", ASSISTANT | {"stream": True})],
    "createThreadAndRun": [
        ("A run", ASSISTANT | {"thread": {"messages": [HELLO]}}),
        ("A streamed run", ASSISTANT | {"thread": {"messages": [HELLO]}, "stream": True}),
        ("A run that asks for a function's output", ASSISTANT | {"thread": {"messages": [ASK]}}),
    ],
    "createUpload": [
        ("A text", {"filename": "notes.txt", "purpose": "assistants", "bytes": 5, "mime_type": "text/plain"})
    ],
    "completeUpload": [("One part", {"part_ids": ["part_ID_OF_THE_PART"]})],
    "createVectorStore": [
        ("With files", {"name": "Handbook", "file_ids": ["file-ID_OF_YOUR_FILE"]}),
        ("Empty", {"name": "Handbook", "expires_after": {"anchor": "last_active_at", "days": 7}}),
    ],
    "modifyVectorStore": [("A name", {"name": "Handbook"})],
    "createVectorStoreFile": [("A file", {"file_id": "file-ID_OF_YOUR_FILE", "attributes": {"year": 2026}})],
    "updateVectorStoreFileAttributes": [("Attributes", {"attributes": {"year": 2026}})],
    "createVectorStoreFileBatch": [("Two files", {"file_ids": ["file-ID_OF_ONE", "file-ID_OF_ANOTHER"]})],
    "searchVectorStore": [
        ("A question", {"query": "How many days of leave are there?"}),
        (
            "With a filter",
            {"query": "days of leave", "filters": {"type": "eq", "key": "year", "value": 2026}, "max_num_results": 3},
        ),
    ],
    "modifyRun": [("Metadata", {"metadata": {"topic": "Paris"}})],
    "submitToolOuputsToRun": [("An output", OUTPUTS), ("Streamed", OUTPUTS | {"stream": True})],
}


def render() -> str:
    """The served document's text."""
    served = cut(json.loads(PUBLISHED.read_text(encoding="utf-8")))
    return json.dumps(served, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SERVED.write_text(render(), encoding="utf-8")
