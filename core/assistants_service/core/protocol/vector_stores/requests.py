"""Request bodies of vector stores."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticKnownError

from assistants_service.core.protocol.bodies import (
    MOST_PROPERTIES,
    Body,
    FileId,
    MetadataBody,
    MetadataKey,
    NamedFile,
    _few_properties,
    documented,
)

MOST_TOKENS: Final = 4096  # of a chunk


class AutoChunkingBody(Body):
    type: Literal["auto"]


class StaticSizes(Body):
    max_chunk_size_tokens: Annotated[int, Field(ge=100, le=MOST_TOKENS)]
    chunk_overlap_tokens: Annotated[int, Field(ge=0), documented(maximum=MOST_TOKENS // 2)]

    @field_validator("chunk_overlap_tokens")
    @classmethod
    def _at_most_half(cls, value: int, info: ValidationInfo) -> int:
        most = info.data.get("max_chunk_size_tokens", MOST_TOKENS) // 2
        if value > most:
            raise PydanticKnownError("less_than_equal", {"le": most})
        return value


class StaticChunkingBody(Body):
    type: Literal["static"]
    static: StaticSizes


ChunkingBody = Annotated[AutoChunkingBody | StaticChunkingBody, Field(discriminator="type")]


class StoreHelper(Body):
    """A store to create together with an assistant or thread."""

    file_ids: Annotated[list[NamedFile], Field(max_length=10_000)] | None = None
    chunking_strategy: ChunkingBody | None = None
    metadata: MetadataBody | None = None


def _kind_of_value(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    return "number" if isinstance(value, float) else "string"


MOST = 2**53  # beyond this, a JSON number may not be an exact integer in either notation: 10000000000000001, or 1e16


AttributeValue = Annotated[
    Annotated[Annotated[str, StringConstraints(max_length=512)], Tag("string")]
    | Annotated[bool, Tag("boolean")]
    | Annotated[Annotated[int, Field(ge=-MOST, le=MOST)], Tag("integer")]
    | Annotated[Annotated[float, Field(ge=-MOST, le=MOST)], Tag("number")],
    Discriminator(_kind_of_value),
]


AttributesBody = Annotated[
    dict[MetadataKey, AttributeValue], AfterValidator(_few_properties), documented(maxProperties=MOST_PROPERTIES)
]


class StoreExpiresAfter(Body):
    anchor: Literal["last_active_at"]
    days: Annotated[int, Field(ge=1, le=365)]


StoreName = Annotated[str, StringConstraints(max_length=256)]


class CreateVectorStore(Body):
    file_ids: Annotated[list[FileId], Field(max_length=500)] | None = None
    name: StoreName | None = None
    description: Annotated[str, StringConstraints(max_length=512)] | None = None
    expires_after: StoreExpiresAfter | None = None
    chunking_strategy: ChunkingBody | None = None
    metadata: MetadataBody | None = None


class UpdateVectorStore(Body):
    name: StoreName | None = None
    expires_after: StoreExpiresAfter | None = None
    metadata: MetadataBody | None = None


class CreateVectorStoreFile(Body):
    file_id: FileId
    attributes: AttributesBody | None = None
    chunking_strategy: ChunkingBody | None = None


class UpdateVectorStoreFile(Body):
    """`attributes` replaces all old ones; null removes them."""

    attributes: AttributesBody | None


class CreateFileBatch(Body):
    """One of `file_ids` and `files`."""

    file_ids: Annotated[list[FileId], Field(min_length=1, max_length=2000)] | None = None
    files: Annotated[list[CreateVectorStoreFile], Field(min_length=1, max_length=2000)] | None = None
    attributes: AttributesBody | None = None
    chunking_strategy: ChunkingBody | None = None
