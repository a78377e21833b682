"""Segments are written: of a file that was ingested, or of several segments that are merged."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cache
from typing import Final, NamedTuple

import msgspec
import numpy as np

from assistants_service.core.search.segment import (
    HEAD,
    MAGIC,
    Array,
    Buffer,
    Floats,
    Header,
    IndexedChunk,
    Tables,
    read_whole,
)
from assistants_service.core.search.words import FORMAT, index_terms, term_number, words

_MOST: Final = 255  # counted occurrences of a word in a chunk: more do not change a score


def build(source: str, chunks: Sequence[IndexedChunk], vectors: Floats | None, model: str) -> bytes:
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


def _index(chunks: Sequence[IndexedChunk]) -> tuple[Array, Array, Array, Array]:
    """The chunks' lengths in words, and the postings, with ascending chunks within a term: term, chunk, count."""
    numbered, lengths, distinct = cache(term_number), [], []
    terms: list[int] = []
    counts: list[int] = []
    for chunk in chunks:
        found_words = words(chunk.text)
        found = Counter(index_terms(found_words))
        lengths.append(len(found_words))
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
    header = Header(model, vectors.shape[1], tuple(sources), len(distinct), len(terms), int(places[-1]), (0, 0), FORMAT)
    arrays = (distinct, places, np.append(begins, len(terms)), lengths, starts, chunks[order], counts[order])
    tables = [np.asarray(array, kind).tobytes() for array, (kind, _) in zip(arrays, header.tables(), strict=True)]
    searched, read = b"".join([*tables, vectors.tobytes()]), b"".join(texts)
    header = msgspec.structs.replace(header, checks=(zlib.crc32(searched), zlib.crc32(read)))
    packed = msgspec.msgpack.encode(header)
    return b"".join([HEAD.pack(MAGIC, len(packed), zlib.crc32(packed)), packed, searched, read])


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

    header: Header
    sources: list[tuple[str, int]]
    vectors: Array
    starts: Array
    texts: list[memoryview]
    lengths: Array
    terms: Array
    chunks: Array
    counts: Array


def _kept(blob: Buffer, live: Collection[str]) -> _Part | None:
    header, tables, vectors, texts = read_whole(blob)
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
    """The postings of the chunks that are kept, in the form of _index."""
    numbers = np.cumsum(kept, dtype=np.uint32) - np.uint32(1)
    posted = kept[tables.chunks]
    terms = np.repeat(tables.terms, np.diff(tables.ends))[posted]
    return tables.lengths[kept], terms, numbers[tables.chunks[posted]], tables.counts[posted]


def _renewed(texts: Sequence[memoryview]) -> tuple[Array, Array, Array, Array]:
    lengths, terms, chunks, counts = _index([IndexedChunk(str(text, "utf-8"), 0) for text in texts])
    return lengths, terms, chunks.astype(np.uint32), counts
