"""`response_format` of assistants and runs: in requests, and as it goes over the wire and as the log has it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, UnsetType
from pydantic import (
    Discriminator,
    Field,
    StringConstraints,
    Tag,
)

from assistants_service.core.protocol.bodies import Body, JsonObject
from assistants_service.core.protocol.objects import Struct


class JsonSchemaBody(Body):
    name: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    description: str | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextFormatBody(Body):
    type: Literal["text"]


class JsonObjectFormatBody(Body):
    type: Literal["json_object"]


class JsonSchemaFormatBody(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchemaBody


FormatObject = Annotated[TextFormatBody | JsonObjectFormatBody | JsonSchemaFormatBody, Field(discriminator="type")]


def string_or_object(value: Any) -> str:
    return "string" if isinstance(value, str) else "object"


ResponseFormatBody = Annotated[
    Annotated[Literal["auto"], Tag("string")] | Annotated[FormatObject, Tag("object")], Discriminator(string_or_object)
]


class TextFormat(Struct, frozen=True, kw_only=True, tag_field="type", tag="text"):
    pass


class JsonObjectFormat(Struct, frozen=True, kw_only=True, tag_field="type", tag="json_object"):
    pass


class JsonSchema(Struct, frozen=True, kw_only=True):
    """A schema with its name. What it says is between the client and the model."""

    name: str
    description: str | UnsetType = UNSET
    schema: dict[str, Any] | UnsetType = UNSET
    strict: bool | UnsetType = UNSET


class JsonSchemaFormat(Struct, frozen=True, kw_only=True, tag_field="type", tag="json_schema"):
    json_schema: JsonSchema


ResponseFormat = Literal["auto"] | TextFormat | JsonObjectFormat | JsonSchemaFormat
