"""Where an answer links a file of the thread's folder, `sandbox:/mnt/data/plot.png`, it gets a `file_path` annotation.

It covers the link alone, without the Markdown around it. A link to a file that is not there stays text. Models write
paths as they are, or escape them for URLs, each in its own way: all of `%28`, only `%20`, or what `encodeURI` escapes.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from heapq import merge
from operator import itemgetter
from os.path import commonprefix
from urllib.parse import unquote_to_bytes

from assistants_service.core.tools.code_interpreter.model_texts import LINK
from assistants_service.core.tools.code_interpreter.naming import users_files
from assistants_service.core.tools.code_interpreter.services import CodeServices
from assistants_service.core.tools.code_interpreter.wire import FilePath, LinkedFile
from assistants_service.core.tools.run_info import ThreadInfo
from assistants_service.core.tools.tool import AnswerPiece

_GOES_ON = re.compile(r"[\w/-]|\.\w")  # a longer path, to a file that is not there
_MORE = "."  # what may follow a link whose end is not certain yet
_PART = re.compile(r"%[0-9a-fA-F]{2}|%|[^%]+")
_CUT_ESCAPE = re.compile(r"%[0-9a-fA-F]?\Z")

_Found = tuple[int, str]  # a link: its length, and the id of its file


class _Names:
    """Names of files, in order, so that one is found among many in a few steps."""

    def __init__(self, ids: Mapping[str, str]) -> None:
        self.ids = ids
        self._sorted: Sequence[str] = sorted(ids)

    def beginnings(self, text: str) -> Iterator[str]:
        """The names with which this text begins, the longest first. Each is the last one that is not after the text, or
        after what the text and that one have in common."""
        while place := bisect_right(self._sorted, text):
            name = self._sorted[place - 1]
            if text.startswith(name):
                yield name
                text = name[:-1]
            else:
                text = commonprefix((name, text))  # noqa: RUF071 - of characters, not of folders

    def any_begins(self, text: str) -> bool:
        """Whether a name is this text, or begins with it."""
        place = bisect_left(self._sorted, text)
        return place < len(self._sorted) and self._sorted[place].startswith(text)


class LinkCiter:
    """Finds the links in a text that comes in pieces, wherever it is cut."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """`files` are the ids of those in the thread's folder, by their paths."""
        self._files = files
        self._pending = ""  # the end of the text, which may become a link
        self._place = 0  # code points that were given out

    @cached_property
    def _written(self) -> _Names:
        """The paths as they are. Most answers have no link, and there may be many files."""
        return _Names(self._files)

    @cached_property
    def _unquoted(self) -> _Names:
        """The paths, as `_unquote` returns them."""
        return _Names({_characters(_bytes(path)): file_id for path, file_id in self._files.items()})

    @cached_property
    def _longest(self) -> int:
        """The most characters of a link after its beginning: three for each byte."""
        return 3 * max(map(len, self._unquoted.ids), default=0)

    def feed(self, text: str) -> Iterator[AnswerPiece]:
        """The part whose links are certain. At most the beginning of one link is held back."""
        text, self._pending = self._pending + text, ""
        start = at = 0  # what was given out of `text`, and how far it is known
        while (at := text.find(LINK, at)) >= 0:
            rest = at + len(LINK)
            if len(text) - rest <= self._longest + 1 and self._is_open(text[rest:]):
                self._pending = text[at:]
                break
            if found := self._link(text, at):
                yield from self._plain(text[start:at])
                yield self._cited(text, at, found)
                start = at = at + found[0]
            else:
                at = rest
        if not self._pending:
            self._pending = _beginning(text[start:])
        yield from self._plain(text[start : len(text) - len(self._pending)])

    def close(self) -> Iterator[AnswerPiece]:
        """The rest."""
        rest, self._pending = self._pending, ""
        if rest.startswith(LINK) and (found := self._link(rest, 0)):
            yield self._cited(rest, 0, found)
            rest = rest[found[0] :]
        yield from self._plain(rest)

    def skip(self, text: str) -> None:
        """Pass over text that contains no link."""
        self._place += len(text)

    def _link(self, text: str, at: int) -> _Found | None:
        """The longest link at this place, if any. If two files have it, it is that of the path as it is."""
        rest = text[at + len(LINK) : at + len(LINK) + self._longest]
        links = merge(self._as_written(rest), self._escaped(rest), key=itemgetter(0), reverse=True)
        return next((link for link in links if not _GOES_ON.match(text, at + link[0])), None)

    def _as_written(self, text: str) -> Iterator[_Found]:
        for path in self._written.beginnings(text):
            yield len(LINK) + len(path), self._written.ids[path]

    def _escaped(self, text: str) -> Iterator[_Found]:
        for path in self._unquoted.beginnings(_unquote(text)):
            yield len(LINK) + _length(text, len(path)), self._unquoted.ids[path]

    def _is_open(self, text: str) -> bool:
        """Whether what follows decides if this text (after `LINK`) begins with a path, or with which one."""
        if self._written.any_begins(text) or self._unquoted.any_begins(_unquote(_CUT_ESCAPE.sub("", text))):
            return True
        path = text.removesuffix(_MORE)
        return path != text and (path in self._written.ids or _unquote(path) in self._unquoted.ids)

    def _plain(self, text: str) -> Iterator[AnswerPiece]:
        self._place += len(text)
        if text:
            yield text, None

    def _cited(self, text: str, at: int, found: _Found) -> AnswerPiece:
        length, file_id = found
        link = text[at : at + length]
        start, self._place = self._place, self._place + length
        linked = LinkedFile(file_id=file_id)
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


def _unquote(text: str) -> str:
    """The text without escapes, one character for each byte: an escape is of a byte, and cut text ends anywhere."""
    return _characters(unquote_to_bytes(_bytes(text)))


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _characters(data: bytes) -> str:
    return data.decode("latin-1")


def _length(text: str, size: int) -> int:
    """Of the beginning of the text that has this many bytes without escapes."""
    for part in _PART.finditer(text):
        data = unquote_to_bytes(_bytes(part[0]))
        if size <= len(data):
            return part.end() - len(data[size:].decode(errors="surrogatepass"))
        size -= len(data)
    return len(text)
