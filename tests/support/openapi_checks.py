"""Responses and stream events against the published OpenAPI document, as far as the wire keeps to it.

Extra keys are allowed in responses. The document's known errors are mended first, by the tool that makes the served
document.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools"))  # of scripts too, not of pytest alone
from openapi_corrections import corrected  # noqa: E402

DOCUMENT = ROOT / "tests" / "wire" / "published" / "assistants-openapi.json"
OURS = re.compile(r"^(/|/health(/\w+)?|/openapi\.json|/docs(/.*)?|(/v1)?/threads/[^/]+/runs/[^/]+/events)$")


def check_response(
    method: str, path: str, status: int, body: bytes | dict[str, Any], content_type: str = "application/json"
) -> None:
    """Raise AssertionError unless this is a response that the document allows; `path` may have a query, and /v1 or
    /openai before it."""
    path, where = urlsplit(path).path, f"{method} {path} -> {status}"
    if path.startswith("/openai/"):
        if status not in (200, 304, 400) and set(error := _parsed(body, where)["error"]) == {"code", "message"}:
            assert all(isinstance(value, str) for value in error.values()), f"{where}: {error}"
            return
        path = path.replace("/openai", "/v1", 1)
    if status == 304:
        assert not body, f"{where}: a 304 has no body"
        return
    if OURS.match(path) and not (status >= 400 and path.endswith("/events")):
        if content_type.startswith("text/event-stream"):
            check_stream(body, where)
        return
    if status >= 400:
        _check(_validator("ErrorResponse"), _parsed(body, where), where)
        return
    operation = _operation(method, path.removeprefix("/v1"))
    assert operation, f"{where}: no such operation"
    where = f"{operation} ({where})"
    if content_type.startswith("text/event-stream"):
        check_stream(body, where)
        return
    responses = next(each for _, _, each in _routes() if each["operationId"] == operation)["responses"]
    assert str(status) in responses, f"{where}: not a status that the operation has"
    if operation == "downloadFile":
        assert content_type in responses[str(status)]["content"], f"{where}: {content_type}"
        return
    _check(_response_validator(operation, status), _parsed(body, where), where)


def check_event(name: str, data: bytes | str | dict[str, Any], where: str = "stream") -> None:
    """Raise AssertionError unless `data` is what an event of this name carries."""
    where = f"{where}, event {name}"
    if name == "done":
        assert data in ("[DONE]", b"[DONE]"), f"{where}: {data!r}"
        return
    schema = _event_schemas().get(name)
    assert schema, f"{where}: no such event"
    _check(_validator(schema), _parsed(data, where), where)


def check_stream(body: bytes | dict[str, Any], where: str = "stream") -> None:
    """Check every whole frame of a stream of server-sent events."""
    assert isinstance(body, bytes), f"{where}: not a stream of bytes"
    for frame in body.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in frame.split("\n") if not line.startswith(":"))
        if fields:
            check_event(fields["event"], fields["data"], where)


# --- the document --------------------------------------------------------------------------------------------------


@cache
def _document() -> dict[str, Any]:
    return corrected(json.loads(DOCUMENT.read_text(encoding="utf-8")))


@cache
def _routes() -> list[tuple[str, re.Pattern[str], dict[str, Any]]]:
    """(verb, path, operation), so ordered that /threads/runs comes before /threads/{thread_id}."""
    routes = []
    for path in sorted(_document()["paths"], key=lambda path: path.replace("{", "~")):
        # A model's name may hold a slash.
        pattern = re.sub(r"\{(\w+)\}", lambda match: ".+" if match[1] == "model" else "[^/]+", path)
        for verb, operation in _document()["paths"][path].items():
            routes.append((verb.upper(), re.compile(pattern), operation))
    return routes


def _operation(method: str, path: str) -> str | None:
    for verb, pattern, operation in _routes():
        if verb == method.upper() and pattern.fullmatch(path):
            return str(operation["operationId"])
    return None


@cache
def _response_validator(operation_id: str, status: int) -> Draft202012Validator:
    operation = next(operation for _, _, operation in _routes() if operation["operationId"] == operation_id)
    return _compiled(operation["responses"][str(status)]["content"]["application/json"]["schema"])


@cache
def _event_schemas() -> dict[str, str]:
    """The schema of each event's data."""
    schemas = _document()["components"]["schemas"]
    found = {"error": "ErrorResponse"}  # as the Python SDK wants it: the Error under the key `error`
    for group in ("ThreadStreamEvent", "RunStreamEvent", "RunStepStreamEvent", "MessageStreamEvent"):
        for event in schemas[group]["oneOf"]:
            properties = event["properties"]
            found[properties["event"]["enum"][0]] = properties["data"]["$ref"].rsplit("/", 1)[1]
    return found


@cache
def _validator(name: str) -> Draft202012Validator:
    return _compiled({"$ref": f"#/components/schemas/{name}"})


def _compiled(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator(_resolved(schema))


def _resolved(node: Any) -> Any:
    """References resolved, as looking them up costs more than all else (no response's schema is recursive), and open
    to extra keys."""
    if isinstance(node, list):
        return [_resolved(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _named(node["$ref"].rsplit("/", 1)[1])
    return {
        key: _resolved(value)
        for key, value in node.items()
        if not (key == "additionalProperties" and value is False) and key != "discriminator"
    }


@cache
def _named(name: str) -> Any:
    return _resolved(_document()["components"]["schemas"][name])


# --- one body ------------------------------------------------------------------------------------------------------


def _parsed(body: bytes | str | dict[str, Any], where: str) -> Any:
    if not isinstance(body, bytes | str):
        return body
    try:
        return json.loads(body)
    except ValueError as error:
        raise AssertionError(f"{where}: not JSON: {body[:200]!r}") from error


def _check(validator: Draft202012Validator, value: Any, where: str) -> None:
    errors = list(_problems(validator, value))
    assert not errors, f"{where}:\n  " + "\n  ".join(errors)


def _problems(validator: Draft202012Validator, value: Any) -> Iterator[str]:
    for error in validator.iter_errors(value):
        yield f"{error.json_path}: {error.message[:300]}{_because(error)}"


def _because(error: ValidationError) -> str:
    """Of alternatives that all failed, the one that came nearest."""
    if not error.context:
        return ""
    inner = best_match([error])
    return f"; nearest: {inner.json_path}: {inner.message[:300]}" if inner is not error else ""
