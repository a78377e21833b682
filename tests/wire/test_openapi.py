"""The served document and its page; and the check of responses, proven on recorded sessions of the real service."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from jsonschema import Draft202012Validator

from assistants_service.api.main import ROUTES
from assistants_service.api.openapi import add_routes
from cut_openapi import DROP, render
from openapi_checks import ROOT, check_event, check_response, check_stream

SERVED = json.loads((ROOT / "app" / "assistants_service" / "api" / "openapi.json").read_text(encoding="utf-8"))
RECORDINGS = sorted((ROOT / "tests" / "wire" / "published" / "recordings").glob("*.json"))

# The document requires these and the real service left them out (an updated message had file_ids for attachments).
LEFT_OUT = {
    "Message": {"status", "incomplete_details", "incomplete_at", "completed_at", "attachments"},
    "RunStep": {"expired_at", "metadata"},
    "thread.run.step": {"expired_at", "metadata"},
}


# --- the served document -------------------------------------------------------------------------------------------


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in SERVED["paths"].items():
        for verb in item.keys() & {"get", "post", "delete"}:
            yield verb, path, item[verb]


def test_the_served_document_is_up_to_date() -> None:
    served = (ROOT / "app" / "assistants_service" / "api" / "openapi.json").read_text(encoding="utf-8")
    assert served == render(), "run: python tools/cut_openapi.py"


def test_the_served_document_is_valid() -> None:
    from openapi_spec_validator import validate  # takes a second

    validate(SERVED)
    for schema in SERVED["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_operation_has_an_id_of_its_own() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(ids)) == len(ids)


def test_every_route_is_described() -> None:
    routes = {(route.method.lower(), re.sub(r"{(\w+):[^}]*}", r"{\1}", route.path)) for route in ROUTES}
    described = {(verb, f"/v1{path}") for verb, path, _ in operations() if not path.startswith("/health")}
    assert described == routes - {(verb, f"/v1{path}") for path, verb in DROP}  # which only says that it is impossible


def test_every_operation_is_under_v1_but_for_health() -> None:
    assert SERVED["servers"] == [{"url": "/v1"}]
    elsewhere = {path for path, item in SERVED["paths"].items() if "servers" in item}
    assert elsewhere == {"/health", "/health/live", "/health/ready"}
    assert not [path for path in SERVED["paths"] if path.startswith("/v1")]


def test_the_served_document_is_free_of_its_origin() -> None:
    text = json.dumps(SERVED)
    assert not re.findall(r'"x-|"nullable"|platform\.openai|\]\(/docs|"deprecated": true', text)
    assert not re.findall(r"contact us|2\.5 TB|organization-wide", text)


def test_example_bodies_are_what_their_operations_take() -> None:
    examples = 0
    for _, path, operation in operations():
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if body is None:
            continue
        schema = {"$ref": body["schema"]["$ref"], "components": SERVED["components"]}
        assert body["examples"], path
        for example in body["examples"].values():
            Draft202012Validator(schema).validate(example["value"])
            examples += 1
    assert examples > 10


# --- the page ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def client() -> Any:
    app = web.Application()
    add_routes(app)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_the_page_and_all_that_it_loads_are_served(client: TestClient) -> None:
    page = await client.get("/")
    assert (page.status, page.url.path, page.content_type) == (200, "/docs", "text/html")
    links = re.findall(r'(?:src|href)="([^"]+)"', await page.text())
    assert len(links) == 5
    for link in links:
        asset = await client.get(f"/{link}")
        assert asset.status == 200, link
        assert len(await asset.read()) > 100, link
        assert asset.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_page_may_load_nothing_from_elsewhere(client: TestClient) -> None:
    page = await client.get("/docs")
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert "http" not in policy and "unsafe" not in policy


async def test_the_document_is_served_as_it_is(client: TestClient) -> None:
    response = await client.get("/openapi.json")
    assert response.content_type == "application/json"
    assert await response.json() == SERVED
    again = await client.get("/openapi.json", headers={"If-None-Match": response.headers["ETag"]})
    assert again.status == 304


# --- the check of responses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_recorded_responses_are_valid(recording: Path) -> None:
    for entry in exchanges(recording):
        problems = problems_of(entry)
        subject = re.match(r"\w*?(Message|RunStep)", problems[0])[1] if problems else ""
        for problem in problems[1:]:
            missing = re.search(r": '(\w+)' is a required property$", problem)
            assert missing and missing[1] in LEFT_OUT[subject], problems


def test_recorded_events_are_valid() -> None:
    events = [event for recording in RECORDINGS for entry in exchanges(recording) for event in recorded_events(entry)]
    for name, data in events:
        value = json.loads(data) if data != "[DONE]" else data
        if isinstance(value, dict):
            value |= dict.fromkeys(LEFT_OUT.get(value["object"], set()) - value.keys())
        check_event(name, value)
    assert {"thread.created", "thread.run.step.delta", "thread.message.delta", "thread.run.completed"} <= {
        *dict(events)
    }


def test_recorded_responses_with_a_wrong_value_are_not_valid() -> None:
    """Whatever scalar of a response turns into a list, the check finds it."""
    spoiled = 0
    for entry in exchanges(ROOT / "tests" / "wire" / "published" / "recordings" / "function_tools.json"):
        known = problems_of(entry)
        for body in spoiled_copies(entry["ResponseBody"]):
            assert len(problems_of({**entry, "ResponseBody": body})) > len(known), body
            spoiled += 1
    assert spoiled > 300


def exchanges(recording: Path) -> list[dict[str, Any]]:
    return json.loads(recording.read_text(encoding="utf-8"))["Entries"]


def recorded_events(entry: dict[str, Any]) -> list[tuple[str, str]]:
    body = entry["ResponseBody"]
    lines = [line.strip() for line in body] if isinstance(body, list) else []
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return list(zip(names, data, strict=True))


def problems_of(entry: dict[str, Any]) -> list[str]:
    """What the check says of a recorded response, which is no stream."""
    if isinstance(entry["ResponseBody"], list):
        return []
    path = entry["RequestUri"].removeprefix("https://api.openai.com")
    try:
        check_response(entry["RequestMethod"], path, entry["StatusCode"], json.dumps(entry["ResponseBody"]).encode())
    except AssertionError as error:
        return str(error).splitlines()
    return []


FREE = {"parameters", "tool_resources", "metadata"}  # that the document leaves open


def spoiled_copies(body: Any) -> Iterator[Any]:
    """Copies of a response, each with one of its scalars replaced."""
    for path in scalars(body, ()):
        spoiled = copy.deepcopy(body)
        inner = spoiled
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = ["spoiled"]
        yield spoiled


def scalars(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if items is None:
        yield path
        return
    for key, value in items:
        if key not in FREE:
            yield from scalars(value, (*path, key))


@pytest.mark.parametrize(
    ("method", "path", "status", "body", "message"),
    [
        ("GET", "/v1/nothing", 200, {}, "GET /v1/nothing -> 200: no such operation"),
        ("PUT", "/v1/assistants", 200, {}, "no such operation"),
        ("GET", "/v1/models", 201, {}, "not a status"),
        ("GET", "/v1/models", 200, b"<html>", "not JSON"),
        ("GET", "/v1/models?x=1", 200, {"object": "list"}, "listModels .*\n.*'data' is a required property"),
        ("GET", "/v1/models/a/b", 200, {"id": "a/b"}, "retrieveModel"),
        ("GET", "/v1/models", 500, {"error": "no"}, r"\$\.error: 'no' is not of type 'object'"),
        ("GET", "/v1/threads/a/runs/b/events", 404, {"error": "no"}, r"\$\.error: 'no' is not of type 'object'"),
        ("POST", "/v1/threads/runs", 200, {"object": "thread"}, "createThreadAndRun"),
        ("DELETE", "/v1/threads/a", 200, {"id": "a", "object": "thread", "deleted": True}, r"\$\.object"),
    ],
)
def test_a_wrong_response_is_named(method: str, path: str, status: int, body: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_response(method, path, status, body)


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/health", 200, b"ok"),
        ("/docs/page.js", 200, b"{"),
        ("/openapi.json", 200, b"{}"),
        ("/v1/models", 304, b""),
        ("/v1/models", 200, {"object": "list", "data": []}),
        ("/v1/assistants", 200, {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}),
        ("/v1/nothing", 404, {"error": {"message": "", "type": "", "param": None, "code": None}}),
    ],
)
def test_a_right_response_passes(path: str, status: int, body: Any) -> None:
    check_response("GET", path, status, body)


def test_a_wrong_event_is_named() -> None:
    with pytest.raises(AssertionError, match=r"event thread\.run\.completed:\n.*'id' is a required property"):
        check_event("thread.run.completed", {})
    with pytest.raises(AssertionError, match="no such event"):
        check_event("thread.run.paused", {})
    with pytest.raises(AssertionError, match="event done"):
        check_event("done", "{}")
    with pytest.raises(AssertionError, match="event error"):
        check_event("error", {"message": "", "type": "", "param": None, "code": None})
    with pytest.raises(AssertionError, match=r"event thread\.created"):
        check_stream(b': ping\n\nid: 7\nevent: thread.created\ndata: {"id":1}\n\n')
    with pytest.raises(AssertionError, match=r"event thread\.created"):
        check_response(
            "GET", "/v1/threads/a/runs/b/events", 200, b"event: thread.created\ndata: {}\n\n", "text/event-stream"
        )
