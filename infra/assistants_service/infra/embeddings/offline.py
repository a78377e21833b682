"""Embeddings (ports.embeddings.Embeddings) of a small model that needs no network."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from assistants_service.core.ports.embeddings import TextRole
from assistants_service.core.ports.search import Weights
from assistants_service.core.search.ranking import HYBRID

log = logging.getLogger(__name__)

OFFLINE: Final = "offline"
_AT_ONCE: Final = 64  # texts that the offline model embeds without a pause
_TOKENS: Final = 4096  # looked up at once: a question of 32,000 rare characters is 128,000 tokens, and 65 MB of vectors


def normalise(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales each row to length 1; zeros stay zeros. Raises ValueError for values that are not finite numbers."""
    if not np.isfinite(vectors).all():
        raise ValueError("a vector contains values that are not numbers")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    rows: NDArray[np.float32] = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return rows


class OfflineEmbeddings:
    """The normalised sum of the vectors of a text's tokens, from the tables in the package `wordllama`. On a platform
    without the package, or without what reads its tables, vectors have no dimensions: files are found by words only.

    The package itself is not imported: it pads each text of a batch to the longest, which takes 268 MB for 64 texts of
    4,096 tokens, and it configures logging. One thread does the work, off the event loop, in pieces.
    """

    model = "offline/wordllama-l2-supercat-256"

    def __init__(self, weights: Weights = HYBRID) -> None:
        self.weights = weights
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embeddings")
        self._warned = False

    async def embed(self, texts: Sequence[str], kind: TextRole = "passage") -> NDArray[np.float32]:
        loop = asyncio.get_running_loop()
        try:
            parts = [
                await loop.run_in_executor(self._thread, _offline, texts[start : start + _AT_ONCE])
                for start in range(0, max(len(texts), 1), _AT_ONCE)
            ]
        except (ImportError, OSError) as error:
            if not self._warned:
                self._warned = True
                log.warning(
                    "the built-in embeddings cannot be used here (%s): files are searched by their words alone. For"
                    " vectors, install the package wordllama with what it needs, or set EMBEDDING_MODEL.",
                    error,
                )
            return np.zeros((len(texts), 0), np.float32)
        return np.concatenate(parts)

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _offline(texts: Sequence[str]) -> NDArray[np.float32]:
    tokens, vectors = _tables()
    sums = np.zeros((len(texts), vectors.shape[1]), np.float32)
    for place, text in enumerate(texts):
        ids = tokens(text)
        for start in range(0, len(ids), _TOKENS):
            sums[place] += vectors[ids[start : start + _TOKENS]].sum(axis=0, dtype=np.float32)
    return normalise(sums)


@functools.cache
def _tables() -> tuple[Callable[[str], list[int]], NDArray[np.float16]]:
    """A function from a text to its tokens, and the vector of each token. Raises ImportError."""
    found = importlib.util.find_spec("wordllama")
    if found is None or found.origin is None:
        raise ImportError("wordllama")
    import safetensors.numpy
    import tokenizers

    package = Path(found.origin).parent
    vectors = safetensors.numpy.load_file(package / "weights" / "l2_supercat_256.safetensors")["embedding.weight"]
    tokenizer = tokenizers.Tokenizer.from_file(str(package / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids), vectors
