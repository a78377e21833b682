"""Settings of vector stores: embeddings, search, and the extraction of text."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue


def _free(name: str) -> str:
    if name in ("input", "model", "encoding_format", "dimensions"):
        raise ValueError("the service itself sets this field of the request")
    return name


class InputSettings(BaseModel):
    """One entry of EMBEDDING_INPUT."""

    model_config = ConfigDict(extra="forbid")

    prefix: str = ""
    fields: dict[Annotated[str, AfterValidator(_free)], JsonValue] = Field(default_factory=dict)


class SearchSettings(BaseModel):
    """Vector stores: embeddings, search, and the text of files."""

    embedding_model: str = Field(
        "offline",
        description=(
            "model that creates the embeddings of vector stores, such as text-embedding-3-small or ollama/bge-m3;"
            " offline: the built-in one. Files embedded by another model are found by words only"
        ),
    )
    embedding_dimensions: Annotated[int, Field(ge=1)] | None = Field(
        None, description="dimensions of the embeddings, for models that can shorten them"
    )
    embedding_input: dict[Literal["query", "passage"], InputSettings] = Field(
        default_factory=dict,
        examples=['{"query": {"prefix": "query: "}}'],
        description=(
            'what to add to queries and passages for the embedding model, as JSON: {"query": {"prefix": "query:'
            ' "}, "passage": {"fields": {"input_type": "passage"}}}; defaults are built in for E5, BGE,'
            " nomic-embed-text and other families"
        ),
    )
    embedding_weight: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description=(
            "weight of embeddings in a search score, 0 to 1; words have the rest. Default: 0.4, or 0.8 for"
            " models such as E5, whose cosines are close to each other"
        ),
    )
    search_memory_mb: Annotated[int, Field(ge=16)] = Field(
        512, description="MiB of memory that one process uses to cache the indexes of recently searched vector stores"
    )
    extraction_processes: Annotated[int, Field(ge=1)] = Field(
        2, description="files from which one worker extracts text at once"
    )
    extraction_memory_mb: Annotated[int, Field(ge=64)] = Field(
        1024, description="MiB of memory that extracting text from one file may use; enforced on Linux only"
    )
    extraction_timeout: Annotated[float, Field(gt=0)] = Field(
        60, description="seconds that extracting text from one file may take"
    )
