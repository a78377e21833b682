"""Where an answer links a file of the thread's folder, `sandbox:/mnt/data/plot.png`, it gets a `file_path` annotation.

It covers the link alone, without the Markdown around it. A link to a file that is not there stays text.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from os.path import commonprefix
from urllib.parse import quote

from assistants_service.core.tools.code_interpreter.model_texts import LINK
from assistants_service.core.tools.code_interpreter.naming import users_files
from assistants_service.core.tools.code_interpreter.services import CodeServices
from assistants_service.core.tools.code_interpreter.wire import FilePath, LinkedFile
from assistants_service.core.tools.run_info import ThreadInfo
from assistants_service.core.tools.tool import AnswerPiece

_GOES_ON = re.compile(r"[\w/-]|\.\w")  # a longer path, to a file that is not there
_MORE = "."  # what may follow a link whose end is not certain yet


class LinkCiter:
    """Finds the links in a text that comes in pieces, wherever it is cut."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """`files` are the ids of those in the thread's folder, by their paths."""
        self._files = files
        self._pending = ""  # the end of the text, which may become a link
        self._place = 0  # code points that were given out

    @cached_property
    def _ids(self) -> Mapping[str, str]:
        """The ids of the files, by their links. Most answers have no link, and there may be many files."""
        quoted = {LINK + quote(path): file_id for path, file_id in self._files.items()}
        return {**quoted, **{LINK + path: file_id for path, file_id in self._files.items()}}

    @cached_property
    def _links(self) -> Sequence[str]:
        """The links in order, so that one link is found among many in a few steps."""
        return sorted(self._ids)

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._links), default=0)

    def feed(self, text: str) -> Iterator[AnswerPiece]:
        """The part whose links are certain. At most the beginning of one link is held back."""
        text, self._pending = self._pending + text, ""
        start = at = 0  # what was given out of `text`, and how far it is known
        while (at := text.find(LINK, at)) >= 0:
            if len(text) - at <= self._longest + 1 and self._is_open(text[at:]):
                self._pending = text[at:]
                break
            if link := self._link(text, at):
                yield from self._plain(text[start:at])
                yield self._cited(link)
                start = at = at + len(link)
            else:
                at += len(LINK)
        if not self._pending:
            self._pending = _beginning(text[start:])
        yield from self._plain(text[start : len(text) - len(self._pending)])

    def close(self) -> Iterator[AnswerPiece]:
        """The rest."""
        rest, self._pending = self._pending, ""
        if rest.startswith(LINK) and (link := self._link(rest, 0)):
            yield self._cited(link)
            rest = rest[len(link) :]
        yield from self._plain(rest)

    def skip(self, text: str) -> None:
        """Pass over text that contains no link."""
        self._place += len(text)

    def _link(self, text: str, at: int) -> str | None:
        """The link at this place, if any."""
        links = self._beginnings(text[at : at + self._longest])
        return next((link for link in links if not _GOES_ON.match(text, at + len(link))), None)

    def _beginnings(self, text: str) -> Iterator[str]:
        """The links with which this text begins, the longest first. Each is the last one that is not after the text, or
        after what the text and that one have in common."""
        while place := bisect_right(self._links, text):
            link = self._links[place - 1]
            if text.startswith(link):
                yield link
                text = link[:-1]
            else:
                text = commonprefix((link, text))  # noqa: RUF071 - of characters, not of folders

    def _is_open(self, text: str) -> bool:
        """Whether the next text decides if this one begins with a link, or with which link."""
        place = bisect_left(self._links, text)
        longer = place < len(self._links) and self._links[place].startswith(text)
        return longer or (text.endswith(_MORE) and text.removesuffix(_MORE) in self._ids)

    def _plain(self, text: str) -> Iterator[AnswerPiece]:
        self._place += len(text)
        if text:
            yield text, None

    def _cited(self, link: str) -> AnswerPiece:
        start, self._place = self._place, self._place + len(link)
        linked = LinkedFile(file_id=self._ids[link])
        return link, FilePath(text=link, start_index=start, end_index=self._place, file_path=linked)


async def files_to_link(
    project: str, thread: ThreadInfo, given: Sequence[str], services: CodeServices
) -> dict[str, str]:
    """Ids of the files that an answer may link, by path: the thread's, and the user's (`given`) at paths to which no
    call has written and which none has removed. A link to a file that the user has deleted stays text."""
    shown = [file.file_id for file in thread.files.values() if file.file_id in thread.shown]
    there = await services.files.existing(project, [*shown, *given])
    users = await users_files(project, thread, given, services)
    own = {path: file_id for file_id, file in users.items() if file_id in there for path in file.paths}
    gone = {file_id for file_id in shown if file_id not in there}
    made = {path: file.file_id for path, file in thread.files.items() if file.file_id not in gone}
    return {**own, **made}


def _beginning(text: str) -> str:
    """The end of the text that may be the beginning of a link."""
    lengths = range(min(len(LINK) - 1, len(text)), 0, -1)
    return next((LINK[:length] for length in lengths if text.endswith(LINK[:length])), "")
