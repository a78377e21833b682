"""Refusals as the wire words them: status, message, `param` and `code`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from assistants_service.api import streaming
from assistants_service.core.ports.models import ToolCall
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.infra.models.provider_kind import Provider
from assistants_service.infra.models.providers import ModelRouter
from inprocess_service import Gate, InProcess, ManualClock, calls, filled, in_process, path_of, says
from multipart_forms import upload

Json = Any
FULL = {str(number): "v" for number in range(16)}
MINIMAL = {"assistant_id": "asst_none"}
WEATHER = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture
async def service() -> AsyncIterator[InProcess]:
    async with in_process() as one:
        yield one


# --- what is not there ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "message"),
    [
        ("GET", "/assistants/asst_x", None, "No assistant found with id 'asst_x'."),
        ("POST", "/assistants/asst_x", {}, "No assistant found with id 'asst_x'."),
        ("DELETE", "/assistants/asst_x", None, "No assistant found with id 'asst_x'."),
        ("POST", "/threads/runs", MINIMAL, "No assistant found with id 'asst_none'."),
        ("POST", "/threads/{thread}/runs", MINIMAL, "No assistant found with id 'asst_none'."),
        ("GET", "/threads/thread_x", None, "No thread found with id 'thread_x'."),
        ("POST", "/threads/thread_x", {}, "No thread found with id 'thread_x'."),
        ("DELETE", "/threads/thread_x", None, "No thread found with id 'thread_x'."),
        ("GET", "/threads/thread_x/messages", None, "No thread found with id 'thread_x'."),
        (
            "POST",
            "/threads/thread_x/messages",
            {"role": "user", "content": "Hi"},
            "No thread found with id 'thread_x'.",
        ),
        ("POST", "/threads/thread_x/runs", {"assistant_id": "{asst}"}, "No thread found with id 'thread_x'."),
        ("GET", "/threads/thread_x/runs", None, "No thread found with id 'thread_x'."),
        ("GET", "/threads/{thread}/messages/msg_x", None, "No message found with id 'msg_x'."),
        ("POST", "/threads/{thread}/messages/msg_x", {"metadata": {}}, "No message found with id 'msg_x'."),
        ("DELETE", "/threads/{thread}/messages/msg_x", None, "No message found with id 'msg_x'."),
        ("GET", "/threads/{thread}/runs/run_x", None, "No run found with id 'run_x'."),
        ("POST", "/threads/{thread}/runs/run_x", {"metadata": {}}, "No run found with id 'run_x'."),
        ("POST", "/threads/{thread}/runs/run_x/cancel", None, "No run found with id 'run_x'."),
        (
            "POST",
            "/threads/{thread}/runs/run_x/submit_tool_outputs",
            {"tool_outputs": []},
            "No run found with id 'run_x'.",
        ),
        ("GET", "/threads/{thread}/runs/run_x/events", None, "No run found with id 'run_x'."),
        ("GET", "/threads/{thread}/runs/run_x/steps", None, "No run found with id 'run_x'."),
        ("GET", "/threads/{thread}/runs/{run}/steps/step_123", None, "No run step found with id 'step_123'."),
        ("GET", "/threads/{thread}/messages?after=msg_x", None, "No message found with id 'msg_x'."),
        ("GET", "/threads/{thread}/runs?before=run_x", None, "No run found with id 'run_x'."),
    ],
)
async def test_an_unknown_id_is_named(service: InProcess, method: str, path: str, body: Json, message: str) -> None:
    ids = await some_ids(service)
    error = await service.api.refused(method, filled(path, ids), filled(body, ids), status=404)
    assert error == {"message": message, "type": "invalid_request_error", "param": None, "code": None}


async def test_an_unknown_model_is_named(service: InProcess) -> None:
    error = await service.api.refused("GET", "/models/ft:123", status=404)
    assert error["message"] == "The model 'ft:123' does not exist"
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert (await service.api.get("/models/gpt-4o"))["owned_by"] == "acme"
    assert [model["id"] for model in (await service.api.get("/models"))["data"]] == ["gpt-4o"]


@pytest.mark.parametrize("off", [False, True])
async def test_a_model_without_a_provider_is_refused_where_it_is_named(off: bool) -> None:
    """Without OFFLINE_MODEL a bare name has no provider either. What was stored before is refused by its runs."""
    local = {"local": Provider(base_url="http://127.0.0.1:9")}
    providers = local if off else {"offline": Provider(api="offline"), **local}
    name = "gpt-4o" if off else "lokal/gpt-4o"
    async with in_process(models=ModelRouter(providers, None if off else "offline"), worker=False) as service:
        api, thread = service.api, await service.thread("Hello")
        assistant = await service.assistant(model="local/gpt-4o")
        error = await api.refused("POST", "/assistants", {"model": name})
        assert (error["param"], error["code"]) == ("model", "model_not_found")
        assert error["message"].startswith(f"The requested model '{name}' does not exist: ")
        assert f"The providers are: local{'' if off else ', offline'}." in error["message"]
        for path in (f"/assistants/{assistant}", f"/threads/{thread}/runs", "/threads/runs"):
            body = {"model": name} | ({"assistant_id": assistant} if "runs" in path else {})
            assert await api.refused("POST", path, body) == error
        stored = await service.storage.get("assistants", f"default/{assistant}")
        assert stored
        old = stored.body.replace(b"local/gpt-4o", name.encode())
        await service.storage.replace("assistants", stored.name, old, stored.etag)
        for path in (f"/threads/{thread}/runs", "/threads/runs"):
            assert await api.refused("POST", path, {"assistant_id": assistant}) == error
        assert (await api.get(f"/threads/{thread}/runs"))["data"] == []
        await api.post(f"/threads/{thread}/runs", {"assistant_id": assistant, "model": "local/gpt-4o"})


@pytest.mark.parametrize("default", ["offline", "local"])
async def test_a_model_is_found_by_every_name_that_a_run_may_give(default: str) -> None:
    providers = {"offline": Provider(api="offline"), "local": Provider(base_url="http://127.0.0.1:9", models=("m",))}
    async with in_process(models=ModelRouter(providers, default)) as service:
        full = ["offline/offline", "local/m"]
        short = {"offline": "offline", "local": "m"}[default]
        listed = [model["id"] for model in (await service.api.get("/models"))["data"]]
        assert listed == [short if each.startswith(default) else each for each in full]
        for name in (*full, short):
            assert (await service.api.get(f"/models/{name}"))["id"] == name
            assert (await service.api.get(f"/models/{name.replace('/', '%2F')}"))["id"] == name
        for name in ("local/n", "offline/m", "other/m", "", "/m"):
            await service.api.refused("GET", f"/models/{name}", status=404)


@pytest.mark.parametrize(
    ("method", "path", "body", "param", "value", "prefix"),
    [
        ("GET", "/threads/undefined", None, "thread_id", "undefined", "thread"),
        ("POST", "/threads/{msg}/messages", {"role": "user", "content": "Hi"}, "thread_id", "{msg}", "thread"),
        ("GET", "/assistants/wf_x", None, "assistant_id", "wf_x", "asst"),
        ("POST", "/threads/runs", {"assistant_id": "wf_x"}, "assistant_id", "wf_x", "asst"),
        ("POST", "/threads/{thread}/runs", {"assistant_id": ""}, "assistant_id", "", "asst"),
        ("GET", "/threads/{thread}/runs/{msg}", None, "run_id", "{msg}", "run"),
        ("GET", "/threads/{thread}/messages/{run}", None, "message_id", "{run}", "msg"),
        ("GET", "/threads/{thread}/runs/{run}/steps/{run}", None, "step_id", "{run}", "step"),
        ("GET", "/threads/{thread}/messages?run_id={msg}", None, "run_id", "{msg}", "run"),
        ("GET", "/assistants?after=x", None, "after", "x", "asst"),
    ],
)
async def test_an_id_of_another_kind_is_refused_by_its_prefix(
    service: InProcess, method: str, path: str, body: Json, param: str, value: str, prefix: str
) -> None:
    ids = await some_ids(service)
    error = await service.api.refused(method, filled(path, ids), filled(body, ids))
    assert error["message"] == f"Invalid '{param}': '{filled(value, ids)}'. Expected an ID that begins with '{prefix}'."
    assert (error["param"], error["code"]) == (param, "invalid_value")


# --- what a body names ----------------------------------------------------------------------------------------------

FILE, STORE = "No such File object: {id}", "No vector store found with id '{id}'."
CODE = {"tool_resources": {"code_interpreter": {"file_ids": ["{file}", "{id}"]}}}
SEARCH = {"tool_resources": {"file_search": {"vector_store_ids": ["{id}"]}}}
MADE = {"tool_resources": {"file_search": {"vector_stores": [{"file_ids": ["{id}"]}]}}}
ATTACHED = {"role": "user", "content": "Hi", "attachments": [{"file_id": "{id}", "tools": [{"type": "{tool}"}]}]}
PICTURE = {"type": "image_file", "image_file": {"file_id": "{id}"}}
SHOWN = {"role": "user", "content": [{"type": "text", "text": "Hi"}, PICTURE]}
ASKED = {"assistant_id": "{asst}", "instructions": "Greet."}
IN_CODE, IN_SEARCH = "tool_resources.code_interpreter.file_ids[1]", "tool_resources.file_search.vector_store_ids[0]"
IN_MADE = "tool_resources.file_search.vector_stores[0].file_ids[0]"
NAMING = [
    ("/assistants", {"model": "m", **CODE}, IN_CODE, FILE),
    ("/assistants", {"model": "m", **SEARCH}, IN_SEARCH, STORE),
    ("/assistants", {"model": "m", **MADE}, IN_MADE, FILE),
    ("/assistants/{asst}", CODE, IN_CODE, FILE),
    ("/assistants/{asst}", SEARCH, IN_SEARCH, STORE),
    ("/threads", CODE, IN_CODE, FILE),
    ("/threads", SEARCH, IN_SEARCH, STORE),
    ("/threads", MADE, IN_MADE, FILE),
    ("/threads", {"messages": [SHOWN]}, "messages[0].content[1].image_file.file_id", FILE),
    ("/threads", {"messages": [ATTACHED]}, "messages[0].attachments[0].file_id", FILE),
    ("/threads/{thread}", CODE, IN_CODE, FILE),
    ("/threads/{thread}", SEARCH, IN_SEARCH, STORE),
    ("/threads/{thread}/messages", SHOWN, "content[1].image_file.file_id", FILE),
    ("/threads/{thread}/messages", ATTACHED, "attachments[0].file_id", FILE),
    (
        "/threads/{thread}/runs",
        {**ASKED, "additional_messages": [SHOWN]},
        "additional_messages[0].content[1].image_file.file_id",
        FILE,
    ),
    (
        "/threads/{thread}/runs",
        {**ASKED, "additional_messages": [ATTACHED]},
        "additional_messages[0].attachments[0].file_id",
        FILE,
    ),
    ("/threads/runs", {**ASKED, **CODE}, IN_CODE, FILE),
    ("/threads/runs", {**ASKED, **SEARCH}, IN_SEARCH, STORE),
    ("/threads/runs", {**ASKED, "thread": CODE}, f"thread.{IN_CODE}", FILE),
    ("/threads/runs", {**ASKED, "thread": SEARCH}, f"thread.{IN_SEARCH}", STORE),
    ("/threads/runs", {**ASKED, "thread": MADE}, f"thread.{IN_MADE}", FILE),
    ("/threads/runs", {**ASKED, "thread": {"messages": [ATTACHED]}}, "thread.messages[0].attachments[0].file_id", FILE),
]
WRITES = ("create", "replace", "start", "append", "send", "remove", "write_if_newer")


def noted(service: InProcess, monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """Which of these calls the store gets from here on, and what for."""
    calls: list[str] = []

    def noting(name: str) -> Any:
        call = getattr(service.storage, name)

        async def note(*given: Any, **more: Any) -> Any:
            calls.append(f"{name} {given[:2]}")
            return await call(*given, **more)

        return note

    for name in names:
        monkeypatch.setattr(service.storage, name, noting(name))
    return calls


@pytest.mark.parametrize(
    ("path", "body", "param", "message", "tool"),
    [
        (*each, tool)
        for each in NAMING
        for tool in ("code_interpreter", "file_search")
        if tool == "code_interpreter" or "{tool}" in str(each[1])
    ],
)
async def test_what_a_body_names_must_be_there(
    monkeypatch: pytest.MonkeyPatch, path: str, body: Json, param: str, message: str, tool: str
) -> None:
    """Before anything is written. Whether an id was never given to anything, cannot be one, or is gone."""
    async with in_process(says("Hi.")) as service:
        ids = {**await some_ids(service), "tool": tool}
        await service.stop_worker(grace=5)
        gone = (await upload(service.api, b"x"))["id"] if message == FILE else ids["store"]
        await service.api.delete(f"/{'files' if message == FILE else 'vector_stores'}/{gone}")
        writes, reads = noted(service, monkeypatch, *WRITES), noted(service, monkeypatch, "get", "read")
        for unknown in (gone, f"{gone[:3]}{gone[3:-1]}/../{gone}"):
            asked = filled(body, ids | {"id": unknown})
            error = await service.api.refused("POST", filled(path, ids), asked, status=404)
            assert error["message"] == message.format(id=unknown)
            assert (error["param"], error["code"]) == ("id" if message == FILE else None, None)
        for wrong in ("undefined", "asst_x", ""):
            error = await service.api.refused("POST", filled(path, ids), filled(body, ids | {"id": wrong}))
            prefix = "file" if message == FILE else "vs"
            assert error["message"] == f"Invalid '{param}': '{wrong}'. Expected an ID that begins with '{prefix}'."
            assert (error["param"], error["code"]) == (param, "invalid_value")
        assert writes == []
        assert not any(".." in read for read in reads)
        there = (await upload(service.api, b"x"))["id"] if message == FILE else (await new_store(service))["id"]
        await service.api.post(filled(path, ids), filled(body, ids | {"id": there}))


async def new_store(service: InProcess, **fields: Json) -> Json:
    return await service.api.post("/vector_stores", fields)


async def test_what_another_project_has_cannot_be_named() -> None:
    async with in_process(api_keys="a:ka,b:kb") as service:
        mine, theirs = service.client("ka"), service.client("kb")
        file = (await upload(theirs, b"x"))["id"]
        store = (await theirs.post("/vector_stores"))["id"]
        for id_, (_, body, _, message) in ((file, NAMING[5]), (store, NAMING[6])):
            named = filled(body, {"file": file, "id": id_})
            assert (await theirs.post("/threads", named))["tool_resources"] == named["tool_resources"]
            error = await mine.refused("POST", "/threads", named, status=404)
            assert error["message"] == message.format(id=id_)


async def test_each_id_that_a_body_names_is_looked_up_once_and_some_at_a_time(
    service: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [(await upload(service.api, b"x"))["id"] for _ in range(50)]
    most, now, get = 0, 0, service.storage.get

    async def slow(container: str, name: str) -> Any:
        nonlocal most, now
        now += 1
        most = max(most, now)
        for _ in range(3):  # the others of its time begin
            await asyncio.sleep(0)
        now -= 1
        return await get(container, name)

    monkeypatch.setattr(service.storage, "get", slow)
    reads = noted(service, monkeypatch, "get")
    message = {"role": "user", "content": "Hi", "attachments": [{"file_id": each} for each in files]}
    await service.api.post("/threads", {"messages": [message, message]})
    assert len([read for read in reads if read.startswith("get ('files'")]) == 50
    assert most == 32
    reads.clear()
    await service.api.post("/threads", {"messages": [{"role": "user", "content": "Hi", "attachments": []}]})
    assert reads == []


async def test_an_update_is_asked_for_what_it_brings_alone(service: InProcess) -> None:
    ids = await some_ids(service)
    named = filled(SEARCH, {"id": ids["store"]})
    for path in ("/assistants/{asst}", "/threads/{thread}"):
        await service.api.post(filled(path, ids), named)
    await service.api.delete(f"/vector_stores/{ids['store']}")
    for path in ("/assistants/{asst}", "/threads/{thread}"):
        changed = await service.api.post(filled(path, ids), {"metadata": {"a": "b"}})
        assert changed["tool_resources"]["file_search"] == named["tool_resources"]["file_search"]
        await service.api.refused("POST", filled(path, ids), named, status=404)


async def test_a_store_that_has_expired_can_be_named() -> None:
    async with in_process(clock=ManualClock()) as service:
        store = await new_store(service, expires_after={"anchor": "last_active_at", "days": 1})
        service.advance(2 * 24 * 3600)
        assert (await service.api.get(f"/vector_stores/{store['id']}"))["status"] == "expired"
        await service.assistant(**filled(SEARCH, {"id": store["id"]}))


# --- what a URL names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "PATCH"])
async def test_an_unknown_url_is_404(service: InProcess, method: str) -> None:
    answer = await service.api.send(method, "/v1/x")
    assert answer.status == 404
    expected = {
        "message": f"Invalid URL ({method} /v1/x)",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    assert answer.error == expected


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/v1/assistants"), ("DELETE", "/v1/threads"), ("PATCH", "/v1/threads/thread_x")]
)
async def test_a_method_that_a_url_does_not_have_is_405(service: InProcess, method: str, path: str) -> None:
    answer = await service.api.send(method, path)
    assert answer.status == 405
    assert answer.error["type"] == "invalid_request_error"
    assert f"{method} on {path}" in answer.error["message"]
    assert "POST" in answer.headers["Allow"]


# --- the state of a run ---------------------------------------------------------------------------------------------


async def test_a_thread_is_locked_while_a_run_is_active() -> None:
    gate = Gate()
    async with in_process(says(gate, "Done.")) as service:
        run = await service.start_run()
        thread = run["thread_id"]
        error = await service.api.refused("POST", f"/threads/{thread}/messages", {"role": "user", "content": "And?"})
        assert error["message"] == f"Can't add messages to {thread} while a run {run['id']} is active."
        error = await service.api.refused("POST", f"/threads/{thread}/runs", {"assistant_id": run["assistant_id"]})
        assert error["message"] == f"Thread {thread} already has an active run {run['id']}."
        assert (error["param"], error["code"]) == (None, None)
        gate.open()
        await service.until(run)
        await service.api.post(f"/threads/{thread}/messages", {"role": "user", "content": "And?"})


async def test_outputs_are_taken_only_by_a_run_that_asks_for_them() -> None:
    gate = Gate()
    async with in_process(says(gate, "Done.")) as service:
        run = await service.start_run()
        body = {"tool_outputs": [{"tool_call_id": "call_a", "output": "1"}]}
        await service.until(run, "in_progress")
        error = await service.api.refused("POST", f"{path_of(run)}/submit_tool_outputs", body)
        assert error["message"] == 'Runs in status "in_progress" do not accept tool outputs.'
        gate.open()
        await service.until(run)
        error = await service.api.refused("POST", f"{path_of(run)}/submit_tool_outputs", body)
        assert error["message"] == 'Runs in status "completed" do not accept tool outputs.'


@pytest.mark.parametrize(
    "got", [["call_a"], [], ["call_a", "call_c"], ["call_a", "call_a"], ["call_a", "call_b", "call_b"]]
)
async def test_all_outputs_come_at_once_and_for_the_calls_that_were_made(got: list[str]) -> None:
    asked = [ToolCall("call_a", "get_weather", "{}"), ToolCall("call_b", "get_weather", "{}")]
    async with in_process(calls(*asked), says("Done.")) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
        outputs = [{"tool_call_id": call, "output": "1"} for call in got]
        error = await service.api.refused("POST", f"{path_of(run)}/submit_tool_outputs", {"tool_outputs": outputs})
        assert error["message"] == f"Expected tool outputs for call_ids ['call_a', 'call_b'], got {got}"
        outputs = [{"tool_call_id": call, "output": "1"} for call in ("call_b", "call_a")]
        await service.api.post(f"{path_of(run)}/submit_tool_outputs", {"tool_outputs": outputs})
        assert (await service.until(run))["status"] == "completed"


async def test_a_run_that_ended_cannot_be_cancelled(service: InProcess) -> None:
    run = await service.finished()
    error = await service.api.refused("POST", f"{path_of(run)}/cancel")
    assert error["message"] == "Cannot cancel run with status 'completed'."


async def test_a_run_needs_a_user_message_or_instructions(service: InProcess) -> None:
    bare, told = await service.assistant(), await service.assistant(instructions="Greet.")
    thread = await service.thread()
    await service.api.post(f"/threads/{thread}/messages", {"role": "assistant", "content": "I said"})
    wants = "Run creation requires a Thread with a user message or an assistant with instructions."
    for path, body in [(f"/threads/{thread}/runs", {"assistant_id": bare}), ("/threads/runs", {"assistant_id": bare})]:
        error = await service.api.refused("POST", path, body)
        assert (error["message"], error["code"]) == (wants, "invalid_thread")
    assert (await service.finished(thread, told))["status"] == "completed"
    assert (await service.finished(await service.thread(), bare, instructions="Greet."))["status"] == "completed"


async def test_the_metadata_of_an_active_run_may_change() -> None:
    """The real service refused that in 2024; the contract recommends to allow it."""
    gate = Gate()
    async with in_process(says(gate, "Done.")) as service:
        run = await service.start_run()
        await service.until(run, "in_progress")
        changed = await service.api.post(path_of(run), {"metadata": {"a": "b"}})
        assert (changed["status"], changed["metadata"]) == ("in_progress", {"a": "b"})
        gate.open()
        assert (await service.until(run))["metadata"] == {"a": "b"}


# --- bodies and queries ---------------------------------------------------------------------------------------------

Refusal = tuple[str, str, str]  # message, param, code


def wrong_type(param: str, expected: str, got: str) -> Refusal:
    return f"Invalid type for '{param}': expected {expected}, but got {got} instead.", param, "invalid_type"


def missing(param: str) -> Refusal:
    return f"Missing required parameter: '{param}'.", param, "missing_required_parameter"


def unknown(param: str) -> Refusal:
    return f"Unknown parameter: '{param}'.", param, "unknown_parameter"


def no_choice(param: str, got: str, choices: str) -> Refusal:
    return f"Invalid value: '{got}'. Supported values are: {choices}.", param, "invalid_value"


def wrong_size(param: str, what: str, expected: str, got: str, code: str) -> Refusal:
    return f"Invalid '{param}': {what}. Expected {expected}, but got {got} instead.", param, code


LONG_STRING = "a string with maximum length 512", "a string with length 695", "string_above_max_length"
LONG_ARRAY = "an array with maximum length 128", "an array with length 129", "array_above_max_length"
SHORT_ARRAY = "an array with minimum length 1", "an array with length 0", "array_below_min_length"
FULL_OBJECT = "an object with at most 16 properties", "an object with 17 properties", "object_above_max_properties"
TOO_HOT = "a value <= 2", "2.1", "decimal_above_max_value"
TOO_LOW = "a value >= 0", "-1", "decimal_below_min_value"
TOO_FEW = "a value >= 1", "0", "integer_below_min_value"
CHOSEN = {"type": "last_messages", "last_messages": 0}
KINDS = "'function', 'code_interpreter', and 'file_search'"


FORCED = {"type": "function", "function": {"name": "get_time"}}
OTHER = {"type": "function", "function": {"name": "get_weather"}}
NO_TOOL = "Invalid value for 'tool_choice': no {} was specified in the 'tools' parameter."
NO_FUNCTION = NO_TOOL.format("function named 'get_time'"), "tool_choice", "invalid_value"
NO_SEARCH = NO_TOOL.format("file_search tool"), "tool_choice", "invalid_value"
EMPTY = "Message content must be non-empty."


def an_assistant(**fields: Json) -> tuple[str, Json]:
    return "/assistants", {"model": "m", **fields}


def a_message(**fields: Json) -> tuple[str, Json]:
    return "/threads/{thread}/messages", {"role": "user", "content": "Hi", **fields}


def a_run(**fields: Json) -> tuple[str, Json]:
    return "/threads/{thread}/runs", {"assistant_id": "{asst}", **fields}


def a_thread_of(*content: Json) -> tuple[str, Json]:
    return "/threads", {"messages": [{"role": "user", "content": list(content)}]}


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (an_assistant(metadata={"modified": True}), wrong_type("metadata.modified", "a string", "a boolean")),
        (an_assistant(model=1), wrong_type("model", "a string", "an integer")),
        (an_assistant(tools={}), wrong_type("tools", "an array", "an object")),
        (an_assistant(tools=[1]), wrong_type("tools[0]", "an object", "an integer")),
        (an_assistant(temperature="hot"), wrong_type("temperature", "a number", "a string")),
        (
            a_thread_of({"type": "text", "text": 1.5}),
            wrong_type("messages[0].content[0].text", "a string", "a decimal number"),
        ),
        (a_message(content=None), wrong_type("content", "a string or an array", "null")),
        (a_message(content={}), wrong_type("content", "a string or an array", "an object")),
        (
            ("/threads", {"messages": [{"role": "user", "content": 1}]}),
            wrong_type("messages[0].content", "a string or an array", "an integer"),
        ),
        (a_message(content=["Hi"]), wrong_type("content[0]", "an object", "a string")),
        (a_run(tool_choice=1), wrong_type("tool_choice", "a string or an object", "an integer")),
        (an_assistant(response_format=[]), wrong_type("response_format", "a string or an object", "an array")),
        (("/vector_stores/{store}/search", {"query": 1}), wrong_type("query", "a string or an array", "an integer")),
        (a_message(metadata={"array": 1}), wrong_type("metadata.array", "a string", "an integer")),
        (("/threads/runs", {}), missing("assistant_id")),
        (("/assistants", {}), missing("model")),
        (("/threads/{thread}/messages", {"role": "user"}), missing("content")),
        (an_assistant(tools=[{}]), missing("tools[0].type")),
        (an_assistant(tools=[{"type": "function"}]), missing("tools[0].function")),
        (
            an_assistant(tool_resources={"file_search": {"file_ids": []}}),
            unknown("tool_resources.file_search.file_ids"),
        ),
        (("/assistants/{asst}", {"colour": "red"}), unknown("colour")),
        (("/threads", {"name": "x"}), unknown("name")),
        (("/threads/{thread}", {"messages": []}), unknown("messages")),
        (a_message(file_ids=[]), unknown("file_ids")),
        (("/threads/{thread}/messages/{msg}", {"content": "x"}), unknown("content")),
        (a_run(thread={}), unknown("thread")),
        (("/threads/{thread}/runs/{run}", {"status": "failed"}), unknown("status")),
        (("/threads/runs", {"assistant_id": "{asst}", "thread": {"run": 1}}), unknown("thread.run")),
        (a_message(role="system"), no_choice("role", "system", "'user' and 'assistant'")),
        (an_assistant(tools=[{"type": "x"}]), no_choice("tools[0].type", "x", KINDS)),
        (an_assistant(response_format="json"), no_choice("response_format", "json", "'auto'")),
        (a_run(tool_choice={"type": "function"}), missing("tool_choice.function")),
        (a_run(truncation_strategy={"type": "last_messages"}), missing("truncation_strategy.last_messages")),
        (a_run(tool_choice="always"), no_choice("tool_choice", "always", "'none', 'auto', and 'required'")),
        (a_run(tool_choice=FORCED), NO_FUNCTION),
        (a_run(tool_choice=FORCED, tools=[]), NO_FUNCTION),
        (a_run(tool_choice=FORCED, tools=[OTHER, {"type": "file_search"}]), NO_FUNCTION),
        (a_run(tool_choice={"type": "file_search"}, tools=[OTHER]), NO_SEARCH),
        (("/threads/runs", {"assistant_id": "{asst}", "thread": {}, "tool_choice": FORCED}), NO_FUNCTION),
        (a_message(content=""), (EMPTY, "content", None)),
        (a_message(content="", role="assistant"), (EMPTY, "content", None)),
        (a_message(content=[{"type": "text", "text": ""}]), (EMPTY, "content", None)),
        (("/threads", {"messages": [{"role": "user", "content": ""}]}), (EMPTY, "messages[0].content", None)),
        (
            a_run(additional_messages=[{"role": "user", "content": ""}]),
            (EMPTY, "additional_messages[0].content", None),
        ),
        (an_assistant(metadata={"k": "v" * 695}), wrong_size("metadata.k", "string too long", *LONG_STRING)),
        (an_assistant(tools=[{"type": "file_search"}] * 129), wrong_size("tools", "array too long", *LONG_ARRAY)),
        (a_message(content=[]), wrong_size("content", "array too short", *SHORT_ARRAY)),
        (("/threads", {"metadata": {**FULL, "q": "v"}}), wrong_size("metadata", "too many properties", *FULL_OBJECT)),
        (an_assistant(temperature=2.1), wrong_size("temperature", "decimal above maximum value", *TOO_HOT)),
        (an_assistant(top_p=-1), wrong_size("top_p", "decimal below minimum value", *TOO_LOW)),
        (
            a_run(truncation_strategy=CHOSEN),
            wrong_size("truncation_strategy.last_messages", "integer below minimum value", *TOO_FEW),
        ),
    ],
)
async def test_a_body_is_refused_for_the_first_thing_that_is_wrong(
    service: InProcess, sent: tuple[str, Json], expected: Refusal
) -> None:
    path, body = filled(sent, await some_ids(service))
    error = await service.api.refused("POST", path, body)
    assert (error["message"], error["param"], error["code"]) == expected
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"{", b"[]", b"1", b"null", b'"x"', b"\xff\xfe", b'{"a":1}}'])
async def test_a_body_that_is_no_json_object_is_refused(service: InProcess, body: bytes) -> None:
    answer = await service.api.send("POST", "/v1/assistants", data=body)
    assert answer.status == 400
    assert answer.error["message"].startswith("We could not parse the JSON body of your request")


TOO_MANY = "a value <= 100", "200", "integer_above_max_value"
TOO_NEGATIVE = "a value >= 1", "-1", "integer_below_min_value"
LISTS = [
    "/assistants",
    "/threads/{thread}/messages",
    "/threads/{thread}/runs",
    "/threads/{thread}/runs/{run}/steps",
]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("limit=200", wrong_size("limit", "integer above maximum value", *TOO_MANY)),
        ("limit=0", wrong_size("limit", "integer below minimum value", *TOO_FEW)),
        ("limit=-1", wrong_size("limit", "integer below minimum value", *TOO_NEGATIVE)),
        ("limit=ten", wrong_type("limit", "an integer", "a string")),
        ("limit=", wrong_type("limit", "an integer", "a string")),
        ("order=newest", no_choice("order", "newest", "'asc' and 'desc'")),
        ("order=", no_choice("order", "", "'asc' and 'desc'")),
    ],
)
@pytest.mark.parametrize("path", LISTS)
async def test_every_list_checks_its_query(service: InProcess, path: str, query: str, expected: Refusal) -> None:
    error = await service.api.refused("GET", f"{filled(path, await some_ids(service))}?{query}")
    assert (error["message"], error["param"], error["code"]) == expected


FOUND = "step_details.tool_calls[*].file_search.results[*].content"


@pytest.mark.parametrize("name", ["include", "include[]"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/threads/{thread}/runs/{run}/steps"),
        ("GET", "/threads/{thread}/runs/{run}/steps/{step}"),
        ("POST", "/threads/{thread}/runs"),
    ],
)
async def test_include_takes_one_value(service: InProcess, method: str, path: str, name: str) -> None:
    ids = await some_ids(service)
    body = {"assistant_id": ids["asst"]} if method == "POST" else None
    error = await service.api.refused(method, f"{filled(path, ids)}?{name}={FOUND}&{name}=everything", body)
    assert (error["message"], error["param"], error["code"]) == no_choice("include", "everything", f"'{FOUND}'")
    assert (await service.api.send(method, f"/v1{filled(path, ids)}?{name}={FOUND}", body)).status == 200


STRING, ARRAY, OBJECT = "string_above_max_length", "array_above_max_length", "object_above_max_properties"
FILES = [{"code_interpreter": {"file_ids": ["{file}"] * count}} for count in (20, 21)]
STORES = [{"file_search": {"vector_store_ids": ["{store}"] * count}} for count in (1, 2)]
SEARCHES = [[{"type": "file_search", "file_search": {"max_num_results": count}}] for count in (50, 51)]
NAMES = [[{"type": "function", "function": {"name": "f" * count}}] for count in (64, 65)]
TEXTS = [[{"type": "text", "text": "t" * count}] for count in (256_000, 256_001)]


@pytest.mark.parametrize(
    ("valid", "field", "most", "beyond", "code"),
    [
        (an_assistant(), "name", "n" * 256, "n" * 257, STRING),
        (an_assistant(), "description", "d" * 512, "d" * 513, STRING),
        (an_assistant(), "instructions", "i" * 256_000, "i" * 256_001, STRING),
        (an_assistant(), "tools", [WEATHER] * 128, [WEATHER] * 129, ARRAY),
        (an_assistant(), "tools", *SEARCHES, "integer_above_max_value"),
        (an_assistant(), "tools", *NAMES, STRING),
        (an_assistant(), "tool_resources", *FILES, ARRAY),
        (an_assistant(), "tool_resources", *STORES, ARRAY),
        (an_assistant(), "temperature", 2, 2.01, "decimal_above_max_value"),
        (an_assistant(), "temperature", 0, -0.01, "decimal_below_min_value"),
        (an_assistant(), "top_p", 1, 1.01, "decimal_above_max_value"),
        (an_assistant(), "reasoning_effort", "max", "extreme", "invalid_value"),
        (an_assistant(), "metadata", FULL, {**FULL, "q": ""}, OBJECT),
        (an_assistant(), "metadata", {"k" * 64: ""}, {"k" * 65: ""}, STRING),
        (an_assistant(), "metadata", {"k": "é" * 512}, {"k": "é" * 513}, STRING),
        (("/threads/{thread}", {}), "metadata", FULL, {**FULL, "q": ""}, OBJECT),
        (("/threads/{thread}/messages/{msg}", {}), "metadata", FULL, {**FULL, "q": ""}, OBJECT),
        (("/threads/{thread}/runs/{run}", {}), "metadata", FULL, {**FULL, "q": ""}, OBJECT),
        (a_message(), "content", "t" * 256_000, "t" * 256_001, STRING),
        (a_message(), "content", *TEXTS, STRING),
        (a_run(), "instructions", "i" * 256_000, "i" * 256_001, STRING),
        (a_run(), "additional_instructions", "i" * 256_000, "i" * 256_001, STRING),
        (a_run(), "max_completion_tokens", 16, 0, "integer_below_min_value"),
        (a_run(), "max_prompt_tokens", 256, -1, "integer_below_min_value"),
        (a_run(), "temperature", 2.0, 3, "decimal_above_max_value"),
        (a_run(), "tools", [WEATHER] * 128, [WEATHER] * 129, ARRAY),
    ],
)
async def test_a_limit_holds_to_the_last_character(
    service: InProcess, valid: tuple[str, Json], field: str, most: Json, beyond: Json, code: str
) -> None:
    path, body, most, beyond = filled([*valid, most, beyond], await some_ids(service))
    error = await service.api.refused("POST", path, {**body, field: beyond})
    assert error["code"] == code
    assert error["param"].startswith(field)
    await service.api.post(path, {**body, field: most})


@pytest.mark.parametrize("path", ["/assistants", "/threads", "/threads/runs"])
async def test_null_is_as_good_as_nothing(service: InProcess, path: str) -> None:
    fields = {
        "/assistants": "name description instructions tools tool_resources metadata temperature top_p response_format",
        "/threads": "messages tool_resources metadata",
        "/threads/runs": "model tools metadata temperature top_p stream max_prompt_tokens max_completion_tokens"
        " truncation_strategy tool_choice parallel_tool_calls response_format thread tool_resources",
    }[path]
    required = {"/assistants": {"model": "gpt-4o"}, "/threads": {}}.get(path)
    if required is None:
        required = {"assistant_id": await service.assistant(), "instructions": "Greet."}
    given = await service.api.post(path, {**dict.fromkeys(fields.split()), **required})
    plain = await service.api.post(path, required)
    unlike = {"id", "created_at", "thread_id", "expires_at"}
    assert {k: v for k, v in given.items() if k not in unlike} == {k: v for k, v in plain.items() if k not in unlike}


async def test_a_body_may_have_4_mib_and_no_more(service: InProcess) -> None:
    answer = await service.api.send("POST", "/v1/threads", data=b" " * (4 * 1024 * 1024 + 1))
    assert answer.status == 413
    assert answer.error["message"] == "The request body is too large: the limit is 4 MiB."
    thread = await service.api.send("POST", "/v1/threads", data=b"{}" + b" " * (4 * 1024 * 1024 - 2))
    assert thread.status == 200


# --- headers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [None, "assistants=v1", "", "assistants=v22"])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/assistants"), ("POST", "/v1/threads"), ("GET", "/v1/threads/t/runs/r/events")]
)
async def test_assistants_and_threads_want_the_beta_header(
    service: InProcess, sent: str | None, method: str, path: str
) -> None:
    answer = await service.api.send(method, path, headers={"OpenAI-Beta": sent})
    assert answer.status == 400
    why = "You must provide the 'OpenAI-Beta' header to access the Assistants API."
    if sent == "assistants=v1":
        why = "The v1 Assistants API has been deprecated."
    assert answer.error == {
        "message": f"{why} Please try again by setting the header 'OpenAI-Beta: assistants=v2'.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_beta",
    }


async def test_models_and_health_want_no_beta_header(service: InProcess) -> None:
    for path in ("/v1/models", "/health", "/openapi.json"):
        assert (await service.api.send("GET", path, headers={"OpenAI-Beta": None})).status == 200
    among = {"OpenAI-Beta": "realtime=v1, assistants=v2"}
    assert (await service.api.send("GET", "/v1/assistants", headers=among)).status == 200


# --- the service's own faults ---------------------------------------------------------------------------------------


async def test_a_fault_of_the_service_is_500_and_tells_nothing(
    service: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(service.storage, "get", broken)
    answer = await service.api.send("GET", "/v1/assistants/asst_x")
    assert answer.status == 500
    assert answer.error["type"] == "server_error"
    assert answer.error["message"].startswith("The server had an error processing your request. Sorry about that!")
    assert b"secret" not in answer.raw


async def test_a_store_that_does_not_answer_is_503_to_be_tried_again(
    service: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise StorageUnavailable("secret")

    monkeypatch.setattr(service.storage, "get", away)
    monkeypatch.setattr(service.storage, "ping", away)
    for path in ("/v1/assistants/asst_x", "/health", "/health/ready"):
        answer = await service.api.send("GET", path)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert b"secret" not in answer.raw
    assert (await service.api.send("GET", "/health/live")).status == 200


async def test_what_may_have_been_stored_is_not_to_be_sent_again_by_itself(
    service: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an Idempotency-Key it may be."""
    path, message = f"/v1/threads/{await service.thread()}/messages", {"role": "user", "content": "Hello"}

    async def silent(*_: object) -> None:
        raise StorageUnavailable("secret")

    monkeypatch.setattr(service.storage, "append", silent)
    answer = await service.api.send("POST", path, message)
    assert (answer.status, answer.error["code"]) == (503, "storage_undecided")
    assert answer.headers["x-should-retry"] == "false"
    answer = await service.api.send("POST", path, message, headers={"Idempotency-Key": "key"})
    assert (answer.status, answer.error["code"], answer.headers["Retry-After"]) == (503, "storage_unavailable", "1")
    assert "x-should-retry" not in answer.headers


@pytest.mark.parametrize("kind", ["stream", "download"])
async def test_a_fault_after_an_answer_has_begun_ends_the_connection(
    service: InProcess, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A second head would pass for a part of the answer."""
    if kind == "stream":
        path, run = "", await service.finished()
        path = f"{path_of(run)}/events"
        monkeypatch.setattr(streaming, "_PAUSE", Broken())
        monkeypatch.setattr(streaming, "_ENDING", Broken())
    else:
        path = f"/files/{(await upload(service.api, b'x' * 3_000_000))['id']}/content"
        monkeypatch.setattr(service.storage, "_chunk", breaking(service.storage._chunk))  # type: ignore[attr-defined]
    raw = await all_that_comes(service, f"GET /v1{path} HTTP/1.1")
    assert raw.startswith(b"HTTP/1.1 200 OK") and raw.count(b"HTTP/1.1") == 1
    assert b"server_error" not in raw and not raw.endswith(b"0\r\n\r\n")  # it is not whole, and does not seem so
    assert f"GET /v1{path} failed after its response had started" in caplog.text


class Broken:
    def search(self, _: bytes) -> None:
        raise KeyError("secret")


def breaking(chunk: Any) -> Any:
    def second(*given: Any) -> bytes:
        if given[-1]:
            raise KeyError("secret")
        return bytes(chunk(*given))

    return second


async def all_that_comes(service: InProcess, line: str) -> bytes:
    """Until the connection ends."""
    reader, writer = await asyncio.open_connection(service.url.host, service.url.port)
    writer.write(f"{line}\r\nHost: localhost\r\nOpenAI-Beta: assistants=v2\r\n\r\n".encode())
    async with asyncio.timeout(30):
        raw = await reader.read()
    writer.close()
    await writer.wait_closed()
    return raw


# --- what the tests share -------------------------------------------------------------------------------------------


async def some_ids(service: InProcess) -> dict[str, str]:
    """Of a thread with a run that is completed."""
    run = await service.finished()
    messages = await service.api.get(f"/threads/{run['thread_id']}/messages")
    return {
        "asst": run["assistant_id"],
        "thread": run["thread_id"],
        "run": run["id"],
        "msg": messages["first_id"],
        "step": (await service.steps(run))[0]["id"],
        "file": (await upload(service.api, b"words"))["id"],
        "store": (await service.api.post("/vector_stores"))["id"],
    }
