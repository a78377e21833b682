"""Whose key may see what: nothing without a key, and nobody sees another project by any operation (P7)."""

from __future__ import annotations

from typing import Any

import pytest
from forms import add_part, upload
from inprocess import Api, InProcess, filled, in_process, path_of

from app.main import ROUTES

Json = Any
UPLOAD = {"filename": "a", "purpose": "assistants", "bytes": 4, "mime_type": "text/plain"}


def secured() -> Any:
    return in_process(api_keys="one:key-of-project-one,two:key-of-project-two")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic a2V5OmtleQ==", "key-of-project-one"])
async def test_without_a_key_nobody_gets_in(header: str | None) -> None:
    async with secured() as service:
        answer = await service.api.send("GET", "/v1/assistants", headers={"Authorization": header})
    assert answer.status == 401
    assert answer.error["message"].startswith(
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth"
        " (i.e. Authorization: Bearer YOUR_KEY)"
    )
    assert (answer.error["param"], answer.error["code"]) == (None, None)


@pytest.mark.parametrize(
    "key", ["sk-0123456789abcdef", "key-of-project-on", "key-of-project-onee", "KEY-OF-PROJECT-ONE"]
)
async def test_a_wrong_key_is_refused_and_not_repeated(key: str) -> None:
    async with secured() as service:
        answer = await service.client(key).send("GET", "/v1/assistants")
    assert answer.status == 401
    assert answer.error["message"].startswith("Incorrect API key provided: ")
    assert answer.error["code"] == "invalid_api_key"
    assert key not in answer.raw.decode()


async def test_every_operation_wants_a_key_before_anything_else() -> None:
    async with secured() as service:
        for route in ROUTES:
            answer = await service.api.send(route.method, route.path, headers={"OpenAI-Beta": None})
            assert answer.status == 401, route
        assert (await service.api.send("GET", "/v1/nothing")).status == 401
        for path in ("/health", "/openapi.json", "/docs"):
            assert (await service.api.send("GET", path)).status == 200


async def test_no_project_sees_another_by_any_operation() -> None:
    async with secured() as service:
        one, two = service.client("key-of-project-one"), service.client("key-of-project-two")
        ids = await used_project(service, one)
        before = await everything(one, ids)
        foreign = [route for route in ROUTES if "{" in route.path and "models" not in route.path]
        assert len(foreign) == 26
        for route in foreign:
            body = filled(bodies().get(f"{route.method} {route.path.removeprefix('/v1')}", {}), ids)
            answer = await two.send(route.method, filled(route.path, ids), body)
            assert answer.status == 404, (route, answer.raw)
            assert "No " in answer.error["message"]
        assert await everything(one, ids) == before


async def test_no_project_runs_the_assistant_of_another() -> None:
    async with secured() as service:
        one, two = service.client("key-of-project-one"), service.client("key-of-project-two")
        ids = await used_project(service, one)
        own = (await two.post("/threads", {"messages": [{"role": "user", "content": "Hi"}]}))["id"]
        for path in ("/threads/runs", f"/threads/{own}/runs"):
            await two.refused("POST", path, {"assistant_id": ids["assistant_id"]}, status=404)
        assert (await two.get("/assistants"))["data"] == []
        assert (await two.get(f"/assistants?order=asc&before={ids['assistant_id']}"))["data"] == []
        assert [each["id"] for each in (await one.get("/assistants"))["data"]] == [ids["assistant_id"]]


async def test_no_project_completes_an_upload_with_the_parts_of_another() -> None:
    async with secured() as service:
        one, two = service.client("key-of-project-one"), service.client("key-of-project-two")
        part = await add_part(one, (await one.post("/uploads", UPLOAD))["id"], b"mine")
        own = (await two.post("/uploads", UPLOAD))["id"]
        await two.refused("POST", f"/uploads/{own}/complete", {"part_ids": [part]})
        await upload(one, b"mine")
        assert (await two.get("/files"))["data"] == []


# --- what the tests share -------------------------------------------------------------------------------------------


async def used_project(service: InProcess, api: Api) -> dict[str, str]:
    """The ids of one of everything, in the project of this client; by the names of the routes."""
    assistant = (await api.post("/assistants", {"model": "gpt-4o"}))["id"]
    thread = {"messages": [{"role": "user", "content": "Hi"}]}
    run = await api.post("/threads/runs", {"assistant_id": assistant, "thread": thread})
    await service.until(run, project="one")
    return {
        "assistant_id": assistant,
        "thread_id": run["thread_id"],
        "run_id": run["id"],
        "message_id": (await api.get(f"/threads/{run['thread_id']}/messages"))["first_id"],
        "step_id": (await api.get(f"{path_of(run)}/steps"))["first_id"],
        "file_id": (await upload(api, b"mine"))["id"],
        "upload_id": (await api.post("/uploads", UPLOAD))["id"],
    }


def bodies() -> dict[str, Json]:
    """Valid bodies of the operations that need one."""
    return {
        "POST /threads/{thread_id}/messages": {"role": "user", "content": "Hi"},
        "POST /threads/{thread_id}/runs": {"assistant_id": "{assistant_id}"},
        "POST /threads/{thread_id}/runs/{run_id}/submit_tool_outputs": {"tool_outputs": []},
        "POST /uploads/{upload_id}/complete": {"part_ids": ["part_1"]},
    }


async def everything(api: Api, ids: dict[str, str]) -> list[Json]:
    paths = [
        "/assistants/{assistant_id}",
        "/threads/{thread_id}",
        "/threads/{thread_id}/messages",
        "/threads/{thread_id}/runs",
        "/threads/{thread_id}/runs/{run_id}/steps",
        "/files",
    ]
    return [await api.get(filled(path, ids)) for path in paths]
