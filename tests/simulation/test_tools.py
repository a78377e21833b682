"""The seam for tools: one that is made of a few lines here, and of an entry in the registry.

The wire's types are made from the registry when a process starts, so the tool is played in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec.structs import replace
from pydantic import Field

import assistants_service
from assistants_service.core.files.service import FileService, decode_file
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.models import ForcedFunction, Function, ToolCall
from assistants_service.core.protocol.bodies import Body, NamedFile
from assistants_service.core.protocol.objects import Struct
from assistants_service.core.request_context import RequestContext
from assistants_service.core.tools import registry
from assistants_service.core.tools.resource_rules import Aggregates, ResourceRules, distinct
from assistants_service.core.tools.run_info import RunInfo, StepInfo, ThreadInfo
from assistants_service.core.tools.tool import AnswerPiece, Execution, Output, Tool, ToolServices
from assistants_service.core.tools.wire import Annotation, StepCall, ToolStruct
from assistants_service.core.tools.worker_parts import WorkerParts
from source_paths import python_path

if TYPE_CHECKING:
    from inprocess_service import InProcess
    from simulated_clients import Client

Json = Any

# --- the tool -----------------------------------------------------------------------------------------------------


class Sides(Body):
    sides: Annotated[int, Field(ge=2)] = 6


class DiceBody(Body):
    type: Literal["dice"]
    dice: Sides = Sides()


class DiceTool(ToolStruct, frozen=True, kw_only=True, tag_field="type", tag="dice"):
    sides: int = 6


class Throw(Struct, frozen=True, kw_only=True):
    reason: str = ""
    thrown: tuple[int, ...] | None = None


class DiceCall(StepCall, frozen=True, kw_only=True, tag_field="type", tag="dice", omit_defaults=True):
    dice: Throw
    arguments: str = ""  # not on the wire


class DiceResources(Body):
    file_ids: Annotated[list[NamedFile], Field(max_length=2)] | None = None


class DiceFiles(Struct, frozen=True, kw_only=True):
    file_ids: tuple[str, ...] = ()


class Weighing:
    """Weighs dice before their request is committed: `weighed` is the number of bytes of all files so far."""

    def __init__(self, files: FileService) -> None:
        self.files, self.weighed = files, 0

    async def for_assistant(
        self, context: RequestContext, assistant_id: str, body: DiceResources | None
    ) -> DiceResources | None:
        return body

    async def for_thread(
        self, context: RequestContext, thread_id: str, body: DiceResources | None, file_ids: Sequence[str]
    ) -> DiceResources | None:
        if not file_ids:
            return body
        await self._weigh(context, file_ids)
        return DiceResources(file_ids=[*((body and body.file_ids) or ()), *file_ids])

    async def for_messages(
        self, context: RequestContext, reserved_id: str, entry: DiceFiles | None, file_ids: Sequence[str]
    ) -> bool:
        await self._weigh(context, file_ids)
        return True

    async def _weigh(self, context: RequestContext, file_ids: Sequence[str]) -> None:
        for file_id in file_ids:
            self.weighed += decode_file((await self.files.fetch(context.project, file_id)).body).bytes


class DiceRules(ResourceRules[DiceResources, DiceFiles]):
    stored, body, attachable = DiceFiles, DiceResources, True
    weighing: Weighing | None = None

    def keeps(self, body: DiceResources) -> bool:
        return body.file_ids is None

    def attached(self, entry: DiceFiles | None, file_ids: Sequence[str], prepared: bool | None) -> DiceFiles | None:
        return DiceFiles(file_ids=distinct((*(entry.file_ids if entry else ()), *file_ids))) if prepared else entry

    def preparation(self, aggregates: Aggregates) -> Weighing:
        self.weighing = Weighing(aggregates.files)
        return self.weighing


@dataclass(slots=True)
class DiceServices(ToolServices):
    clock: Clock
    checked: bool = False
    closed: bool = False

    async def check(self) -> None:
        self.checked = True

    async def close(self) -> None:
        self.closed = True


class CitedThrow(Struct, frozen=True, kw_only=True):
    call_id: str


class DiceAnnotation(Annotation, frozen=True, kw_only=True, tag_field="type", tag="dice_throw"):
    dice_throw: CitedThrow


class DiceCiter:
    """Each die in an answer cites the last throw."""

    def __init__(self, call_id: str) -> None:
        self.throw, self.place = CitedThrow(call_id=call_id), 0

    def feed(self, text: str) -> Iterator[AnswerPiece]:
        for piece in filter(None, re.split("(🎲)", text)):
            start, end = self.place, self.place + len(piece)
            cited = DiceAnnotation(text=piece, start_index=start, end_index=end, dice_throw=self.throw)
            self.place = end
            yield piece, cited if piece == "🎲" else None

    def close(self) -> Iterator[AnswerPiece]:
        return iter(())

    def skip(self, text: str) -> None:
        self.place += len(text)


class Dice(Tool[DiceBody, DiceTool, DiceCall, DiceServices]):
    kind = "dice"
    body, definition, call = DiceBody, DiceTool, DiceCall
    resource_rules = DiceRules()
    annotation = DiceAnnotation
    streams = "reason"
    executed: tuple[str, ...] = ()
    gate: asyncio.Event | None = None
    services: DiceServices | None = None

    def start(self, worker: WorkerParts) -> DiceServices:
        self.services = DiceServices(worker.clock)
        return self.services

    def definition_of(self, body: DiceBody) -> DiceTool:
        return DiceTool(sides=body.dice.sides)

    def function(self, run: RunInfo) -> Function | None:
        sides = next((tool.sides for tool in run.tools if isinstance(tool, DiceTool)), 0)
        entry = run.tool_resources.get("dice")
        files = entry.file_ids if isinstance(entry, DiceFiles) else ()
        described = f"Throws a die of {sides} sides{''.join(f', {file_id}' for file_id in files)}."
        return Function("dice", described, {"type": "object"}) if sides else None

    def begin(self, call: ToolCall, run: RunInfo, number: int) -> DiceCall:
        return DiceCall(id=call.id, dice=Throw(reason=self.partial_text(call.arguments)), arguments=call.arguments)

    async def execute(self, execution: Execution[DiceCall], services: DiceServices) -> Output:
        assert services.clock.now() >= execution.run.created_at
        self.executed += (execution.call.id,)
        if self.gate:
            await self.gate.wait()
        return Output("A four and a two.", (4, 2))

    def completed(self, call: DiceCall, output: str, stored: msgspec.Raw | None) -> DiceCall:
        thrown = msgspec.json.decode(stored or b"[]", type=tuple[int, ...])
        return replace(call, dice=replace(call.dice, thrown=thrown))

    def is_pending(self, call: DiceCall) -> bool:
        return call.dice.thrown is None

    def on_wire(self, call: DiceCall, *, included: bool) -> DiceCall:
        return replace(call, arguments="")

    def called_with(self, call: DiceCall) -> tuple[None, str]:
        return None, call.arguments

    def outputs(self, calls: Sequence[DiceCall]) -> Iterable[str]:
        return [f"Thrown: {call.dice.thrown}" for call in calls]

    async def citer(
        self, project: str, thread: ThreadInfo, run: RunInfo, steps: Sequence[StepInfo], services: DiceServices
    ) -> DiceCiter | None:
        thrown = [call.id for step in steps for call in step.calls if isinstance(call, DiceCall)]
        return DiceCiter(thrown[-1]) if thrown else None

    def as_begun(self, call: DiceCall) -> DiceCall:
        return replace(call, dice=Throw())

    def partial_text(self, arguments: str) -> str:
        """Of {"reason": "because"} what comes between the quotes."""
        return arguments.partition(': "')[2].partition('"')[0]

    def result_delta(self, call: DiceCall) -> dict[str, Any]:
        return {"thrown": call.dice.thrown}


DICE = Dice()

# --- what it is in a service --------------------------------------------------------------------------------------

ASKED = ToolCall("call_d", "dice", '{"reason": "to see who begins"}')
TOOLS = [{"type": "dice", "dice": {"sides": 8}}, {"type": "function", "function": {"name": "get_weather"}}]
DONE = {"id": "call_d", "type": "dice", "dice": {"reason": "to see who begins", "thrown": [4, 2]}}


@contextlib.asynccontextmanager
async def served(*script: Any) -> AsyncIterator[InProcess]:
    import inprocess_service

    inprocess_service.check_response = inprocess_service.check_event = lambda *_: (
        None
    )  # the protocol's document has no dice
    async with inprocess_service.in_process(*script) as service:
        yield service


async def deltas(service: InProcess, method: str, path: str, *body: Json) -> list[Json]:
    async with service.api.stream(method, path, *body) as stream:
        events = await stream.rest()
    steps = [event for event in events if event.name.startswith("thread.run.step")]
    found = [each.data["delta"]["step_details"]["tool_calls"][0] for each in steps if each.name.endswith(".delta")]
    names = [each.name.rpartition(".")[2] for each in steps if each.data.get("type") != "message_creation"]
    assert names == ["created", "in_progress", *["delta"] * len(found), "completed"]
    assert next(each for each in steps if each.name.endswith("completed")).data["step_details"]["tool_calls"] == [DONE]
    return found


def added_up(pieces: list[Json]) -> Json:
    """As clients add up deltas, and each but the last ones without an id."""
    head, *rest = pieces
    assert not any("id" in each for each in rest)
    text = "".join(each["dice"].get("reason", "") for each in pieces)
    thrown = [each["dice"]["thrown"] for each in rest if "thrown" in each["dice"]]
    assert head["dice"] == {"reason": "", "thrown": None}
    assert {each["type"] for each in pieces} == {"dice"}
    return {"id": head["id"], "type": "dice", "dice": {"reason": text, "thrown": thrown[0]}}


async def it_is_set_up_called_shown_and_remembered() -> None:
    from assistants_service.composition import threads_of
    from inprocess_service import calls, path_of, says

    script = calls(ASKED), says("You begin."), says("Once more.")
    async with served(*script) as service:
        error = await service.api.refused(
            "POST", "/assistants", {"model": "m", "tools": [{"type": "dice", "dice": {"sides": 1}}]}
        )
        assert error["param"] == "tools[0].dice.sides"
        error = await service.api.refused("POST", "/assistants", {"model": "m", "tools": [{"type": "cards"}]})
        assert "'dice'" in error["message"]
        assistant, thread = await service.assistant(tools=TOOLS), await service.thread("Who begins?")
        assert (await service.api.get(f"/assistants/{assistant}"))["tools"][0] == {"type": "dice", "sides": 8}
        run = await service.finished(thread, assistant, tool_choice={"type": "dice"})
        first, second = service.prompts
        assert [tool.name for tool in first.tools] == ["get_weather", "dice"]
        assert first.tool_choice == ForcedFunction("dice")
        assert [turn.text for turn in second.turns] == ["Who begins?", "", "Thrown: (4, 2)"]
        assert second.turns[1].calls == (ASKED,)
        step = (await service.steps(run))[0]
        assert step["step_details"]["tool_calls"] == [DONE]
        assert added_up(await deltas(service, "GET", f"{path_of(run)}/events")) == DONE  # from the log
        state = (await threads_of(service.parts).load("default", thread)).state  # as another process reads it
        assert state.runs[run["id"]].steps[step["id"]].calls[0].dice.thrown == (4, 2)  # type: ignore[attr-defined]
        await service.finished(thread, assistant)  # a later run remembers it
        assert [turn.text for turn in service.prompts[-1].turns][1:3] == ["", "Thrown: (4, 2)"]


async def its_deltas_are_streamed() -> None:
    from inprocess_service import calls, says

    async with served(calls(ASKED), says("You begin.")) as service:
        thread, body = await service.thread("Who begins?"), {"assistant_id": await service.assistant(tools=TOOLS)}
        path = f"/threads/{thread}/runs"
        assert added_up(await deltas(service, "POST", path, {**body, "stream": True})) == DONE


async def answers_that_cite_it_have_its_annotations() -> None:
    from assistants_service.composition import threads_of
    from inprocess_service import calls, path_of, says

    async with served(calls(ASKED), says("You ", "begin 🎲."), calls(ASKED), says("Then I 🎲.")) as service:
        assistant, thread = await service.assistant(tools=TOOLS), await service.thread("Who begins?")
        body = {"assistant_id": assistant, "stream": True}
        assert await annotations_of(service, thread, "POST", f"/threads/{thread}/runs", body) == [cited(10)]
        run = await service.finished(thread, assistant)
        assert await annotations_of(service, thread, "GET", f"{path_of(run)}/events") == [cited(7)]  # from the log
        state = (await threads_of(service.parts).load("default", thread)).state  # as another process reads it
        assert [msgspec.to_builtins(each) for each in state.annotations(4)] == [cited(7), cited(10)]


def cited(place: int) -> Json:
    throw = {"call_id": "call_d"}
    return {"type": "dice_throw", "text": "🎲", "start_index": place, "end_index": place + 1, "dice_throw": throw}


async def annotations_of(service: InProcess, thread: str, method: str, path: str, *body: Json) -> list[Json]:
    """Of the newest message, which are those that its deltas told."""
    async with service.api.stream(method, path, *body) as stream:
        events = [event for event in await stream.rest() if event.name == "thread.message.delta"]
    parts = [event.data["delta"]["content"][0]["text"] for event in events]
    heard = [each for part in parts for each in part.get("annotations", ())]
    (found,) = (await service.api.get(f"/threads/{thread}/messages"))["data"][0]["content"]
    kept: list[Json] = found["text"]["annotations"]
    assert heard == [{"index": index, **each} for index, each in enumerate(kept)]
    return kept


async def its_resources_are_given_attached_and_merged() -> None:
    from inprocess_service import says
    from multipart_forms import upload

    async with served(says("Hi.")) as service:
        one, two, three = [(await upload(service.api, b"heavy"))["id"] for _ in range(3)]
        given = {"dice": {"file_ids": [one]}}
        assistant = await service.assistant(tools=TOOLS, tool_resources=given)
        assert (await service.api.get(f"/assistants/{assistant}"))["tool_resources"] == given
        body = {"role": "user", "content": "Hi", "attachments": attached(two)}
        thread = (await service.api.post("/threads", {"messages": [body], "tool_resources": {"code_interpreter": {}}}))[
            "id"
        ]
        await service.api.post(f"/threads/{thread}/messages", body | {"attachments": attached(three)})
        assert (await service.api.get(f"/threads/{thread}"))["tool_resources"] == {
            "code_interpreter": {"file_ids": []},
            "dice": {"file_ids": [two, three]},
        }
        assert DICE.resource_rules.weighing and DICE.resource_rules.weighing.weighed == 2 * len(b"heavy")
        run = await service.finished(thread, assistant)
        assert run["tool_resources"]["dice"] == {"file_ids": [one, two, three]}
        assert service.prompts[0].tools[1].description == f"Throws a die of 8 sides, {one}, {two}, {three}."
        kept = await service.api.post(f"/assistants/{assistant}", {"tool_resources": {"dice": {}}})
        assert kept["tool_resources"] == given
        error = await service.api.refused("POST", "/threads", {"tool_resources": {"dice": {"file_ids": [one] * 3}}})
        assert error["param"] == "tool_resources.dice.file_ids"
        unknown = {"tool_resources": {"dice": {"file_ids": ["file-none"]}}}
        assert "file-none" in (await service.api.refused("POST", "/threads", unknown, status=404))["message"]
        other = body | {"attachments": [{"file_id": one, "tools": [{"type": "cards"}]}]}
        error = await service.api.refused("POST", f"/threads/{thread}/messages", other)
        assert "'dice'" in error["message"]


def attached(file_id: str) -> Json:
    return [{"file_id": file_id, "tools": [{"type": "dice"}]}]


async def what_it_needs_is_created_and_closed_with_the_worker() -> None:
    async with served():
        services = DICE.services
        assert services and not services.closed
    assert services.closed


async def a_function_of_its_name_takes_nothing_from_it() -> None:
    from inprocess_service import calls, says

    mine = {"type": "function", "function": {"name": "dice"}}
    both = calls(ToolCall("call_1", "dice", "{}"), ToolCall("call_2", "dice_2", '{"reason": "x"}'))
    async with served(both, says("Done.")) as service:
        run = await service.finished(assistant=await service.assistant(tools=[*TOOLS, mine]))
        assert run["status"] == "requires_action"
        owed = run["required_action"]["submit_tool_outputs"]["tool_calls"]
        assert [call["id"] for call in owed] == ["call_1"]
        assert DICE.executed[-1] == "call_2"
        assert (await service.answered(run, call_1="mine"))["status"] == "completed"


async def a_run_that_is_cancelled_cancels_it() -> None:
    from inprocess_service import calls, path_of

    DICE.gate, begun = asyncio.Event(), DICE.executed
    async with served(calls(ASKED)) as service:
        run = await service.start_run(assistant=await service.assistant(tools=TOOLS))
        while begun == DICE.executed:
            await asyncio.sleep(0.001)
        await service.api.post(f"{path_of(run)}/cancel")
        assert (await service.until(run))["status"] == "cancelled"  # though the gate is shut
        assert (await service.steps(run))[0]["status"] == "cancelled"
    DICE.gate = None


def a_crash_at_any_moment_leaves_one_result() -> None:
    """The promises hold, whichever call of the store a process dies at."""
    import scenarios
    import scripted_models
    import simulated_clients as clients
    import simulated_service
    import test_crash_sweep as sweeps
    from faults import How, Plan
    from virtual_time import run

    class Thrower(scripted_models.ByName):
        async def _reply(self, script: str, count: int, prompt: Any, said: scripted_models.Said) -> Any:
            if script == "dice" and prompt.turns[-1].role != "tool":
                return await said.calls("dice")
            return await super()._reply(script, count, prompt, said)

    async def dice_streamed(client: Client) -> None:
        await scenarios.listen(client, "dice")

    assistant = msgspec.structs.replace(scripted_models.ASSISTANT, tools=(*scripted_models.ASSISTANT.tools, DiceTool()))
    simulated_service.ASSISTANT = clients.ASSISTANT = assistant
    simulated_service.ByName = Thrower
    executions = []
    for number in sweeps.undisturbed(dice_streamed).points(How.CRASH_BEFORE):
        before = len(DICE.executed)
        run(sweeps.play(dice_streamed, Plan.at(number, How.CRASH_BEFORE)))
        executions.append(len(DICE.executed) - before)
    assert max(executions) == 2, "a worker died after it had thrown, and another one threw again"


NAMING = (  # the composition, and what it creates if the settings of a tool say so
    "composition.py",
    "serving.py",
    "core/tools/registry.py",
    "infra/wiring.py",
    "infra/dynamic_sessions/sandbox.py",
    "infra/settings/code_interpreter.py",
    "infra/settings/settings.py",
)


def test_no_module_but_its_own_names_a_tool() -> None:
    kinds = {tool.kind for tool in registry.TOOLS} - {registry.CLIENTS.kind}
    named = re.compile(rf"(?<![a-z])(?:{'|'.join(kinds)})(?![a-z])")  # "indices" names no dice
    modules = {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for root in assistants_service.__path__
        for path in Path(root).rglob("*.py")
    }
    own = tuple(f"core/tools/{kind}{rest}" for kind in kinds for rest in ("/", ".py"))
    naming = {name for name, text in modules.items() if named.search(text) and not name.startswith(own)}
    assert naming == set(NAMING)
    assert len(modules) > 300


def test_a_tool_needs_no_file_but_its_own_and_the_registry() -> None:
    environment = {**os.environ, "PYTHONPATH": python_path()}
    command = [sys.executable, __file__]
    played = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert played.returncode == 0, played.stderr
    assert played.stdout.split() == [play.__name__ for play in PLAYS]


PLAYS: tuple[Any, ...] = (
    it_is_set_up_called_shown_and_remembered,
    its_deltas_are_streamed,
    its_resources_are_given_attached_and_merged,
    what_it_needs_is_created_and_closed_with_the_worker,
    answers_that_cite_it_have_its_annotations,
    a_function_of_its_name_takes_nothing_from_it,
    a_run_that_is_cancelled_cancels_it,
    a_crash_at_any_moment_leaves_one_result,
)

if __name__ == "__main__":
    registry.TOOLS.append(DICE)
    for play in PLAYS:
        if asyncio.iscoroutinefunction(play):
            asyncio.run(play())
        else:
            play()
        print(play.__name__)
