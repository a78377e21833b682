"""Error formats of providers: extracts the text for users, and what a log may contain.
{"error": {"message": ..., "type": ..., "code": ...}}   OpenAI and most others
{"error": "..."}                                        Ollama's own API, Text Generation Inference
[{"error": {"code": 400, "message": ...}}]              Gemini (github.com/cyberchitta/openai_ex/pull/126)
{"object": "error", "message": ..., "code": ...}        vLLM, also inside a stream
{"message": {"detail": [{"loc": [...], "msg": ...}]}}   Mistral (github.com/Gage-Technologies/mistral-go/issues/3)
{"detail": ...}                                         FastAPI's, and so many servers', also inside a stream
{"code": 50508, "message": ...}                         SiliconFlow (github.com/infiniflow/ragflow/issues/5676)
{"code": 20012, "message": ..., "data": null}           SiliconFlow; others say `msg`
{"choices": null, "base_resp": {"status_code": 1008, "status_msg": ...}}      MiniMax, also with status 200
{"message": ..., "error": "Unauthorized", "statusCode": 401}                  NestJS
{"error_code": 110, "error_msg": ...}                   Baidu
{"errorMessage": ..., "errorType": ...}                 AWS Lambda behind API Gateway, with status 200
{"error": {"message": "Provider returned error", "metadata": {"raw": ...}}}   OpenRouter
{"fault": {"faultstring": ..., "detail": {"errorcode": ...}}}                 Apigee
{"type": ..., "title": ..., "status": 403, "detail": ...}                     RFC 9457, where all are optional
{"error": {"message": "{\"error\": {\"message\": ...}}"}}                     proxies that quote another server

These forms are not told apart: the first of the usual keys that has text counts, down to a bounded depth, also in JSON
within a string. Keys are compared without case and underscores. A string in place of an object is the text itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

DEEPEST: Final = 10  # levels of nested lists, objects and quoted JSON that are searched for text
_LONGEST_QUOTE: Final = 100_000  # characters of JSON in a string
# By preference; those of OAuth (RFC 6749, 5.2), Apigee and RFC 9457 have a code or a name beside them.
_WORDS: Final = (
    "message",
    "errordescription",
    "error",
    "detail",
    "faultstring",
    "msg",
    "errormessage",
    "errormsg",
    "statusmsg",
    "errors",
    "details",
    "reason",
    "description",
    "title",
    "err",
    "exception",
)
# Objects that may contain these; a string here is not an explanation.
_AROUND: Final = ("fault", "baseresp", "status", "response", "data")
_CODES: Final = ("code", "type", "status", "statuscode", "errorcode", "errortype")
_ANSWERS: Final = ("choices", "output", "data")
_PLACE: Final = re.compile(r"""['"]loc['"]: ?[(\[][^)\]]{0,300}[)\]], ?['"]msg['"]: ?(['"]).{0,300}?\1""")
_ECHO: Final = re.compile(r"""['"]input['"]: ?""")
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_.]{1,64}")  # no hyphens, because keys have them

_RATE_CODES: Final = {"rate_limit_exceeded", "insufficient_quota", "too_many_requests", "429", "resource_exhausted"}
_PROMPT_CODES: Final = {
    "content_filter",
    "invalid_prompt",
    "content_policy_violation",
    "image_content_policy_violation",
}


def is_error(found: Mapping[str, Any]) -> bool:
    """Whether an object with status 200, or inside a stream, is an error, or text where an answer should be."""
    if found.get("error") or "error" in (found.get("type"), found.get("object")):
        return True
    event = str(found.get("type") or "").startswith("response.")
    return not event and not any(map(_answers, map(found.get, _ANSWERS))) and bool(words(found))


def _answers(value: object) -> bool:
    return bool(value) and not (isinstance(value, Mapping) and value.get("error"))


def words(error: object, depth: int = 0) -> str:
    """The provider's error text; empty if there is none, or for an HTML page."""
    if isinstance(error, str):
        quoted = _quoted(error)
        return (words(quoted, depth + 1) if quoted and depth < DEEPEST else "") or _text(error)
    if depth == DEEPEST:
        return ""
    if isinstance(error, list):
        return "; ".join(filter(None, (words(each, depth + 1) for each in error[:3])))
    return _of_object(error, depth) if isinstance(error, Mapping) else ""


def _text(error: str) -> str:
    return "" if error.lstrip().startswith("<") else error.strip()


def _quoted(text: str) -> object:
    """An object or a list that is written as JSON; else None."""
    if text.lstrip()[:1] not in ("{", "[") or len(text) > _LONGEST_QUOTE:
        return None
    try:
        return msgspec.json.decode(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return None


def _of_object(error: Mapping[str, Any], depth: int) -> str:
    named = _named(error)
    if named.get("statuscode") == 0:  # MiniMax's text for success
        return ""
    found = next(filter(None, (words(inner, depth + 1) for inner in _inner(named))), "")
    place = error.get("loc")  # of pydantic: the field that is meant
    if found and isinstance(place, list):
        found = f"{'.'.join(map(str, place))}: {found}"
    metadata = error.get("metadata")
    if isinstance(metadata, Mapping) and isinstance(raw := metadata.get("raw"), str) and (raw := words(raw, depth + 1)):
        return f"{found}: {raw}"
    return found


def _inner(named: Mapping[str, Any]) -> Iterator[object]:
    yield from (named[key] for key in _WORDS if key in named)
    yield from (named[key] for key in _AROUND if isinstance(named.get(key), Mapping | list))


def objects(error: object, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """The error's object, and those nested in it: one of them has the code."""
    inner: Iterable[object] = error if isinstance(error, list) else []
    if isinstance(error, Mapping):
        yield error
        inner = _inner(_named(error))
    elif isinstance(error, str):
        inner = filter(None, [_quoted(error)])
    for each in inner if depth < DEEPEST else []:
        yield from objects(each, depth + 1)


def code_of(status: int | None, error: object) -> str:
    """The code for `last_error`."""
    codes = {code.lower() for code in _codes(error)}
    if status == 429 or (status is None and codes & _RATE_CODES):
        return "rate_limit_exceeded"
    if status in (400, None) and codes & _PROMPT_CODES:
        return "invalid_prompt"
    return "server_error"


def reason_of(error: object) -> str:
    """The reason for the log: codes and types, which are identifiers; texts may quote the prompt."""
    return " ".join(dict.fromkeys(word for word in _codes(error) if _IDENTIFIER.fullmatch(word)))


def _codes(error: object) -> Iterator[str]:
    for each in map(_named, objects(error)):
        yield from (str(each[key]) for key in _CODES if each.get(key))


def _named(error: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).replace("_", "").lower(): value for key, value in error.items()}


def text_of(error: object) -> str:
    """The error's text and the names of the fields that it refers to, without the request, which validators repeat."""
    named = (str(each["param"]) for each in objects(error) if each.get("param"))
    return " ".join([_without_echo(words(error)[:100_000]), *named])


def _without_echo(text: str) -> str:
    """vLLM's error texts are pydantic's errors as Python writes them, each with the whole request as its `input`
    (vllm/entrypoints/openai/api_server.py, validation_exception_handler)."""
    places = [found[0] for found in _PLACE.finditer(text)]
    return " ".join(places) if places else _ECHO.split(text, maxsplit=1)[0]
