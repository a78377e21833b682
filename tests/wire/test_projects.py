"""Whose key may see what: nothing without a key, and no key sees another project by any operation (P7)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from assistants_service.api.main import ROUTES
from inprocess_service import NOTHING, Api, InProcess, filled, in_process, path_of
from multipart_forms import add_part, upload
from openapi_checks import ROOT

Json = Any
UPLOAD = {"filename": "a", "purpose": "assistants", "bytes": 4, "mime_type": "text/plain"}
SERVED = json.loads((ROOT / "app" / "assistants_service" / "api" / "openapi.json").read_text(encoding="utf-8"))


def secured() -> Any:
    return in_process(api_keys="one:key-of-project-one,two:key-of-project-two")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic a2V5OmtleQ==", "key-of-project-one"])
async def test_without_a_key_no_request_is_served(header: str | None) -> None:
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


@pytest.mark.parametrize("dialect", ["/v1", "/openai"])
async def test_another_projects_objects_are_like_unknown_ones_by_any_operation(dialect: str) -> None:
    """Every operation of the served document, with ids in its path, its query and its body: whatever of these is the
    other project's, the answer is the one for an id that was never given to anything."""
    async with secured() as service:
        one, two = service.client("key-of-project-one"), service.client("key-of-project-two")
        foreign, own = await used_project(service, one, "one"), await used_project(service, two, "two")
        before = await everything(one, foreign), await everything(two, own)
        asked = 0
        for method, path, body in operations():
            for theirs, absent in requests(dialect, path, body, foreign, own):
                answers = [await two.send(method, *theirs), await two.send(method, *absent)]
                status, text = {answer.status for answer in answers}, {impersonal(answer.raw) for answer in answers}
                assert (len(status), len(text)) == (1, 1), (method, *theirs, status, text)
                seen = [value for value in foreign.values() if value.encode() in answers[0].raw]
                assert status < {400, 404} or (status == {200} and not seen), (method, *theirs, status)
                asked += 1
        assert (await everything(one, foreign), await everything(two, own)) == before
    assert asked > 50


async def test_no_project_runs_the_assistant_of_another() -> None:
    async with secured() as service:
        one, two = service.client("key-of-project-one"), service.client("key-of-project-two")
        ids = await used_project(service, one, "one")
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


def operations() -> Iterator[tuple[str, str, Json]]:
    """Method, path and an example body of all that the served document has. A path of a list comes once for each id
    that its query may name."""
    for path, item in SERVED["paths"].items():
        if "{model}" in path or "servers" in item:
            continue  # open to all callers
        noun = path.rpartition("/")[2].removesuffix("s")
        for method in item.keys() & {"get", "post", "delete"}:
            given = {parameter.get("name") for parameter in item[method].get("parameters", ())}
            queries = {"after": f"after={{{noun}_id}}", "before": f"before={{{noun}_id}}", "run_id": "run_id={run_id}"}
            named = [queries[name] for name in given & queries.keys() if f"{{{name}}}" not in path]
            content = item[method].get("requestBody", {}).get("content", {}).get("application/json", {})
            examples = [example["value"] for example in content.get("examples", {}).values()]
            for query in named or [""]:
                for body in examples or [NOTHING]:
                    yield method.upper(), f"{path}?{query}", body


def requests(
    dialect: str, path: str, body: Json, foreign: dict[str, str], own: dict[str, str]
) -> Iterator[tuple[tuple[str, Json], tuple[str, Json]]]:
    """Path and body with the other project's ids, and the same with ids that nothing has. So that the first of them is
    met in every place, the ids before it in the path are the caller's own: none, one, and so on."""
    unknown = {name: value[:-1] + ("0" if value[-1] != "0" else "1") for name, value in foreign.items()}
    names = re.findall(r"\{(\w+)\}", path.partition("?")[0])
    for mine in range(len(names) + 1):
        mixed = [{**ids, **{name: own[name] for name in names[:mine]}} for ids in (foreign, unknown)]
        both = [
            (f"{dialect}{filled(path, mixed[place])}&api-version=2024-05-01", with_ids(body, ids))
            for place, ids in enumerate((foreign, unknown))
        ]
        if both[0] != both[1]:
            yield both[0], both[1]


def with_ids(body: Json, ids: dict[str, str]) -> Json:
    """The example with these ids in the place of its own, which are known by their beginning."""
    if isinstance(body, dict):
        return {key: with_ids(value, ids) for key, value in body.items()}
    if isinstance(body, list):
        return [with_ids(item, ids) for item in body]
    kinds = {re.split("[_-]", value)[0]: value for value in ids.values()}
    found = re.fullmatch(r"([a-z]+)[_-]\w+", body) if isinstance(body, str) else None
    return kinds.get(found[1], body) if found else body


def impersonal(raw: bytes) -> str:
    """An answer without its ids."""
    return re.sub(r"\b([a-z]+)[_-][0-9a-z]{24}\b", r"\1", raw.decode())


async def used_project(service: InProcess, api: Api, project: str) -> dict[str, str]:
    """The ids of one of everything in a project, by the names that the paths of the served document have for them."""
    assistant = (await api.post("/assistants", {"model": "gpt-4o"}))["id"]
    thread = {"messages": [{"role": "user", "content": "Hi"}]}
    run = await api.post("/threads/runs", {"assistant_id": assistant, "thread": thread})
    await service.until(run, project=project)
    return {
        "assistant_id": assistant,
        "thread_id": run["thread_id"],
        "run_id": run["id"],
        "message_id": (await api.get(f"/threads/{run['thread_id']}/messages"))["first_id"],
        "step_id": (await api.get(f"{path_of(run)}/steps"))["first_id"],
        **await used_store(service, api, project),
        "upload_id": (made := (await api.post("/uploads", UPLOAD))["id"]),
        "part_id": await add_part(api, made, b"mine"),
    }


async def used_store(service: InProcess, api: Api, project: str) -> dict[str, str]:
    file_id = (await upload(api, b"mine"))["id"]
    store = await api.post("/vector_stores", {"name": "mine"})
    batch = await api.post(f"/vector_stores/{store['id']}/file_batches", {"file_ids": [file_id]})
    await service.ingested(store, project)
    return {"vector_store_id": store["id"], "batch_id": batch["id"], "file_id": file_id}


async def everything(api: Api, ids: dict[str, str]) -> list[Json]:
    paths = [
        "/assistants/{assistant_id}",
        "/threads/{thread_id}",
        "/threads/{thread_id}/messages",
        "/threads/{thread_id}/runs",
        "/threads/{thread_id}/runs/{run_id}/steps",
        "/files",
        "/vector_stores/{vector_store_id}",
        "/vector_stores/{vector_store_id}/files",
        "/vector_stores/{vector_store_id}/file_batches/{batch_id}",
    ]
    return [await api.get(filled(path, ids)) for path in paths]
