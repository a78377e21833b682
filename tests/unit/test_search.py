"""Search: the same result however chunks lie in segments, equal to a naive one, and never of a file that is gone."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from unittest import mock

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from assistants_service.core.ports.search import Query, Weights
from assistants_service.core.search.prepared_query import K1, B
from assistants_service.core.search.ranking import HYBRID, LEAST, VECTOR, WORDS, Hit, search
from assistants_service.core.search.segment import (
    DamagedSegment,
    Header,
    IndexedChunk,
    Segment,
    decode,
    index_size,
    passages,
)
from assistants_service.core.search.segment_writer import build, merge
from assistants_service.core.search.words import (
    BEGINNING,
    BEGUN,
    FORMAT,
    WHOLE,
    index_terms,
    other_forms,
    term_number,
    words,
)

quickly = settings(deadline=None, max_examples=40)  # other tests take the processor meanwhile
MODEL, DIMENSIONS = "model", 3
VOCABULARY = ("tide", "tides", "moon", "Größe", "the", "of", "日本語", "x2", "house", "houses", "household")
RECORDED = Path(__file__).parent / "segments"  # by the version that wrote them


@dataclass(frozen=True)
class File:
    source: str
    texts: tuple[str, ...]
    vectors: tuple[tuple[float, ...], ...]

    def segment(self, model: str = MODEL) -> bytes:
        vectors = np.array(self.vectors, np.float32).reshape(len(self.texts), DIMENSIONS)
        return build(self.source, [IndexedChunk(text, 0) for text in self.texts], vectors, model)

    def of_words_alone(self) -> bytes:
        """Its segment as 0.1.0 wrote it (`test_segments_of_old_are_what_these_tests_make`)."""
        with mock.patch.multiple("assistants_service.core.search.segment_writer", index_terms=list, FORMAT=WHOLE):
            return self.segment()

    def of(self, format: int) -> bytes:
        return self.segment() if format == FORMAT else self.of_words_alone()


texts = st.lists(st.sampled_from(VOCABULARY), max_size=8).map(" ".join)
vectors = st.tuples(*[st.integers(-3, 3)] * DIMENSIONS)  # small: many chunks have the same score


@st.composite
def files(draw: st.DrawFn, most: int = 6) -> list[File]:
    made = []
    for number in range(draw(st.integers(1, most))):
        size = draw(st.integers(0, 4))
        chunks = draw(st.lists(texts, min_size=size, max_size=size))
        rows = draw(st.lists(vectors, min_size=size, max_size=size))
        made.append(File(f"file-{number}.1", tuple(chunks), tuple(rows)))
    return made


queries = st.lists(
    st.builds(
        lambda text, vector: Query(text, None if vector is None else np.array(vector, np.float32), MODEL),
        texts,
        st.none() | vectors,
    ),
    min_size=1,
    max_size=3,
)
SHORT = {"tide": "tides", "tides": "tide"}  # too short to be found by their beginning
weights = st.sampled_from([HYBRID, VECTOR, WORDS, Weights(0.2, 0.7)])


def opened(blobs: Sequence[bytes]) -> list[Segment]:
    return [decode(f"segment-{number}", blob) for number, blob in enumerate(blobs)]


def shape(hits: Sequence[Hit]) -> list[tuple[str, int, float]]:
    return [(hit.source, hit.number, hit.score) for hit in hits]


# --- the same, whatever lies around -------------------------------------------------------------------------------


@quickly
@given(files(), queries, weights, st.integers(1, 50), st.data())
def test_a_result_does_not_depend_on_how_chunks_lie_in_segments(
    made: list[File], asked: list[Query], by: Weights, limit: int, data: st.DataObject
) -> None:
    """File by file as they came, with removed ones in between; merged in any order, once and again; built anew."""
    live = {file.source for file in made if data.draw(st.booleans())}
    blobs = [file.segment() for file in made]
    expected = shape(
        search(opened([file.segment() for file in made if file.source in live]), asked, live, limit, weights=by)
    )
    assert shape(search(opened(blobs), asked, live, limit, weights=by)) == expected
    while len(blobs) > 1:
        blobs = data.draw(st.permutations(blobs))
        taken = data.draw(st.integers(2, len(blobs)))
        still = live | {file.source for file in made if data.draw(st.booleans())}
        merged = merge(blobs[:taken], still)
        blobs = [*([merged] if merged else []), *blobs[taken:]]
        assert shape(search(opened(blobs), asked, live, limit, weights=by)) == expected


@quickly
@given(files(), queries, weights, st.data())
def test_what_is_not_eligible_is_never_found(
    made: list[File], asked: list[Query], by: Weights, data: st.DataObject
) -> None:
    eligible = {file.source for file in made if data.draw(st.booleans())}
    hits = search(opened([file.segment() for file in made]), asked, eligible, 50, weights=by)
    assert {hit.source for hit in hits} <= eligible


@pytest.mark.parametrize(("model", "dimensions"), [("another", 3), (MODEL, 2), ("", 0)])
def test_a_segment_of_another_model_is_searched_by_words_alone(model: str, dimensions: int) -> None:
    """Until it is embedded anew, its files can still be found."""
    made = File("file-1.1", ("tide", "moon"), ((1, 0, 0),) * 2).segment()
    chunks = [IndexedChunk("tide", 0), IndexedChunk("moon", 0)]
    other = build("file-2.1", chunks, np.ones((2, dimensions), np.float32), model)
    query = Query("tide", np.array([1, 0, 0], np.float32), MODEL)
    hits = search(opened([made, other]), [query], {"file-1.1", "file-2.1"}, 10)
    # Vectors put a quarter of the pairs in an order: those of the chunks of the one segment.
    by_vector = 0.25 * HYBRID.vector / (0.25 * HYBRID.vector + HYBRID.words)
    # Of equal words, the chunk without a vector is as near as those with one are on average: no farther.
    assert [(hit.source, hit.number) for hit in hits] == [("file-1.1", 0), ("file-2.1", 0), ("file-1.1", 1)]
    assert hits[2].score == pytest.approx(by_vector, abs=1e-3)
    assert hits[0].score == pytest.approx(hits[1].score, abs=1e-3)
    alone = search(opened([other]), [query], {"file-2.1"}, 10)
    by_words = search(opened([other]), [query], {"file-2.1"}, 10, weights=WORDS)
    assert shape(alone) == shape(by_words)


@quickly
@given(files(), queries, weights, st.integers(1, 50), st.data())
def test_a_store_of_words_that_gets_vectors_has_one_result_however_it_lies_in_segments(
    made: list[File], asked: list[Query], by: Weights, limit: int, data: st.DataObject
) -> None:
    with_vectors = {file.source for file in made if data.draw(st.booleans())}
    blobs = {file.source: file.segment(MODEL if file.source in with_vectors else "another") for file in made}
    live = {file.source for file in made if data.draw(st.booleans())}
    expected = shape(search(opened([blobs[each] for each in live]), asked, live, limit, weights=by))
    halves = [[blobs[file.source] for file in made if (file.source in with_vectors) is half] for half in (True, False)]
    merged = [one for half in halves if half and (one := merge(half, set(blobs)))]
    for segments in (list(blobs.values()), merged, merged[::-1]):
        assert shape(search(opened(segments), asked, live, limit, weights=by)) == expected


@pytest.mark.parametrize("by", [HYBRID, VECTOR, WORDS])
def test_a_query_without_words_or_without_a_vector_is_searched_by_the_other(by: Weights) -> None:
    segments = opened([File("file-1.1", ("tide", "moon"), ((1, 0, 0), (0, 1, 0))).segment()])
    for query in (Query("moon"), Query("?", np.array([0, 1, 0], np.float32), MODEL)):
        assert [hit.number for hit in search(segments, [query], {"file-1.1"}, 10, weights=by)] == [1]


# --- against a naive search ---------------------------------------------------------------------------------------


def naive(
    made: Sequence[File], asked: Sequence[Query], live: Collection[str], by: Weights
) -> dict[tuple[str, int], float]:
    """The score of every chunk, as the docstring of core.search.ranking has it."""
    chunks = {
        (file.source, number): (Counter(words(text)), vector)
        for file in made
        if file.source in live
        for number, (text, vector) in enumerate(zip(file.texts, file.vectors, strict=True))
    }
    mean = sum(found.total() for found, _ in chunks.values()) / max(1, len(chunks))

    def times(part: str, found: Counter[str]) -> int:
        """How often a word is said; or anything that begins with it, if it is as long as a beginning."""
        return sum(n for word, n in found.items() if word == part or (len(part) == BEGINNING and word[:5] == part))

    def idf(word: str, among: Callable[[str, Counter[str]], int]) -> float:
        having = sum(among(word, found) > 0 for found, _ in chunks.values())
        return math.log(1 + (len(chunks) - having + 0.5) / (having + 0.5)) * (among is times or (having > 0) / 2)

    def just(word: str, found: Counter[str]) -> int:
        return found[word]

    def score(query: Query, found: Counter[str], vector: tuple[float, ...]) -> float:
        wanted = {part for word in words(query.text) for part in (word, word[:BEGINNING])}
        length = math.hypot(*(query.vector if query.vector is not None else ()))
        if not length and not wanted:
            return 0
        by_vector, by_words = (by.vector, by.words) if length and wanted else (int(length > 0), int(len(wanted) > 0))
        cosine = 0.0
        if length and any(vector):
            cosine = sum(a * b for a, b in zip(query.vector, vector, strict=True)) / length / math.hypot(*vector)
        slow = K1 * (1 - B + B * found.total() / mean) if mean else 1
        others = {SHORT[word] for word in words(query.text) if word in SHORT} - set(words(query.text))
        terms = [(idf(word, times), times(word, found)) for word in wanted]
        terms += [(idf(word, just), just(word, found)) for word in others]
        bm25 = sum(worth * said * (K1 + 1) / (said + slow) for worth, said in terms)
        share = bm25 / sum(worth * (K1 + 1) for worth, _ in terms) if wanted else 0
        return (by_vector * max(0, cosine) + by_words * share) / (by_vector + by_words)

    return {place: max(score(query, *chunk) for query in asked) for place, chunk in chunks.items()}


@quickly
@given(files(), queries, weights, st.integers(1, 6), st.sampled_from([0, 0.3, 0.7]), st.data())
def test_a_search_equals_a_naive_one(
    made: list[File], asked: list[Query], by: Weights, limit: int, threshold: float, data: st.DataObject
) -> None:
    live = {file.source for file in made if data.draw(st.booleans())}
    scores = naive(made, asked, live, by)
    least = max(threshold, LEAST)
    assume(all(abs(score - least) > 1e-3 for score in scores.values()))  # vectors are rounded to float16
    hits = search(opened([file.segment() for file in made]), asked, live, limit, weights=by, threshold=threshold)
    passing = sorted((score for score in scores.values() if score >= least), reverse=True)
    assert [hit.score for hit in hits] == pytest.approx(passing[:limit], abs=1e-3)
    assert [hit.score for hit in hits] == [pytest.approx(scores[hit.source, hit.number], abs=1e-3) for hit in hits]
    assert shape(hits) == sorted(shape(hits), key=lambda hit: (-hit[2], hit[0], hit[1]))
    assert len({(hit.source, hit.number) for hit in hits}) == len(hits)
    assert all(0 <= hit.score <= 1 for hit in hits)


def test_of_equal_chunks_those_of_the_first_files_are_found() -> None:
    made = [File(f"file-{number:03}.1", ("tide",) * 3, ((1, 0, 0),) * 3) for number in range(100)]
    blobs = [file.segment() for file in made]
    everything = {file.source for file in made}
    for segments in (blobs, blobs[::-1], [merge(blobs[50:], everything) or b"", *blobs[:50]]):
        hits = search(opened(segments), [Query("tide", np.array([1, 0, 0], np.float32), MODEL)], everything, 4)
        assert [(hit.source, hit.number) for hit in hits] == [
            *(("file-000.1", number) for number in range(3)),
            ("file-001.1", 0),
        ]


def test_a_query_with_nothing_to_search_by_finds_nothing() -> None:
    segments = opened([File("file-1.1", ("tide",), ((1, 0, 0),)).segment()])
    for query in (Query(""), Query("?!"), Query("", np.zeros(3, np.float32), MODEL), Query("unheard of")):
        assert search(segments, [query], {"file-1.1"}, 10) == []
    assert search([], [Query("tide")], {"file-1.1"}, 10) == []


def test_a_query_as_long_as_a_book_reads_a_bounded_part_of_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rarest words count: the commonest are left out first."""
    monkeypatch.setattr("assistants_service.core.search.prepared_query.POSTINGS", 3)
    made = File("file-1.1", ("the tide", "the moon", "the sun", "the"), ((0, 0, 0),) * 4)
    hits = search(opened([made.segment()]), [Query("the tide")], {"file-1.1"}, 10)
    assert [hit.number for hit in hits] == [0]


# --- segments -----------------------------------------------------------------------------------------------------


@quickly
@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=20), st.integers(0, 2**32 - 1)), max_size=5))
def test_a_segment_gives_its_chunks_back(made: list[tuple[str, int]]) -> None:
    chunks = [IndexedChunk(*chunk) for chunk in made]
    blob = build("file-1.1", chunks, None, "")
    assert list(passages(blob)) == [("file-1.1", chunk) for chunk in chunks]
    segment = decode("segment", blob[: index_size(blob)])
    assert len(segment) == len(chunks)
    for number, chunk in enumerate(chunks):
        offset, length = segment.text(number)
        assert blob[offset : offset + length].decode() == chunk.text
        assert segment.source(number) == ("file-1.1", number)


SMALL = File("file-1.1", ("tide and moon", "Größe"), ((1, 2, 3), (0, 0, 1))).segment()


@quickly
@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
def test_a_segment_with_a_wrong_byte_is_damaged_wherever_it_is(place: int, wrong: int) -> None:
    blob = bytearray(SMALL)
    blob[place] ^= wrong
    with pytest.raises(DamagedSegment):
        list(passages(blob))
    if place < index_size(SMALL):
        with pytest.raises(DamagedSegment):
            decode("segment", blob)
    with pytest.raises(DamagedSegment):
        merge([SMALL, blob], {"file-1.1"})


@quickly
@given(st.integers(0, len(SMALL) - 1))
def test_a_segment_that_is_cut_off_is_damaged(length: int) -> None:
    with pytest.raises(DamagedSegment):
        list(passages(SMALL[:length]))
    if length < index_size(SMALL):
        with pytest.raises(DamagedSegment):
            decode("segment", SMALL[:length])


def test_vectors_must_fit_their_chunks() -> None:
    chunk = IndexedChunk("tide", 0)
    for wrong in (np.ones((2, 3), np.float32), np.ones(3, np.float32), np.full((1, 3), np.nan, np.float32)):
        with pytest.raises(ValueError, match="1 chunks need as many vectors"):
            build("file-1.1", [chunk], wrong, MODEL)
    with pytest.raises(ValueError, match="different models"):
        merge(
            [build(f"file-{model}.1", [chunk], np.ones((1, 3), np.float32), model) for model in "ab"],
            {"file-a.1", "file-b.1"},
        )


def test_merging_drops_what_is_not_live() -> None:
    made = [File(f"file-{number}.1", (f"text {number}",), ((1, 0, number),)) for number in range(4)]
    merged = merge([file.segment() for file in made], {"file-1.1", "file-3.1"})
    assert merged is not None
    assert [(source, chunk.text) for source, chunk in passages(merged)] == [
        ("file-1.1", "text 1"),
        ("file-3.1", "text 3"),
    ]
    assert b"text 0" not in merged
    assert merge([merged], set()) is None


def test_more_chunks_than_two_bytes_can_number() -> None:
    many = 2**16 + 10
    chunks = [IndexedChunk("rare" if number >= 2**16 else "common", 0) for number in range(many)]
    segment = decode("segment", build("file-1.1", chunks, None, ""))
    hits = search([segment], [Query("rare")], {"file-1.1"}, 50)
    assert [hit.number for hit in hits] == list(range(2**16, many))


# --- formats ------------------------------------------------------------------------------------------------------


@quickly
@given(files(), queries, weights, st.integers(1, 50), st.data())
def test_a_store_with_a_segment_of_old_is_searched_as_one_of_old_until_all_are_renewed(
    made: list[File], asked: list[Query], by: Weights, limit: int, data: st.DataObject
) -> None:
    """Only what is eligible counts: if that is of the newest format, so is the search."""
    live = {file.source for file in made if data.draw(st.booleans())}
    formats = {file.source: data.draw(st.sampled_from([WHOLE, BEGUN])) for file in made}
    oldest = min((formats[file.source] for file in made if file.source in live and file.texts), default=FORMAT)
    mixed = [file.of(formats[file.source]) for file in made]
    pure = opened([file.of(oldest) for file in made])
    assert shape(search(opened(mixed), asked, live, limit, weights=by)) == shape(
        search(pure, asked, live, limit, weights=by)
    )
    everything = {file.source for file in made}
    anew = merge([file.segment() for file in made], everything)
    assert merge(mixed, everything) == anew
    assert merge([anew] if anew else [], everything) == anew


def test_words_are_found_in_their_other_forms_where_an_index_has_beginnings() -> None:
    made = File("file-1.1", ("Die Versicherungen zahlen.", "Das Wetter bleibt schön."), ((0, 0, 0),) * 2)
    for blob, found in ((made.segment(), [0]), (made.of_words_alone(), [])):
        hits = search(opened([blob]), [Query("Was ist versichert?")], {"file-1.1"}, 10)
        assert [hit.number for hit in hits] == found


def test_the_same_word_counts_more_than_another_form_of_it() -> None:
    made = File("file-1.1", ("one household", "one houseboat", "one house"), ((0, 0, 0),) * 3)
    hits = search(opened([made.segment()]), [Query("household")], {"file-1.1"}, 10)
    assert [hit.number for hit in hits] == [0, 1, 2]
    assert hits[0].score > 1.5 * hits[1].score
    assert hits[1].score == hits[2].score


@pytest.mark.parametrize("pair", ["book books", "car cars", "use uses", "rue rues", "Tür Türs"])
def test_short_words_are_found_with_and_without_an_s(pair: str) -> None:
    one, other = pair.split()
    made = File("file-1.1", (f"a {one}", f"a {other}", "a ferry"), ((0, 0, 0),) * 3)
    whole = opened([made.of_words_alone()])
    for number, word in enumerate((one, other)):
        hits = search(opened([made.segment()]), [Query(word)], {"file-1.1"}, 10)
        assert [hit.number for hit in hits] == [number, 1 - number]
        assert hits[0].score > 1.5 * sum(hit.score for hit in hits[1:])
        assert [hit.number for hit in search(whole, [Query(word)], {"file-1.1"}, 10)] == [number]


def test_a_form_that_is_nowhere_has_no_influence() -> None:
    made = File("file-1.1", ("a book", "a ferry"), ((0, 0, 0),) * 2)
    (hit,) = search(opened([made.segment()]), [Query("book")], {"file-1.1"}, 10)
    (alone,) = search(opened([made.of_words_alone()]), [Query("book")], {"file-1.1"}, 10)
    assert hit.score == alone.score


@pytest.mark.parametrize("word", ["was", "his", "is", "as", "class", "bus", "bonus", "b2", "ferry", "日本"])
def test_what_only_looks_like_a_form_has_none(word: str) -> None:
    assert other_forms(word, FORMAT) == []


def test_a_beginning_is_no_word() -> None:
    assert index_terms(["the", "house", "houses"]) == ["the", "house", "house*", "houses", "house*"]
    made = File("file-1.1", ("houses",), ((0, 0, 0),))
    other = File("file-2.1", ("house",), ((0, 0, 0),))
    segments = opened([made.segment(), other.of_words_alone()])  # together, words alone are searched
    hits = search(segments, [Query("house")], {"file-1.1", "file-2.1"}, 10)
    assert [hit.source for hit in hits] == ["file-2.1"]


def test_segments_of_old_are_what_these_tests_make() -> None:
    """`segments/0.1.0` was written by that version: two files, what it merged of them, one without vectors."""
    blobs = {path.stem: path.read_bytes() for path in sorted((RECORDED / "0.1.0").iterdir())}
    for name in ("file-a.1", "file-b.2"):
        segment, held = decode(name, blobs[name]), list(passages(blobs[name]))
        with mock.patch.multiple("assistants_service.core.search.segment_writer", index_terms=list, FORMAT=WHOLE):
            made = decode(name, build(name, [chunk for _, chunk in held], segment.vectors, segment.model))
        assert made.format == segment.format == WHOLE
        assert all(map(np.array_equal, made.tables, segment.tables))
        assert np.array_equal(made.vectors, segment.vectors)
    assert (len(decode("merged.3", blobs["merged.3"])), len(decode("words.4", blobs["words.4"]))) == (5, 1)


@quickly
@given(files(), queries, weights, st.integers(1, 50))
def test_what_a_version_of_old_makes_of_new_segments_is_as_if_they_were_old(
    made: list[File], asked: list[Query], by: Weights, limit: int
) -> None:
    """It runs beside new ones while they are deployed, and after a return to it. It does not read the mark."""
    sources = {file.source for file in made}
    old = shape(search(opened([file.of_words_alone() for file in made]), asked, sources, limit, weights=by))
    new = [file.segment() for file in made]

    class OldHeader(msgspec.Struct, frozen=True, array_like=True):
        model: str
        dimensions: int
        sources: tuple[tuple[str, int], ...]
        terms: int
        postings: int
        size: int
        checks: tuple[int, int]
        format: ClassVar = WHOLE
        chunks, tables, sizes = Header.chunks, Header.tables, Header.sizes

    with mock.patch("assistants_service.core.search.segment.Header", OldHeader):
        assert shape(search(opened(new), asked, sources, limit, weights=by)) == old
    with mock.patch(
        "assistants_service.core.search.segment_writer.FORMAT", WHOLE
    ):  # what it merges, as far as its header goes
        unmarked = merge(new, sources)
    if unmarked:
        assert shape(search(opened([unmarked]), asked, sources, limit, weights=by)) == old
        assert merge([unmarked], sources) == merge(new, sources)


def test_segments_of_old_are_searched_and_renewed() -> None:
    paths = sorted((RECORDED / "0.1.0").iterdir())
    blobs = {path.stem: path.read_bytes() for path in paths if not path.stem.startswith("words")}
    sources = {"file-a.1", "file-b.2"}
    for names in (["file-a.1", "file-b.2"], ["merged.3"]):
        old = opened([blobs[name] for name in names])
        assert [hit.source for hit in search(old, [Query("Haus am Strand", None)], sources, 1)] == ["file-a.1"]
        assert search(old, [Query("Häuserzeile")], sources, 10) == []
        renewed = merge([blobs[name] for name in names], sources)
        assert renewed is not None
        assert decode("renewed", renewed).format == FORMAT
        assert list(passages(renewed)) == list(passages(blobs["merged.3"]))
        hits = search(opened([renewed]), [Query("Häuserzeile")], sources, 10)
        assert [(hit.source, hit.number) for hit in hits] == [("file-a.1", 2)]


# --- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Größe, GRÖSSE & grosse", ["grosse", "grosse", "grosse"]),
        ("L'élève naïf: çà et là", ["l", "eleve", "naif", "ca", "et", "la"]),
        ("read_file(x2) = 3.14", ["read", "file", "x2", "3", "14"]),
        ("Ёлка ещё й", ["елка", "еще", "и"]),
        ("שָׁלוֹם", ["שלום"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("東京都へ行く", ["東京", "京都", "都へ", "へ行", "行く"]),
        ("本", ["本"]),
        ("ガ が", ["ガ", "が"]),
        ("한국어로 쓴", ["한국", "국어", "어로", "쓴"]),
        ("ＡＢＣ ﬁn ①", ["abc", "fin", "1"]),
        ("iPhone15日本語", ["iphone15", "日本", "本語"]),
        ("  \n\t — … !", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert list(words(text)) == expected


@quickly
@given(st.text())
def test_words_do_not_depend_on_how_characters_are_composed(text: str) -> None:
    assert list(words(unicodedata.normalize("NFC", text))) == list(words(unicodedata.normalize("NFD", text)))


def test_words_are_numbered_alike_by_every_process() -> None:
    assert term_number("grosse") == 6794919140445573525
