"""Makes pieces of a provider's reply storable, and adds them to the reply's deltas as they arrive."""

from __future__ import annotations

import secrets
import string
from typing import Final

from assistants_service.core.ports.models import Deltas, Reply, Tokens

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
    """An id for a call of a provider that gives it none: tool outputs are matched to calls by it. Nine letters and
    digits, which Mistral's models require and all others accept (github.com/HKUDS/nanobot/pull/1293)."""
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(9))


class Characters:
    """Makes whole characters of pieces of a text, of which one may end with the first half of a surrogate pair, and the
    next begin with the second. A half without the other is not a character: it cannot be stored, and U+FFFD replaces
    it."""

    def __init__(self) -> None:
        self._half = ""

    def of(self, value: str) -> str:
        """Returns what can be sent of it now."""
        if value.isascii() and not self._half:
            return value
        value, self._half = self._half + value, ""
        if value[-1:] and "\ud800" <= value[-1] <= "\udbff":
            value, self._half = value[:-1], value[-1]
        return clean(value)

    def end(self) -> str:
        half, self._half = self._half, ""
        return "\ufffd" if half else ""


def clean(text: str) -> str:
    """Combines surrogate pairs into characters, and replaces halves with U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class ReplyBuilder:
    """Adds a provider's pieces to `deltas`, or to its own if there is no listener: with whole characters, calls that
    have an id, and at most `most` bytes. Raises TooMuch beyond that. `done` is whether the server has marked the end of
    its stream.

    `withhold`: the reply must call a function, and text waits for the call. If there is none, the provider has ignored
    the forced function, and is asked in another way.
    """

    done = False

    def __init__(self, deltas: Deltas | None, most: int = MOST, *, withhold: bool = False) -> None:
        self._waiting = deltas if withhold else None
        self._deltas = Deltas() if deltas is None or withhold else deltas
        self._left = self._left_before = most
        self._silent = self._silent_events = 0
        self._text, self._refusal = Characters(), Characters()
        self._arguments: list[Characters] = []  # of each call

    @property
    def calls(self) -> list[str]:
        """The ids of the calls."""
        return [call.id for call in self._deltas.calls]

    @property
    def empty(self) -> bool:
        return not (self._deltas.speaks or self._deltas.calls)

    def text(self, value: str) -> None:
        self._weigh(value)
        self._add_text(self._text.of(value))

    def refusal(self, value: str) -> None:
        self._weigh(value)
        self._add_refusal(self._refusal.of(value))

    def call(self, call_id: str, name: str, arguments: str = "") -> int:
        """Begin a function call; `arguments` are their first part, or all of them. Returns its index."""
        if not name:
            raise ValueError("the model called a function without a name")
        if not call_id or call_id in self.calls:
            call_id = new_call_id()
        self._weigh(call_id + name + arguments)
        self.release()
        self._arguments.append(characters := Characters())
        return self._deltas.call(clean(call_id), clean(name), characters.of(arguments))

    def extend(self, index: int, arguments: str) -> None:
        """Add arguments to a call."""
        self._weigh(arguments)
        self._add_arguments(index, self._arguments[index].of(arguments))

    def complete(self, index: int, arguments: str) -> None:
        """All arguments of a call, of which some or none have arrived in pieces. What listeners have seen stays."""
        so_far = self._deltas.calls[index].so_far.arguments
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
        self._add_text(self._text.end())
        self._add_refusal(self._refusal.end())
        for index, (call, characters) in enumerate(zip(self._deltas.calls, self._arguments, strict=True)):
            self._add_arguments(index, characters.end())
            if finish == "stop" and not call.arguments:
                self.extend(index, "{}")  # no arguments: clients parse them, so they must be JSON
        return self._deltas.reply("tool_calls" if finish == "stop" and self._deltas.calls else finish, tokens)

    def release(self) -> None:
        """Let the listener have what was withheld."""
        if self._waiting is not None:
            self._waiting.take(self._deltas)
            self._deltas, self._waiting = self._waiting, None

    def _weigh(self, value: str) -> None:
        self._left -= len(value) if value.isascii() else len(value.encode(errors="surrogatepass"))
        if self._left < 0:
            raise TooMuch

    def _add_text(self, value: str) -> None:
        if value:
            self._deltas.text(value)

    def _add_refusal(self, value: str) -> None:
        if value:
            self._deltas.refusal(value)

    def _add_arguments(self, index: int, value: str) -> None:
        if value:
            self._deltas.extend(index, value)
