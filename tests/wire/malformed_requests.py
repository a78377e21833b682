"""Malformed requests: made of valid ones, each spoiled in one way."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from inprocess_service import filled

Json = Any
REQUESTS = 5_000
OVERSIZED = b'{"metadata": {"k": "' + b"v" * (4 * 1024 * 1024) + b'"}}'
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


@dataclass(frozen=True)
class Bad:
    """A request that is wrong in one way, and which way that is."""

    way: str
    method: str
    path: str
    data: bytes | None = None
    headers: dict[str, str | None] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.way}: {self.method} {self.path[:300]} {(self.data or b'')[:300]!r} {self.headers}"


# --- requests that are right, to be spoiled -------------------------------------------------------------------------

ASSISTANT = {
    "model": "gpt-4o",
    "name": "n",
    "instructions": "i",
    "tools": [WEATHER, {"type": "file_search", "file_search": {"max_num_results": 5}}],
    "tool_resources": {"code_interpreter": {"file_ids": ["{file}"]}},
    "metadata": {"k": "v"},
    "temperature": 0.5,
    "top_p": 0.5,
    "response_format": {"type": "json_schema", "json_schema": {"name": "j", "schema": {"type": "object"}}},
}
MESSAGE = {
    "role": "user",
    "content": [{"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": "https://e.com/i.png"}}],
    "attachments": [{"file_id": "{file}", "tools": [{"type": "code_interpreter"}]}],
    "metadata": {"k": "v"},
}
THREAD = {"messages": [MESSAGE], "metadata": {"k": "v"}, "tool_resources": {}}
RUN = {
    "instructions": "i",
    "tools": [WEATHER],
    "metadata": {"k": "v"},
    "temperature": 1.5,
    "stream": False,
    "max_prompt_tokens": 1000,
    "max_completion_tokens": 1000,
    "truncation_strategy": {"type": "last_messages", "last_messages": 5},
    "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    "parallel_tool_calls": True,
}
UPLOAD = {
    "filename": "f",
    "purpose": "assistants",
    "bytes": 4,
    "mime_type": "text/plain",
    "expires_after": {"anchor": "created_at", "seconds": 3600},
}
SIZES = {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400}
STORE = {"name": "n", "expires_after": {"anchor": "last_active_at", "days": 7}, "metadata": {"k": "v"}}
STORED = {"attributes": {"s": "v"}, "chunking_strategy": {"type": "static", "static": SIZES}}
EQUAL = {"type": "eq", "key": "k", "value": "v"}
SEARCH = {
    "query": "q",
    "rewrite_query": False,
    "max_num_results": 5,
    "filters": {"type": "and", "filters": [EQUAL]},
    "ranking_options": {
        "ranker": "auto",
        "score_threshold": 0.5,
        "hybrid_search": {"embedding_weight": 1, "text_weight": 0},
    },
}
OUTPUTS = {"tool_outputs": [{"tool_call_id": "call_1", "output": "o"}], "stream": False}


def valid(ids: dict[str, str]) -> list[tuple[str, Json]]:
    """Paths to POST to, and bodies that they take."""
    run = {"assistant_id": ids["assistant"], **RUN}
    bodies = [
        ("/v1/assistants", ASSISTANT),
        (f"/v1/assistants/{ids['assistant']}", ASSISTANT),
        ("/v1/threads", THREAD),
        (f"/v1/threads/{ids['thread']}", {"metadata": {"k": "v"}}),
        (f"/v1/threads/{ids['thread']}/messages", MESSAGE),
        (f"/v1/threads/{ids['thread']}/messages/{ids['message']}", {"metadata": {"k": "v"}}),
        ("/v1/threads/runs", {**run, "thread": THREAD}),
        (f"/v1/threads/{ids['thread']}/runs", {**run, "additional_messages": [MESSAGE]}),
        (f"/v1/threads/{ids['busy']}/runs/{ids['run']}", {"metadata": {"k": "v"}}),
        (f"/v1/threads/{ids['busy']}/runs/{ids['run']}/submit_tool_outputs", OUTPUTS),
        ("/v1/vector_stores", {**STORE, "file_ids": [ids["file"]], "chunking_strategy": {"type": "auto"}}),
        (f"/v1/vector_stores/{ids['store']}", STORE),
        (f"/v1/vector_stores/{ids['store']}/search", SEARCH),
        (f"/v1/vector_stores/{ids['store']}/files", {"file_id": ids["file"], **STORED}),
        (f"/v1/vector_stores/{ids['store']}/file_batches", {"files": [{"file_id": ids["file"], **STORED}]}),
        ("/v1/uploads", UPLOAD),
        (f"/v1/uploads/{ids['upload']}/complete", {"part_ids": [ids["part"]], "md5": hashlib.md5(b"part").hexdigest()}),
    ]
    return [(path, filled(body, ids)) for path, body in bodies]


FREE = ("parameters", "schema", "attributes", "filters")  # below these clients may write what they like


def places(node: Json, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all values inside a body, but for free ones."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield (*path, key)
        if key not in FREE:
            yield from places(value, (*path, key))


def at(body: Json, path: tuple[Any, ...]) -> Json:
    for key in path:
        body = body[key]
    return body


def put(body: Json, path: tuple[Any, ...], value: Json) -> Json:
    """A copy of the body with this value at this path."""
    spoiled = copy.deepcopy(body)
    at(spoiled, path[:-1])[path[-1]] = value
    return spoiled


# --- ways to spoil them ---------------------------------------------------------------------------------------------


def malformed(rng: random.Random, ids: dict[str, str], count: int = REQUESTS) -> Iterator[Bad]:
    for number in range(count):
        if number % 500 == 0:
            yield Bad("oversized", "POST", rng.choice(valid(ids))[0], OVERSIZED)
        else:
            yield rng.choice(WAYS)(rng, ids)


def wrong_type(rng: random.Random, ids: dict[str, str]) -> Bad:
    path, body = rng.choice(valid(ids))
    place = rng.choice(list(places(body)))
    values = [value for value in VALUES if not fits(at(body, place), value, place[-1])]
    return Bad("type", "POST", path, json.dumps(put(body, place, rng.choice(values))).encode())


VALUES: list[Json] = [1, -7, 1.5, True, False, "", "x", [], [[]], [None], {}, {"x": {}}, 10**30, 1e300, "\x00", [{}]]


def fits(old: Json, new: Json, key: Any) -> bool:
    """Whether a value of this kind may be in the place of the old one."""
    if isinstance(old, bool) or isinstance(new, bool):
        return isinstance(old, bool) and isinstance(new, bool)
    if isinstance(old, int | float) and isinstance(new, int | float):
        return True
    if key in ("content", "response_format", "tool_choice"):  # strings are fine, lists or objects may be
        return isinstance(new, str | list | dict)
    if isinstance(old, str) and isinstance(new, str):
        return True
    return type(old) is type(new)


def broken_json(rng: random.Random, ids: dict[str, str]) -> Bad:
    path, body = rng.choice(valid(ids))
    text = json.dumps(body)
    place = rng.randrange(1, len(text))
    broken = [
        text[:place],
        text + rng.choice("}],:x\x00"),
        text[:place] + rng.choice("\x01\x1f") + text[place:],
        text.replace('"', "'"),
        text[:-1] + ",}",
        text.replace(": ", " = "),
        f"[{text}]",
        rng.choice(["null", "true", "1", '"{}"', "NaN", "{,}", "{}{}", "\x00", "--"]),
    ]
    return Bad("json", "POST", path, rng.choice(broken).encode())


def broken_text(rng: random.Random, ids: dict[str, str]) -> Bad:
    path, body = rng.choice(valid(ids))
    text = json.dumps(body)
    inside = text.index('"') + 1
    junk = rng.choice(
        [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\xaf", b"\\ud800", b"\\x00", b"\\u12"]
    )
    return Bad("text", "POST", path, text[:inside].encode() + junk + text[inside:].encode())


def unknown_field(rng: random.Random, ids: dict[str, str]) -> Bad:
    path, body = rng.choice(valid(ids))
    objects = [place for place in [(), *places(body)] if isinstance(at(body, place), dict)]
    closed = [place for place in objects if not {"metadata", *FREE} & set(place)]
    name = rng.choice(["", "x", "__proto__", "ID", "\x00", "é", "a" * 2000, "$ref", "metadata.k", "status"])
    return Bad("field", "POST", path, json.dumps(put(body, (*rng.choice(closed), name), rng.choice(VALUES))).encode())


def missing_field(rng: random.Random, ids: dict[str, str]) -> Bad:
    path, body = rng.choice([each for each in valid(ids) if any(name in each[1] for name in REQUIRED)])
    name = rng.choice([name for name in REQUIRED if name in body])
    if path.endswith(ids["assistant"]):
        return Bad("missing", "POST", path, json.dumps({"metadata": [name]}).encode())
    spoiled = {key: value for key, value in body.items() if key != name}
    if rng.random() < 0.5:
        spoiled[name] = None
    return Bad("missing", "POST", path, json.dumps(spoiled).encode())


REQUIRED = ("model", "role", "content", "assistant_id", "tool_outputs")


def out_of_range(rng: random.Random, ids: dict[str, str]) -> Bad:
    number = rng.choice(
        ["1e400", "-1e400", str(10**400), str(-(10**30)), "NaN", "Infinity", "-Infinity", "-1", "2147483648.5"]
    )
    a_run = '"assistant_id": "asst_x"'
    path, text = rng.choice(
        [
            ("/v1/assistants", f'{{"model": "m", "temperature": {number}}}'),
            ("/v1/assistants", f'{{"model": "m", "top_p": {number}}}'),
            ("/v1/assistants", f'{{"model": "m", "metadata": {{"k": {number}}}}}'),
            ("/v1/threads/runs", f'{{{a_run}, "max_prompt_tokens": {number}}}'),
            ("/v1/threads/runs", f'{{{a_run}, "truncation_strategy": {{"type": "auto", "last_messages": {number}}}}}'),
        ]
    )
    return Bad("range", "POST", path, text.encode())


def unstorable_number(rng: random.Random, ids: dict[str, str]) -> Bad:
    """Where clients may write any JSON: what JSON has no number for, or could not be read back."""
    number = rng.choice(["NaN", "Infinity", "-Infinity", "1e400", "-1e999", "9" * 5000])
    return Bad("number", "POST", "/v1/assistants", rng.choice([with_parameters, with_schema])(number).encode())


def with_parameters(text: str) -> str:
    function = f'{{"name": "f", "parameters": {{"a": {text}}}}}'
    return f'{{"model": "m", "tools": [{{"type": "function", "function": {function}}}]}}'


def with_schema(text: str) -> str:
    schema = f'{{"name": "j", "schema": {{"a": {text}}}}}'
    return f'{{"model": "m", "response_format": {{"type": "json_schema", "json_schema": {schema}}}}}'


def too_much(rng: random.Random, ids: dict[str, str]) -> Bad:
    bodies: list[tuple[str, Json]] = [
        ("/v1/assistants", {"model": "m" * 257}),
        ("/v1/assistants", {"model": "m", "name": "é" * 257}),
        ("/v1/assistants", {"model": "m", "tools": [WEATHER] * 129}),
        ("/v1/threads", {"metadata": {str(number): "" for number in range(17)}}),
        ("/v1/threads", {"metadata": {"k" * 65: ""}}),
        ("/v1/threads", {"messages": [{"role": "user", "content": "Hi"}] * 1001}),
        (f"/v1/threads/{ids['thread']}/messages", {"role": "user", "content": "𝄞" * 256_001}),
    ]
    path, body = rng.choice(bodies)
    return Bad("much", "POST", path, json.dumps(body).encode())


def deep_nesting(rng: random.Random, ids: dict[str, str]) -> Bad:
    depth = rng.choice([300, 1_000, 10_000, 100_000])
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
    nest = opening * depth + rng.choice(["", "1" + closing * depth])
    texts = [nest, with_parameters(nest), with_schema(nest), f'{{"model": "m", "unknown": {nest}}}']
    return Bad("deep", "POST", "/v1/assistants", rng.choice(texts).encode())


HOSTILE = [
    "%00",
    "x%00",
    "..%2F..%2Fetc",
    "%2e%2e%2f",
    "%2F",
    "a%2Fb",
    "%5C",
    "%0d%0aX:%20y",
    "%F0%9F%98%80",
    "%ff%fe",
    "%zz",
    "%",
    "*",
    "'%20OR%201=1--",
    "%3Cscript%3E",
    "%25",
    "%20",
    "undefined",
    "null",
    "-1",
    "a.b",
    "%E2%80%AE",
    "%C0%AF",
    "~",
    "{thread_id}",
    "%7Bid%7D",
    "a;b",
    "a%3Fb",
    "a%23b",
    ".log",
    "_",
    "0hod3gc1w04ua4kae5k9xlwf",
]


def hostile_id(rng: random.Random, ids: dict[str, str]) -> Bad:
    prefix = rng.choice(["", "asst_", "thread_", "msg_", "run_", "step_"])
    hostile = rng.choice([*HOSTILE, "a" * 200, "a" * 5000])
    bad, thread, run = prefix + hostile, ids["thread"], ids["run"]
    method, path = rng.choice(
        [
            ("GET", f"/v1/assistants/{bad}"),
            ("POST", f"/v1/assistants/{bad}"),
            ("DELETE", f"/v1/assistants/{bad}"),
            ("GET", f"/v1/threads/{bad}"),
            ("POST", f"/v1/threads/{bad}"),
            ("DELETE", f"/v1/threads/{bad}"),
            ("GET", f"/v1/threads/{bad}/messages"),
            ("GET", f"/v1/threads/{thread}/messages/{bad}"),
            ("DELETE", f"/v1/threads/{thread}/messages/{bad}"),
            ("GET", f"/v1/threads/{thread}/runs/{bad}"),
            ("POST", f"/v1/threads/{thread}/runs/{bad}/cancel"),
            ("GET", f"/v1/threads/{ids['busy']}/runs/{run}/steps/{bad}"),
            ("GET", f"/v1/threads/{thread}/runs/{bad}/events"),
            ("GET", f"/v1/models/{bad}"),
            ("DELETE", f"/v1/models/{bad}"),
        ]
    )
    return Bad("id", method, path, b"{}" if method == "POST" else None)


def hostile_id_in_a_body(rng: random.Random, ids: dict[str, str]) -> Bad:
    own = ids["assistant"]
    bad = [
        "",
        "asst_",
        "asst_\x00",
        "asst_../../x",
        "thread_x",
        "asst_" + "a" * 100_000,
        "asst_é",
        f"../{own}",
        f"{own}/",
    ]
    path = rng.choice(["/v1/threads/runs", f"/v1/threads/{ids['thread']}/runs"])
    return Bad("body id", "POST", path, json.dumps({"assistant_id": rng.choice([*bad, own.upper()])}).encode())


def wrong_outputs(rng: random.Random, ids: dict[str, str]) -> Bad:
    calls_of: list[list[Json]] = [[], ["call_2"], ["call_1", "call_1"], ["call_1", "call_2"], [None], ["\x00"]]
    outputs = [{"tool_call_id": call, "output": "x"} for call in rng.choice(calls_of)]
    path = f"/v1/threads/{ids['busy']}/runs/{ids['run']}/submit_tool_outputs"
    return Bad("outputs", "POST", path, json.dumps({"tool_outputs": outputs}).encode())


LIMITS = ["", "0", "101", "-1", "1.5", "1e2", "x", "%00", "%D9%A1%D9%A0", "+5", "0x10", "NaN", "--1", "%20", "1_0"]
ORDERS = ["", "up", "ASC", "%00", "asc,desc", "[]", "%ff"]


def wrong_query(rng: random.Random, ids: dict[str, str]) -> Bad:
    thread, run = f"/v1/threads/{ids['thread']}", f"/v1/threads/{ids['busy']}/runs/{ids['run']}"
    path, kind = rng.choice(
        [("/v1/assistants", "asst"), (f"{thread}/messages", "msg"), (f"{thread}/runs", "run"), (f"{run}/steps", "step")]
    )
    limit, order = rng.choice([*LIMITS, "9" * 400]), rng.choice(ORDERS)
    cursor = rng.choice(["x", "%00", "..%2f..%2fx", f"{kind}_%00", f"{kind}_%C3%A9", f"{kind}%2F..", "a" * 5000])
    queries = [f"limit={limit}", f"order={order}", f"after={cursor}", f"before={cursor}", f"limit=5&order={order}"]
    return Bad("query", "GET", f"{path}?{rng.choice(queries)}")


def wrong_method(rng: random.Random, ids: dict[str, str]) -> Bad:
    path = rng.choice([*(path for path, _ in valid(ids)), "/v1/models", "/health", "/openapi.json", "/docs", "/"])
    method = rng.choice(["PUT", "PATCH", "TRACE", "OPTIONS", "LOCK", "PROPFIND", "PURGE", "LINK"])
    return Bad("method", method, path, rng.choice([None, b"{}"]))


ELSEWHERE = [
    "/v1",
    "/v1/",
    "/v2/assistants",
    "/v1/files/",
    "/v1//assistants",
    "/v1/assistants/",
    "/v1/threads/",
    "/V1/assistants",
    "/v1/assistants/a/b",
    "/v1/threads//messages",
    "/%",
    "//",
    "/v1/%2e%2e/health",
    "/docs/../api/main.py",
    "/docs/..%2fmain.py",
    "/docs/page.js/",
    "/etc/passwd",
    "/v1/vector_stores/",
    "/favicon.ico",
]


def unknown_url(rng: random.Random, ids: dict[str, str]) -> Bad:
    return Bad("url", rng.choice(["GET", "POST", "DELETE"]), rng.choice([*ELSEWHERE, f"/v1/threads/{ids['thread']}/"]))


def weird_headers(rng: random.Random, ids: dict[str, str]) -> Bad:
    path, body = rng.choice(valid(ids))
    data = json.dumps(body).encode()
    headers: list[dict[str, str | None]] = [
        {"OpenAI-Beta": None},
        {"OpenAI-Beta": "assistants=v1"},
        {"OpenAI-Beta": "é"},
        {"OpenAI-Beta": "assistants=v2;q=1"},
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "deflate"},
    ]
    if path.startswith(("/v1/uploads", "/v1/vector_stores")):  # which are no beta
        headers = headers[-2:]
    return Bad("headers", "POST", path, data, rng.choice(headers))


def wrong_event_id(rng: random.Random, ids: dict[str, str]) -> Bad:
    last = rng.choice(["x", "0", "-1", "9" * 100, "1.1", "0.0", "é", "0.1.1", "1e3", "0x1.1", "١.١", "null"])
    return Bad("event id", "GET", f"/v1/threads/{ids['busy']}/runs/{ids['run']}/events", None, {"Last-Event-ID": last})


WAYS: list[Callable[[random.Random, dict[str, str]], Bad]] = [
    *[wrong_type, broken_json, broken_text, unknown_field] * 3,
    *[hostile_id, wrong_query] * 3,
    missing_field,
    out_of_range,
    unstorable_number,
    too_much,
    deep_nesting,
    hostile_id_in_a_body,
    wrong_outputs,
    wrong_method,
    unknown_url,
    weird_headers,
    wrong_event_id,
]
