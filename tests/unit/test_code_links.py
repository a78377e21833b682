"""Links to files of the thread's folder, in answers that are cut anywhere."""

from __future__ import annotations

import itertools
import re
import sys
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistants_service.core.citations import Citations
from assistants_service.core.tools.code_interpreter.links import LinkCiter
from assistants_service.core.tools.file_search.citations import MarkerCiter, Sources
from assistants_service.core.tools.file_search.wire import FileSearchResult

PATHS = ("plot.png", "plot.png.zip", "a b (1).csv", "out/größe.csv", "plot")
FILES = {path: f"file-{place}" for place, path in enumerate(PATHS)}
L = "sandbox:/mnt/data/"


def cited(*pieces: str, files: dict[str, str] = FILES) -> tuple[str, list[tuple[str, str]]]:
    """The text that came out, and its links with the files that they are of."""
    citer = LinkCiter(files)
    out = [*itertools.chain.from_iterable(map(citer.feed, pieces)), *citer.close()]
    text, links = "".join(piece for piece, _ in out), [annotation for _, annotation in out if annotation]
    for each in links:
        assert text[each.start_index : each.end_index] == each.text
    return text, [(each.text.removeprefix(L), each.attached or "") for each in links]


ANSWERS = [
    (f"😀 Here: [plot]({L}plot.png).", [("plot.png", "file-0")]),
    (f"{L}plot.png", [("plot.png", "file-0")]),
    (f"{L}plot.png.", [("plot.png", "file-0")]),
    (f"{L}plot.png. And {L}plot, too.", [("plot.png", "file-0"), ("plot", "file-4")]),
    (f"[a]({L}plot.png.zip)[b]({L}plot.png)", [("plot.png.zip", "file-1"), ("plot.png", "file-0")]),
    (
        f"[t]({L}a b (1).csv) [t]({L}a%20b%20%281%29.csv)",
        [("a b (1).csv", "file-2"), ("a%20b%20%281%29.csv", "file-2")],
    ),
    (
        f"[e]({L}a%20b%20(1).csv) [s]({L}a%20b (1).csv) [l]({L}out/gr%c3%B6ße.csv), {L}plo%74.",
        [
            ("a%20b%20(1).csv", "file-2"),
            ("a%20b (1).csv", "file-2"),
            ("out/gr%c3%B6ße.csv", "file-3"),
            ("plo%74", "file-4"),
        ],
    ),
    (f"[no]({L}a%20b%20%281.csv) ({L}plot%2) ({L}out%2Fgr%C3) {L}plot%2E", [("plot", "file-4"), ("plot", "file-4")]),
    (f"`{L}out/größe.csv`", [("out/größe.csv", "file-3")]),
    (f"[no]({L}plot.pngx) ({L}plot.png.z) ({L}out/plot.png) {L}Plot {L}plot/x {L}plot-2 {L}", []),
    (f"sandbox:/mnt/dat{L}plot!", [("plot", "file-4")]),
    (f"sandbox: sandbox:/mnt/ {L}{L}plot", [("plot", "file-4")]),
    (f"{L}plot.pn", []),
    ("No link, but a sandbox:/mnt/data", []),
]


@pytest.mark.parametrize(("answer", "links"), ANSWERS)
def test_links_are_found_wherever_an_answer_is_cut(answer: str, links: list[tuple[str, str]]) -> None:
    assert cited(answer) == (answer, links)
    assert cited(*answer) == (answer, links)
    for cut in range(len(answer)):
        assert cited(answer[:cut], answer[cut:]) == (answer, links), f"cut at {cut}"


def test_what_is_no_link_is_not_held_back() -> None:
    citer = LinkCiter(FILES)
    assert "".join(piece for piece, _ in citer.feed(f"See {L}plot.pngx and s")) == f"See {L}plot.pngx and "
    assert "".join(piece for piece, _ in citer.feed("o")) == "so"


def test_another_tools_citation_moves_the_offsets() -> None:
    citer = LinkCiter(FILES)
    citer.skip("【4:0†a】")
    ((_, annotation),) = [piece for piece in [*citer.feed(f"{L}plot.png "), *citer.close()] if piece[1]]
    assert annotation and annotation.start_index == len("【4:0†a】")


def test_links_and_markers_in_one_answer() -> None:
    result = FileSearchResult(file_id="file-s", file_name="a.txt", score=1.0, attributes={})
    answer = f"As 【4:0†a.txt】 says: {L}plot.png【4:0†a.txt】 and [it]({L}plot)."
    for cut in range(len(answer)):
        citers = Citations([LinkCiter(FILES), MarkerCiter(Sources({(4, 0): result}))])
        out = [*citers.feed(answer[:cut]), *citers.feed(answer[cut:]), *citers.close()]
        assert "".join(piece for piece, _ in out) == answer
        found = [annotation for _, annotation in out if annotation]
        assert [answer[each.start_index : each.end_index] for each in found] == [each.text for each in found]
        assert [each.attached for each in found] == [None, "file-0", None, "file-4"], f"cut at {cut}"


def test_a_link_is_found_among_many_files_in_a_few_steps() -> None:
    """Answers may have thousands of links, and threads as many files: the worker does nothing else meanwhile."""

    def steps(number: int) -> int:
        files = {f"out/report_{place}.csv": f"file-{place}" for place in range(number)}
        text = "".join(
            f"[a]({L}out/report_{place * 7 % 100}.csv) [b]({L}out/report_x{place}.csv)\n" for place in range(20)
        )
        citer, called = LinkCiter(files), list[str]()
        assert len(list(citer.feed(f"{L}out/report_1.csv "))) == 2
        sys.setprofile(lambda frame, event, function: called.append(event))
        try:
            found = [annotation for _, annotation in citer.feed(text) if annotation]
        finally:
            sys.setprofile(None)
        assert len(found) == 20
        return len(called)

    assert steps(3000) < 2 * steps(100)


@given(
    st.sets(st.text("a. é%2", min_size=1, max_size=3), min_size=1, max_size=12),
    st.lists(
        st.sampled_from([L, f"{L}a", f"{L}%61", f"{L} ", f"{L}é", "a", ".", "-", " ", "é", "2", "%"])
        | st.sampled_from(["%20", "%61", "%25", "%2e", "%C3%A9", "%c3"]),
        max_size=12,
    ),
)
def test_the_longest_link_counts_wherever_it_is_cut(paths: set[str], pieces: list[str]) -> None:
    """As a search of all links for each place finds them."""
    files, answer = {path: f"file-{path}" for path in paths}, "".join(pieces)
    expected, at = [], 0
    while (at := answer.find(L, at)) >= 0:
        at += len(L)
        ends = [end for end in range(len(answer), at, -1) if not re.match(r"[\w/-]|\.\w", answer[end:])]
        there = ((answer[at:end], path) for end in ends for path in (answer[at:end], unquote(answer[at:end])))
        found = next(((link, f"file-{path}") for link, path in there if path in paths), None)
        expected += [found] if found else []
        at += len(found[0]) if found else 0
    for cut in (pieces, [answer], list(answer)):
        text, cited_links = cited(*cut, files=files)
        assert text == answer
        assert cited_links == expected
