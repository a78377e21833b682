"""Ask a real model server all that a run can ask, whole and streamed, by both APIs: what `docs/providers.md` tells.

    make modelserver URL=http://127.0.0.1:8080/v1 MODEL=gemma

`KEY` in the environment is its key. Prints a line for each question; small models may answer anything, so what counts
is that they are asked and understood. Ends with 1 if a question was refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import Any, Final

from pydantic import SecretStr

from assistants_service.core.ports.models import (
    ContextExceeded,
    Deltas,
    ForcedFunction,
    ModelError,
    Prompt,
    Reply,
    Turn,
)
from assistants_service.infra.models.provider_kind import Provider
from assistants_service.infra.models.providers import ModelRouter
from scripted_upstreams import WEATHER

FORCED: Final = ForcedFunction(WEATHER.name)
HELLO, WHERE = Turn("user", "Say hello."), Turn("user", "How is the weather in Paris?")
LONG: Final = Turn("user", "word " * int(os.environ.get("LONG", "9000")))


class Tried:
    def __init__(self, models: ModelRouter, model: str, label: str, *, streamed: bool) -> None:
        self.models, self.model, self.label, self.streamed = models, model, label, streamed
        self.refused = 0

    async def ask(self, what: str, *turns: Turn, most: int = 32, **fields: Any) -> Reply | None:
        prompt = Prompt(self.model, "Be brief.", turns, max_completion_tokens=most, temperature=0.0, **fields)
        try:
            reply = await self.models.reply(prompt, Deltas() if self.streamed else None)
        except ModelError as error:
            self.refused += not isinstance(error, ContextExceeded)
            print(f"{self.label} {what}: {type(error).__name__} {error.status} {error.message}")
            return None
        made = [f"{call.name}({call.arguments})" for call in reply.calls]
        print(f"{self.label} {what}: {reply.finish} {reply.text[:40]!r} {made} {reply.tokens}")
        return reply

    async def all(self) -> int:
        await self.ask("a message", HELLO)
        await self.ask("a second message", HELLO, Turn("assistant", "Hello."), Turn("user", "Say bye."))
        await self.ask("two messages of a user", HELLO, Turn("user", "In French."))
        called = await self.ask("a forced function", WHERE, tools=(WEATHER,), tool_choice=FORCED, most=128)
        whole = tuple(call for call in called.calls if _json(call.arguments)) if called else ()
        if called and whole:  # a small model calls until its limit cuts it off
            outputs = (Turn("tool", "sunny", call_id=call.id) for call in whole)
            asked = Turn("assistant", called.text, whole, thought=called.thought)
            await self.ask("its outputs", WHERE, asked, *outputs, tools=(WEATHER,))
        await self.ask("too much", LONG)
        return self.refused


def _json(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(json.loads(text))
    return False


async def main(url: str, model: str) -> int:
    refused, key = 0, os.environ.get("KEY")
    for api in ("chat", "responses"):
        provider = Provider(api=api, base_url=url, api_key=SecretStr(key) if key else None)  # type: ignore[arg-type]
        models = ModelRouter({"it": provider}, "it", timeout=300)
        for streamed in (False, True):
            label = f"{api:<9} {'streamed' if streamed else 'whole':<8}"
            refused += await Tried(models, model, label, streamed=streamed).all()
        await models.close()
    return refused


if __name__ == "__main__":
    sys.exit(1 if asyncio.run(main(*sys.argv[1:3])) else 0)
