"""A chunk as a row of a LanceDB table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from assistants_service.core.ports.extraction import Chunk
from assistants_service.core.search.segment import Floats
from assistants_service.core.search.words import indexed, words

SCHEMA: Final = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("number", pa.uint32(), nullable=False),
        pa.field("start", pa.uint32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("words", pa.string(), nullable=False),
    ]
)
# What the words' other forms are found by. Tables of old have no such column, and rows of old nothing in it.
BEGINNINGS: Final = pa.field("beginnings", pa.string())
ALONE: Final = pa.field("by_words_alone", pa.bool_())  # of rows that have no vector of any model


def rows_of(source: str, chunks: Sequence[Chunk], vectors: Floats, model: str) -> Any:
    if vectors.ndim != 2 or len(vectors) != len(chunks) or not np.isfinite(vectors).all():
        raise ValueError(f"{len(chunks)} chunks need as many vectors of finite numbers, not {vectors.shape}")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0).astype(np.float32)
    texts = [chunk.text.encode(errors="replace").decode() for chunk in chunks]
    said = [words(text) for text in texts]
    columns = [
        pa.array([source] * len(chunks)),
        pa.array(range(len(chunks)), pa.uint32()),
        pa.array([chunk.start for chunk in chunks], pa.uint32()),
        pa.array(texts),
        pa.array([" ".join(each) for each in said]),
        pa.array([beginnings_of(each) for each in said]),
    ]
    if not vectors.shape[1]:
        return pa.table([*columns, pa.array([True] * len(chunks))], pa.schema([*SCHEMA, BEGINNINGS, ALONE]))
    # A text that says nothing to the model has no vector: it is near to nothing.
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(unit.ravel()), vectors.shape[1], mask=pa.array(norms[:, 0] == 0)
    )
    named = pa.field(column_of(model, vectors.shape[1]), column.type)
    return pa.table([*columns, column], pa.schema([*SCHEMA, BEGINNINGS, named]))


def beginnings_of(said: Sequence[str]) -> str:
    return " ".join(each for each in indexed(said) if each.endswith("*"))


def column_of(model: str, dimensions: int) -> str:
    """Vectors of two models, or of two lengths, are two columns: they cannot be compared."""
    return f"vector_{blake2b(f'{model} {dimensions}'.encode(), digest_size=8).hexdigest()}"


def matrix(column: Any) -> Floats:
    """A row for each vector, 0 for one that there is not."""
    there = column.is_valid().to_numpy()
    rows = np.zeros((len(column), column.type.list_size), np.float32)
    rows[there] = pc.list_flatten(column).to_numpy().reshape(-1, column.type.list_size)
    return rows


def among(names: Iterable[str], operator: str = "IN") -> str:
    """A condition on the source; empty if it excludes nothing."""
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in sorted(names))
    return f"source {operator} ({quoted})" if quoted else ""
