"""Calls a provider, and again with a changed request if it refuses or ignores a part; for both APIs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from assistants_service.core.ports.models import Deltas, Refused, Reply
from assistants_service.infra.models.habits import Habits
from assistants_service.infra.models.reply_builder import ReplyBuilder

RequestBody = dict[str, Any]


def raise_refusal(wanted: RequestBody, refused: Refused) -> RequestBody:
    """There is no alternative."""
    raise refused


async def ask(
    known: Habits,
    wanted: RequestBody,
    deltas: Deltas | None,
    send: Callable[[RequestBody, ReplyBuilder], Awaitable[Reply]],
    otherwise: Callable[[RequestBody, Refused], RequestBody] = raise_refusal,
) -> Reply:
    """`known` learns what the provider accepts. `otherwise` makes another request if the refusal matches no habit, or
    raises the refusal. Raises what `send` raises."""
    habits = known.copy()
    while True:
        body = habits.apply(wanted)
        builder = ReplyBuilder(deltas, withhold=habits.forces(body))
        try:
            reply = await send(body, builder)
        except Refused as refused:
            habits.learn(refused.error_text, body)
            if not builder.empty:
                raise
            if habits.apply(wanted) == body:
                wanted = otherwise(wanted, refused)
            continue
        if not habits.ignored(body, bool(reply.calls)) or reply.finish == "content_filter":
            builder.release()
            known.keep(habits)
            return reply
