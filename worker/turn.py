"""One model call: from the prompt to the events that say what came of it."""

from __future__ import annotations

from msgspec.structs import replace

from core import events as e
from core.citations import annotated
from core.fold import RunState
from core.ports import Reply, Tokens, ToolCall
from core.resources import (
    Asked,
    CachedTokens,
    FileSearch,
    FileSearchToolCall,
    FunctionCall,
    FunctionToolCall,
    LastError,
    Part,
    Reason,
    ReasoningTokens,
    RefusalPart,
    StepToolCall,
    Text,
    TextPart,
    ToolCalls,
    Usage,
)
from worker.actions import Actions
from worker.live import Draft

FILTERED = LastError(code="invalid_prompt", message="The model's answer was withheld by its content filter.")


def usage_of(tokens: Tokens) -> Usage:
    return Usage(
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        total_tokens=tokens.prompt + tokens.completion,
        prompt_token_details=CachedTokens(cached_tokens=tokens.cached),
        completion_tokens_details=ReasoningTokens(reasoning_tokens=tokens.reasoning),
    )


def events_of(reply: Reply, held: RunState, draft: Draft, actions: Actions, now: float) -> list[e.Event]:
    """One transaction: the turn's message, its steps, and what the run does next."""
    usage = usage_of(reply.tokens)
    # A reply that was cut off may hold half a call: nobody could execute it.
    calls = reply.calls if reply.finish in ("stop", "tool_calls") else ()
    events: list[e.Event] = []
    if reply.text or reply.refusal or not calls or draft.message:
        events += _message(reply, held, draft, usage, now)
    if calls:
        return [*events, *_calls(reply, held, draft, actions, Usage() if events else usage, now)]
    return [*events, _ending(reply, held, usage)]


def _message(reply: Reply, held: RunState, draft: Draft, usage: Usage, now: float) -> list[e.Event]:
    step, message = draft.open_message(now)
    content: list[Part] = []
    if reply.text or not reply.refusal:
        content.append(TextPart(text=Text(value=reply.text, annotations=annotated(reply.text, draft.sources))))
    if reply.refusal:
        content.append(RefusalPart(refusal=reply.refusal))
    cut = {"length": "max_tokens", "content_filter": "content_filter"}.get(reply.finish)
    created = e.StepCreated(step=step, usage=usage)
    if cut is None:
        whole = replace(message, status="completed", completed_at=int(now), content=tuple(content))
        done = e.StepCompleted(run_id=held.run.id, step_id=step.id)
        return [created, e.MessageCompleted(message=whole), done]
    part = replace(
        message,
        status="incomplete",
        incomplete_at=int(now),
        incomplete_details=Reason(reason=cut),
        content=tuple(content),
    )
    ended: e.Event = e.StepCompleted(run_id=held.run.id, step_id=step.id)
    if cut == "content_filter":
        error = LastError(code="server_error", message=FILTERED.message)
        ended = e.StepFailed(run_id=held.run.id, step_id=step.id, error=error)
    return [created, e.MessageIncomplete(message=part), ended]


def _calls(reply: Reply, held: RunState, draft: Draft, actions: Actions, usage: Usage, now: float) -> list[e.Event]:
    calls = tuple(_call(call, draft) for call in reply.calls)
    step = replace(draft.open_calls(now), step_details=ToolCalls(tool_calls=calls))
    own = tuple(call.id for call in reply.calls if call.name == draft.search or call.name in actions)
    events: list[e.Event] = [e.StepCreated(step=step, own=own, usage=usage)]
    if not own:  # one commit less than to decide it anew
        events.append(e.RunRequiresAction(run_id=held.run.id))
    return events


def _call(call: ToolCall, draft: Draft) -> StepToolCall:
    if call.name != draft.search:
        return FunctionToolCall(
            id=call.id, function=FunctionCall(name=call.name, arguments=call.arguments, output=None)
        )
    asked = Asked(arguments=call.arguments, number=draft.number)
    return FileSearchToolCall(id=call.id, file_search=FileSearch(ranking_options=draft.ranking), asked=asked)


def _ending(reply: Reply, held: RunState, usage: Usage) -> e.Event:
    run, prompt = held.run, held.usage.prompt_tokens + usage.prompt_tokens
    if reply.finish == "content_filter":
        return e.RunFailed(run_id=run.id, error=FILTERED)
    if reply.finish == "length":
        return e.RunIncomplete(run_id=run.id, reason="max_completion_tokens")
    if run.max_prompt_tokens is not None and prompt > run.max_prompt_tokens:
        return e.RunIncomplete(run_id=run.id, reason="max_prompt_tokens")
    return e.RunCompleted(run_id=run.id)
