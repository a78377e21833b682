"""The prompt of a model call: the thread's messages, oldest first, then what this run has done so far."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from assistants_service.core.ports.models import CountTokens, ForcedFunction, Prompt, Turn
from assistants_service.core.protocol.runs.resources import MessageCreation, Run, Step
from assistants_service.core.protocol.threads.resources import Message
from assistants_service.core.protocol.tools.resources import StepToolCall
from assistants_service.core.threads.rounds import RECENT, outputs_of, rounds_before
from assistants_service.core.threads.state import RunState, ThreadState
from assistants_service.core.threads.turns import turn_of
from assistants_service.core.tools.offer import Offer

PROMPT_SHARE = 0.75  # of a window: the rest is for the answer, and for errors in the count
ENVELOPE = 4  # tokens that a provider adds to each text
IMAGE_TOKENS = 1_000


@dataclass(frozen=True, slots=True)
class Built:
    """`cut`: older messages, or older rounds of the run itself, did not fit. `scarce`: these, or rounds of earlier
    runs, did not fit; `earlier` are the ones that did. `alone`: nothing is left that could be left out."""

    prompt: Prompt
    earlier: tuple[Step, ...] = ()
    cut: bool = False
    scarce: bool = False
    alone: bool = False


def token_bound(text: str) -> int:
    """A CountTokens that costs nothing: no text has more tokens than UTF-8 bytes."""
    return len(text.encode(errors="replace"))


def build(
    state: ThreadState, run_state: RunState, offer: Offer, room: int, history: int, count: CountTokens
) -> Built | None:
    """The prompt of the run's next turn. `offer` has the functions that the model may call. The prompt may have `room`
    tokens, as counted by `count`, but always includes the newest message. At most `history` of them are outputs of
    tools in earlier runs. None: not even the newest message fits into max_prompt_tokens."""
    run = run_state.run
    limit = run.max_completion_tokens
    prompt = Prompt(
        model=run.model,
        instructions=run.instructions,
        turns=(),
        tools=offer.functions,
        tool_choice=_tool_choice(run_state, offer),
        parallel_tool_calls=run.parallel_tool_calls,
        temperature=_if_set("temperature", run.temperature, run_state.chosen),
        top_p=_if_set("top_p", run.top_p, run_state.chosen),
        reasoning_effort=run.reasoning_effort,
        response_format=run.response_format,
        max_completion_tokens=None if limit is None else max(1, limit - run_state.usage.completion_tokens),
    )
    newest = next(_before(state, run), None)
    least, own_rounds = _tokens(turn_of(newest), count) if newest else 0, _split(_done(state, run_state, offer))
    done, used = _newest_rounds(own_rounds, room - tokens_of(prompt, count) - least, count)
    budget = room - tokens_of(prompt, count) - used
    if run.max_prompt_tokens is not None:
        budget = min(budget, run.max_prompt_tokens - run_state.usage.prompt_tokens - room + budget)
        if least > budget:
            return None
    past = _Past(state, run, offer, count)
    turns = past.take(budget, history)
    lost = len(done) < len(own_rounds)
    return Built(
        replace(prompt, turns=(*turns, *itertools.chain(*done))),
        tuple(past.earlier),
        cut=past.cut or lost,
        scarce=past.scarce or lost,
        alone=past.messages <= 1 and len(done) <= 1,
    )


def tokens_of(prompt: Prompt, count: CountTokens) -> int:
    turns = sum(_tokens(turn, count) for turn in prompt.turns)
    tools = str(tuple(tool.fields for tool in prompt.tools))
    return turns + count(prompt.instructions or "") + count(tools) + 2 * ENVELOPE


def _if_set(name: str, value: float | None, chosen: Collection[str]) -> float | None:
    """1.0 is sent only if it was set explicitly: some servers have other defaults, and reasoning models refuse the
    parameter."""
    return None if value == 1.0 and name not in chosen else value


def _tool_choice(run_state: RunState, offer: Offer) -> str | ForcedFunction:
    """A forced choice applies to the first turn only."""
    choice = run_state.run.tool_choice
    if not offer.functions or choice in ("auto", "none"):
        return "none" if choice == "none" else "auto"
    if any(run_state.steps):  # without those that a dead worker had begun
        return "auto"
    if isinstance(choice, str):
        return choice
    name = choice.function.name if choice.function else offer.name(choice.type)
    return ForcedFunction(name) if name else "auto"


def _split(done: Iterable[Turn]) -> list[list[Turn]]:
    """What the run has done, by rounds: a round begins with the model's reply."""
    rounds: list[list[Turn]] = []
    for turn in done:
        if turn.role == "assistant":
            rounds.append([])
        rounds[-1].append(turn)
    return rounds


def _newest_rounds(rounds: Sequence[Sequence[Turn]], room: int, count: CountTokens) -> tuple[list[Sequence[Turn]], int]:
    """The newest rounds that fit, at least the last one, and their tokens: old outputs must not end a run that keeps
    calling tools."""
    used, fitting = 0, 0
    for each in reversed(rounds):
        cost = sum(_tokens(turn, count) for turn in each)
        if fitting and used + cost > room:
            break
        used, fitting = used + cost, fitting + 1
    return list(rounds[len(rounds) - fitting :]), used


def _before(state: ThreadState, run: Run) -> Iterator[Message]:
    """The thread's messages before this run, newest first."""
    return (message for message in state.messages.newest() if message.run_id != run.id)


@dataclass(slots=True)
class _Past:
    """The part of the thread that fits, from the newest message back."""

    state: ThreadState
    run: Run
    offer: Offer
    count: CountTokens
    messages: int = 0
    earlier: list[Step] = field(default_factory=list)
    cut: bool = False
    scarce: bool = False

    def take(self, budget: int, history: int) -> list[Turn]:
        """Oldest first. Messages take precedence over the rounds of older ones; rounds may use at most a quarter."""
        turns: list[Turn] = []
        full, history = self.run.truncation_strategy.last_messages, min(history, max(0, budget) // 4)
        for message in _before(self.state, self.run):
            if full is not None and self.messages >= full:
                break
            turn = turn_of(message)
            budget -= _tokens(turn, self.count)
            if turns and budget < 0:
                self.cut = self.scarce = True
                break
            turns.append(turn)
            self.messages += 1
            if history > 0 and self.messages <= RECENT and message.role == "assistant" and turn.text.strip():
                history, budget = self._rounds(message, turns, history, budget)
        while len(turns) > 1 and self._orphaned(turns[-1]):
            turns.pop()
        turns.reverse()
        return turns

    def _orphaned(self, turn: Turn) -> bool:
        """A turn without its question: servers and templates refuse a conversation that begins with it."""
        return bool(turn.calls) or turn.role == "tool" or (self.cut and turn.role == "assistant")

    def _rounds(self, message: Message, turns: list[Turn], history: int, budget: int) -> tuple[int, int]:
        """Returns what is left of both."""
        for found in rounds_before(self.state, message, self.offer):
            cost = sum(_tokens(turn, self.count) for turn in found.turns)
            if cost > min(history, budget):
                self.scarce = True
                return 0, budget
            history, budget = history - cost, budget - cost
            turns.extend(reversed(found.turns))
            self.earlier.append(found.step)
        return history, budget


def _done(state: ThreadState, run_state: RunState, offer: Offer) -> Iterator[Turn]:
    """What the run has done, as turns: a message and the calls that followed it are one."""
    text = ""
    for reply in _replies(run_state):
        details = reply[0].step_details
        if isinstance(details, MessageCreation):
            message = state.messages.get(details.message_creation.message_id)
            text = turn_of(message).text if message else ""
            continue
        calls, outputs = (
            _calls(reply, run_state),
            {key: output for step in reply for key, output in outputs_of(step).items()},
        )
        model_calls = tuple(offer.model_call(call) for call in calls)
        yield Turn(role="assistant", content=text, calls=model_calls, thought=run_state.thoughts.get(reply[0].id))
        text = ""
        for call in calls:
            yield Turn(role="tool", content=outputs[call.id], call_id=call.id)
    if text:
        yield Turn(role="assistant", content=text)


def _replies(run_state: RunState) -> Iterator[list[Step]]:
    """The completed steps: a message alone, and the calls of one reply together."""
    reply: list[Step] = []
    for step in run_state.steps:
        if step.status == "completed":
            if reply and step.id not in run_state.joined:
                yield reply
                reply = []
            reply.append(step)
    if reply:
        yield reply


def _calls(reply: Sequence[Step], run_state: RunState) -> list[StepToolCall]:
    """Returns the calls in the order in which the model made them: what it thought before them depends on it."""
    order = {call_id: place for place, call_id in enumerate(run_state.orders.get(reply[0].id, ()))}
    return sorted((call for step in reply for call in step.calls), key=lambda call: order.get(call.id, 0))


def _tokens(turn: Turn, count: CountTokens) -> int:
    thought = [turn.thought.data] if turn.thought else []
    texts = [turn.text, *thought, *(text for call in turn.calls for text in (call.name, call.arguments))]
    return sum(map(count, texts)) + ENVELOPE * len(texts) + IMAGE_TOKENS * len(turn.images)
