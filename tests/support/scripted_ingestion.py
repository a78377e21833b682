"""Reading and embedding as tests want them: at once, by rules that can be told in a line, and failing on cue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from assistants_service.core.ports.embeddings import EmbeddingError, TextRole
from assistants_service.core.ports.extraction import Chunk, Chunking, Unreadable
from assistants_service.core.search.ranking import HYBRID
from assistants_service.core.search.words import words

WIDTH = 64


class PlainText:
    """ports.extraction.Extraction: a file is its text, a chunk is a line. A file whose name says so is `broken`."""

    async def chunks(self, project: str, path: Path, filename: str, chunking: Chunking) -> Sequence[Chunk]:
        if filename.startswith("broken"):
            raise Unreadable("invalid_file", "The file is broken.")
        if filename.startswith("crash"):
            raise RuntimeError("a defect")
        text, found, start = path.read_bytes().decode(), [], 0
        for line in text.splitlines(keepends=True):
            found.append(Chunk(line, start, len(line.split())))
            start += len(line)
        return found

    async def close(self) -> None: ...


class Bag:
    """ports.embeddings.Embeddings: a text's vector counts its words, each at the place that its hash names."""

    model = "bag"
    weights = HYBRID

    def __init__(self) -> None:
        self.fails = False

    async def embed(self, texts: Sequence[str], kind: TextRole = "passage") -> NDArray[np.float32]:
        if self.fails:
            raise EmbeddingError("The provider does not answer.")
        vectors = np.zeros((len(texts), WIDTH), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in words(text):
                row[crc32(word.encode()) % WIDTH] += 1
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)

    async def close(self) -> None: ...
