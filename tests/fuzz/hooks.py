"""Lets Schemathesis reach beyond 404: ids in its requests become ids of what is there. And counts what came of them."""

from __future__ import annotations

import atexit
import json
import os
import random
from collections import Counter, deque
from pathlib import Path
from typing import Any

import requests
import schemathesis
from jsonschema import Draft202012Validator
from jsonschema.validators import extend
from schemathesis import Case, GenerationMode, HookContext, Response
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.generation.meta import TestPhase
from schemathesis.openapi.checks import RejectedPositiveData

Json = Any
OWN_ID = {
    "assistant": "assistant_id",
    "file": "file_id",
    "thread": "thread_id",
    "thread.message": "message_id",
    "thread.run": "run_id",
    "thread.run.step": "step_id",
}
OFTEN = 0.8
WEATHER = {"type": "function", "function": {"name": "get_weather"}}
QUESTION = {"role": "user", "content": "What is the weather in Oslo?"}

chance = random.Random(0)
known: deque[dict[str, str]] = deque(maxlen=200)  # the newest objects: the ids that make their paths
counts: Counter[str] = Counter()


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Of valid requests, most go to something that is there. Stateful sequences take care of that by themselves."""
    meta = case.meta
    if meta is None or meta.phase.name == TestPhase.STATEFUL or meta.generation.mode != GenerationMode.POSITIVE:
        return
    if chance.random() > OFTEN:
        return
    body = case.body if isinstance(case.body, dict) else {}
    if "upload_id" in case.path_parameters:
        upload, part = pending_upload(case.operation.schema.get_base_url())
        case.path_parameters["upload_id"] = upload
        if "part_ids" in body:
            body["part_ids"] = [part]
        return
    if case.path.endswith(("/cancel", "/submit_tool_outputs")):
        run = waiting_run(case.operation.schema.get_base_url())
        case.path_parameters.update(thread_id=run["thread_id"], run_id=run["id"])
        if "tool_outputs" in body:
            asked = run["required_action"]["submit_tool_outputs"]["tool_calls"]
            body["tool_outputs"] = [{"tool_call_id": call["id"], "output": "4 degrees"} for call in asked]
        return
    wanted = case.path_parameters.keys()
    fitting = [ids for ids in known if wanted <= ids.keys()]
    if fitting and wanted:
        ids = chance.choice(fitting)
        case.path_parameters.update({name: ids[name] for name in wanted})
    assistants = [ids["assistant_id"] for ids in known if "assistant_id" in ids]
    if "assistant_id" in body and assistants:
        body["assistant_id"] = chance.choice(assistants)


def waiting_run(url: str) -> Json:
    """A run that waits for its client."""
    with requests.Session() as session:
        session.headers["OpenAI-Beta"] = "assistants=v2"
        assistant = session.post(f"{url}/assistants", json={"model": "offline", "tools": [WEATHER]}).json()
        body = {"assistant_id": assistant["id"], "thread": {"messages": [QUESTION]}}
        run = session.post(f"{url}/threads/runs", json=body).json()
        while run["status"] in ("queued", "in_progress"):
            run = session.get(f"{url}/threads/{run['thread_id']}/runs/{run['id']}").json()
        return run


def pending_upload(url: str) -> tuple[str, str]:
    """An upload that takes parts, and the one that it has."""
    with requests.Session() as session:
        body = {"filename": "notes.txt", "purpose": "assistants", "bytes": 5, "mime_type": "text/plain"}
        upload = session.post(f"{url}/uploads", json=body).json()["id"]
        return upload, session.post(f"{url}/uploads/{upload}/parts", files={"data": b"Hello"}).json()["id"]


@schemathesis.hook
def after_call(context: HookContext, case: Case, response: Response) -> None:
    kind = response.headers.get("content-type", [""])[0].partition(";")[0]
    counts[f"{case.operation.label} {response.status_code} {kind}"] += 1
    if response.status_code == 200 and kind == "application/json":
        learn(response.json())


def learn(answer: Json) -> None:
    if isinstance(answer, dict) and answer.get("object") == "list":
        for item in answer["data"]:
            learn(item)
    elif isinstance(answer, dict) and answer.get("object") in OWN_ID:
        ids = {name: answer[name] for name in ("thread_id", "run_id") if name in answer}
        ids[OWN_ID[answer["object"]]] = answer["id"]
        known.append(ids)


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """Two rules that the document does not tell: null counts as absent wherever a field is optional, since SDKs send
    it; and 2.0 is no integer, though JSON Schema takes it for one."""
    if not isinstance(case.body, dict | list):
        return True
    (media,) = case.operation.definition.raw["requestBody"]["content"].values()
    rules = Strict({**media["schema"], "components": case.operation.schema.raw_schema["components"]})
    if isinstance(failure, AcceptedNegativeData):
        return not rules.is_valid(without_nulls(case.body))
    return not isinstance(failure, RejectedPositiveData) or bool(rules.is_valid(case.body))


def is_integer(_: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


Strict = extend(Draft202012Validator, type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", is_integer))


def without_nulls(node: Json) -> Json:
    if isinstance(node, dict):
        return {key: without_nulls(value) for key, value in node.items() if value is not None}
    return [without_nulls(item) for item in node] if isinstance(node, list) else node


@atexit.register
def tell() -> None:
    if "FUZZ_COUNTS" in os.environ:
        Path(os.environ["FUZZ_COUNTS"]).write_text(json.dumps(counts))
