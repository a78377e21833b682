"""Threads and lists over HTTP: pages, concurrency, deletion; and what every response has."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from assistants_service.core import names
from assistants_service.core.ports.models import ToolCall
from assistants_service.core.work_items import PurgeThread, to_body
from inprocess_service import Api, Gate, InProcess, ManualClock, calls, filled, in_process, path_of, says
from multipart_forms import upload

Json = Any
WEATHER = {"type": "function", "function": {"name": "get_weather"}}
DAY = {"anchor": "last_active_at", "days": 1}


@pytest.fixture
async def service() -> AsyncIterator[InProcess]:
    async with in_process() as one:
        yield one


# --- pages ----------------------------------------------------------------------------------------------------------


async def some_messages(service: InProcess) -> tuple[str, list[str]]:
    thread = await service.thread(*(str(number) for number in range(7)))
    return f"/threads/{thread}/messages", await ids_of(service.api, f"/threads/{thread}/messages?order=asc")


async def some_assistants(service: InProcess) -> tuple[str, list[str]]:
    return "/assistants", [await service.assistant() for _ in range(7)]


async def some_runs(service: InProcess) -> tuple[str, list[str]]:
    thread = await service.thread("Hello")
    return f"/threads/{thread}/runs", [(await service.finished(thread))["id"] for _ in range(7)]


async def some_steps(service: InProcess) -> tuple[str, list[str]]:
    service.models.script = [calls(ToolCall("call_1", "get_weather", "{}"))] * 6 + [says("Done.")]
    run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
    while run["status"] == "requires_action":
        body = {"tool_outputs": [{"tool_call_id": "call_1", "output": ""}]}
        await service.api.post(f"{path_of(run)}/submit_tool_outputs", body)
        run = await service.until(run)
    return f"{path_of(run)}/steps", await ids_of(service.api, f"{path_of(run)}/steps?order=asc")


KINDS = [some_messages, some_assistants, some_runs, some_steps]


async def ids_of(api: Api, path: str) -> list[str]:
    page = await api.get(path)
    ids = [each["id"] for each in page["data"]]
    assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
    return ids


async def walked(api: Api, path: str, query: str, forward: bool, between: Callable[[], Any] | None = None) -> list[Any]:
    """The pages as a client turns them: forward with `after`, backward with `before`."""
    pages, cursor = [], ""
    while True:
        page = await api.get(f"{path}?{query}{cursor}")
        if page["data"]:
            pages.append([each["id"] for each in page["data"]])
        if not page["has_more"]:
            return pages
        cursor = f"&after={page['last_id']}" if forward else f"&before={page['first_id']}"
        if between:
            await between()


@pytest.mark.parametrize("some", KINDS)
async def test_a_list_is_paged_both_ways_in_both_orders(service: InProcess, some: Callable[..., Any]) -> None:
    path, ids = await some(service)
    down, up = ids[::-1], ids
    assert len(ids) == 7
    assert await ids_of(service.api, path) == down
    assert await walked(service.api, path, "limit=3", True) == [down[:3], down[3:6], down[6:]]
    assert await walked(service.api, path, "limit=3&order=asc", True) == [up[:3], up[3:6], up[6:]]
    assert await ids_of(service.api, f"{path}?limit=3&before={down[5]}") == down[2:5]
    assert await ids_of(service.api, f"{path}?limit=3&order=asc&before={up[2]}") == up[:2]
    assert await ids_of(service.api, f"{path}?after={down[1]}&before={down[4]}") == down[2:4]
    assert await ids_of(service.api, f"{path}?order=asc&limit=1&after={up[1]}&before={up[4]}") == up[2:3]
    for after, before in ((1, 2), (1, 1), (4, 1)):  # nothing lies between them
        assert await ids_of(service.api, f"{path}?after={down[after]}&before={down[before]}") == []
    assert await ids_of(service.api, f"{path}?after={down[-1]}") == []


@pytest.mark.parametrize("some", KINDS)
async def test_has_more_looks_the_way_one_travels(service: InProcess, some: Callable[..., Any]) -> None:
    path, ids = await some(service)
    down = ids[::-1]
    more = {
        f"limit=7&after={down[0]}": False,
        f"limit=5&after={down[0]}": True,
        f"limit=6&after={down[0]}": False,
        f"limit=2&before={down[3]}": True,
        f"limit=3&before={down[3]}": False,
        f"before={down[0]}": False,
        f"limit=2&after={down[0]}&before={down[4]}": True,
        f"limit=3&after={down[0]}&before={down[4]}": False,
    }
    for query, expected in more.items():
        assert (await service.api.get(f"{path}?{query}"))["has_more"] is expected, query


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("some", [some_messages, some_assistants])
async def test_paging_during_deletions_skips_nothing_and_shows_nothing_twice(
    service: InProcess, some: Callable[..., Any], forward: bool
) -> None:
    path, ids = await some(service)
    expected = ids[::-1] if forward else ids
    gone: list[str] = []

    async def delete_what_was_shown() -> None:
        """Also the cursor itself."""
        victim = expected[len(gone) * 2 + 1]
        await service.api.delete(f"{path}/{victim}")
        gone.append(victim)

    query = "limit=2" if forward else f"limit=2&before={ids[0]}"
    if not forward:
        pages = await backwards(service.api, path, ids, delete_what_was_shown)
    else:
        pages = await walked(service.api, path, query, True, delete_what_was_shown)
    assert [each for page in pages for each in page] == expected
    assert await ids_of(service.api, f"{path}?order=asc") == [each for each in ids if each not in gone]


async def backwards(api: Api, path: str, ids: list[str], between: Callable[[], Any]) -> list[Any]:
    """From the oldest up to the newest, with `before`; each page in the order of travel."""
    oldest = await api.get(f"{path}?order=asc&limit=2")
    pages, cursor = [[each["id"] for each in oldest["data"]]], oldest["last_id"]
    while True:
        await between()
        page = await api.get(f"{path}?limit=2&before={cursor}")
        if page["data"]:
            pages.append([each["id"] for each in page["data"]][::-1])
        if not page["has_more"]:
            return pages
        cursor = page["first_id"]


async def test_messages_can_be_listed_by_run(service: InProcess) -> None:
    service.models.script = [says("one"), says("two")]
    first = await service.finished()
    second = await service.finished(first["thread_id"])
    path = f"/threads/{first['thread_id']}/messages"
    for run in (first, second):
        page = await service.api.get(f"{path}?run_id={run['id']}")
        assert [each["run_id"] for each in page["data"]] == [run["id"]]
    assert (await service.api.get(f"{path}?run_id=run_none"))["data"] == []


async def test_include_is_accepted_as_clients_send_it(service: InProcess) -> None:
    run = await service.finished()
    include = "step_details.tool_calls%5B%2A%5D.file_search.results%5B%2A%5D.content"
    for name in ("include[]", "include", "include%5B%5D"):
        assert len((await service.api.get(f"{path_of(run)}/steps?{name}={include}&{name}={include}"))["data"]) == 1


# --- changes --------------------------------------------------------------------------------------------------------


async def test_an_update_replaces_the_keys_that_were_given(service: InProcess) -> None:
    assistant = await service.assistant(name="a", instructions="i", tools=[WEATHER], metadata={"a": "1", "b": "2"})
    changed = await service.api.post(f"/assistants/{assistant}", {"metadata": {"c": "3"}, "instructions": None})
    assert (changed["metadata"], changed["instructions"], changed["name"]) == ({"c": "3"}, None, "a")
    assert len(changed["tools"]) == 1
    assert changed == await service.api.get(f"/assistants/{assistant}")
    assert (await service.api.post(f"/assistants/{assistant}", {"tools": []}))["tools"] == []


CODE, SEARCH = {"code_interpreter": {"file_ids": ["{file}"]}}, {"file_search": {"vector_store_ids": ["{store}"]}}
NO_CODE, NO_SEARCH = {"code_interpreter": {"file_ids": []}}, {"file_search": {"vector_store_ids": []}}


@pytest.mark.parametrize("path", ["/assistants", "/threads"])
@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"file_search": {}}, CODE | SEARCH),  # agency-swarm sends it at each start after the first
        ({"file_search": {"vector_store_ids": None}}, CODE | SEARCH),
        ({"code_interpreter": None, "file_search": None}, CODE | SEARCH),  # as pydantic dumps what has neither
        ({}, CODE | SEARCH),
        (CODE, CODE | SEARCH),
        (SEARCH, CODE | SEARCH),
        (NO_SEARCH, CODE | NO_SEARCH),
        (NO_CODE, NO_CODE | SEARCH),
        ({"code_interpreter": {}}, NO_CODE | SEARCH),  # the published default of `file_ids`
        ({"code_interpreter": {}, "file_search": {}}, NO_CODE | SEARCH),
        (None, {}),
    ],
)
async def test_an_update_overrides_the_resources_whose_ids_it_gives(
    service: InProcess, path: str, given: Json, left: Json
) -> None:
    ids = {"file": (await upload(service.api, b"x"))["id"], "store": (await service.api.post("/vector_stores"))["id"]}
    model = {"model": "m"} if path == "/assistants" else {}
    made = await service.api.post(path, {**model, "tool_resources": filled(CODE | SEARCH, ids)})
    for _ in range(2):
        changed = await service.api.post(f"{path}/{made['id']}", {"tool_resources": filled(given, ids)})
        assert changed["tool_resources"] == filled(left, ids)
    assert (await service.api.get(f"{path}/{made['id']}"))["tool_resources"] == filled(left, ids)


async def test_a_run_overrides_the_resources_whose_ids_it_gives(service: InProcess) -> None:
    ids = {"file": (await upload(service.api, b"x"))["id"], "store": (await service.api.post("/vector_stores"))["id"]}
    assistant = await service.assistant(tool_resources=filled(SEARCH, ids))
    body = {"assistant_id": assistant, "thread": {"messages": [{"role": "user", "content": "Hi"}]}}
    for given, expected in (({"file_search": {}}, SEARCH), (CODE, SEARCH | CODE), (NO_SEARCH, NO_SEARCH)):
        run = await service.api.post("/threads/runs", {**body, "tool_resources": filled(given, ids)})
        assert run["tool_resources"] == filled(expected, ids)


async def test_resources_stand_in_the_order_in_which_they_came(service: InProcess) -> None:
    ids = {"file": (await upload(service.api, b"x"))["id"], "store": (await service.api.post("/vector_stores"))["id"]}
    search, code = ({"tool_resources": filled(each, ids)} for each in (SEARCH, CODE))
    thread = await service.api.post("/threads", {**code, "messages": [{"role": "user", "content": "Hi"}]})
    assistant = await service.assistant(**search)
    run = await service.start_run(thread["id"], assistant)  # has those of both
    thread = await service.api.post("/threads", search)
    for changed in (await service.api.post(f"/threads/{thread['id']}", code), run):
        assert list(changed["tool_resources"]) == ["file_search", "code_interpreter"]
    tools = await service.api.post(f"/assistants/{assistant}", {"tools": [{"type": "code_interpreter"}]})
    assert list(tools["tool_resources"]) == ["code_interpreter", "file_search"]


async def test_of_an_update_each_other_field_is_replaced_whole(service: InProcess) -> None:
    """The published schema has no default in them that could be told from what is not given."""
    schema = {"type": "json_schema", "json_schema": {"name": "a", "description": "b", "schema": {}, "strict": True}}
    bare = {"type": "json_schema", "json_schema": {"name": "c"}}
    ranked = {"max_num_results": 3, "ranking_options": {"ranker": "auto", "score_threshold": 0.5}}
    assistant = await service.assistant(
        response_format=schema, tools=[{"type": "file_search", "file_search": ranked}], metadata={"a": "1"}
    )
    path = f"/assistants/{assistant}"
    assert (await service.api.post(path, {"response_format": bare}))["response_format"] == bare
    assert (await service.api.post(path, {"response_format": None}))["response_format"] == "auto"
    (tool,) = (await service.api.post(path, {"tools": [{"type": "file_search"}]}))["tools"]
    assert "max_num_results" not in tool["file_search"]
    assert tool["file_search"]["ranking_options"]["score_threshold"] == 0.0
    store = await service.api.post("/vector_stores", {"name": "a", "metadata": {"a": "1"}, "expires_after": DAY})
    path = f"/vector_stores/{store['id']}"
    assert (await service.api.post(path, {"metadata": {"b": "2"}}))["metadata"] == {"b": "2"}
    assert (await service.api.post(path, {"expires_after": {**DAY, "days": 2}}))["expires_after"]["days"] == 2
    changed = await service.api.post(path, {"expires_after": None, "metadata": None})
    assert (changed["name"], changed["expires_after"], changed["metadata"]) == ("a", None, {})


async def test_metadata_of_threads_messages_and_runs_can_be_replaced(service: InProcess) -> None:
    run = await service.finished(metadata={"a": "1"})
    thread = f"/threads/{run['thread_id']}"
    messages = [message["id"] for message in (await service.api.get(f"{thread}/messages"))["data"]]
    for path in (thread, f"{thread}/messages/{messages[-1]}", path_of(run)):
        assert (await service.api.post(path, {"metadata": {"b": "2"}}))["metadata"] == {"b": "2"}
        assert (await service.api.post(path, {}))["metadata"] == {"b": "2"}
        assert (await service.api.get(path))["metadata"] == {"b": "2"}
        assert (await service.api.post(path, {"metadata": None}))["metadata"] == {}
    assert [message["id"] for message in (await service.api.get(f"{thread}/messages"))["data"]] == messages


async def test_of_many_updates_of_an_assistant_at_once_none_is_lost(service: InProcess) -> None:
    assistant = await service.assistant()
    fields = [
        {"name": "n"},
        {"description": "d"},
        {"instructions": "i"},
        {"metadata": {"k": "v"}},
        {"temperature": 0.5},
    ]
    service.take_turns()
    await asyncio.gather(*(service.api.post(f"/assistants/{assistant}", body) for body in fields))
    now = await service.api.get(f"/assistants/{assistant}")
    for body in fields:
        assert body.items() <= now.items()  # type: ignore[attr-defined]


async def test_a_thread_takes_what_a_request_may_hold(service: InProcess) -> None:
    """Close to 4 MiB: the commit is a little larger than the request."""
    texts = ["t" * 250_000] * 16
    body = {"messages": [{"role": "user", "content": text} for text in texts]}
    thread = (await service.api.post("/threads", body))["id"]
    assert len(await service.said(thread)) == 16
    body["messages"].append({"role": "user", "content": "t" * (4 * 1024 * 1024 - len(json.dumps(body)) - 100)})
    answer = await service.api.send("POST", "/v1/threads", body)
    assert answer.status == 413
    assert answer.error["message"].startswith("The request is too large")


async def test_of_files_for_code_a_thread_keeps_the_newest_twenty(service: InProcess) -> None:
    files = [(await upload(service.api, b"x"))["id"] for _ in range(21)]
    attachments = [{"file_id": file, "tools": [{"type": "code_interpreter"}]} for file in files]
    thread = await service.thread("one")
    for some in (attachments[:15], attachments[15:]):
        body = {"role": "user", "content": "two", "attachments": some}
        await service.api.post(f"/threads/{thread}/messages", body)
    resources = (await service.api.get(f"/threads/{thread}"))["tool_resources"]
    assert resources["code_interpreter"]["file_ids"] == files[1:]


async def test_a_deleted_message_is_gone_for_the_model_too(service: InProcess) -> None:
    thread = await service.thread("one", "two")
    newest = (await service.api.get(f"/threads/{thread}/messages"))["first_id"]
    deleted = await service.api.delete(f"/threads/{thread}/messages/{newest}")
    assert deleted == {"id": newest, "object": "thread.message.deleted", "deleted": True}
    await service.api.refused("GET", f"/threads/{thread}/messages/{newest}", status=404)
    await service.api.refused("DELETE", f"/threads/{thread}/messages/{newest}", status=404)
    await service.finished(thread)
    assert [turn.text for turn in service.prompts[0].turns] == ["one"]


# --- many at once ---------------------------------------------------------------------------------------------------


async def test_of_50_runs_at_once_one_is_created() -> None:
    gate = Gate()
    async with in_process(says(gate, "Done.")) as service:
        thread, assistant = await service.thread("Hello"), await service.assistant()
        create = [
            service.api.send("POST", f"/v1/threads/{thread}/runs", {"assistant_id": assistant}) for _ in range(50)
        ]
        answers = await asyncio.gather(*create)
        assert sorted(answer.status for answer in answers) == [200, *[400] * 49]
        (run,) = [answer.body for answer in answers if answer.status == 200]
        told = {answer.error["message"] for answer in answers if answer.status == 400}
        assert told == {f"Thread {thread} already has an active run {run['id']}."}
        gate.open()
        await service.until(run)
        assert await ids_of(service.api, f"/threads/{thread}/runs") == [run["id"]]
        assert len(service.prompts) == 1


async def test_50_messages_at_once_are_all_stored_in_one_order(service: InProcess) -> None:
    thread = await service.thread()
    path = f"/threads/{thread}/messages"
    create = [service.api.post(path, {"role": "user", "content": str(number)}) for number in range(50)]
    created = await asyncio.gather(*create)
    listed = await ids_of(service.api, f"{path}?order=asc&limit=100")
    assert sorted(listed) == sorted(message["id"] for message in created)
    assert await ids_of(service.api, f"{path}?limit=100") == listed[::-1]
    await service.finished(thread)
    texts = {message["id"]: message["content"][0]["text"]["value"] for message in created}
    assert [turn.text for turn in service.prompts[0].turns] == [texts[each] for each in listed]


async def test_messages_and_runs_at_once_leave_a_thread_in_order() -> None:
    """A message is stored before the run or refused: none slips in while the run is active."""
    gate = Gate()
    async with in_process(says(gate, "Done.")) as service:
        thread, assistant = await service.thread("Hello"), await service.assistant()
        write = [
            service.api.send("POST", f"/v1/threads/{thread}/messages", {"role": "user", "content": str(number)})
            for number in range(20)
        ]
        run = service.api.post(f"/threads/{thread}/runs", {"assistant_id": assistant})
        *answers, run = await asyncio.gather(*write[:10], *write[10:], run)
        await gate.reached.wait()
        stored = {answer.body["content"][0]["text"]["value"] for answer in answers if answer.status == 200}
        assert {answer.status for answer in answers} <= {200, 400}
        assert {turn.text for turn in service.prompts[0].turns} == {"Hello", *stored}
        gate.open()
        await service.until(run)


# --- deletion -------------------------------------------------------------------------------------------------------


async def test_a_deleted_thread_answers_404_everywhere_and_leaves_nothing(service: InProcess) -> None:
    run = await service.finished(stream=None)
    thread, assistant = run["thread_id"], run["assistant_id"]
    body = {"assistant_id": assistant, "stream": True}
    async with service.api.stream("POST", f"/threads/{thread}/runs", body) as stream:
        streamed = (await stream.rest())[0].data["id"]
    message = (await service.api.get(f"/threads/{thread}/messages"))["first_id"]
    step = (await service.steps(run))[0]["id"]
    deleted = await service.api.delete(f"/threads/{thread}")
    assert deleted == {"id": thread, "object": "thread.deleted", "deleted": True}
    for method, path, sent in operations_on(thread, run["id"], message, step, assistant):
        error = await service.api.refused(method, path, sent, status=404)
        assert error["message"] == f"No thread found with id '{thread}'.", path
    await purged(service, thread, run["id"], streamed)
    for method, path, sent in operations_on(thread, run["id"], message, step, assistant):
        await service.api.refused(method, path, sent, status=404)


def operations_on(thread: str, run: str, message: str, step: str, assistant: str) -> list[tuple[str, str, Json]]:
    at = f"/threads/{thread}"
    outputs = {"tool_outputs": []}
    return [
        ("GET", at, None),
        ("POST", at, {}),
        ("DELETE", at, None),
        ("GET", f"{at}/messages", None),
        ("POST", f"{at}/messages", {"role": "user", "content": "Hi"}),
        ("GET", f"{at}/messages/{message}", None),
        ("POST", f"{at}/messages/{message}", {}),
        ("DELETE", f"{at}/messages/{message}", None),
        ("GET", f"{at}/runs", None),
        ("POST", f"{at}/runs", {"assistant_id": assistant}),
        ("GET", f"{at}/runs/{run}", None),
        ("POST", f"{at}/runs/{run}", {}),
        ("POST", f"{at}/runs/{run}/cancel", None),
        ("POST", f"{at}/runs/{run}/submit_tool_outputs", outputs),
        ("GET", f"{at}/runs/{run}/events", None),
        ("GET", f"{at}/runs/{run}/steps", None),
        ("GET", f"{at}/runs/{run}/steps/{step}", None),
    ]


async def purged(service: InProcess, thread: str, *runs: str) -> None:
    """Send the item that deletes the last of the thread, which is due in ten minutes, and wait until the worker has
    dropped its log; then nothing may be left."""
    log = names.log("default", thread)
    item = PurgeThread(project="default", thread_id=thread, sent_at=0, tombstones=True)
    await service.storage.send(to_body(item))
    service.notifier.notify("work")
    async with asyncio.timeout(30):
        while await service.storage.read(names.THREADS, log, None):
            await asyncio.sleep(0.001)
    for container in names.CONTAINERS:
        left = await service.storage.page(container, f"default/{thread}", after=None, limit=100, newest_first=False)
        assert left == [], container
    for run in runs:
        assert await service.storage.read(names.STREAMS, names.document("default", thread, run), None) is None


async def test_a_work_item_of_a_thread_that_was_purged_is_dropped_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its run waited for outputs: the work item was parked until it expires."""
    caplog.set_level(logging.INFO)
    async with in_process(calls(ToolCall("call_1", "get_weather", "{}")), clock=ManualClock()) as service:
        run = await service.finished(assistant=await service.assistant(tools=[WEATHER]))
        assert run["status"] == "requires_action"
        await service.api.delete(f"/threads/{run['thread_id']}")
        await purged(service, run["thread_id"], run["id"])
        async with asyncio.timeout(30):
            while service.storage._sql.execute("SELECT count(*) FROM queue").fetchone()[0]:  # type: ignore[attr-defined]
                service.advance(700)  # again: an item that was sent meanwhile is hidden from then on
                await asyncio.sleep(0.001)
    assert "never came" not in caplog.text


async def test_a_deleted_thread_answers_404_before_any_worker_has_emptied_it() -> None:
    async with in_process() as service:
        run = await service.finished()
        thread, assistant = run["thread_id"], run["assistant_id"]
        message = (await service.api.get(f"/threads/{thread}/messages"))["first_id"]
        step = (await service.steps(run))[0]["id"]
        await service.stop_worker()
        await service.api.delete(f"/threads/{thread}")
        for method, path, sent in operations_on(thread, run["id"], message, step, assistant):
            await service.api.refused(method, path, sent, status=404)


async def test_deleting_a_thread_stops_its_run() -> None:
    gate = Gate()
    async with in_process(says("Hel", gate, "lo")) as service:
        run = await service.start_run()
        await gate.reached.wait()
        await service.api.delete(f"/threads/{run['thread_id']}")
        await service.api.refused("GET", path_of(run), status=404)
        await purged(service, run["thread_id"], run["id"])
        assert len(service.prompts) == 1


# --- headers --------------------------------------------------------------------------------------------------------


async def test_what_has_not_changed_is_not_sent_again(service: InProcess) -> None:
    run = await service.finished()
    thread = f"/v1/threads/{run['thread_id']}"
    message = (await service.api.get(f"/threads/{run['thread_id']}/messages"))["first_id"]
    step = (await service.steps(run))[0]["id"]
    for path in (
        thread,
        f"{thread}/messages/{message}",
        f"/v1{path_of(run)}",
        f"/v1{path_of(run)}/steps/{step}",
        f"/v1/assistants/{run['assistant_id']}",
    ):
        etag = (await service.api.send("GET", path)).headers["ETag"]
        for known in (etag, f'"other", {etag}', "*"):
            answer = await service.api.send("GET", path, headers={"If-None-Match": known})
            assert (answer.status, answer.raw, answer.headers["ETag"]) == (304, b"", etag)
        assert (await service.api.send("GET", path, headers={"If-None-Match": '"other"'})).status == 200


async def test_a_poller_sees_every_change_by_its_etag() -> None:
    gate = Gate()
    async with in_process(says(gate, "Done.")) as service:
        run = await service.start_run()
        path = f"/v1{path_of(run)}"
        await service.until(run, "in_progress")
        first = await service.api.send("GET", path)
        assert first.headers["openai-poll-after-ms"] == "100"
        gate.open()
        await service.until(run)
        second = await service.api.send("GET", path, headers={"If-None-Match": first.headers["ETag"]})
        assert (second.status, second.body["status"]) == (200, "completed")


async def test_every_response_has_an_id_of_its_own(service: InProcess) -> None:
    paths = ["/v1/assistants", "/v1/nothing", "/v1/threads/x", "/health", "/openapi.json", "/docs", "/"]
    answers = [await service.api.send("GET", path) for path in paths]
    answers.append(await service.api.send("PUT", "/v1/assistants"))
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)
    for answer in answers:
        assert len(answer.headers["x-request-id"]) == len("req_") + 32
        assert answer.headers["openai-version"] == "2020-10-01"


ORIGIN = "https://chat.example"


async def test_a_page_of_an_allowed_origin_may_call() -> None:
    async with in_process(cors_origins=f"{ORIGIN},https://other.example", api_keys="one:key") as service:
        asks = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "a,b"}
        answer = await service.api.send("OPTIONS", "/v1/threads", headers=asks)
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert answer.headers["Access-Control-Allow-Headers"] == "a,b"
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        for key in ("key", "wrong"):
            answer = await service.client(key).send("GET", "/v1/assistants", headers={"Origin": ORIGIN})
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "x-request-id" in answer.headers["Access-Control-Expose-Headers"]


async def test_a_page_of_an_allowed_origin_may_stream() -> None:
    async with in_process(cors_origins=ORIGIN) as service:
        run = await service.finished()
        answer = await service.api.send("GET", f"/v1{path_of(run)}/events", headers={"Origin": ORIGIN})
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN


@pytest.mark.parametrize("origins", ["", "https://other.example"])
async def test_a_page_of_another_origin_may_not(origins: str) -> None:
    async with in_process(cors_origins=origins, api_keys="one:key") as service:
        for method, status in (("GET", 200), ("OPTIONS", 405)):
            answer = await service.client("key").send(method, "/v1/assistants", headers={"Origin": ORIGIN})
            assert (answer.status, "Access-Control-Allow-Origin" in answer.headers) == (status, False)


async def test_every_origin_may_call_if_all_are_allowed() -> None:
    async with in_process(cors_origins="*") as service:
        answer = await service.api.send("GET", "/v1/assistants", headers={"Origin": ORIGIN})
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
