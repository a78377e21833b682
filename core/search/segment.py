"""Segments: what a vector store's index consists of. Immutable, each a blob; a file that was ingested is one, and small
ones are merged into bigger ones.

    magic | header | tables | vectors | texts

The header (MessagePack) says how long the rest is. Tables are little-endian arrays: terms (sorted) with their postings,
the chunks' lengths in words, their places in the text of their file, and where their texts are in the blob. A search
reads all up to the texts; the texts of its results are read from where they are.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from core.search.words import term, words

Floats = NDArray[np.float32]
Buffer = bytes | bytearray | memoryview

MAGIC: Final = b"segment1"
HEAD: Final = len(MAGIC) + 8  # the magic, the header's length and checksum
MOST: Final = 255  # occurrences of a word in a chunk that are counted


class DamagedSegment(Exception):
    """These bytes are no whole segment of this version."""


class Chunk(NamedTuple):
    """A passage of a file. `start` is the code point at which it begins in the file's text: passages overlap."""

    text: str
    start: int


class Header(msgspec.Struct, frozen=True):
    """`sources` are the files in this segment, in order, each with its number of chunks. `model` made the vectors, which
    have so many `dimensions` (0: there are none). `sizes` in bytes: tables, vectors, texts. `check` is the CRC-32 of
    tables and vectors."""

    model: str
    dimensions: int
    sources: tuple[tuple[str, int], ...]
    terms: int
    postings: int
    sizes: tuple[int, int, int]
    check: int


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A segment as a search needs it: in memory, without its texts."""

    name: str
    model: str
    sources: tuple[str, ...]
    firsts: NDArray[np.int64]  # chunks of source i: firsts[i] to firsts[i + 1]
    vectors: Floats  # a row a chunk, of length 1 or 0
    terms: NDArray[np.uint64]  # sorted
    ends: NDArray[np.uint32]  # postings of term i: ends[i] to ends[i + 1]
    chunks: NDArray[np.unsignedinteger[Any]]  # of each posting, ascending within a term
    counts: NDArray[np.uint8]  # how often the chunk has the term
    lengths: NDArray[np.uint32]  # words of each chunk
    starts: NDArray[np.uint32]  # of each chunk
    texts: NDArray[np.uint64]  # text of chunk i: bytes texts[i] to texts[i + 1] of the blob

    def __len__(self) -> int:
        """How many chunks it has."""
        return len(self.lengths)

    @property
    def memory(self) -> int:
        """Bytes that its arrays take."""

    def source(self, chunk: int) -> tuple[str, int]:
        """Which source a chunk is of, and the how-manieth of it."""


def build(source: str, chunks: Sequence[Chunk], vectors: Floats | None, model: str) -> bytes:
    """The segment of one file. `source` names the file and the attempt to ingest it: it must be unlike that of any
    other file or attempt that the store ever had, since a removed one may linger in a segment until it is merged.

    `vectors` has a row for each chunk, made by `model`; None if nobody embeds. They are normalised here, and rounded to
    float16. Raises ValueError if their number differs from that of the chunks, or one is not finite.
    """
    raise NotImplementedError


def index_size(head: Buffer) -> int | None:
    """How many bytes of a segment a search needs, by the first of them: None, if these are too few to tell.

    Raises DamagedSegment."""
    raise NotImplementedError


def decode(name: str, data: Buffer) -> Segment:
    """The segment that is named `name`. `data` is the blob, or its first `index_size` bytes. Raises DamagedSegment."""
    raise NotImplementedError


def passages(data: Buffer) -> Iterator[tuple[str, Chunk]]:
    """All chunks of a whole blob in order, each with its source. Raises DamagedSegment."""
    raise NotImplementedError


def merge(blobs: Sequence[Buffer], live: Collection[str]) -> bytes | None:
    """One segment of what these hold of the sources that are `live`; None if that is nothing. Nothing is embedded or read
    again. Raises DamagedSegment, and ValueError if their vectors are of several models."""
    raise NotImplementedError
