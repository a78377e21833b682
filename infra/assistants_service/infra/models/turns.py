"""Changes a conversation into a form that every server accepts: no blank messages, and alternating users and
assistants.

* Anthropic and Bedrock refuse a message without content or with only spaces ("text content blocks must be non-empty",
  "must contain non-whitespace text", github.com/anthropics/claude-code/issues/23440), and vLLM an assistant's message
  with null content and no calls. The message stays in the thread, so every later run would fail. An assistant's is left
  out; a user's or a tool's is replaced by a note.
* The templates of Gemma and Mistral refuse two messages of one role in a row ("Conversation roles must alternate
  user/assistant/user/assistant/...", github.com/vllm-project/vllm/issues/6862), and so does Bedrock. A failed run that
  is followed by another message leaves two messages of the user. Anthropic's API joins such messages itself.

So neighbours are joined for every server: the service does not know a server's template, and joined texts mean the same
as two messages. What only some servers refuse is changed when they do, and general changes are remembered for the model
(providers): WORKAROUNDS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from assistants_service.core.ports.models import Image, ModelError, Prompt, Turn, TurnContent
from assistants_service.core.threads.turns import content_of

OPENING: Final = Turn("user", "(The assistant begins the conversation.)")
CLOSING: Final = Turn("user", "(Please continue.)")
BRIDGE: Final = Turn("assistant", "(No answer was given.)")
NO_IMAGE: Final = "(An image was here, which the model cannot be shown.)"
_BLANK: Final = {"user": "(This message is empty.)", "tool": "(no output)"}


@dataclass(frozen=True, slots=True)
class Workaround:
    """A change to the prompt for models that refuse it with such a text. `remembered`: whether the model needs it for
    all prompts, and not only for this one's content."""

    words: re.Pattern[str]
    apply: Callable[[Prompt], Prompt]
    remembered: bool = True


def workaround_for(prompt: Prompt, error: ModelError) -> Workaround | None:
    """The first change that applies to the prompt and may help."""
    if error.code != "server_error":
        return None
    matching = (workaround for workaround in WORKAROUNDS if workaround.words.search(error.message))
    return next((workaround for workaround in matching if workaround.apply(prompt) is not prompt), None)


def begin_with_user(prompt: Prompt) -> Prompt:
    """Adds a user message for the assistant to answer. Only where it is required: others accept a greeting at the
    start."""
    speaks_first = bool(prompt.turns) and prompt.turns[0].role == "assistant"
    return replace(prompt, turns=(OPENING, *prompt.turns)) if speaks_first else prompt


def end_with_user(prompt: Prompt) -> Prompt:
    """Adds a user message to a prompt that ends without one: most models continue, some require a question."""
    speaks_last = bool(prompt.turns) and prompt.turns[-1].role == "assistant"
    return replace(prompt, turns=(*prompt.turns, CLOSING)) if speaks_last else prompt


def bridge_tool_outputs(prompt: Prompt) -> Prompt:
    """Adds an answer between a tool's output and the next message, for example after a run that failed there."""
    turns: list[Turn] = []
    for turn in join_neighbours(prompt.turns):
        if turns and (turns[-1].role, turn.role) == ("tool", "user"):
            turns.append(BRIDGE)
        turns.append(turn)
    return replace(prompt, turns=tuple(turns)) if BRIDGE in turns else prompt


def replace_images(prompt: Prompt) -> Prompt:
    """Replaces each image with a note: one image must not make the thread unusable."""
    turns = tuple(_described(turn) if turn.images else turn for turn in prompt.turns)
    return replace(prompt, turns=turns) if turns != prompt.turns else prompt


def _described(turn: Turn) -> Turn:
    return replace(turn, content=content_of(NO_IMAGE if isinstance(part, Image) else part for part in turn.parts))


_WRONG: Final = (
    r"(?:invalid|unsupported|could ?n.t|could not|failed|unable|cannot|can.t|too (?:large|small|many|big)|exceed"
    r"|at most \d|not (?:support|valid)|error)"
)
WORKAROUNDS: Final = (
    # The conversation begins with an assistant message, for example a greeting: refused by Bedrock ("A conversation
    # must start with a user message"), Anthropic's models there ("first message must use the "user" role",
    # github.com/lobehub/lobehub/issues/1601), and the templates above.
    Workaround(
        re.compile(
            r"must start with a user|first message must|roles must alternate|must alternate between user and assistant",
            re.I,
        ),
        begin_with_user,
    ),
    # It ends with one: refused by Mistral ("Expected last role User or Tool (or Assistant with prefix True) for serving
    # but got assistant", github.com/huggingface/smolagents/issues/757), Anthropic's newer models ("This model does not
    # support assistant message prefill. The conversation must end with a user message.",
    # github.com/ericc-ch/copilot-api/pull/261), llama.cpp with a thinking model ("Assistant response prefill is
    # incompatible with enable_thinking.").
    Workaround(
        re.compile(r"expected last role user|must end with a user message|message prefill|response prefill", re.I),
        end_with_user,
    ),
    # Mistral (github.com/NousResearch/hermes-agent/issues/20154).
    Workaround(re.compile(r"unexpected role 'user' after role 'tool'", re.I), bridge_tool_outputs),
    # A model without image input: OpenRouter ("No endpoints found that support image input",
    # github.com/nexu-io/nexu/issues/875, a thread that failed permanently), Ollama ("this model does not support image
    # input", github.com/ollama/ollama/issues/17301), vLLM, llama.cpp, OpenAI, DeepSeek.
    Workaround(
        re.compile(
            r"support image input|image input is not supported|image_url is only supported by|at most 0 image"
            r"|not a multimodal model|unknown variant `image_url`|not support (images|vision)",
            re.I,
        ),
        replace_images,
    ),
    # A model that cannot process this image: too large, broken, missing.
    Workaround(
        re.compile(rf"{_WRONG}.{{0,80}}image|image.{{0,120}}{_WRONG}|while downloading", re.I | re.S),
        replace_images,
        remembered=False,
    ),
)


def join_neighbours(turns: Iterable[Turn]) -> list[Turn]:
    found: list[Turn] = []
    for turn in map(_without_blanks, turns):
        last = found[-1] if found else None
        if turn.role == "assistant" and not turn.content and not turn.calls:
            continue
        if last and last.role == turn.role != "tool" and not last.calls:
            found[-1] = replace(turn, content=_both(last, turn))
        else:
            found.append(turn)
    return [_filled(turn) for turn in found]


def _without_blanks(turn: Turn) -> Turn:
    """Texts of white space are dropped, also next to an image."""
    if all(isinstance(part, Image) or part.strip() for part in turn.parts):
        return turn
    return replace(turn, content=content_of(part for part in turn.parts if isinstance(part, Image) or part.strip()))


def _filled(turn: Turn) -> Turn:
    return replace(turn, content=_BLANK[turn.role]) if turn.role in _BLANK and not turn.parts else turn


def _both(first: Turn, second: Turn) -> TurnContent:
    """Joins the two as paragraphs."""
    if first.images or second.images:
        return content_of([*first.parts, *second.parts])
    return "\n\n".join(turn.text for turn in (first, second) if turn.text)
