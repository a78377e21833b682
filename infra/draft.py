"""A model's reply while it is made: pieces go to `deltas` as they come, the whole comes out at the end."""

from __future__ import annotations

import secrets
import string

from core.ports import Deltas, Reply, Tokens, ToolCall

_ID_LETTERS = string.ascii_letters + string.digits


def new_call_id() -> str:
    """For providers that give their calls no id: tool outputs are matched to calls by it."""
    return "call_" + "".join(secrets.choice(_ID_LETTERS) for _ in range(24))


class Draft:
    def __init__(self, deltas: Deltas | None) -> None:
        self._deltas = deltas
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._calls: list[tuple[str, str, list[str]]] = []

    @property
    def empty(self) -> bool:
        return not (self._text or self._refusal or self._calls)

    def text(self, value: str) -> None:
        if value:
            self._text.append(value)
            if self._deltas is not None:
                self._deltas.text(value)

    def refusal(self, value: str) -> None:
        if value:
            self._refusal.append(value)
            if self._deltas is not None:
                self._deltas.refusal(value)

    def call(self, call_id: str, name: str, arguments: str = "") -> int:
        """Begin a function call; `arguments` are its first part, or all of them. Returns its index."""
        if not name:
            raise ValueError("the model called a function without a name")
        if not call_id or any(call_id == known for known, _, _ in self._calls):
            call_id = new_call_id()
        self._calls.append((call_id, name, [arguments]))
        index = len(self._calls) - 1
        if self._deltas is not None:
            self._deltas.call(index, call_id, name, arguments)
        return index

    def extend(self, index: int, arguments: str) -> None:
        """More arguments of a call. Id and name were told with its first fragment and are empty from here on."""
        if arguments:
            self._calls[index][2].append(arguments)
            if self._deltas is not None:
                self._deltas.call(index, "", "", arguments)

    def complete(self, index: int, arguments: str) -> None:
        """All arguments of a call, of which some or none have come in pieces. What listeners have seen stays."""
        so_far = "".join(self._calls[index][2])
        if arguments.startswith(so_far):
            self.extend(index, arguments[len(so_far) :])

    def reply(self, finish: str, tokens: Tokens) -> Reply:
        """The whole. `finish` is stop, length or content_filter; a stop with calls is `tool_calls`.

        Many servers finish with `stop` although they call a function, OpenAI's among them when the call was forced.
        """
        for index, (_, _, parts) in enumerate(self._calls):
            if finish == "stop" and not any(parts):
                self.extend(index, "{}")  # no arguments: the wire's clients parse them, so they have to be JSON
        calls = tuple(ToolCall(call_id, name, "".join(parts)) for call_id, name, parts in self._calls)
        finish = "tool_calls" if calls and finish == "stop" else finish
        return Reply("".join(self._text), "".join(self._refusal), calls, finish, tokens)
