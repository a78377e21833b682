"""Writes the rules that the service checks in requests into the served document. What the document forbids is refused,
and what it allows is accepted, except for rules that a schema cannot express.

The limits of bodies come from the request models, the prefixes of ids from core/resources.py. Only rules about two
fields of an object are written here by hand.
"""

from __future__ import annotations

from typing import Any, Final

from assistants_service.api import files, validation
from assistants_service.core.protocol.assistants.requests import CreateAssistant, UpdateAssistant
from assistants_service.core.protocol.bodies import Body
from assistants_service.core.protocol.files.requests import CompleteUpload, CreateFile, CreateUpload
from assistants_service.core.protocol.runs.requests import CreateRun, CreateThreadAndRun, SubmitToolOutputsBody
from assistants_service.core.protocol.threads.requests import CreateMessage, CreateThread, UpdateMetadata, UpdateThread
from assistants_service.core.protocol.vector_stores.requests import (
    CreateFileBatch,
    CreateVectorStore,
    CreateVectorStoreFile,
    UpdateVectorStore,
    UpdateVectorStoreFile,
)
from assistants_service.core.resources import RESOURCES
from assistants_service.core.search.filters import Comparison, Membership
from assistants_service.core.search.request import SearchVectorStore
from openapi_corrections import alternatives_of, first_with, referenced
from openapi_models import Narrowing

Json = Any

BODIES: Final[dict[str, type[Body]]] = {  # the models that the handlers of these operations parse
    "createAssistant": CreateAssistant,
    "modifyAssistant": UpdateAssistant,
    "createThread": CreateThread,
    "modifyThread": UpdateThread,
    "createMessage": CreateMessage,
    "modifyMessage": UpdateMetadata,
    "createRun": CreateRun,
    "createThreadAndRun": CreateThreadAndRun,
    "modifyRun": UpdateMetadata,
    "submitToolOuputsToRun": SubmitToolOutputsBody,
    "createUpload": CreateUpload,
    "completeUpload": CompleteUpload,
    "createVectorStore": CreateVectorStore,
    "modifyVectorStore": UpdateVectorStore,
    "createVectorStoreFile": CreateVectorStoreFile,
    "updateVectorStoreFileAttributes": UpdateVectorStoreFile,
    "createVectorStoreFileBatch": CreateFileBatch,
    "searchVectorStore": SearchVectorStore,
}
FORMS: Final[dict[str, tuple[str, type[Body] | None]]] = {  # the part with the bytes, and the model of the other parts
    "createFile": ("file", CreateFile),
    "addUploadPart": ("data", None),
}
BY_PARAM: Final = {resource.param: resource for resource in RESOURCES}


def exact(paths: Json, schemas: Json) -> None:
    _exact_parameters(paths)
    operations = [each for item in paths.values() for each in item.values() if "requestBody" in each]
    narrowing = Narrowing(schemas)
    for operation in operations:
        body = operation["requestBody"]
        schema = schemas[referenced(next(iter(body["content"].values()))["schema"])]
        narrowing.apply(schema, schema_of(operation["operationId"]))
        # A missing body counts as an empty object.
        body["required"] = all("required" in each for each in alternatives_of(schema) or [schema])
    _rules_of_two_fields(schemas)
    for name in ("ThreadStreamEvent", "RunStreamEvent", "RunStepStreamEvent", "MessageStreamEvent", "ErrorEvent"):
        for event in alternatives_of(schemas[name]) or [schemas[name]]:
            _as_text(event["properties"])


def schema_of(operation: str) -> Json:
    """The JSON Schema of the body that an operation accepts."""
    return BODIES[operation].model_json_schema() if operation in BODIES else _form(*FORMS[operation])


def _form(content: str, fields: type[Body] | None) -> Json:
    """The schema of a multipart form: its fields by their names on the wire. The file name is not a field."""
    model = fields.model_json_schema() if fields else {"properties": {}}
    taken: dict[str, Json] = {content: {"type": "string", "minLength": 1}}
    for name, schema in model["properties"].items():
        inner = [model["$defs"][referenced(each)] for each in alternatives_of(schema) if "$ref" in each]
        if inner:
            taken |= {f"{name}[{part}]": each for part, each in inner[0]["properties"].items()}
        elif name != "filename":
            taken[name] = schema
    required = [name for name in taken if name in (content, *model.get("required", ()))]
    return {"type": "object", "properties": taken, "required": required}


def _exact_parameters(paths: Json) -> None:
    for path, item in paths.items():
        for operation in item.values():
            if "operationId" in operation:  # the other entries are servers and descriptions
                for parameter in operation.get("parameters", ()):
                    _exact_parameter(path, paths, parameter)


def _exact_parameter(path: str, paths: Json, parameter: Json) -> None:
    name, schema = parameter["name"], parameter["schema"]
    if name in BY_PARAM:
        prefix = BY_PARAM[name].prefix
        schema["pattern"] = f"^{prefix}" if parameter["in"] == "path" else f"^({prefix}|$)"
    elif name in ("after", "before"):
        listed = [each for each in RESOURCES if f"{path}/{{{each.param}}}" in paths and each.listed and each.strict]
        if listed:
            schema["pattern"] = f"^({listed[0].prefix}|$)"
    elif name == "limit":
        schema |= {"minimum": 1, "maximum": files.MOST if path == "/files" else validation.MOST}


def _rules_of_two_fields(schemas: Json) -> None:
    for name in ("CreateAssistantRequest", "CreateThreadRequest"):
        search = first_with(schemas[name]["properties"]["tool_resources"], "properties")["properties"]["file_search"]
        del search["oneOf"]  # it requires exactly one of two; the service also accepts neither, or an empty list
        search["anyOf"] = [{"properties": {each: {"maxItems": 0}}} for each in ("vector_store_ids", "vector_stores")]
        search["properties"]["vector_stores"]["items"]["properties"]["file_ids"]["description"] = (
            "A list of file IDs to add to the vector store, which holds at most 10,000 files."
        )
    schemas["CreateVectorStoreRequest"]["anyOf"] = [
        {"required": ["file_ids"], "properties": {"file_ids": {"minItems": 1}}},
        {"properties": {"chunking_strategy": False}},
    ]
    batch = schemas["CreateVectorStoreFileBatchRequest"]
    batch["oneOf"] = batch.pop("anyOf")
    schemas["ComparisonFilter"]["oneOf"] = [_filter(Comparison), _filter(Membership)]


def _filter(model: type[Body]) -> Json:
    """The types of values that each type of filter accepts."""
    fields = model.model_json_schema()["properties"]
    kinds = [each["type"] for each in alternatives_of(fields["value"]) or [fields["value"]]]
    return {"properties": {"type": {"enum": fields["type"]["enum"]}, "value": {"type": kinds}}}


def _as_text(event: Json) -> None:
    """The data of an event is a line of JSON. That of an error has the error envelope, which the Python SDK expects."""
    event.pop("enabled", None)  # it belongs to another API
    kind = {"$ref": "#/components/schemas/ErrorResponse"} if event["event"]["enum"] == ["error"] else event["data"]
    event["data"] = {"type": "string", "contentMediaType": "application/json", "contentSchema": kind}
