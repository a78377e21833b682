"""Vector stores, their files and batches, and search results, as they go over the wire."""

from __future__ import annotations

from typing import Literal

from assistants_service.core.protocol.objects import LastError, Metadata, Struct


class FileCounts(Struct, frozen=True, kw_only=True):
    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    total: int = 0


class ExpiresAfter(Struct, frozen=True, kw_only=True):
    anchor: Literal["last_active_at"] = "last_active_at"
    days: int


class VectorStore(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["vector_store"] = "vector_store"
    created_at: int
    name: str | None = None
    description: str | None = None
    usage_bytes: int = 0
    file_counts: FileCounts = FileCounts()
    status: Literal["in_progress", "completed", "expired"] = "completed"
    expires_after: ExpiresAfter | None = None
    expires_at: int | None = None
    last_active_at: int
    metadata: Metadata = {}


class StaticChunking(Struct, frozen=True, kw_only=True):
    max_chunk_size_tokens: int = 800
    chunk_overlap_tokens: int = 400


class ChunkingStrategy(Struct, frozen=True, kw_only=True):
    """`auto` is shown as the values that it stands for: 800 tokens, of which 400 overlap."""

    type: Literal["static"] = "static"
    static: StaticChunking = StaticChunking()


Attributes = dict[str, str | bool | int | float]


FileStatus = Literal["in_progress", "completed", "failed", "cancelled"]


class VectorStoreFile(Struct, frozen=True, kw_only=True):
    """A file in a vector store; `id` is that of the file."""

    id: str
    object: Literal["vector_store.file"] = "vector_store.file"
    usage_bytes: int = 0
    created_at: int
    vector_store_id: str
    status: FileStatus = "in_progress"
    last_error: LastError | None = None
    chunking_strategy: ChunkingStrategy = ChunkingStrategy()
    attributes: Attributes = {}


class VectorStoreFileBatch(Struct, frozen=True, kw_only=True):
    """`object` as recorded; the specification's `vector_store.files_batch` is not what the wire has."""

    id: str
    object: Literal["vector_store.file_batch"] = "vector_store.file_batch"
    created_at: int
    vector_store_id: str
    status: FileStatus = "in_progress"
    file_counts: FileCounts = FileCounts()


class TextContent(Struct, frozen=True, kw_only=True):
    type: Literal["text"] = "text"
    text: str


class SearchResult(Struct, frozen=True, kw_only=True):
    file_id: str
    filename: str
    score: float
    attributes: Attributes
    content: tuple[TextContent, ...]


class SearchResults(Struct, frozen=True, kw_only=True):
    object: Literal["vector_store.search_results.page"] = "vector_store.search_results.page"
    search_query: tuple[str, ...]
    data: tuple[SearchResult, ...]
    has_more: bool = False
    next_page: None = None


class FileContent(Struct, frozen=True, kw_only=True):
    object: Literal["vector_store.file_content.page"] = "vector_store.file_content.page"
    data: tuple[TextContent, ...]
    has_more: bool = False
    next_page: None = None
