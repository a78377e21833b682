"""Vectors for texts (core.ports.Embeddings): of a model provider, or of a small model that needs no network."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from core.ports import EmbeddingError, ModelError

if TYPE_CHECKING:
    from infra.providers import ModelRouter

OFFLINE: Final = "offline"
# Of one request. OpenAI takes 2,048 texts of 300,000 tokens together, and a token is a byte at least.
MOST_TEXTS: Final = 128
MOST_BYTES: Final = 256 * 1024

_AT_ONCE: Final = 64  # texts for which the offline model works without a pause
_TOKENS: Final = 4096  # looked up at once: a question of 32,000 rare characters is 128,000 tokens, and 65 MB of vectors


class ProviderEmbeddings:
    """Of a provider's embeddings endpoint. `model` is routed as the names of chat models are; `dimensions` shortens the
    vectors, where the model can."""

    def __init__(self, router: ModelRouter, model: str, dimensions: int | None = None) -> None:
        """Raises ValueError if no provider is there for the model."""
        self._router, self._dimensions = router, dimensions
        self._provider, self._model = router.route(model)
        if not router.remote(self._provider):
            raise ValueError(f"no provider is configured that has the model '{model}'")
        self.model = f"{self._provider}/{self._model}" + (f"@{dimensions}" if dimensions else "")

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not texts:
            return np.zeros((0, self._dimensions or 0), np.float32)
        try:
            upstream = await self._router.upstream(self._provider)
            with upstream.errors():
                rows = [
                    row for batch in batches(texts) for row in _rows(await upstream.post(*self._call(batch)), batch)
                ]
                if len(widths := {len(row) for row in rows}) > 1 or (self._dimensions and widths != {self._dimensions}):
                    raise ValueError(f"vectors of {sorted(widths)} dimensions")
                return normalised(np.asarray(rows, np.float32))
        except ModelError as error:
            raise EmbeddingError(error.message) from error

    async def close(self) -> None:
        """The router closes what it opened."""

    def _call(self, batch: Sequence[str]) -> tuple[str, dict[str, Any]]:
        # An empty text is refused by OpenAI, and nothing is left of the whole request.
        body = {"model": self._model, "input": [text or " " for text in batch], "encoding_format": "float"}
        return "/embeddings", body | ({"dimensions": self._dimensions} if self._dimensions else {})


def batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many as go into one request, at least one, in order."""
    start = weight = 0
    for place, text in enumerate(texts):
        size = len(text.encode())
        if place > start and (place - start == MOST_TEXTS or weight + size > MOST_BYTES):
            yield texts[start:place]
            start, weight = place, 0
        weight += size
    yield texts[start:]


def _rows(data: dict[str, Any], batch: Sequence[str]) -> list[list[float]]:
    """In the order of the texts, whatever order the answer has. Raises ValueError for an answer to another question."""
    entries = sorted(data["data"], key=lambda entry: int(entry["index"]))
    if [entry["index"] for entry in entries] != list(range(len(batch))):
        raise ValueError("not one vector for each text")
    return [entry["embedding"] for entry in entries]


def normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row of length 1; zeros stay zeros. Raises ValueError for what is no number."""
    if not np.isfinite(vectors).all():
        raise ValueError("a vector that is no vector of numbers")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    rows: NDArray[np.float32] = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return rows


class OfflineEmbeddings:
    """The direction of the sum of the vectors of a text's tokens, from the tables that the package `wordllama` carries.

    The package itself is not imported: it pads each text of a batch to the longest, which takes 268 MB for 64 texts of
    4,096 tokens, and sets up logging. One thread does the work, off the event loop, in pieces.
    """

    model = "offline/wordllama-l2-supercat-256"

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embeddings")

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        loop = asyncio.get_running_loop()
        try:
            parts = [
                await loop.run_in_executor(self._thread, _offline, texts[start : start + _AT_ONCE])
                for start in range(0, max(len(texts), 1), _AT_ONCE)
            ]
        except ImportError:
            raise EmbeddingError(
                "There is no embedding model: the package `wordllama` is not installed (assistants-service[offline]),"
                " and EMBEDDING_MODEL names no other model."
            ) from None
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
    return normalised(sums)


@functools.cache
def _tables() -> tuple[Callable[[str], list[int]], NDArray[np.float16]]:
    """From a text to its tokens, and the vector of each token. Raises ImportError."""
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
