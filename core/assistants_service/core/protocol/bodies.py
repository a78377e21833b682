"""What all request bodies share. All limits are those of section 3 of the wire contract; api.validation turns
violations into 400s.

Optional fields accept null, as the SDKs send it; unknown fields are refused. Updates merge the given keys: they use
`model_fields_set`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    JsonValue,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

T = TypeVar("T")


class Body(BaseModel):
    # Each schema is built for its first request: building all of them would be a tenth of a process's start.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)

    def as_given(self) -> dict[str, Any]:
        """The JSON that it came from, without what was null."""
        return self.model_dump(exclude_none=True, by_alias=True)


def _few_properties(value: dict[str, T]) -> dict[str, T]:
    if len(value) > 16:
        raise PydanticCustomError("object_above_max_properties", "{count}", {"count": len(value), "max": 16})
    return value


def _storable(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """What is stored must be readable again: no NaN, no infinity, no integer that is too long for the decoder."""
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


Metadata = Annotated[dict[MetadataKey, MetadataValue], AfterValidator(_few_properties)]


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
NamedFile = Annotated[str, StringConstraints(max_length=256), _begins("file")]


NamedStore = Annotated[str, StringConstraints(max_length=256), _begins("vs")]
