"""The conversation as every server takes it: no assistant message is empty, and users and assistants take turns.

* Anthropic and Bedrock refuse a message without content, and one of spaces alone ("text content blocks must be
  non-empty"), vLLM one whose content is null without calls. It stays in the thread, so every later run would fail.
* The templates of Gemma and Mistral refuse two messages of one role in a row ("Conversation roles must alternate
  user/assistant/user/assistant/...", github.com/vllm-project/vllm/issues/6862), and so does Bedrock. A failed run that
  is followed by another message leaves two of the user. Anthropic's API joins such messages by itself.

So neighbours are joined for every server: a server's template cannot be told from here, and one text after the other
says the same as two messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from core.ports import Content, ModelError, Prompt, Turn
from core.turns import content_of

# How it is refused that an assistant speaks first, as in a thread that begins with a greeting: Bedrock ("A conversation
# must start with a user message"), Anthropic's models there ("first message must use the "user" role",
# github.com/anthropics/anthropic-sdk-typescript/issues/622), and the templates above.
_NO_QUESTION: Final = re.compile(
    r"must start with a user|first message must|roles must alternate|must alternate between user and assistant", re.I
)
OPENING: Final = Turn("user", "(The assistant begins the conversation.)")


def lacks_a_question(prompt: Prompt, error: ModelError) -> bool:
    """Whether the prompt was refused since an assistant speaks first."""
    return bool(prompt.turns) and prompt.turns[0].role == "assistant" and bool(_NO_QUESTION.search(error.message))


def opened(prompt: Prompt) -> Prompt:
    """With something for the assistant to answer. Only where it has to be: others take greetings for what they are."""
    speaks_first = bool(prompt.turns) and prompt.turns[0].role == "assistant"
    return replace(prompt, turns=(OPENING, *prompt.turns)) if speaks_first else prompt


def joined(turns: Iterable[Turn]) -> list[Turn]:
    found: list[Turn] = []
    for turn in map(_without_blanks, turns):
        last = found[-1] if found else None
        if turn.role == "assistant" and not turn.content and not turn.calls:
            continue
        if last and last.role == turn.role != "tool" and not last.calls:
            found[-1] = replace(turn, content=_both(last, turn))
        else:
            found.append(turn)
    return found


def _without_blanks(turn: Turn) -> Turn:
    """An assistant's text that consists of white space is none; what a user said stays as it is."""
    return replace(turn, content="") if turn.role == "assistant" and not turn.text.strip() else turn


def _both(first: Turn, second: Turn) -> Content:
    """A paragraph each."""
    if first.images or second.images:
        return content_of([*first.parts, *second.parts])
    return "\n\n".join(turn.text for turn in (first, second) if turn.text)
