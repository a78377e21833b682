"""Markers in answers, and the annotations that they become: wherever a stream is cut, whatever else is in the text."""

from __future__ import annotations

from itertools import pairwise

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from assistants_service.core.citations import Citations
from assistants_service.core.tools.file_search.citations import MarkerCiter, Sources
from assistants_service.core.tools.file_search.wire import FileCitation, FileSearchResult


def result(file_id: str, name: str) -> FileSearchResult:
    return FileSearchResult(file_id=file_id, file_name=name, score=0.5, attributes={})


RESULTS = {
    (4, 0): result("file-a", "a.txt"),
    (4, 1): result("file-b", "b 【1】.txt"),
    (7, 0): result("file-c", "c.txt"),
}

SOURCES = Sources(RESULTS, {"【2:0†a.txt】": "file-z"})


def annotated(text: str, sources: Sources) -> tuple[FileCitation, ...]:
    citer = MarkerCiter(sources)
    found = (annotation for _, annotation in [*citer.feed(text), *citer.close()])
    return tuple(each for each in found if isinstance(each, FileCitation))


def cited(text: str) -> list[tuple[str, str]]:
    """Of each annotation the text that it stands at, and the file."""
    found = annotated(text, SOURCES)
    assert all(each.text == text[each.start_index : each.end_index] for each in found)
    return [(each.text, each.file_citation.file_id) for each in found]


def test_an_annotation_is_as_recorded() -> None:
    sources = Sources({(4, 0): result("file-a", "favorite_foods.txt")})
    text = "Filip's favorite food is cake【4:0†favorite_foods.txt】."
    assert msgspec.to_builtins(annotated(text, sources)) == (
        {
            "type": "file_citation",
            "text": "【4:0†favorite_foods.txt】",
            "start_index": 29,
            "end_index": 53,
            "file_citation": {"file_id": "file-a"},
        },
    )


def test_offsets_count_code_points() -> None:
    (found,) = annotated("𝒞ake 🍰👩‍👩‍👧 é【4:0†a.txt】", SOURCES)
    assert (found.start_index, found.end_index) == (13, 24)


def test_markers_that_stand_side_by_side_or_are_repeated_are_citations_each() -> None:
    text = "Both【4:0†a.txt】【7:0†c.txt】 and again【4:0†a.txt】"
    assert cited(text) == [
        ("【4:0†a.txt】", "file-a"),
        ("【7:0†c.txt】", "file-c"),
        ("【4:0†a.txt】", "file-a"),
    ]


def test_what_the_model_makes_up_stays_text() -> None:
    assert cited("【4:2†a.txt】【5:0†a.txt】【4:0†c.txt】【4:0】【4†a.txt】【重要】【4:0†a.txt") == []


def test_what_an_earlier_answer_cited_may_be_cited_again_by_the_same_marker() -> None:
    assert cited("x【2:0†a.txt】 y【2:0†source】") == [("【2:0†a.txt】", "file-z")]


def test_a_name_that_is_shortened_is_the_result_that_the_numbers_say() -> None:
    assert cited("x【4:0†source】 y【7:0†L1-L3】") == [("【4:0†source】", "file-a"), ("【7:0†L1-L3】", "file-c")]


def test_a_name_with_the_marker_s_own_signs_can_be_cited() -> None:
    assert cited("x【4:1†b  1 .txt】") == [("【4:1†b  1 .txt】", "file-b")]


def test_a_marker_in_what_looks_like_one_is_found() -> None:
    assert cited("【4:0†【4:0†a.txt】 【【7:0†c.txt】") == [("【4:0†a.txt】", "file-a"), ("【7:0†c.txt】", "file-c")]


TEXTS = st.lists(
    st.sampled_from(
        [
            "【4:0†a.txt】",
            "【7:0†source】",
            "【9:9†a.txt】",
            "【4:",
            "0",
            "†",
            "】",
            "【",
            "4",
            ":",
            "a.txt",
            "\n",
            "𝒞",
            "x y",
        ]
    ),
    max_size=12,
).map("".join)


@given(TEXTS, st.data())
def test_a_stream_that_is_cut_anywhere_says_the_same_as_the_whole(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    citer = MarkerCiter(SOURCES)
    pieces = [piece for start, end in pairwise([0, *cuts, len(text)]) for piece in citer.feed(text[start:end])]
    pieces += citer.close()
    assert "".join(value for value, _ in pieces) == text
    assert tuple(each for _, each in pieces if each) == annotated(text, SOURCES)
    assert all(value == each.text for value, each in pieces if each)


def test_only_what_may_become_a_marker_is_held_back() -> None:
    citer = MarkerCiter(SOURCES)
    heard = [
        "".join(value for value, _ in citer.feed(piece))
        for piece in ("cake【", "4:", "0†a.", "txt】", "!【重", "【" + "x")
    ]
    assert heard == ["cake", "", "", "【4:0†a.txt】", "!【重", "【x"]


def test_where_nothing_was_found_nothing_is_held_back() -> None:
    assert list(MarkerCiter(Sources()).feed("a【")) == [("a【", None)]


@given(TEXTS, st.data())
def test_what_several_tools_cite_is_found_in_one_pass(text: str, data: st.DataObject) -> None:
    parts = [Sources({key: RESULTS[key] for key in keys}) for keys in ([(4, 0), (4, 1)], [(7, 0)])]
    citations = Citations([MarkerCiter(sources) for sources in parts])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [piece for start, end in pairwise([0, *cuts, len(text)]) for piece in citations.feed(text[start:end])]
    pieces += citations.close()
    assert "".join(value for value, _ in pieces) == text
    expected = [each for sources in parts for each in annotated(text, sources)]
    assert [each for _, each in pieces if each] == sorted(expected, key=lambda each: each.start_index)
