"""`response_format` of assistants and runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    StringConstraints,
    Tag,
)

from assistants_service.core.protocol.bodies import Body, JsonObject


class JsonSchemaBody(Body):
    name: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    description: str | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextFormat(Body):
    type: Literal["text"]


class JsonObjectFormat(Body):
    type: Literal["json_object"]


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchemaBody


FormatObject = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


def _string_or_object(value: Any) -> str:
    return "string" if isinstance(value, str) else "object"


ResponseFormat = Annotated[
    Annotated[Literal["auto"], Tag("string")] | Annotated[FormatObject, Tag("object")], Discriminator(_string_or_object)
]
