"""Builds a model's reply: fragments go to `deltas` as they arrive, the whole reply is returned at the end."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable
from typing import Final

from assistants_service.core.ports.models import Deltas, Reply, Tokens, ToolCall

_ID_LETTERS: Final = string.ascii_letters + string.digits
MOST: Final = 4 * 1024 * 1024 - 64 * 1024  # bytes of all texts and arguments, so that they fit into a commit


# Content that adds nothing to the answer: reasoning and empty events. 128,000 tokens of reasoning fit into it.
MOST_SILENT: Final = 64 * 1024 * 1024  # bytes of events
MOST_SILENT_EVENTS: Final = 250_000


class TooMuch(Exception):
    """The answer is too long to be stored, so the rest is not read."""


class TooSilent(TooMuch):
    """A stream contains only reasoning or empty events, and no answer."""


def new_call_id() -> str:
    """For providers that give their calls no id: tool outputs are matched to calls by it. Nine letters and digits,
    which Mistral's models require and all others accept (github.com/HKUDS/nanobot/pull/1293)."""
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(9))


class Pieces:
    """A text in pieces, of which one may end with the first half of a surrogate pair, and the next begin with the
    second. A half without the other is not a character: it cannot be stored, and U+FFFD replaces it."""

    def __init__(self) -> None:
        self.whole: list[str] = []
        self._half = ""

    def add(self, value: str) -> str:
        """Returns what can be sent of it now."""
        value, self._half = self._half + value, ""
        if value[-1:] and "\ud800" <= value[-1] <= "\udbff":
            value, self._half = value[:-1], value[-1]
        return self._keep(clean(value))

    def end(self) -> str:
        half, self._half = self._half, ""
        return self._keep("\ufffd" if half else "")

    def _keep(self, value: str) -> str:
        if value:
            self.whole.append(value)
        return value

    def __bool__(self) -> bool:
        return bool(self.whole)

    def __str__(self) -> str:
        return "".join(self.whole)


def clean(text: str) -> str:
    """Combines surrogate pairs into characters, and replaces halves with U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class WithheldDeltas:
    """Deltas of a reply that must call a function. Text before the call is held back: if there is no call, the provider
    has ignored the forced function, and is asked in another way."""

    def __init__(self, deltas: Deltas) -> None:
        self._deltas = deltas
        self._waiting: list[tuple[Callable[[str], None], str]] = []
        self._released = False

    def text(self, value: str) -> None:
        self._pass_on(self._deltas.text, value)

    def refusal(self, value: str) -> None:
        self._pass_on(self._deltas.refusal, value)

    def call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        self.release()
        self._deltas.call(index, call_id, name, arguments)

    def restart(self) -> bool:
        self._waiting = []
        return self._deltas.restart()

    def release(self) -> None:
        waiting, self._waiting, self._released = self._waiting, [], True
        for pass_on, value in waiting:
            pass_on(value)

    def _pass_on(self, pass_on: Callable[[str], None], value: str) -> None:
        if self._released:
            pass_on(value)
        else:
            self._waiting.append((pass_on, value))


class ReplyBuilder:
    """`most` is in bytes. Raises TooMuch beyond that. `done` is whether the server has marked the end of its stream."""

    done = False

    def __init__(self, deltas: Deltas | None, most: int = MOST) -> None:
        self._deltas, self._left = deltas, most
        self._left_before, self._silent, self._silent_events = most, 0, 0
        self._text, self._refusal = Pieces(), Pieces()
        self._calls: list[tuple[str, str, Pieces]] = []

    @property
    def calls(self) -> list[str]:
        """Their ids."""
        return [call_id for call_id, _, _ in self._calls]

    @property
    def empty(self) -> bool:
        return not (self._text or self._refusal or self._calls)

    def text(self, value: str) -> None:
        self._weigh(value)
        self._send_text(self._text.add(value))

    def refusal(self, value: str) -> None:
        self._weigh(value)
        self._send_refusal(self._refusal.add(value))

    def call(self, call_id: str, name: str, arguments: str = "") -> int:
        """Begin a function call; `arguments` are their first part, or all of them. Returns its index."""
        if not name:
            raise ValueError("the model called a function without a name")
        if not call_id or any(call_id == known for known, _, _ in self._calls):
            call_id = new_call_id()
        self._weigh(call_id + name + arguments)
        call_id, name, pieces = clean(call_id), clean(name), Pieces()
        self._calls.append((call_id, name, pieces))
        index = len(self._calls) - 1
        if self._deltas is not None:
            self._deltas.call(index, call_id, name, pieces.add(arguments))
        else:
            pieces.add(arguments)
        return index

    def extend(self, index: int, arguments: str) -> None:
        """Add arguments to a call. Id and name were sent with its first fragment and are empty from here on."""
        self._weigh(arguments)
        self._send_arguments(index, self._calls[index][2].add(arguments))

    def complete(self, index: int, arguments: str) -> None:
        """All arguments of a call, of which some or none have arrived in pieces. What listeners have seen stays."""
        so_far = str(self._calls[index][2])
        if arguments.startswith(so_far):
            self.extend(index, arguments[len(so_far) :])

    def event(self, size: int) -> None:
        """Call this after each event of a stream, with its size. Raises TooSilent after too many that added nothing."""
        if self._left < self._left_before:
            self._left_before = self._left
            return
        self._silent += size
        self._silent_events += 1
        if self._silent > MOST_SILENT or self._silent_events > MOST_SILENT_EVENTS:
            raise TooSilent

    def reply(self, finish: str, tokens: Tokens) -> Reply:
        """The whole reply. `finish` is stop, length or content_filter; a stop with calls becomes `tool_calls`.

        Many servers finish with `stop` although they call a function, and so does OpenAI if the call was forced.
        """
        self._send_text(self._text.end())
        self._send_refusal(self._refusal.end())
        for index, (_, _, pieces) in enumerate(self._calls):
            self._send_arguments(index, pieces.end())
            if finish == "stop" and not pieces:
                self.extend(index, "{}")  # no arguments: clients parse them, so they must be JSON
        calls = tuple(ToolCall(call_id, name, str(pieces)) for call_id, name, pieces in self._calls)
        finish = "tool_calls" if calls and finish == "stop" else finish
        return Reply(str(self._text), str(self._refusal), calls, finish, tokens)

    def _weigh(self, value: str) -> None:
        self._left -= len(value.encode(errors="surrogatepass"))
        if self._left < 0:
            raise TooMuch

    def _send_text(self, value: str) -> None:
        if value and self._deltas is not None:
            self._deltas.text(value)

    def _send_refusal(self, value: str) -> None:
        if value and self._deltas is not None:
            self._deltas.refusal(value)

    def _send_arguments(self, index: int, value: str) -> None:
        if value and self._deltas is not None:
            self._deltas.call(index, "", "", value)
