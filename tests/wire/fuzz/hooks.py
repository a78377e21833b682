"""Lets Schemathesis reach beyond 404: ids in its requests become ids of what is there. And counts what came of them."""

from __future__ import annotations

import atexit
import json
import os
import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import requests
import schemathesis
from jsonschema import Draft202012Validator
from jsonschema.validators import extend
from schemathesis import Case, GenerationMode, HookContext, Response
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.generation.meta import TestPhase
from schemathesis.openapi.checks import EnsureResourceAvailability, RejectedPositiveData
from schemathesis.transport.serialization import Binary

Json = Any
OWN_ID = {
    "assistant": "assistant_id",
    "file": "file_id",
    "thread": "thread_id",
    "thread.message": "message_id",
    "thread.run": "run_id",
    "thread.run.step": "step_id",
    "vector_store": "vector_store_id",
    "vector_store.file": "file_id",
    "vector_store.file_batch": "batch_id",
}
OFTEN = 0.8
PART = b"Hello"
WEATHER = {"type": "function", "function": {"name": "get_weather"}}
QUESTION = {"role": "user", "content": "What is the weather in Oslo?"}

chance = random.Random(0)
Ids = dict[str, str]
known: defaultdict[str, deque[Ids]] = defaultdict(lambda: deque(maxlen=50))  # of each kind the newest: their paths' ids
counts: Counter[str] = Counter()


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Of valid requests, most go to something that is there. Stateful sequences take care of that by themselves."""
    meta = case.meta
    if meta is None or meta.phase.name == TestPhase.STATEFUL or meta.generation.mode != GenerationMode.POSITIVE:
        return
    if chance.random() > OFTEN:
        return
    url = case.operation.schema.get_base_url()
    body = case.body if isinstance(case.body, dict) else {}
    if "upload_id" in case.path_parameters:
        upload, part = pending_upload(url, size=1_000_000 if case.path.endswith("/parts") else len(PART))
        case.path_parameters["upload_id"] = upload
        if "part_ids" in body:
            body["part_ids"] = [part]
        return
    if "run_id" in case.path_parameters and case.path.endswith(("/cancel", "/submit_tool_outputs")):
        run = waiting_run(url)
        case.path_parameters.update(thread_id=run["thread_id"], run_id=run["id"])
        if "tool_outputs" in body:
            asked = run["required_action"]["submit_tool_outputs"]["tool_calls"]
            body["tool_outputs"] = [{"tool_call_id": call["id"], "output": "4 degrees"} for call in asked]
        return
    if case.headers:
        case.headers.pop("Last-Event-ID", None)  # of no event of the run
    for cursor in ("after", "before"):
        (case.query or {}).pop(cursor, None)  # of nothing in the list
    wanted = case.path_parameters.keys()
    if wanted:
        case.path_parameters.update(chance.choice(fitting(wanted, url) or [case.path_parameters]))
    for node in objects(body):
        for name in ("assistant_id", "file_id"):
            if name in node:
                node[name] = chance.choice(fitting({name}, url) or [node])[name]
        for name in ("file_id", "vector_store_id"):
            if isinstance(node.get(f"{name}s"), list):
                node[f"{name}s"] = [chance.choice(fitting({name}, url))[name] for _ in node[f"{name}s"]]


def fitting(wanted: AbstractSet[str], url: str) -> list[Ids]:
    """What is known under these names. There is always a run, a file, and what concerns stores."""
    found = [{name: ids[name] for name in wanted} for kind in known.values() for ids in kind if wanted <= ids.keys()]
    if found:
        return found
    if wanted <= {"vector_store_id", "batch_id", "file_id"}:
        fill_store(url)
    elif wanted == {"thread_id", "run_id"}:
        learn(waiting_run(url))
    else:
        return []
    return fitting(wanted, url)


def objects(node: Json) -> Iterator[dict[str, Json]]:
    """Every object of a body."""
    if isinstance(node, dict):
        yield node
    for item in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from objects(item)


def fill_store(url: str) -> None:
    """A file in a store that came by a batch."""
    with requests.Session() as session:
        form = {"purpose": "assistants"}
        file = session.post(f"{url}/files", data=form, files={"file": ("notes.txt", b"Hello")}).json()
        store = session.post(f"{url}/vector_stores", json={}).json()
        batch = session.post(f"{url}/vector_stores/{store['id']}/file_batches", json={"file_ids": [file["id"]]}).json()
        held = session.get(f"{url}/vector_stores/{store['id']}/files").json()
        for answer in (file, store, batch, held):
            learn(answer)


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


def pending_upload(url: str, size: int) -> tuple[str, str]:
    """An upload that takes parts, up to this many bytes in total, and the one that it has."""
    with requests.Session() as session:
        body = {"filename": "notes.txt", "purpose": "assistants", "bytes": size, "mime_type": "text/plain"}
        upload = session.post(f"{url}/uploads", json=body).json()["id"]
        return upload, session.post(f"{url}/uploads/{upload}/parts", files={"data": PART}).json()["id"]


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
    elif isinstance(answer, dict) and answer.get("deleted"):
        for kind in known.values():
            gone = [ids for ids in kind if answer["id"] in ids.values()]
            for ids in gone:
                kind.remove(ids)
    elif isinstance(answer, dict) and answer.get("object") in OWN_ID:
        ids = {name: answer[name] for name in ("thread_id", "run_id", "vector_store_id") if name in answer}
        ids[OWN_ID[answer["object"]]] = answer["id"]
        known[answer["object"]].append(ids)


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """Four rules that the document does not tell: null counts as absent wherever a field is optional, since SDKs send
    it; 2.0 is no integer, though JSON Schema takes it for one; chunks overlap by half of their size at most; and the
    parts of a message say something. And a 404 of a file that a body names is none of the thread, say, that was created
    before."""
    if isinstance(failure, EnsureResourceAvailability):
        return any(value in response.text for value in case.path_parameters.values())
    if not isinstance(case.body, dict | list):
        return True
    ((content_type, media),) = case.operation.definition.raw["requestBody"]["content"].items()
    rules = Strict({**media["schema"], "components": case.operation.schema.raw_schema["components"]})
    if isinstance(failure, AcceptedNegativeData):
        sent = as_form(case.body) if content_type == "multipart/form-data" else case.body
        return not rules.is_valid(without_nulls(sent))
    if isinstance(failure, RejectedPositiveData):
        broken = any(overlaps_much(node) or says_nothing(node) for node in objects(case.body))
        return rules.is_valid(case.body) and not broken
    return True


def as_form(body: Json) -> Json:
    """What a form says: a field is sent once for each value of a list, and an empty one is as good as none, since
    browsers send what was left empty."""
    if not isinstance(body, dict):
        return body
    fields = {name: value if isinstance(value, list) else [value] for name, value in body.items()}
    said = {name: [text(value) for value in values if text(value) != ""] for name, values in fields.items()}
    return {name: values[0] if len(values) == 1 else values for name, values in said.items() if values}


def text(value: Json) -> Json:
    """Bytes are text to JSON Schema; Schemathesis's own type for them is the empty one."""
    return value.data.decode("latin-1") if isinstance(value, Binary) else value


def overlaps_much(node: dict[str, Json]) -> bool:
    size, overlap = node.get("max_chunk_size_tokens"), node.get("chunk_overlap_tokens")
    return isinstance(size, int) and isinstance(overlap, int) and overlap > size // 2


def says_nothing(node: dict[str, Json]) -> bool:
    parts = node.get("content")
    return isinstance(parts, list) and all(isinstance(part, dict) and part.get("text") == "" for part in parts)


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
