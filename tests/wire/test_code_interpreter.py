"""The `code_interpreter` tool over HTTP. What executes the code is the test's (scripted_sandbox.py)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import warnings
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from assistants_service import action
from assistants_service.core.files.service import PATIENCE
from assistants_service.core.ports.models import ForcedFunction, ToolCall
from assistants_service.core.resume import Resumption
from assistants_service.core.tools.code_interpreter import model_texts
from assistants_service.infra.sandbox.logs import OutputLog
from inprocess_service import Event, InProcess, ManualClock, calls, in_process, path_of, says
from multipart_forms import download, upload
from scripted_sandbox import CODE, PNG, FakeSandbox, python
from scripted_search import FakeSearch, made_stores, searching, tool
from test_wire_tools import PARIS, WEATHER

Json = Any
LINK = "sandbox:/mnt/data/"


@contextlib.asynccontextmanager
async def coding(*script: Any, sandbox: FakeSandbox | None = None, **given: Any) -> AsyncIterator[InProcess]:
    async with in_process(*script, sandbox=sandbox or FakeSandbox(), **given) as service:
        yield service


async def coder(service: InProcess, *more: Json, **fields: Json) -> str:
    return await service.assistant(**{"tools": [CODE, *more], **fields})


async def last_message(service: InProcess, run: Json) -> Json:
    return (await service.api.get(f"/threads/{run['thread_id']}/messages?limit=1"))["data"][0]


def told_last(service: InProcess) -> str:
    """What the model heard of its last call."""
    return next(turn.text for turn in reversed(service.prompts[-1].turns) if turn.role == "tool")


def shown(step: Json) -> Json:
    """The one call of a step, without its id."""
    (call,) = step["step_details"]["tool_calls"]
    assert list(call) == ["type", "id", "code_interpreter"]
    return call["code_interpreter"]


# --- a call and its outputs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "outputs", "heard"),
    [
        ("x = 6\nx * 7", [], "42"),  # the value of a bare expression is the model's alone
        ("print('a')\nprint('b')", [{"type": "logs", "logs": "a\nb\n"}], "a\nb"),
        ("print('a')\n7", [{"type": "logs", "logs": "a\n"}], "a\n7"),
        ("1/0", [], "ZeroDivisionError: division by zero"),
        ("x = 1", [], model_texts.NOTHING),
        ("print('\\ud83d')", [{"type": "logs", "logs": "?\n"}], "?"),
    ],
)
async def test_what_a_call_shows_and_what_the_model_hears(code: str, outputs: Json, heard: str) -> None:
    async with coding(calls(python(code)), says("Done.")) as service:
        run = await service.finished(assistant=await coder(service))
        assert run["status"] == "completed"
        executed, answered = await service.steps(run)
        assert [step["status"] for step in (executed, answered)] == ["completed"] * 2
        assert shown(executed) == {"input": code, "outputs": outputs}
        assert told_last(service) == heard


async def test_the_model_is_offered_python_and_told_of_the_users_files() -> None:
    async with coding(says("Hello.")) as service:
        first, second = [await upload(service.api, b"a,b\n1,2\n", name) for name in ("a.csv", "a.csv")]
        resources = {"code_interpreter": {"file_ids": [first["id"]]}}
        attached = {"file_id": second["id"], "tools": [CODE]}
        mine = {"type": "function", "function": {"name": "python"}}
        thread = await service.thread()
        message = {"role": "user", "content": "Look.", "attachments": [attached]}
        await service.api.post(f"/threads/{thread}/messages", message)
        assistant = await coder(service, mine, tool_resources=resources)
        run = await service.finished(thread, assistant, tool_choice=CODE)
        assert run["tool_resources"]["code_interpreter"]["file_ids"] == [first["id"], second["id"]]
        function, offered = service.prompts[0].tools
    assert (function.name, offered.name) == ("python", "python_2")
    assert service.prompts[0].tool_choice == ForcedFunction("python_2")
    assert offered.parameters and offered.parameters["required"] == ["code"]
    assert offered.strict is None
    assert str(offered.description).endswith(
        "The user's files:\n- /mnt/data/a.csv\n- /mnt/data/a_2.csv (uploaded as a.csv)"
    )


@pytest.mark.parametrize("arguments", ["print(1)", "```python\nprint(1)\n```"])
async def test_text_that_is_no_json_is_code(arguments: str) -> None:
    async with coding(calls(ToolCall("call_p", "python", arguments)), says("Done.")) as service:
        run = await service.finished(assistant=await coder(service))
        assert shown((await service.steps(run))[0])["input"] == "print(1)"
        assert service.prompts[1].turns[1].calls == (python("print(1)"),)
        assert told_last(service) == "1"


@pytest.mark.parametrize("name", ["code_interpreter", "Code_Interpreter", "Python", "python_2"])
async def test_a_call_by_another_name_of_the_tool_is_executed(name: str) -> None:
    script = calls(replace(python("print(1)"), name=name)), says("Done.")
    async with coding(*script) as service:
        run = await service.finished(assistant=await coder(service))
        assert run["status"] == "completed"
        assert shown((await service.steps(run))[0])["input"] == "print(1)"
        assert service.prompts[1].turns[1].calls == (python("print(1)"),), "by the name that was offered"
        assert told_last(service) == "1"


@pytest.mark.parametrize(
    ("tools", "name"),
    [
        ([CODE, {"type": "function", "function": {"name": "code_interpreter"}}], "code_interpreter"),
        ([CODE, {"type": "function", "function": {"name": "Python"}}], "Python"),
        ([CODE, {"type": "function", "function": {"name": "python"}}], "Python"),
        ([{"type": "function", "function": {"name": "f"}}], "code_interpreter"),
        ([CODE], "pythons"),
    ],
)
async def test_a_call_of_another_function_is_the_clients(tools: Json, name: str) -> None:
    async with coding(calls(replace(python("print(1)"), name=name))) as service:
        run = await service.finished(assistant=await service.assistant(tools=tools))
        assert run["status"] == "requires_action"
        (call,) = run["required_action"]["submit_tool_outputs"]["tool_calls"]
        assert call["function"]["name"] == name


async def test_long_output_is_cut_and_both_hear_of_it() -> None:
    code = "print('head' + 'x' * 200_000 + 'tail')"
    async with coding(calls(python(code)), says("Done.")) as service:
        run = await service.finished(assistant=await coder(service))
        (output,) = shown((await service.steps(run))[0])["outputs"]
        for text, most in ((output["logs"], model_texts.MOST_LOGS), (told_last(service), model_texts.MAX_MODEL_OUTPUT)):
            assert text.startswith("headx")
            assert text.rstrip().endswith("xtail")
            assert "characters are left out here" in text
            assert most <= len(text) < most + 100


async def test_output_that_the_sandbox_has_cut_is_not_cut_again(tmp_path: Path) -> None:
    log = OutputLog(tmp_path)
    os.write(log.descriptor, b"a" * 100_001)
    printed, left_out = log.text(model_texts.MOST_LOGS)
    log.close()
    async with coding(calls(python(f"print({printed!r}, end='')")), says("Done.")) as service:
        run = await service.finished(assistant=await coder(service))
        (output,) = shown((await service.steps(run))[0])["outputs"]
        assert output["logs"] == printed
        assert f"{left_out:,} bytes" in output["logs"]
        assert "or more characters are left out here" in told_last(service)


async def test_no_code_and_no_interpreter_are_told_to_the_model() -> None:
    sandbox = FakeSandbox(busy=1000)
    script = calls(python("")), calls(python("1")), says("Sorry.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("assistants_service.core.tools.code_interpreter.interpreters.RETRIES", (0.001, 0.001))
        async with coding(*script, sandbox=sandbox) as service:
            run = await service.finished(assistant=await coder(service))
            heard = [turn.text for turn in service.prompts[-1].turns if turn.role == "tool"]
    assert run["status"] == "completed"
    assert heard == [model_texts.NO_CODE, model_texts.BUSY]


async def test_an_interpreter_that_is_busy_for_a_moment_is_waited_for() -> None:
    async with coding(calls(python("5")), says("Done."), sandbox=FakeSandbox(busy=2)) as service:
        await service.finished(assistant=await coder(service))
        assert told_last(service) == "5"


async def test_without_a_sandbox_the_tool_is_accepted_and_not_offered(caplog: pytest.LogCaptureFixture) -> None:
    async with coding(says("Hello."), sandbox=FakeSandbox(off="This system has no Landlock.")) as service:
        assistant = await coder(service)
        for _ in range(2):
            run = await service.finished(assistant=assistant, tool_choice=CODE)
            assert run["status"] == "completed"
        assert [prompt.tools for prompt in service.prompts] == [(), ()]
    assert [r.getMessage() for r in caplog.records if "Landlock" in r.getMessage()] == [
        "code_interpreter is off: This system has no Landlock."
    ]


async def test_what_no_one_expects_of_a_sandbox_is_told_to_the_model() -> None:
    async def before(code: str) -> None:
        raise RuntimeError("a defect")

    sandbox = FakeSandbox(before=before)
    async with coding(calls(python("1")), says("Sorry."), sandbox=sandbox) as service:
        run = await service.finished(assistant=await coder(service))
        assert run["status"] == "completed"
        assert told_last(service) == model_texts.FAILED
        assert not sandbox.live


# --- sessions ------------------------------------------------------------------------------------------------------


async def test_variables_and_files_live_from_call_to_call_and_from_run_to_run() -> None:
    sandbox = FakeSandbox()
    script = calls(python("x = 1\nwrite('a.txt', 'A')")), calls(python("x + 1", "call_2")), says("Two.")
    async with coding(*script, calls(python("read('a.txt') * (x + 2)")), says("Three."), sandbox=sandbox) as service:
        thread, assistant = await service.thread("Count."), await coder(service)
        await service.finished(thread, assistant)
        assert told_last(service) == "2"
        await service.finished(thread, assistant)
        assert told_last(service) == "'AAA'"
        assert len(sandbox.started) == 1
        assert sandbox.started[0].name not in thread
        service.models.script[:] = [calls(python("1")), says("One.")]
        await service.finished(assistant=assistant)  # another thread
    assert len(sandbox.started) == 2
    assert not sandbox.live, "a worker that stops leaves none"


async def test_a_new_worker_restores_the_files_and_tells_the_model_so() -> None:
    sandbox = FakeSandbox()
    script = (
        calls(python("x = 1; write('a.txt', 'A'); write('b.txt', 'B'); write('empty', '')")),
        calls(python("remove('b.txt'); write('a.txt', 'AA')", "call_2")),
        says("Written."),
        calls(python("print('x' in dir(), read('a.txt'), read('empty'))\nread('b.txt')")),
        calls(python("y = 1\ny", "call_4")),
        says("Read."),
    )
    async with coding(*script, sandbox=sandbox) as service:
        thread, assistant = await service.thread("Write."), await coder(service)
        await service.finished(thread, assistant)
        await service.stop_worker()
        service.start_worker()
        run = await service.finished(thread, assistant)
        restarted = service.prompts[-2].turns[-1].text
        assert restarted == f"{model_texts.RESTARTED}\nFalse AA \nKeyError: 'b.txt'"
        assert shown((await service.steps(run))[0])["outputs"] == [{"type": "logs", "logs": "False AA \n"}]
        assert told_last(service) == "1"
    assert sandbox.started[1].written == ["a.txt", "empty"]


async def test_a_call_that_loses_its_interpreter_leaves_the_files_as_they_were() -> None:
    sandbox = FakeSandbox(printed="half\n")

    async def before(code: str) -> None:
        sandbox.lost = "used more than 2 GiB of memory" if "boom" in code else ""

    sandbox.before = before
    script = (
        calls(python("write('a.txt', 'A')")),
        calls(python("write('a.txt', 'boom')", "call_2")),
        calls(python("read('a.txt')", "call_3")),
        says("Done."),
    )
    async with coding(*script, sandbox=sandbox) as service:
        run = await service.finished(assistant=await coder(service))
        steps = await service.steps(run)
        assert [step["status"] for step in steps] == ["completed"] * 4
        assert shown(steps[1])["outputs"] == [{"type": "logs", "logs": "half\n"}]
        heard = [turn.text for turn in service.prompts[-1].turns if turn.role == "tool"]
    assert heard[1].startswith("Error: Python ended during this call: used more than 2 GiB of memory.")
    assert heard[1].endswith(f"\n{model_texts.PRINTED}\nhalf")
    assert heard[2] == f"{model_texts.RESTARTED}\n'A'"


async def test_the_users_files_are_there_under_their_ids_and_their_names() -> None:
    sandbox = FakeSandbox()
    script = (
        calls(python("sorted(read.__self__.files)")),
        says("One."),
        calls(python("write('one.csv', 'mine')")),
        calls(python("read('two.csv')", "call_3")),
        says("Two."),
        calls(python("read('one.csv') + read('two.csv')")),
        says("Three."),
    )
    async with coding(*script, sandbox=sandbox) as service:
        one, two = [await upload(service.api, name.encode(), f"{name}.csv") for name in ("one", "two")]
        thread = await service.thread("Look.", tool_resources={"code_interpreter": {"file_ids": [one["id"]]}})
        assistant = await coder(service)
        await service.finished(thread, assistant)
        assert told_last(service) == str(sorted([one["id"], "one.csv"]))
        attached = {"role": "user", "content": "And?", "attachments": [{"file_id": two["id"], "tools": [CODE]}]}
        await service.api.post(f"/threads/{thread}/messages", attached)
        await service.finished(thread, assistant)
        assert told_last(service) == "'two'"
        assert len(sandbox.started) == 1
        await service.stop_worker()
        service.start_worker()
        await service.api.delete(f"/files/{one['id']}")
        await service.finished(thread, assistant)
        assert told_last(service) == (
            f"{model_texts.RESTARTED}\n'minetwo'\n[The file {one['id']} does not exist any more.]"
        )


async def test_a_cancelled_run_ends_its_interpreter() -> None:
    sandbox, reached = FakeSandbox(), asyncio.Event()

    async def before(code: str) -> None:
        reached.set()
        await asyncio.Event().wait()

    sandbox.before = before
    async with coding(calls(python("1")), sandbox=sandbox) as service:
        run = await service.start_run(assistant=await coder(service))
        await reached.wait()
        await service.api.post(f"{path_of(run)}/cancel")
        assert (await service.until(run))["status"] == "cancelled"
        assert (await service.steps(run))[0]["status"] == "cancelled"
        assert not sandbox.live


async def test_idle_interpreters_end_and_give_way() -> None:
    sandbox, clock = FakeSandbox(), ManualClock()
    async with coding(calls(python("1")), says("Done."), sandbox=sandbox, clock=clock) as service:
        service.models.script[:] = [calls(python("1")), says("Done.")] * 20
        assistant = await coder(service)
        threads = [await service.thread("Hello") for _ in range(6)]
        for thread in threads:
            await service.finished(thread, assistant)
            clock.time += 1
        assert [each.closed for each in sandbox.started] == [True, True, False, False, False, False]
        clock.time += 20 * 60
        await service.finished(threads[-1], assistant)
        assert "A new Python process" in told_last(service)
        assert len(sandbox.started) == 7


async def test_calls_beyond_the_most_wait_in_turn() -> None:
    sandbox, gate, most = FakeSandbox(), asyncio.Event(), 0

    async def before(code: str) -> None:
        nonlocal most
        most = max(most, len(sandbox.live))
        await gate.wait()

    sandbox.before = before
    async with coding(says("x"), sandbox=sandbox) as service:
        service.models.script[:] = [calls(python("1"))] * 9 + [says("Done.")]
        assistant = await coder(service)
        runs = [await service.start_run(assistant=assistant) for _ in range(9)]
        while len(sandbox.executed) < 4:
            await asyncio.sleep(0.001)
        gate.set()
        assert {(await service.until(run))["status"] for run in runs} == {"completed"}
    assert most == 4
    assert len(sandbox.executed) == 9


# --- a reply with several calls ---------------------------------------------------------------------------------------


@action
def shout(text: str) -> str:
    return text.upper()


async def test_each_call_of_a_reply_has_a_step_and_they_are_executed_in_order() -> None:
    asked = [python(f"n = {place}\nprint(n)", f"call_{place}") for place in range(3)]
    async with coding(calls(*asked), says("Done.")) as service:
        run = await service.finished(assistant=await coder(service))
        *executed, answered = await service.steps(run)
        assert [shown(step)["outputs"][0]["logs"] for step in executed] == ["0\n", "1\n", "2\n"]
        assert [step["usage"]["total_tokens"] for step in (*executed, answered)] == [15, 0, 0, 15]
        turns = service.prompts[1].turns
    assert [turn.role for turn in turns] == ["user", "assistant", "tool", "tool", "tool"]
    assert turns[1].calls == tuple(asked)
    assert [turn.text for turn in turns[2:]] == ["0", "1", "2"]


async def test_beside_functions_actions_and_searches_in_one_reply() -> None:
    own = {"type": "function", "function": {"name": "shout"}}
    asked = [
        python("1", "call_1"),
        PARIS,
        python("2", "call_2"),
        ToolCall("call_3", "shout", '{"text": "hi"}'),
        searching("food"),
    ]
    async with coding(calls(*asked), says("Done."), actions=__name__, search=FakeSearch()) as service:
        stores = await made_stores(service, "vs_1")
        assistant = await coder(service, WEATHER, own, tool(), tool_resources=stores)
        run = await service.finished(assistant=assistant)
        assert run["status"] == "requires_action"
        assert [call["id"] for call in run["required_action"]["submit_tool_outputs"]["tool_calls"]] == ["call_a"]
        run = await service.answered(run, call_a="sun")
        assert run["status"] == "completed"
        steps = await service.steps(run)
        kinds = [[call["type"] for call in step["step_details"].get("tool_calls", [])] for step in steps]
        assert kinds == [["code_interpreter"], ["function", "function", "file_search"], ["code_interpreter"], []]
        turns = service.prompts[1].turns
        assert [call.id for call in turns[1].calls] == [call.id for call in asked]
        assert [turn.call_id for turn in turns[2:]] == [call.id for call in asked]
        assert [turn.text for turn in turns[2:6]] == ["1", "sun", "2", "HI"]


async def test_a_run_that_is_cancelled_between_two_calls_forgets_the_rest() -> None:
    sandbox, reached = FakeSandbox(), asyncio.Event()

    async def before(code: str) -> None:
        if code == "2":
            reached.set()
            await asyncio.Event().wait()

    sandbox.before = before
    script = calls(python("1", "call_1"), python("2", "call_2"), python("3", "call_3"))
    async with coding(script, sandbox=sandbox) as service:
        run = await service.start_run(assistant=await coder(service))
        await reached.wait()
        await service.api.post(f"{path_of(run)}/cancel")
        await service.until(run, "cancelled")
        assert [step["status"] for step in await service.steps(run)] == ["completed", "cancelled"]
    assert sandbox.executed == ["1", "2"]


# --- files and images ------------------------------------------------------------------------------------------------


async def test_an_image_is_a_file_an_output_and_a_part_before_the_text() -> None:
    async with coding(calls(python(f"show({PNG + b'1'!r})")), says("A plot."), says("Again.")) as service:
        thread, assistant = await service.thread("Plot."), await coder(service)
        run = await service.finished(thread, assistant)
        (output,) = shown((await service.steps(run))[0])["outputs"]
        file_id = output["image"]["file_id"]
        assert output == {"type": "image", "image": {"file_id": file_id}}
        message = await last_message(service, run)
        assert message["content"] == [
            {"type": "image_file", "image_file": {"file_id": file_id, "detail": "auto"}},
            {"type": "text", "text": {"value": "A plot.", "annotations": []}},
        ]
        assert message["attachments"] == []
        file = await service.api.get(f"/files/{file_id}")
        assert (file["purpose"], file["bytes"], file["filename"]) == ("assistants_output", 9, f"{file_id}.png")
        assert (await download(service.api, file_id)).raw == PNG + b"1"
        listed = await service.api.get("/files?purpose=assistants_output")
        assert [each["id"] for each in listed["data"]] == [file_id]
        assert "1 image shown to the user" in told_last(service)
        run = await service.finished(thread, assistant)
        assert [part["type"] for part in (await last_message(service, run))["content"]] == ["text"]


async def test_a_file_is_the_clients_when_a_message_links_it() -> None:
    code = "write('out/größe.csv', 'a'); write('other.csv', 'b')"
    text = f"😀 See [it]({LINK}out/größe.csv), not [that]({LINK}nothing.csv)."
    again = f"Once more: {LINK}out/größe.csv"
    async with coding(calls(python(code)), says(text), says(again)) as service:
        thread, assistant = await service.thread("Write."), await coder(service)
        run = await service.finished(thread, assistant)
        message = await last_message(service, run)
        (part,) = message["content"]
        (cited,) = part["text"]["annotations"]
        file_id = cited["file_path"]["file_id"]
        assert part["text"]["value"] == text
        assert cited == {
            "type": "file_path",
            "text": f"{LINK}out/größe.csv",
            "start_index": 11,
            "end_index": 42,
            "file_path": {"file_id": file_id},
        }
        assert text[11:42] == cited["text"]
        assert message["attachments"] == [{"file_id": file_id, "tools": [CODE]}]
        file = await service.api.get(f"/files/{file_id}")
        assert (file["filename"], file["bytes"], file["purpose"]) == ("größe.csv", 1, "assistants_output")
        assert (await download(service.api, file_id)).raw == b"a"
        assert len((await service.api.get("/files"))["data"]) == 1, "the other one is not shown"
        run = await service.finished(thread, assistant)
        (part,) = (await last_message(service, run))["content"]
        assert part["text"]["annotations"][0]["file_path"]["file_id"] == file_id
        await service.api.delete(f"/files/{file_id}")
        await service.api.refused("GET", f"/files/{file_id}", status=404)
        assert (await service.api.get("/files"))["data"] == []


async def test_an_empty_file_can_be_linked_and_downloaded() -> None:
    async with coding(calls(python("write('empty.txt', '')")), says(f"{LINK}empty.txt")) as service:
        await service.finished(assistant=await coder(service))
        (file,) = (await service.api.get("/files"))["data"]
        assert (file["filename"], file["bytes"]) == ("empty.txt", 0)
        answer = await download(service.api, file["id"])
        assert (answer.status, answer.raw) == (200, b"")


async def test_what_a_call_may_not_leave_is_told_to_the_model() -> None:
    sandbox, most = FakeSandbox(notes=("The output was cut.",)), 40  # 30 of them for images
    code = "write('a', 'x' * 10); write('b', 'y'); [show(b'%d' % n) for n in range(25)]; None"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("assistants_service.core.tools.code_interpreter.keeping.MOST_KEPT", most)
        async with coding(calls(python(code)), says("Done."), sandbox=sandbox) as service:
            run = await service.finished(assistant=await coder(service))
            assert len(shown((await service.steps(run))[0])["outputs"]) == 20
            heard = told_last(service)
    assert "- /mnt/data/a (10 bytes)" in heard
    assert "[/mnt/data/b will be lost: a call may leave 40 bytes in files, and a thread may have 2000 files.]" in heard
    assert "Only the first 20 images are shown." in heard
    assert heard.endswith("[The output was cut.]")


async def test_files_with_long_names_fit_into_a_commit() -> None:
    code = "for n in range(2000): write(chr(34) * 1000 + str(n), '')"
    async with coding(calls(python(code)), says("Done.")) as service:
        run = await service.finished(assistant=await coder(service))
        assert run["status"] == "completed"
        heard = told_last(service)
        assert len(heard) < model_texts.MOST_LINES + 2_000
        assert "more will be lost" in heard


async def contents(service: InProcess) -> list[str]:
    return list(await service.storage.list_names("contents", after=None, limit=100))


async def test_files_go_with_their_thread() -> None:
    clock = ManualClock()
    code = f"write('a.csv', 'a'); write('b.csv', 'b'); show({PNG!r})"
    async with coding(calls(python(code)), says(f"{LINK}a.csv"), clock=clock) as service:
        run = await service.finished(assistant=await coder(service))
        assert len(await contents(service)) == 3
        assert len((await service.api.get("/files"))["data"]) == 2
        await service.api.delete(f"/threads/{run['thread_id']}")
        while await contents(service):
            await asyncio.sleep(0.001)
        assert (await service.api.get("/files"))["data"] == []
        service.advance(3600)
        while await service.storage.list_names("files", after=None, limit=1):  # tombstones, too
            await asyncio.sleep(0.001)


async def test_files_outlive_their_thread_if_the_operator_wants_that() -> None:
    clock = ManualClock()
    script = (
        calls(python("write('a.csv', 'a'); write('b.csv', 'b'); write('c.csv', 'c')")),
        says(f"{LINK}a.csv {LINK}c.csv"),
    )
    async with coding(*script, clock=clock, code_interpreter_keep_days=30) as service:
        run = await service.finished(assistant=await coder(service))
        second, first = (await service.api.get("/files"))["data"]
        await service.api.delete(f"/files/{second['id']}")
        await service.api.delete(f"/threads/{run['thread_id']}")
        while len(await contents(service)) > 1:
            await asyncio.sleep(0.001)
        await settled(service)
        file = await service.api.get(f"/files/{first['id']}")
        assert file["expires_at"] == int(clock.now()) + 30 * 24 * 3600
        service.advance(24 * 3600)
        await settled(service)
        assert (await service.api.get("/files"))["data"] == [file]
        assert (await download(service.api, first["id"])).raw == b"a"
        assert len(await service.storage.list_names("files", after=None, limit=10)) == 1, "no tombstone stays"
        for _ in range(5):  # no queue hides an item for as long
            service.advance(7 * 24 * 3600)
            await settled(service)
        assert (await service.api.get("/files"))["data"] == []
        assert await contents(service) == []


async def settled(service: InProcess) -> None:
    """Until the worker has done what there is to do by now."""
    while await service.storage.receive(1, visibility_timeout=0):
        await asyncio.sleep(0.001)
    await service.stop_worker(grace=10)
    service.start_worker()


async def test_contents_without_an_owner_are_gone_a_day_later() -> None:
    clock = ManualClock()
    script = (
        calls(python("write('a.csv', 'old'); write('kept.csv', 'kept')")),
        calls(python("write('a.csv', 'new'); write('gone.csv', 'x')", "call_2")),
        calls(python("remove('gone.csv')", "call_3")),
        says(f"{LINK}a.csv"),
    )
    async with coding(*script, clock=clock) as service:
        await service.finished(assistant=await coder(service))
        assert len(await contents(service)) == 4
        service.advance(PATIENCE + 1)
        while len(await contents(service)) > 2 or await service.storage.receive(1, visibility_timeout=0):
            await asyncio.sleep(0.001)
        assert len(await contents(service)) == 2, "that of a file which no message links, too"
        (file,) = (await service.api.get("/files"))["data"]
        assert (await download(service.api, file["id"])).raw == b"new"


async def test_a_restore_leaves_the_files_that_threads_hold() -> None:
    clock = ManualClock()
    async with coding(calls(python("write('a.csv', 'a')")), says("Written."), clock=clock) as service:
        await service.finished(assistant=await coder(service))
        await service.storage.stage("contents", "default/file-lost", "whole", _bytes(b"x"))
        resumption = Resumption(service.storage, service.threads, service.stores, clock)
        await resumption.run()
        assert resumption.enqueued == {"tidy_file": 1}, "of what nothing holds"
        service.advance(PATIENCE + 1)
        while len(await contents(service)) > 1:
            await asyncio.sleep(0.001)
        assert await contents(service) != ["default/file-lost"]


async def _bytes(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_a_file_that_was_deleted_stays_so_whoever_comes_late() -> None:
    async with coding(calls(python(f"show({PNG!r})")), says("A plot.")) as service:
        run = await service.finished(assistant=await coder(service))
        (file,) = (await service.api.get("/files"))["data"]
        await service.api.delete(f"/files/{file['id']}")
        await service.threads.project("default", run["thread_id"], run["id"])  # as a worker that takes over does
        await service.api.refused("GET", f"/files/{file['id']}", status=404)
        await service.api.refused("DELETE", f"/files/{file['id']}", status=404)
        assert (await service.api.get("/files"))["data"] == []


# --- streams -------------------------------------------------------------------------------------------------------


async def streamed(service: InProcess, assistant: str) -> list[Event]:
    body = {"assistant_id": assistant, "stream": True}
    async with service.api.stream("POST", f"/threads/{await service.thread('Go.')}/runs", body) as stream:
        return await stream.rest()


def deltas(events: list[Event], kind: str) -> list[Json]:
    return [event.data["delta"] for event in events if event.name == f"thread.{kind}.delta"]


async def test_a_call_is_streamed_as_it_comes() -> None:
    code = "print('größe 😀')\n1"
    script = calls(python(code, "call_1"), python(f"show({PNG!r})", "call_2")), says("A ", "plot.")
    async with coding(*script) as service:
        events = await streamed(service, await coder(service))
        names = [event.name.removeprefix("thread.") for event in events]
    first = names.index("run.step.created")
    tooled = [name for name in names[first:] if name.startswith("run.step")]
    assert tooled[:2] == ["run.step.created", "run.step.in_progress"]
    one, two, message = (event.data["id"] for event in events if event.name == "thread.run.step.created")
    order = [event.data["id"] for event in events if event.name.startswith("thread.run.step.")]
    assert order == [one] * order.count(one) + [two] * order.count(two) + [message] * 3, "steps do not overlap"
    found = deltas(events, "run.step")
    head, *rest = [each["step_details"]["tool_calls"][0] for each in found][: order.count(one) - 3]
    assert head == {
        "index": 0,
        "id": "call_1",
        "type": "code_interpreter",
        "code_interpreter": {"input": "", "outputs": []},
    }
    assert "".join(each["code_interpreter"].get("input", "") for each in rest) == code
    assert rest[-1] == {
        "index": 0,
        "type": "code_interpreter",
        "code_interpreter": {"outputs": [{"index": 0, "type": "logs", "logs": "größe 😀\n"}]},
    }
    (image,) = found[-1]["step_details"]["tool_calls"][0]["code_interpreter"]["outputs"]
    assert (image["index"], image["type"]) == (0, "image")
    said = [each["content"][0] for each in deltas(events, "message")]
    assert said[0] == {
        "index": 0,
        "type": "image_file",
        "image_file": {"file_id": image["image"]["file_id"], "detail": "auto"},
    }
    assert {each["index"] for each in said[1:]} == {1}
    assert "".join(each["text"]["value"] for each in said[1:]) == "A plot."
    completed = next(event.data for event in events if event.name == "thread.message.completed")
    assert [part["type"] for part in completed["content"]] == ["image_file", "text"]


async def test_what_is_streamed_of_a_call_adds_up_to_its_code() -> None:
    """Also if it was not certain what it is before it was complete, or is shown later."""
    sent = ['"print(1)"', '"print(1)"\n', '{"input": "1"}', '"a,b".split(",")', '{"a": 1}["a"]', "{}", "```\\n1```"]
    script = [calls(*(ToolCall(f"call_{n}{m}", "python", sent[n + m]) for m in range(2))) for n in range(len(sent) - 1)]
    async with coding(*script, says("Done.")) as service:
        events = await streamed(service, await coder(service))
    completed = [event.data for event in events if event.name == "thread.run.step.completed"][:-1]
    shown_last = {step["id"]: step["step_details"]["tool_calls"][0]["code_interpreter"]["input"] for step in completed}
    added = dict.fromkeys(shown_last, "")
    for event in events:
        if event.name == "thread.run.step.delta":
            (call,) = event.data["delta"]["step_details"]["tool_calls"]
            added[event.data["id"]] += call["code_interpreter"].get("input", "")
    assert added == shown_last
    assert [*shown_last.values()][:2] == ["print(1)", "print(1)"]


async def test_a_link_is_streamed_whole_with_its_annotation() -> None:
    answer = f"[a]({LINK}a.csv)"
    async with coding(calls(python("write('a.csv', 'a')")), says(*answer)) as service:
        events = await streamed(service, await coder(service))
    said = [each["content"][0]["text"] for each in deltas(events, "message")]
    (linked,) = [each for each in said if each.get("annotations")]
    assert linked["value"] == f"{LINK}a.csv"
    assert linked["annotations"][0]["index"] == 0
    assert "".join(each["value"] for each in said) == answer
    completed = next(event.data for event in events if event.name == "thread.message.completed")
    assert len(completed["attachments"]) == 1


class Heard(openai.AsyncAssistantEventHandler):
    """What the SDK's helper tells."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.code, self.logs, self.images = "", "", list[str]()

    async def on_tool_call_created(self, tool_call: Any) -> None:
        self.told.append(f"created {tool_call.id}")

    async def on_tool_call_delta(self, delta: Any, snapshot: Any) -> None:
        assert delta.type == "code_interpreter"
        self.code += delta.code_interpreter.input or ""
        for output in delta.code_interpreter.outputs or []:
            self.logs += output.logs if output.type == "logs" else ""

    async def on_tool_call_done(self, tool_call: Any) -> None:
        self.told.append(f"done {tool_call.id} {tool_call.code_interpreter.input}")

    async def on_image_file_done(self, image_file: Any) -> None:
        self.images.append(image_file.file_id)


async def test_the_sdks_helper_hears_code_outputs_and_images() -> None:
    script = calls(python("print(1)", "call_1"), python(f"show({PNG!r})", "call_2")), says("A plot.")
    async with coding(*script) as service:
        assistant, thread = await coder(service), await service.thread("Plot.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            async with openai.AsyncOpenAI(base_url=f"{service.url}v1", api_key="none") as client:
                runs = client.beta.threads.runs
                async with runs.stream(thread_id=thread, assistant_id=assistant, event_handler=Heard()) as stream:
                    await stream.until_done()
    heard = stream
    shown = f"show({PNG!r})"
    # The helper tells of a call again when its run ends; and it takes the first call of a step for the one before.
    assert list(dict.fromkeys(heard.told)) == ["created call_1", "done call_1 print(1)", f"done call_2 {shown}"]
    assert heard.code == f"print(1){shown}"
    assert heard.logs == "1\n"
    assert len(heard.images) == 1


async def test_events_are_told_from_the_log_alike() -> None:
    """Of a run that was not streamed."""
    async with coding(calls(python(f"print(1); show({PNG!r})")), says("Done.")) as service:
        run = await service.finished(assistant=await coder(service))
        async with service.api.stream("GET", f"{path_of(run)}/events") as stream:
            events = await stream.rest()
        found = [each["step_details"]["tool_calls"][0]["code_interpreter"] for each in deltas(events, "run.step")]
        assert [list(each) for each in found] == [["input", "outputs"], ["input"], ["outputs"]]
        assert [part["content"][0]["type"] for part in deltas(events, "message")] == ["image_file", "text"]
