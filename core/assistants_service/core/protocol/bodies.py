"""What all request bodies share. Their limits are those of the published specification and of recorded refusals;
api.validation turns violations into 400s.

Optional fields accept null, as the SDKs send it; unknown fields are refused. Updates merge the given keys: they use
`model_fields_set`. The served OpenAPI document takes its limits from these models (tools/openapi_limits.py).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

from assistants_service.core.resources import FILE, VECTOR_STORE

T = TypeVar("T")

MOST_PROPERTIES: Final = 16


class Body(BaseModel):
    # Each schema is built for its first request: building all of them would be a tenth of a process's start.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)

    def as_given(self) -> dict[str, Any]:
        """The JSON of the request, without nulls."""
        return self.model_dump(exclude_none=True, by_alias=True)


def documented(**keywords: Any) -> Any:
    """Keywords for the JSON Schema of a field that a custom validator checks, from which pydantic derives none."""
    return Field(json_schema_extra=keywords)


def _few_properties(value: dict[str, T]) -> dict[str, T]:
    if len(value) > MOST_PROPERTIES:
        context = {"count": len(value), "max": MOST_PROPERTIES}
        raise PydanticCustomError("object_above_max_properties", "{count}", context)
    return value


def _storable(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Refuse what could not be read back from the store: NaN, infinity, integers too long for the decoder."""
    try:
        same = msgspec.json.decode(msgspec.json.encode(value)) == value
    except (msgspec.MsgspecError, OverflowError, ValueError, RecursionError):
        same = False
    if not same:
        raise PydanticCustomError("value_error", "a number is out of range")
    return value


JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_storable)]


MetadataKey = Annotated[str, StringConstraints(max_length=64)]


MetadataValue = Annotated[str, StringConstraints(max_length=512)]


MetadataBody = Annotated[
    dict[MetadataKey, MetadataValue], AfterValidator(_few_properties), documented(maxProperties=MOST_PROPERTIES)
]


Instructions = Annotated[str, StringConstraints(max_length=256_000)]


ModelName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


Detail = Literal["auto", "low", "high"]


FileId = Annotated[str, StringConstraints(min_length=1, max_length=256)]


def _begins(prefix: str) -> AfterValidator:
    def check(value: str) -> str:
        if not value.startswith(prefix):
            raise PydanticCustomError("wrong_prefix", "{prefix}", {"prefix": prefix})
        return value

    return AfterValidator(check)


# References of assistants, threads and runs. core.references checks before any write that they exist.
NamedFile = Annotated[
    str, StringConstraints(max_length=256), _begins(FILE.prefix), documented(pattern=f"^{FILE.prefix}")
]


NamedStore = Annotated[
    str, StringConstraints(max_length=256), _begins(VECTOR_STORE.prefix), documented(pattern=f"^{VECTOR_STORE.prefix}")
]
