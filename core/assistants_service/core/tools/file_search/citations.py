"""Turns markers of search results in an answer into `file_citation` annotations.

A marker that matches no result stays in the text without an annotation: the model's text is never changed. Offsets
count code points, as recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from assistants_service.core.tools.file_search.passages import Place, numbered, plain_name
from assistants_service.core.tools.file_search.wire import CitedFile, FileCitation, FileSearchResult
from assistants_service.core.tools.run_info import StepInfo, ThreadInfo
from assistants_service.core.tools.tool import AnswerPiece

# File names have at most 255 characters. Text that cannot become a marker is not held back during streaming.
_MARKER = re.compile(r"【(\d{1,12}):(\d{1,9})†([^【】\n]{0,300})】")
_BEGUN = re.compile(r"【(?:\d{0,12}|\d{1,12}:\d{0,9}|\d{1,12}:\d{1,9}†[^【】\n]{0,300})")

_RECENT = 100  # messages of the thread whose citations may be repeated


@dataclass(frozen=True, slots=True)
class Sources:
    """What an answer may cite, by marker: results of its run, and citations of earlier answers in the thread."""

    results: Mapping[Place, FileSearchResult] = field(default_factory=dict)
    earlier: Mapping[str, str] = field(default_factory=dict)  # from a marker to a file's id

    def __bool__(self) -> bool:
        return bool(self.results or self.earlier)


def sources_of(thread: ThreadInfo, steps: Iterable[StepInfo]) -> Sources:
    """`steps` are those whose results are in the model's prompt."""
    cited = (each for each in thread.annotations(_RECENT) if isinstance(each, FileCitation))
    return Sources(
        {place: result for step in steps for _, found in numbered(step.calls) for place, result in found},
        {each.text: each.file_citation.file_id for each in cited},
    )


class MarkerCiter:
    """Finds the markers in a text that comes in pieces, wherever it is cut."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._names = {plain_name(result.file_name) for result in sources.results.values()}
        self._pending = ""  # may become a marker
        self._place = 0  # code points returned so far

    def feed(self, text: str) -> Iterator[AnswerPiece]:
        """Returns what is certain by now. At most the beginning of one marker is held back."""
        if not self._sources:
            yield from self._plain(text)
            return
        text, self._pending = self._pending + text, ""
        start = at = 0  # how much of `text` was returned, and how far it was examined
        while (at := text.find("【", at)) >= 0:
            if found := _MARKER.match(text, at):
                if annotation := self._annotation(found, self._place + at - start):
                    yield from self._plain(text[start:at])
                    self._place += len(found[0])
                    yield found[0], annotation
                    start = found.end()
                at = found.end()
            elif _BEGUN.fullmatch(text, at):
                self._pending = text[at:]
                break
            else:
                at += 1
        yield from self._plain(text[start : len(text) - len(self._pending)])

    def close(self) -> Iterator[AnswerPiece]:
        """The rest."""
        pending, self._pending = self._pending, ""
        yield from self._plain(pending)

    def skip(self, text: str) -> None:
        """Pass over text that contains no marker."""
        self._place += len(text)

    def _plain(self, text: str) -> Iterator[AnswerPiece]:
        self._place += len(text)
        if text:
            yield text, None

    def _annotation(self, found: re.Match[str], start: int) -> FileCitation | None:
        """Models shorten file names, or write `source`: the numbers count, unless the name is that of another
        result."""
        file_id, result = self._sources.earlier.get(found[0]), self._sources.results.get((int(found[1]), int(found[2])))
        if result and (found[3] not in self._names or found[3] == plain_name(result.file_name)):
            file_id = result.file_id
        if file_id is None:
            return None
        return FileCitation(
            text=found[0],
            start_index=start,
            end_index=start + len(found[0]),
            file_citation=CitedFile(file_id=file_id),
        )
