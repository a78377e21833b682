"""Requested vector stores and files: bodies in the form that the commands take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assistants_service.core.protocol.vector_stores.requests import (
    ChunkingBody,
    CreateFileBatch,
    CreateVectorStore,
    CreateVectorStoreFile,
    StaticChunkingBody,
)
from assistants_service.core.protocol.vector_stores.resources import Attributes, ExpiresAfter, StaticChunking


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to attach to a store. None: not given."""

    file_id: str
    attributes: Attributes | None = None
    chunking: StaticChunking | None = None


@dataclass(frozen=True, slots=True)
class NewStore:
    """A vector store to create."""

    files: Sequence[NewFile] = ()
    name: str | None = None
    description: str | None = None
    expires_after: ExpiresAfter | None = None
    metadata: dict[str, str] | None = None


def new_store(body: CreateVectorStore) -> NewStore:
    chunking = chunking_of(body.chunking_strategy)
    return NewStore(
        [NewFile(file_id, chunking=chunking) for file_id in body.file_ids or ()],
        name=body.name,
        description=body.description,
        expires_after=ExpiresAfter(days=body.expires_after.days) if body.expires_after else None,
        metadata=body.metadata,
    )


def new_file(body: CreateVectorStoreFile) -> NewFile:
    return NewFile(body.file_id, body.attributes, chunking_of(body.chunking_strategy))


def new_files(body: CreateFileBatch) -> list[NewFile]:
    """Values for the whole batch apply to `file_ids` only."""
    if body.files is not None:
        return [new_file(file) for file in body.files]
    chunking = chunking_of(body.chunking_strategy)
    return [NewFile(file_id, body.attributes, chunking) for file_id in body.file_ids or ()]


def chunking_of(body: ChunkingBody | None) -> StaticChunking | None:
    if not isinstance(body, StaticChunkingBody):
        return None
    sizes = body.static
    return StaticChunking(
        max_chunk_size_tokens=sizes.max_chunk_size_tokens, chunk_overlap_tokens=sizes.chunk_overlap_tokens
    )
