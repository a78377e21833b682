"""Embeddings from a model provider's endpoint (ports.embeddings.Embeddings), adapting to its limits.

Servers limit the number and the length of texts in a request, and few publish their limits. So a refused request is
split in halves: first the batch, then a single text, whose vector is the mean of its parts', weighted by length.
Learned limits are remembered while the process lives.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from assistants_service.core.ports.embeddings import EmbeddingError, TextRole
from assistants_service.core.ports.models import ModelError
from assistants_service.core.search.segment import Floats
from assistants_service.infra.embeddings.families import Family, Input
from assistants_service.infra.embeddings.offline import normalise

if TYPE_CHECKING:
    from assistants_service.infra.models.providers import ModelRouter
    from assistants_service.infra.models.upstream import Upstream


# Per request. OpenAI accepts 2,048 texts with 300,000 tokens together, and a token is at least one byte.
MOST_TEXTS: Final = 128
MOST_BYTES: Final = 256 * 1024
SHORTEST: Final = 64  # characters of a text that is not split further

_REFUSED: Final = (400, 413, 422)
# llama.cpp's server reports with status 500 that a text exceeds its physical batch (its issue 12295; so did build
# 11434).
_TOO_LARGE: Final = re.compile(r"too (large|long|big)|physical batch", re.IGNORECASE)


class ProviderEmbeddings:
    """`model` is routed like the names of chat models; `dimensions` shortens the vectors, if the model can; `manners`
    is the input format that the model expects."""

    def __init__(
        self, router: ModelRouter, model: str, dimensions: int | None = None, family: Family | None = None
    ) -> None:
        """Raises ValueError if no provider has the model."""
        self._router, self._dimensions, self._family = router, dimensions, family or Family()
        self._provider, self._model = router.route(model)
        if not router.embeds(self._provider):
            raise ValueError(f"no configured provider has the model '{model}'")
        self.model = f"{self._provider}/{self._model}" + (f"@{dimensions}" if dimensions else "")
        self.weights = self._family.weights
        self._most, self._longest = MOST_TEXTS, MOST_BYTES  # number of texts, and bytes of one, not refused so far
        self._format, self._refusals = True, 0

    async def embed(self, texts: Sequence[str], kind: TextRole = "passage") -> Floats:
        if not texts:
            return np.zeros((0, self._dimensions or 0), np.float32)
        try:
            upstream = await self._router.upstream(self._provider)
            with upstream.errors():
                rows = await self._rows(upstream, texts, self._family.of(kind))
                if len(widths := {len(row) for row in rows}) > 1 or (self._dimensions and widths != {self._dimensions}):
                    raise ValueError(f"vectors of {sorted(widths)} dimensions")
                return normalise(np.asarray(rows, np.float32))
        except ModelError as error:
            raise EmbeddingError(error.message) from error

    async def close(self) -> None:
        """The router closes the connections."""

    async def _rows(self, upstream: Upstream, texts: Sequence[str], format: Input) -> list[Floats]:
        pieces = [_pieces(text, self._longest) for text in texts]
        rest, rows = [piece for each in pieces for piece in each], list[Floats]()
        while rest:
            batch = next(batches(rest, self._most))
            rows += await self._ask(upstream, batch, format)
            rest = rest[len(batch) :]
        left = iter(rows)
        return [_mean(each, [next(left) for _ in each]) for each in pieces]

    async def _ask(self, upstream: Upstream, batch: Sequence[str], format: Input) -> list[Floats]:
        """Splits a refused batch as needed: at most 7 times down to a single text, and then 12 times down to SHORTEST.
        Ends with the first part that fails for another reason."""
        asked_format = self._format  # concurrent requests may learn in the meantime that it is refused
        try:
            return _vectors(await upstream.post("/embeddings", self._body(batch, format)), batch)
        except Exception as error:
            if not _refused(error):
                raise
            if asked_format and "encoding_format" in _said(error):
                self._format = False
                return await self._ask(upstream, batch, format)
            if len(batch) == 1 and len(batch[0]) < 2 * SHORTEST:
                raise
        self._refusals += 1
        before = self._refusals
        halves = [batch[: len(batch) // 2], batch[len(batch) // 2 :]] if len(batch) > 1 else [_halves(batch[0])]
        rows = [await self._ask(upstream, half, format) for half in halves]
        if self._refusals == before:  # so the size was the reason
            self._learn(batch)
        return [row for half in rows for row in half] if len(batch) > 1 else [_mean(halves[0], rows[0])]

    def _learn(self, refused: Sequence[str]) -> None:
        if len(refused) > 1:
            self._most = min(self._most, len(refused) - len(refused) // 2)
        else:
            self._longest = min(self._longest, len(refused[0].encode()) - 1)

    def _body(self, batch: Sequence[str], format: Input) -> Mapping[str, Any]:
        # OpenAI refuses the whole request for an empty text.
        body = {"model": self._model, "input": [format.prefix + (text or " ") for text in batch], **format.fields}
        body |= {"encoding_format": "float"} if self._format else {}
        return body | ({"dimensions": self._dimensions} if self._dimensions else {})


def _refused(error: Exception) -> bool:
    """Whether the provider refuses this request; not an outage or a wrong key."""
    status = getattr(error, "status_code", None)
    return status in _REFUSED or (status == 500 and bool(_TOO_LARGE.search(_said(error))))


def _said(error: Exception) -> str:
    return f"{error} {getattr(error, 'body', '')}"


def batches(texts: Sequence[str], most: int = MOST_TEXTS) -> Iterator[Sequence[str]]:
    """Splits the texts: as many as fit into one request, at least one, in order."""
    start = weight = 0
    for place, text in enumerate(texts):
        size = len(text.encode())
        if place > start and (place - start == most or weight + size > MOST_BYTES):
            yield texts[start:place]
            start, weight = place, 0
        weight += size
    yield texts[start:]


def _pieces(text: str, longest: int) -> list[str]:
    """The text, split in halves until no part has more bytes; but see SHORTEST."""
    if len(text.encode()) <= longest or len(text) < 2 * SHORTEST:
        return [text]
    return [piece for half in _halves(text) for piece in _pieces(half, longest)]


def _halves(text: str) -> list[str]:
    """Split at the space nearest to the middle, if one is near."""
    middle, near = len(text) // 2, len(text) // 8
    places = (place for off in range(near) for place in (middle - off, middle + off) if text[place].isspace())
    cut = next(places, middle)
    return [text[:cut], text[cut:]]


def _mean(texts: Sequence[str], vectors: Sequence[Floats]) -> Floats:
    """The mean of the vectors of a text's parts, weighted by length."""
    if len(vectors) == 1:
        return vectors[0]
    mean: Floats = np.average(vectors, axis=0, weights=[len(text.encode()) for text in texts]).astype(np.float32)
    return mean


def _vectors(data: Mapping[str, Any], batch: Sequence[str]) -> list[Floats]:
    """Vectors of length 1, in the order of the texts, regardless of the order in the response. Raises ValueError for a
    response that does not match the request."""
    entries = data["data"]
    if any(entry.get("index") is not None for entry in entries):
        entries = sorted(entries, key=lambda entry: int(entry["index"]))
        if [int(entry["index"]) for entry in entries] != list(range(len(batch))):
            raise ValueError("not one vector for each text")
    if len(entries) != len(batch):
        raise ValueError("not one vector for each text")
    return list(normalise(np.asarray([_vector(entry["embedding"]) for entry in entries], np.float32)))


def _vector(value: Any) -> Floats:
    """A list of numbers, or base64 of 32-bit floats, which some servers send without being asked."""
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float32)
    return np.asarray(value, np.float32)
