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
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from assistants_service.core.search.words import FORMAT, WHOLE, indexed, term, words

Floats = NDArray[np.float32]
Array = NDArray[Any]
Buffer = bytes | bytearray | memoryview

_MAGIC: Final = b"segment1"
_HEAD: Final = struct.Struct(f"<{len(_MAGIC)}sII")  # magic, length and CRC-32 of the header
_OBJECTS: Final = 2000  # bytes of a segment's Python objects beside numbers
_MOST: Final = 255  # counted occurrences of a word in a chunk: more do not change a score


class DamagedSegment(Exception):
    """These bytes are not a complete segment of this version."""


class Chunk(NamedTuple):
    """A passage of a file. `start` is the code point of the file's text at which it begins: passages may overlap."""

    text: str
    start: int


class _Header(msgspec.Struct, frozen=True, array_like=True):
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
    """The types and lengths are those of `_Header.tables`."""

    terms: Array  # sorted, unique
    texts: Array  # the text of chunk i: bytes texts[i] to texts[i + 1] of the texts
    ends: Array  # postings of term i: ends[i] to ends[i + 1]
    lengths: Array  # words of each chunk
    starts: Array  # of each chunk, as in Chunk
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


# --- writing ------------------------------------------------------------------------------------------------------


def build(source: str, chunks: Sequence[Chunk], vectors: Floats | None, model: str) -> bytes:
    """The segment of one file. `source` identifies the file and the attempt to ingest it: unique within the store's
    whole history, because removed sources stay in their segment until it is merged.

    `vectors` has one row per chunk, made by `model`; None if there is no such model. They are normalised here. Raises
    ValueError if their number differs from that of the chunks, or one is not finite.
    """
    if vectors is None:
        vectors = np.zeros((len(chunks), 0), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(chunks) or not np.isfinite(vectors).all():
        raise ValueError(f"{len(chunks)} chunks need as many vectors of finite numbers, not {vectors.shape}")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    texts = [chunk.text.encode(errors="replace") for chunk in chunks]
    starts = np.array([chunk.start for chunk in chunks], np.uint32)
    return _encode(model, [(source, len(chunks))], unit.astype("<f2"), starts, texts, *_index(chunks))


def _index(chunks: Sequence[Chunk]) -> tuple[Array, Array, Array, Array]:
    """The chunks' lengths in words, and the postings, with ascending chunks within a term: term, chunk, count."""
    numbered, lengths, distinct = cache(term), [], []
    terms: list[int] = []
    counts: list[int] = []
    for chunk in chunks:
        said = words(chunk.text)
        found = Counter(indexed(said))
        lengths.append(len(said))
        distinct.append(len(found))
        terms += map(numbered, found)
        counts += found.values()
    owners = np.repeat(np.arange(len(chunks)), distinct)
    return np.array(lengths, np.uint32), np.array(terms, np.uint64), owners, np.minimum(counts, _MOST)


def _encode(
    model: str,
    sources: Sequence[tuple[str, int]],
    vectors: Array,
    starts: Array,
    texts: Sequence[bytes | memoryview],
    lengths: Array,
    terms: Array,
    chunks: Array,
    counts: Array,
) -> bytes:
    order = np.argsort(terms, kind="stable")
    terms = terms[order]
    begins = np.flatnonzero(np.append(terms[:1] == terms[:1], terms[1:] != terms[:-1]))
    distinct = terms[begins]
    places = np.cumsum([0, *map(len, texts)], dtype=np.uint64)
    header = _Header(
        model, vectors.shape[1], tuple(sources), len(distinct), len(terms), int(places[-1]), (0, 0), FORMAT
    )
    arrays = (distinct, places, np.append(begins, len(terms)), lengths, starts, chunks[order], counts[order])
    tables = [np.asarray(array, kind).tobytes() for array, (kind, _) in zip(arrays, header.tables(), strict=True)]
    searched, read = b"".join([*tables, vectors.tobytes()]), b"".join(texts)
    header = msgspec.structs.replace(header, checks=(zlib.crc32(searched), zlib.crc32(read)))
    packed = msgspec.msgpack.encode(header)
    return b"".join([_HEAD.pack(_MAGIC, len(packed), zlib.crc32(packed)), packed, searched, read])


def merge(blobs: Sequence[Buffer], live: Collection[str]) -> bytes | None:
    """One segment of the `live` sources of these, in order; None if there are none. Nothing is embedded again, and only
    segments of an older format are split into words again: the result has the newest format. This takes five times the
    memory of the result, in addition to the blobs.

    Raises DamagedSegment, and ValueError if the vectors come from several models."""
    parts = [part for blob in blobs if (part := _kept(blob, live))]
    if not parts:
        return None
    if len({(part.header.model, part.header.dimensions) for part in parts}) > 1:
        raise ValueError("vectors of different models cannot be in one segment")
    before = np.cumsum([0, *(len(part.lengths) for part in parts)])
    return _encode(
        parts[0].header.model,
        [source for part in parts for source in part.sources],
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.starts for part in parts]),
        [text for part in parts for text in part.texts],
        np.concatenate([part.lengths for part in parts]),
        np.concatenate([part.terms for part in parts]),
        np.concatenate([part.chunks + np.uint32(first) for first, part in zip(before, parts, strict=False)]),
        np.concatenate([part.counts for part in parts]),
    )


class _Part(NamedTuple):
    """The live part of a segment, with its chunks renumbered."""

    header: _Header
    sources: list[tuple[str, int]]
    vectors: Array
    starts: Array
    texts: list[memoryview]
    lengths: Array
    terms: Array
    chunks: Array
    counts: Array


def _kept(blob: Buffer, live: Collection[str]) -> _Part | None:
    header, tables, vectors, texts = _whole(blob)
    kept = np.repeat([source in live for source, _ in header.sources], [number for _, number in header.sources])
    if not kept.any():
        return None
    read = [texts[tables.texts[chunk] : tables.texts[chunk + 1]] for chunk in np.flatnonzero(kept)]
    return _Part(
        header,
        [(source, number) for source, number in header.sources if source in live],
        vectors[kept],
        tables.starts[kept],
        read,
        *(_postings(tables, kept) if header.format == FORMAT else _renewed(read)),
    )


def _postings(tables: Tables, kept: Array) -> tuple[Array, Array, Array, Array]:
    """As in _index, for the chunks that are kept."""
    numbers = np.cumsum(kept, dtype=np.uint32) - np.uint32(1)
    posted = kept[tables.chunks]
    terms = np.repeat(tables.terms, np.diff(tables.ends))[posted]
    return tables.lengths[kept], terms, numbers[tables.chunks[posted]], tables.counts[posted]


def _renewed(texts: Sequence[memoryview]) -> tuple[Array, Array, Array, Array]:
    lengths, terms, chunks, counts = _index([Chunk(str(text, "utf-8"), 0) for text in texts])
    return lengths, terms, chunks.astype(np.uint32), counts


# --- reading ------------------------------------------------------------------------------------------------------


def index_size(data: Buffer) -> int:
    """The number of bytes that a search reads of a blob, from its first bytes; or the number of bytes needed to
    determine it, if more than these. Raises DamagedSegment."""
    if len(data) < _HEAD.size:
        return _HEAD.size
    magic, length, _ = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise DamagedSegment("it does not begin like a segment of this version")
    end: int = _HEAD.size + length
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


def passages(blob: Buffer) -> Iterator[tuple[str, Chunk]]:
    """All chunks of a segment with their sources. Raises DamagedSegment."""
    header, tables, _, texts = _whole(blob)
    owners = (source for source, number in header.sources for _ in range(number))
    for number, source in enumerate(owners):
        text = bytes(texts[tables.texts[number] : tables.texts[number + 1]])
        yield source, Chunk(text.decode(), int(tables.starts[number]))


def _header(data: Buffer) -> _Header:
    _, length, check = _HEAD.unpack_from(data)
    packed = memoryview(data)[_HEAD.size : _HEAD.size + length]
    if zlib.crc32(packed) != check:
        raise DamagedSegment("its header is corrupt")
    return msgspec.msgpack.decode(packed, type=_Header)


def _searched(data: Buffer) -> tuple[_Header, Tables, Array]:
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


def _whole(blob: Buffer) -> tuple[_Header, Tables, Array, memoryview]:
    header, tables, vectors = _searched(blob)
    texts = memoryview(blob)[index_size(blob) :]
    if len(texts) != header.size or zlib.crc32(texts) != header.checks[1]:
        raise DamagedSegment("its texts are corrupt")
    return header, tables, vectors, texts
