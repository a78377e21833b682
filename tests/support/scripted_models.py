"""A model for simulations: what a run does is the script that its model's name tells."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from assistants_service.core.ports.models import Deltas, ModelError, ModelInfo, Prompt, Reply, Tokens, ToolCall
from assistants_service.core.protocol.assistants.resources import StoredAssistant
from assistants_service.core.tools.code_interpreter.wire import CodeInterpreterTool
from assistants_service.core.tools.file_search.wire import FileSearchStores, FileSearchTool
from assistants_service.core.tools.functions import FunctionDefinition, FunctionTool
from assistants_service.infra.models.context_windows import known_window

CLIENTS_TOOL = FunctionTool(function=FunctionDefinition(name="get_weather"))
OWN_TOOL = FunctionTool(function=FunctionDefinition(name="lookup"))
ASSISTANT = StoredAssistant(
    id="asst_1",
    created_at=0,
    model="plain",
    instructions="Be brief.",
    tools=(CLIENTS_TOOL, OWN_TOOL, CodeInterpreterTool(), FileSearchTool()),
    tool_resources={"file_search": FileSearchStores(vector_store_ids=("vs_1",))},
)

# What the script `code` executes, round by round. Whatever dies in between, the file has `abc` in the end.
CELLS = (
    (
        "n = 1; write('count.txt', 'a'); write('gone.txt', 'x')",
        "show(b'PNG'); write('count.txt', read('count.txt') + 'b')",
    ),
    ("write('count.txt', read('count.txt') + 'c'); remove('gone.txt')",),
)

# What the scripts `codes` and `computes` execute, in the language of simulated_sandbox.py.
PATHS = ("a.txt", "b.txt", "out/c.txt", "1-text.txt")  # the last one may be the name of a file of the user's
LINES = {
    "put {} p": 2,
    "put {} q": 2,
    "add {} r": 4,
    "add {} s": 4,
    "drop {}": 2,
    "show x": 2,
    "wait 1": 0.5,
    "wait 15": 0.3,
    "fail now": 0.7,
}


def _cell(chance: random.Random) -> str:
    lines = chance.choices(list(LINES), list(LINES.values()), k=chance.randint(1, 4))
    return "\n".join(line.format(chance.choice(PATHS)) for line in lines)


def code_calls(model: str, place: int) -> list[str]:
    """What a model calls in this round of a run: cells, and with `codes` other functions beside them."""
    chance, script = random.Random(f"{model} {place}"), model.partition("/")[0]
    if place >= random.Random(model).randint(1, 3):
        return []
    others = ("get_weather", "lookup", "file_search") if script == "codes" else ()
    asked = [_cell(chance) for _ in range(chance.randint(1, 3))]
    asked += [other for other in others if chance.random() < 0.2]
    chance.shuffle(asked)
    return asked


class BareModels:
    """ports.models.Models but for `reply`: every model is known, and none is listed."""

    async def check(self, model: str) -> None: ...

    def window(self, model: str) -> int:
        return known_window(model) or 128_000

    async def list(self) -> Sequence[ModelInfo]:
        return ()

    async def close(self) -> None: ...


@dataclass
class ByName(BareModels):
    """A model whose name is its script: `tools/3` asks for the client's tool twice at once, then answers. The number
    tells runs apart. Every call is counted, and every answer is unlike the others."""

    pace: float = 0.1  # seconds a word or an argument
    calls: Counter[str] = field(default_factory=Counter)
    said: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # whole answers, by model
    begun: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # as far as they were said

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        self.calls[prompt.model] += 1
        script, count = prompt.model.partition("/")[0], self.calls.total()
        said = Said(deltas, f"c{count}", self.pace, self.begun[prompt.model])
        reply = await self._reply(script, count, prompt, said)
        self.said[prompt.model].add(reply.text)
        return reply

    async def _reply(self, script: str, count: int, prompt: Prompt, said: Said) -> Reply:
        if script == "fails":
            await said.text("Let me")
            raise ModelError("rate_limit_exceeded", "Too much.")
        if script in ("long", "hangs"):
            await said.text("Let me think")
            await asyncio.sleep(60 if script == "long" else 3600)
        asked = max((place for place, turn in enumerate(prompt.turns) if turn.role == "user"), default=0)
        rounds = sum(turn.role == "assistant" and bool(turn.calls) for turn in prompt.turns[asked:])
        answered = bool(prompt.turns) and prompt.turns[-1].role == "tool"
        if script == "code" and rounds < len(CELLS):
            return await said.calls(*CELLS[rounds])
        if script in ("codes", "computes") and (cells := code_calls(prompt.model, rounds)):
            return await said.calls(*cells)
        if script == "adds" and not rounds:
            return await said.calls("add a.txt z")
        if answered and not (script == "rounds" and rounds < 2):
            cited = re.search("【.*?】", prompt.turns[-1].text)
            linked = {"code": ("count.txt",), "codes": PATHS[1:], "computes": PATHS[1:2], "adds": PATHS[1:]}.get(
                script, ()
            )
            links = "".join(f" sandbox:/mnt/data/{path}" for path in linked)
            return await said.text(f"Answer {count} is ready{cited[0] if cited else ''}{links}.")
        match script:
            case "tool" | "rounds":
                return await said.calls("get_weather")
            case "tools":
                return await said.calls("get_weather", "get_weather")
            case "own":
                return await said.calls("lookup")
            case "mixed":
                return await said.calls("get_weather", "lookup")
            case "search":
                return await said.calls("get_weather", "file_search")
            case "says":
                await said.text(f"Question {count} for you.")
                return await said.calls("get_weather")
            case "cut":
                return await said.text(f"Answer {count} is too", finish="length")
        return await said.text(f"Answer {count} is here." + (" It goes on." * 5 if script == "slow" else ""))


def _call(index: int, asked: str) -> tuple[str, dict[str, object]]:
    if not asked.isidentifier():
        return "python", {"code": asked}
    return asked, {"queries": ["w"]} if asked == "file_search" else {"word": f"w{index}"}


@dataclass
class Said:
    """A reply while it is made."""

    deltas: Deltas | None
    prefix: str
    pace: float
    begun: set[str]
    so_far: str = ""

    async def text(self, text: str, finish: str = "stop") -> Reply:
        for word in text.split(" "):
            await asyncio.sleep(self.pace)
            piece = f" {word}" if self.so_far else word
            self.so_far += piece
            self.begun.add(self.so_far)
            if self.deltas:
                self.deltas.text(piece)
        return Reply(text=self.so_far, finish=finish, tokens=Tokens(prompt=5, completion=2))

    async def calls(self, *asked: str) -> Reply:
        """Names of functions, or cells."""
        return await self._calls(*itertools.starmap(_call, enumerate(asked)))

    async def _calls(self, *asked: tuple[str, dict[str, object]]) -> Reply:
        made = []
        for index, (name, given) in enumerate(asked):
            call_id, arguments = f"call_{self.prefix}_{index}", json.dumps(given)
            for start in (0, 6):
                await asyncio.sleep(self.pace)
                if self.deltas:
                    if start == 0:
                        self.deltas.call(call_id, name, arguments[:6])
                    else:
                        self.deltas.extend(index, arguments[6:])
            made.append(ToolCall(call_id, name, arguments))
        return Reply(text=self.so_far, calls=tuple(made), finish="tool_calls", tokens=Tokens(prompt=5, completion=2))
