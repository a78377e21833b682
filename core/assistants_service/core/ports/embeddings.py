"""What the domain asks of an embedding model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from assistants_service.core.ports.search import Weights


class EmbeddingError(Exception):
    """No vectors can be had now, after retries; the message may be shown to clients."""


Kind = Literal["passage", "query"]  # what a text is to a search: many models want to know


class Embeddings(Protocol):
    """`model` names what made a vector, and so does the vector's width: vectors that differ in either cannot be
    compared, so both travel with what is stored."""

    model: str
    weights: Weights  # of a hybrid search with these vectors, unless it asks for others

    async def embed(self, texts: Sequence[str], kind: Kind = "passage") -> NDArray[np.float32]:
        """A row of length 1 (or 0, where a text says nothing to the model) for each text; rows without dimensions if
        there are no vectors on this platform. Raises EmbeddingError."""

    async def close(self) -> None: ...
