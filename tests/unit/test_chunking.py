"""Chunks: of at most so many tokens, overlapping as asked, with every token in one of them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from assistants_service.core.chunking import spans
from assistants_service.core.ports.extraction import Chunking
from assistants_service.infra.extraction.tokens import encoding, token_bounds

WORDS = st.sampled_from(
    ["tide", " turns", "\n\n", "\n", ". ", "! ", " Größe", " 港口", "😀", "👩‍👩‍👧", "1908", " ", "\t", "é", "{};"]
)
TEXTS = st.one_of(st.text(min_size=1), st.lists(WORDS, min_size=1, max_size=500).map("".join))
CHUNKINGS = st.integers(100, 200).flatmap(lambda size: st.builds(Chunking, st.just(size), st.integers(0, size // 2)))


def pieces(text: str, chunking: Chunking) -> list[tuple[int, int]]:
    return list(spans(text, token_bounds(text), chunking))


@given(TEXTS, CHUNKINGS)
@settings(max_examples=60, deadline=None)
def test_chunks_keep_their_promises(text: str, chunking: Chunking) -> None:
    places, found = token_bounds(text), pieces(text, chunking)
    assert found[0][0] == 0
    assert found[-1][1] == len(places) - 1 == len(encoding().encode_ordinary(text))
    for first, end in found:
        assert 0 < end - first <= chunking.size
        assert end == len(places) - 1 or end - first >= chunking.size - chunking.size // 8
    slack = max(chunking.overlap // 8, 3)
    for (first, end), (after, end_after) in pairwise(found):
        assert first < after <= end < end_after
        assert chunking.overlap - slack <= end - after <= chunking.overlap


@given(TEXTS, CHUNKINGS)
@settings(max_examples=60, deadline=None)
def test_the_text_can_be_put_together_of_its_chunks_and_no_chunk_tears_a_letter(text: str, chunking: Chunking) -> None:
    places, whole = token_bounds(text), ""
    for first, end in pieces(text, chunking):
        assert places[first] <= len(whole)
        whole = whole[: places[first]] + text[places[first] : places[end]]
    assert whole == text


@given(TEXTS)
@settings(max_examples=60, deadline=None)
def test_tokens_are_found_where_they_are_in_the_text(text: str) -> None:
    tokens, data = encoding().encode_ordinary(text), text.encode()
    ends = [len(encoding().decode_bytes(tokens[:count])) for count in range(0, len(tokens) + 1, 7)]
    assert [token_bounds(text)[count] for count in range(0, len(tokens) + 1, 7)] == [
        len(data[:end].decode(errors="ignore")) for end in ends
    ]


@given(TEXTS, CHUNKINGS)
@settings(max_examples=60, deadline=None)
def test_a_chunk_on_its_own_has_no_more_tokens_than_promised(text: str, chunking: Chunking) -> None:
    places = token_bounds(text)
    for first, end in pieces(text, chunking):
        assert len(encoding().encode_ordinary(text[places[first] : places[end]])) <= chunking.size


def test_cuts_prefer_paragraphs_to_lines_to_sentences_to_words() -> None:
    sentence = "The ferry leaves at noon and comes back at four."
    for separator in ("\n\n", "\n", " "):
        text = separator.join([sentence] * 60)
        places = token_bounds(text)
        chunks = [text[places[first] : places[end]] for first, end in pieces(text, Chunking(200, 100))]
        assert len(chunks) > 5
        assert all(chunk.rstrip().endswith("four.") for chunk in chunks)
        assert all(chunk.lstrip().startswith("The ferry") for chunk in chunks)
    paragraphs = "\n\n".join("\n".join([sentence] * 4) for _ in range(30))
    places = token_bounds(paragraphs)
    cut = [paragraphs[: places[end]] for _, end in pieces(paragraphs, Chunking(400, 0))[:-1]]
    assert all(text.endswith("\n\n") for text in cut)


def test_the_tokens_are_those_of_openai() -> None:
    """As tiktoken's own tests and the published cookbook have them."""
    assert encoding().encode_ordinary("tiktoken is great!") == [83, 1609, 5963, 374, 2294, 0]
    assert encoding().encode_ordinary("hello world") == [15339, 1917]
    assert len(encoding().encode_ordinary("antidisestablishmentarianism")) == 6
    assert len(encoding().encode_ordinary("お誕生日おめでとう")) == 9
