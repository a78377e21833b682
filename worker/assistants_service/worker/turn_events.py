"""Turns a model's reply into events."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from assistants_service.core.citations import attachments_of
from assistants_service.core.ports.models import ModelError, Prompt, Refused, Reply, Thought, Tokens, ToolCall
from assistants_service.core.protocol.objects import LastError
from assistants_service.core.protocol.runs.resources import (
    CachedTokens,
    ReasoningTokens,
    Run,
    ToolCalls,
    Usage,
)
from assistants_service.core.protocol.threads.resources import (
    ImageFile,
    ImageFilePart,
    Message,
    MessagePart,
    Reason,
    RefusalPart,
    Text,
    TextPart,
)
from assistants_service.core.threads import events as e
from assistants_service.core.threads.state import RunState
from assistants_service.core.tools.offer import ServicesByKind
from assistants_service.worker.partial_reply import PartialReply

# These statuses concern the key, the model, the size or the load; 502 and above, an unavailable server.
NOT_THE_STREAM = frozenset({401, 402, 403, 404, 408, 409, 413, 429})
BEYOND = 502
FILTERED = LastError(code="invalid_prompt", message="The model's answer was withheld by its content filter.")


def usage_of(tokens: Tokens) -> Usage:
    return Usage(
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        total_tokens=tokens.prompt + tokens.completion,
        prompt_token_details=CachedTokens(cached_tokens=tokens.cached),
        completion_tokens_details=ReasoningTokens(reasoning_tokens=tokens.reasoning),
    )


def expected(prompt: Prompt) -> str:
    """The only possible kind of reply to a prompt: `message` or `calls`; "" if the model may choose."""
    if not prompt.tools or prompt.tool_choice == "none":
        return "message"
    return "" if prompt.tool_choice == "auto" else "calls"


def may_mean_its_stream(refused: Refused) -> bool:
    """Servers report this with many texts and statuses; also with 200, in the stream's first event (NVIDIA's,
    github.com/langchain-ai/langchain-nvidia/pull/201)."""
    if refused.code != "server_error":
        return False
    return refused.status is None or (refused.status < BEYOND and refused.status not in NOT_THE_STREAM)


def calls_of(reply: Reply) -> tuple[ToolCall, ...]:
    """A reply that was cut off may contain half a call, which cannot be executed."""
    return reply.calls if reply.finish in ("stop", "tool_calls") else ()


def events_of(
    reply: Reply, partial: PartialReply, run_state: RunState, services: ServicesByKind, now: float
) -> list[e.ThreadEvent]:
    """One transaction: the turn's message, its steps, and the run's next status."""
    usage, calls = usage_of(reply.tokens), calls_of(reply)
    if not run_state.run.parallel_tool_calls:  # not every provider respects it
        calls = calls[:1]
    events: list[e.ThreadEvent] = []
    if reply.text or reply.refusal or not calls or partial.deltas.speaks:
        events += _message(reply, run_state, partial, usage, now)
    if calls:
        cost = Usage() if events else usage
        return [*events, *_calls(calls, reply.thought, run_state, partial, services, cost, now)]
    return [*events, _ending(reply, run_state, usage)]


def begun_of(partial: PartialReply | None) -> e.StepBegun | None:
    """What has been begun of a reply that will not be completed, with the message's content so far."""
    if partial is None:
        return None
    message = partial.message if partial.deltas.speaks else None
    step = partial.message_step if message else partial.calls_step
    if message:
        deltas = partial.deltas
        message = _with_content(message, "".join(deltas.texts), "".join(deltas.refusals), partial)
    return e.StepBegun(step=step, message=message) if step else None


def cut_off_events(
    run_state: RunState, begun: e.StepBegun | None, end: Sequence[e.ThreadEvent], now: float
) -> list[e.ThreadEvent]:
    """`end`, and if it ends the run in the middle of a reply, the partial message that clients have seen."""
    if begun is None:
        return [*end]
    step, run_id = begun.step, run_state.run.id
    seen = run_state.stream or (run_state.in_progress is not None and run_state.in_progress.step == step)
    if not seen or step.id in run_state.known:
        return [*end]
    ended: e.ThreadEvent
    match end:
        case [*_, e.RunCancelled()]:
            reason, ended = "run_cancelled", e.StepCancelled(run_id=run_id, step_id=step.id)
        case [*_, e.RunExpired()]:
            reason, ended = "run_expired", e.StepExpired(run_id=run_id, step_id=step.id)
        case [*_, e.RunFailed(error=error)]:
            reason, ended = "run_failed", e.StepFailed(run_id=run_id, step_id=step.id, error=error.of_step)
        case _:
            return [*end]
    cut = [e.MessageIncomplete(message=_incomplete(begun.message, reason, now))] if begun.message else []
    return [e.StepCreated(step=step), *cut, ended, *end]


def cause_of(run: Run, error: ModelError | None, provider: str) -> str:
    """What the log says of a failed run: where it failed and why, without content. `provider` answered last."""
    last = run.last_error
    foreign = error is not None and error.provider != ""
    fields = {
        "provider": error.provider if error and foreign else provider,
        "model": run.model,
        "status": error.status if error else None,
        "code": last.code if last else "",
        "reason": error.reason if error and foreign else last.message if last else "",  # or the service's own text
    }
    return " ".join(f"{name}={value or '-'}" for name, value in fields.items())


def _message(reply: Reply, run_state: RunState, partial: PartialReply, usage: Usage, now: float) -> list[e.ThreadEvent]:
    step, message = partial.open_message(now)
    message = _with_content(message, reply.text, reply.refusal, partial)
    cut = {"length": "max_tokens", "content_filter": "content_filter"}.get(reply.finish)
    created = e.StepCreated(step=step, usage=usage)
    if cut is None:
        whole = replace(message, status="completed", completed_at=int(now))
        done = e.StepCompleted(run_id=run_state.run.id, step_id=step.id)
        return [created, e.MessageCompleted(message=whole), done]
    ended: e.ThreadEvent = e.StepCompleted(run_id=run_state.run.id, step_id=step.id)
    if cut == "content_filter":
        ended = e.StepFailed(run_id=run_state.run.id, step_id=step.id, error=FILTERED.of_step)
    return [created, e.MessageIncomplete(message=_incomplete(message, cut, now)), ended]


def _with_content(message: Message, text: str, refusal: str, partial: PartialReply) -> Message:
    content: list[MessagePart] = [ImageFilePart(image_file=ImageFile(file_id=file_id)) for file_id in partial.images]
    annotations = partial.annotations_of(text)
    if text or not refusal:
        content.append(TextPart(text=Text(value=text, annotations=annotations)))
    if refusal:
        content.append(RefusalPart(refusal=refusal))
    return replace(message, content=tuple(content), attachments=attachments_of(annotations))


def _incomplete(message: Message, reason: str, now: float) -> Message:
    return replace(message, status="incomplete", incomplete_at=int(now), incomplete_details=Reason(reason=reason))


def _calls(
    calls: Sequence[ToolCall],
    thought: Thought | None,
    run_state: RunState,
    partial: PartialReply,
    services: ServicesByKind,
    usage: Usage,
    now: float,
) -> list[e.ThreadEvent]:
    first, *later = (ToolCalls(tool_calls=tuple(map(partial.call, each))) for each in partial.offer.by_step(calls))
    step = replace(partial.open_calls(now), step_details=first)
    own = tuple(call.id for call in calls if partial.offer.executes(call.name, services))
    following = tuple(partial.later_calls(details, now) for details in later)
    order = tuple(call.id for call in calls) if later else ()
    created = e.StepCreated(step=step, own=own, usage=usage, thought=thought, later=following, order=order)
    if own:
        return [created]
    return [created, e.RunRequiresAction(run_id=run_state.run.id)]  # one commit less than deciding again


def _ending(reply: Reply, run_state: RunState, usage: Usage) -> e.ThreadEvent:
    run, prompt = run_state.run, run_state.usage.prompt_tokens + usage.prompt_tokens
    if reply.finish == "content_filter":
        return e.RunFailed(run_id=run.id, error=FILTERED)
    # A server that does not know the limit, or counts it for the text only, continues beyond it.
    completion = run_state.usage.completion_tokens + usage.completion_tokens
    if reply.finish == "length" or (run.max_completion_tokens is not None and completion > run.max_completion_tokens):
        return e.RunIncomplete(run_id=run.id, reason="max_completion_tokens")
    if run.max_prompt_tokens is not None and prompt > run.max_prompt_tokens:
        return e.RunIncomplete(run_id=run.id, reason="max_prompt_tokens")
    return e.RunCompleted(run_id=run.id)
