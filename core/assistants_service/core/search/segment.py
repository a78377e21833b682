"""Segments: the parts of a vector store's index. Each is an immutable blob: an ingested file is one, and small ones are
merged into larger ones.

    magic | header | tables | vectors | texts

The header (MessagePack) contains the sizes of the rest, and which terms the tables contain (core.search.words). The
tables are arrays of numbers: terms with their postings, and for each chunk its length in words, its offset in its file,
and the offset of its text. Vectors are float16, of length 1. A search reads everything up to the texts, and of the
texts only those that it found. All numbers are little-endian.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from assistants_service.core.search.words import WHOLE

Floats = NDArray[np.float32]
Array = NDArray[Any]
Buffer = bytes | bytearray | memoryview

MAGIC: Final = b"segment1"
HEAD: Final = struct.Struct(f"<{len(MAGIC)}sII")  # magic, length and CRC-32 of the header
_OBJECTS: Final = 2000  # bytes of a segment's Python objects beside numbers


class DamagedSegment(Exception):
    """These bytes are not a complete segment of this version."""


class IndexedChunk(NamedTuple):
    """A passage of a file. `start` is the code point of the file's text at which it begins: passages may overlap."""

    text: str
    start: int


class Header(msgspec.Struct, frozen=True, array_like=True):
    """`sources` are in the order of their chunks, each with its number of chunks. `model` made the vectors, which have
    `dimensions` (0: there are none). `size` is that of the texts in bytes; `checks` are the CRC-32 of what a search
    reads, and of the texts. A version that does not know `format` reads and merges these segments as well: they contain
    the words, and its merges are marked as containing nothing else."""

    model: str
    dimensions: int
    sources: tuple[tuple[str, int], ...]
    terms: int
    postings: int
    size: int
    checks: tuple[int, int]
    format: int = WHOLE

    @property
    def chunks(self) -> int:
        return sum(chunks for _, chunks in self.sources)

    def tables(self) -> list[tuple[np.dtype[Any], int]]:
        """The arrays in the order of the blob: type and length. The widest come first, so each is aligned."""
        chunk = "<u2" if self.chunks <= 2**16 else "<u4"
        shape = [("<u8", self.terms), ("<u8", self.chunks + 1), ("<u4", self.terms + 1), ("<u4", self.chunks)]
        shape += [("<u4", self.chunks), (chunk, self.postings), ("u1", self.postings)]
        return [(np.dtype(kind), length) for kind, length in shape]

    def sizes(self) -> tuple[int, int, int]:
        """Bytes of tables, vectors and texts."""
        tables = sum(kind.itemsize * length for kind, length in self.tables())
        return tables, 2 * self.dimensions * self.chunks, self.size


class Tables(NamedTuple):
    """The types and lengths are those of `Header.tables`."""

    terms: Array  # sorted, unique
    texts: Array  # the text of chunk i: bytes texts[i] to texts[i + 1] of the texts
    ends: Array  # postings of term i: ends[i] to ends[i + 1]
    lengths: Array  # words of each chunk
    starts: Array  # of each chunk, as in IndexedChunk
    chunks: Array  # of each posting: ascending within a term
    counts: Array  # of each posting: occurrences of the term in the chunk


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A segment in memory, as a search needs it: without its texts."""

    name: str
    model: str
    sources: tuple[str, ...]
    firsts: Array  # chunks of source i: firsts[i] to firsts[i + 1]
    tables: Tables
    vectors: Floats  # one row per chunk. Twice the memory of float16, which numpy multiplies 25 times more slowly
    size: int  # bytes of the blob that a search reads: the texts begin there
    format: int  # of its words

    def __len__(self) -> int:
        """The number of chunks."""
        return len(self.tables.lengths)

    @property
    def memory(self) -> int:
        """Bytes in memory."""
        objects = _OBJECTS + 100 * len(self.sources)
        return objects + self.vectors.nbytes + self.firsts.nbytes + sum(table.nbytes for table in self.tables)

    def source(self, chunk: int) -> tuple[str, int]:
        """The source of a chunk, and the chunk's number within it."""
        place = int(np.searchsorted(self.firsts, chunk, side="right")) - 1
        return self.sources[place], chunk - int(self.firsts[place])

    def text(self, chunk: int) -> tuple[int, int]:
        """Where the text of a chunk is in the blob, in UTF-8: offset and length in bytes."""
        begin, end = map(int, self.tables.texts[chunk : chunk + 2])
        return self.size + begin, end - begin


def index_size(data: Buffer) -> int:
    """The number of bytes that a search reads of a blob, from its first bytes; or the number of bytes needed to
    determine it, if more than these. Raises DamagedSegment."""
    if len(data) < HEAD.size:
        return HEAD.size
    magic, length, _ = HEAD.unpack_from(data)
    if magic != MAGIC:
        raise DamagedSegment("it does not begin like a segment of this version")
    end: int = HEAD.size + length
    if len(data) < end:
        return end
    tables, vectors, _ = _header(data).sizes()
    return end + tables + vectors


def decode(name: str, data: Buffer) -> Segment:
    """The segment `name` from its blob, or from the first `index_size` bytes of it. Raises DamagedSegment."""
    header, tables, vectors = _searched(data)
    firsts = np.cumsum([0, *(number for _, number in header.sources)])
    sources = tuple(source for source, _ in header.sources)
    owned = Tables(*(table.copy() for table in tables))  # so that `data` can be freed
    single, size = vectors.astype(np.float32), index_size(data)
    return Segment(name, header.model, sources, firsts, owned, single, size, header.format)


def passages(blob: Buffer) -> Iterator[tuple[str, IndexedChunk]]:
    """All chunks of a segment with their sources. Raises DamagedSegment."""
    header, tables, _, texts = read_whole(blob)
    owners = (source for source, number in header.sources for _ in range(number))
    for number, source in enumerate(owners):
        text = bytes(texts[tables.texts[number] : tables.texts[number + 1]])
        yield source, IndexedChunk(text.decode(), int(tables.starts[number]))


def _header(data: Buffer) -> Header:
    _, length, check = HEAD.unpack_from(data)
    packed = memoryview(data)[HEAD.size : HEAD.size + length]
    if zlib.crc32(packed) != check:
        raise DamagedSegment("its header is corrupt")
    return msgspec.msgpack.decode(packed, type=Header)


def _searched(data: Buffer) -> tuple[Header, Tables, Array]:
    """The part that a search reads, in place."""
    if len(data) < (size := index_size(data)):
        raise DamagedSegment(f"it ends after {len(data)} of {size} bytes")
    header, view = _header(data), memoryview(data)
    searched = view[size - sum(header.sizes()[:2]) : size]
    if zlib.crc32(searched) != header.checks[0]:
        raise DamagedSegment("its tables or vectors are corrupt")
    tables, place = [], 0
    for kind, length in header.tables():
        tables.append(np.frombuffer(searched, kind, length, place))
        place += kind.itemsize * length
    vectors = np.frombuffer(searched, "<f2", offset=place) if place < len(searched) else np.zeros(0, np.float16)
    return header, Tables(*tables), vectors.reshape(header.chunks, header.dimensions)


def read_whole(blob: Buffer) -> tuple[Header, Tables, Array, memoryview]:
    header, tables, vectors = _searched(blob)
    texts = memoryview(blob)[index_size(blob) :]
    if len(texts) != header.size or zlib.crc32(texts) != header.checks[1]:
        raise DamagedSegment("its texts are corrupt")
    return header, tables, vectors, texts
