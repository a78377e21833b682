"""The port of embedding models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from assistants_service.core.ports.search import Weights


class EmbeddingError(Exception):
    """No vectors are available at present, after retries; the message may be shown to clients."""


TextRole = Literal["passage", "query"]  # the role of a text in a search: many models distinguish them


class Embeddings(Protocol):
    """`model` identifies the source of a vector: vectors of different models or dimensions cannot be compared, so both
    are stored with them."""

    model: str
    weights: Weights  # of a hybrid search with these vectors, unless it overrides them

    async def embed(self, texts: Sequence[str], kind: TextRole = "passage") -> NDArray[np.float32]:
        """One row for each text, of length 1 (or 0, if the text means nothing to the model); rows without dimensions if
        this platform has no model. Raises EmbeddingError."""

    async def close(self) -> None: ...
