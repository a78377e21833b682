"""Limits the tokens of prompts, and remembers what providers report about models while the process lives.

A prompt whose texts have fewer bytes than its limit in tokens is not counted: no text has more tokens than bytes.
Others are counted in a thread, because a million tokens take 0.3 s.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Final

from cachetools import LRUCache

from assistants_service.core.ports.models import ContextExceeded, Models, Prompt, Reply, Tokenizer, Tokens
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.threads.prompt import PROMPT_SHARE, Built, build, token_bound, tokens_of
from assistants_service.core.threads.state import RunState, ThreadState
from assistants_service.core.tools.offer import Offer

log = logging.getLogger(__name__)

TRIES: Final = 6  # attempts for one turn, while the provider says that the prompt is too long
LESS: Final = 0.6  # of the previous prompt's tokens
LEARNED: Final = 1_000  # models, and runs: their names come from clients
LEAST_COUNTED: Final = 1_000  # minimum tokens of a prompt from which a tokenizer's ratio is learned
# Bounds of the ratio of the provider's tokens to ours. Other values have other causes: some servers do not count cached
# tokens, or report none at all.
LEAST_RATIO: Final = 0.5
MOST_RATIO: Final = 4.0


@dataclass(slots=True)
class Learned:
    ratio: float = 1.0  # the provider's token count divided by ours
    window: int | None = None  # reported by the provider when a prompt was too long
    whole: bool = False  # it refuses streams, or reports no usage at their end


@dataclass(slots=True)
class Fitted:
    """A prompt, with its number of tokens if they were counted."""

    built: Built
    tokens: int | None = None

    @property
    def prompt(self) -> Prompt:
        return self.built.prompt


@dataclass(slots=True)
class Budget:
    models: Models
    tokenizer: Tokenizer
    history: int  # tokens for tool outputs of earlier runs
    _learned: LRUCache[str, Learned] = field(default_factory=lambda: LRUCache(LEARNED))
    _logged: LRUCache[str, bool] = field(default_factory=lambda: LRUCache(LEARNED))  # runs whose omissions were logged

    def window(self, model: str) -> int:
        window = self.models.window(model)
        learned = self._learned.get(model)
        return min(window, learned.window) if learned and learned.window else window

    async def fit(self, state: ThreadState, run_state: RunState, offer: Offer, most: int | None) -> Fitted | None:
        """The prompt of the run's next turn, with at most `most` tokens if given. None: max_prompt_tokens is too
        low."""
        room = self._room(run_state.run)
        if most is None:
            built = build(state, run_state, offer, room, self.history, token_bound)
            if built and not built.scarce:
                return Fitted(built)
        room = min(room, most or room)
        likely = build(state, run_state, offer, room, self.history, _few)
        if likely:
            await asyncio.to_thread(tokens_of, likely.prompt, self.tokenizer.count)
        built = build(state, run_state, offer, room, self.history, self.tokenizer.count)
        if built is None:
            return None
        if built.cut:
            self._log_cut(run_state.run, room)
        return Fitted(built, tokens_of(built.prompt, self.tokenizer.count))

    def record_usage(self, fitted: Fitted, tokens: Tokens) -> None:
        """Learns from the provider's token count. Images are ignored, because providers count them differently."""
        counted = fitted.tokens or 0
        if counted < LEAST_COUNTED or any(turn.images for turn in fitted.prompt.turns):
            return
        ratio = tokens.prompt / counted
        if LEAST_RATIO <= ratio <= MOST_RATIO:
            self._of(fitted.prompt.model).ratio = ratio

    def ask_whole(self, model: str, why: str) -> None:
        """From now on, request whole replies if no client listens."""
        if self.streams(model):
            log.warning("runs without a stream request whole replies of %.100r from now on: %s", model, why)
        self._of(model).whole = True

    def streams(self, model: str) -> bool:
        learned = self._learned.get(model)
        return learned is None or not learned.whole

    async def estimate(self, prompt: Prompt, reply: Reply) -> Tokens:
        """Estimates the tokens of a reply without reported usage: without images, reasoning and the provider's own
        additions."""
        texts = [reply.text, reply.refusal, *(text for call in reply.calls for text in (call.name, call.arguments))]
        count = self.tokenizer.count
        return await asyncio.to_thread(lambda: Tokens(tokens_of(prompt, count), sum(map(count, texts))))

    async def shrink(self, fitted: Fitted, error: ContextExceeded) -> int | None:
        """The token limit of the next attempt, after the provider said that these were too many. None: nothing is left
        that could be left out."""
        model = fitted.prompt.model
        if error.window:
            self._of(model).window = error.window
        if fitted.built.alone:
            return None
        counted = fitted.tokens
        if counted is None:
            counted = await asyncio.to_thread(tokens_of, fitted.prompt, self.tokenizer.count)
        return int(counted * LESS)

    def _room(self, run: Run) -> int:
        """The room for the prompt, in tokens as counted here. Up to half of the window is reserved for the answer that
        the run allows."""
        window, learned = self.window(run.model), self._learned.get(run.model)
        reserved = min(run.max_completion_tokens or 0, window // 2)
        room = min(int(window * PROMPT_SHARE), window - reserved)
        return int(room / learned.ratio) if learned else room

    def _of(self, model: str) -> Learned:
        return self._learned.setdefault(model, Learned())

    def _log_cut(self, run: Run, room: int) -> None:
        """Once per run."""
        if run.id not in self._logged:
            self._logged[run.id] = True
            log.warning(
                "run %s: older messages or rounds of tools are left out: a prompt of %.100r may have %d tokens."
                " If that is too few, set `window` of its provider in PROVIDERS, or MODEL_WINDOW",
                run.id,
                run.model,
                room,
            )


def _few(text: str) -> int:
    """Whether the text has fewer tokens than most."""
    return len(text) // 8
