"""The API once more, as a few dicts: what each operation must answer, given all that was asked before.

Written from the published specification and recordings, in no way from the service. Every dict keeps the order in which
things came to be; what was deleted stays in it as None, since its id still works as a cursor. `said` is what the
service answered: of it only the ids of new things are believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Any
LIFETIME = 600  # seconds of a run
KEY_LIFETIME = 24 * 3600  # seconds of an Idempotency-Key
TERMINAL = ("completed", "incomplete", "failed", "cancelled", "expired")
CALLS = ("call_1", "call_2")  # that the model `calls` asks its client for
WEATHER = "7 degrees and sun in Oslo"  # what the worker's own function says


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message


def no_such(what: str, object_id: str) -> Refused:
    return Refused(404, f"No {what} found with id '{object_id}'.")


class New:
    """An id that is not known yet: equal to every one of its kind."""

    def __init__(self, prefix: str) -> None:
        self.prefix = f"{prefix}_"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and other.startswith(self.prefix)

    def __repr__(self) -> str:
        return f"{self.prefix}..."

    __hash__ = None  # type: ignore[assignment]


@dataclass
class Run:
    doc: Json
    steps: dict[str, Json] = field(default_factory=dict)
    streamed: bool = False

    @property
    def active(self) -> bool:
        return self.doc["status"] not in TERMINAL


@dataclass
class Thread:
    doc: Json
    messages: dict[str, Json] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    gone: bool = False

    @property
    def active(self) -> Run | None:
        return next((run for run in self.runs.values() if run.active), None)

    def paths(self) -> dict[str, Json]:
        at = f"/threads/{self.doc['id']}"
        shown = {at: self.doc, **{f"{at}/messages/{key}": message for key, message in self.messages.items()}}
        for run_id, run in self.runs.items():
            shown[f"{at}/runs/{run_id}"] = run.doc
            shown |= {f"{at}/runs/{run_id}/steps/{key}": step for key, step in run.steps.items()}
        return dict.fromkeys(shown) if self.gone else shown


@dataclass
class Kept:
    """What an Idempotency-Key stands for."""

    request: Json
    at: float
    answer: Json = None


@dataclass
class Reference:
    now: Callable[[], float]
    assistants: dict[str, Json] = field(default_factory=dict)
    threads: dict[str, Thread] = field(default_factory=dict)
    keys: dict[str, Kept] = field(default_factory=dict)

    @property
    def time(self) -> int:
        return int(self.now())

    def runs(self, *statuses: str) -> list[Run]:
        there = [run for thread in self.threads.values() if not thread.gone for run in thread.runs.values()]
        return [run for run in there if run.doc["status"] in statuses]

    # -- Idempotency-Key -------------------------------------------------------------------------------------------

    def once(self, key: str | None, request: Json, create: Callable[[], Json]) -> Json:
        """The answer that was given to this request before, or what `create` predicts."""
        if key is None:
            return create()
        kept = self.keys.get(key)
        if kept is None or self.now() - kept.at >= KEY_LIFETIME:
            kept = self.keys[key] = Kept(request, self.now())
        if kept.request != request:
            raise Refused(400, "This Idempotency-Key was already used for a different request. Use another key.")
        if kept.answer is None:
            kept.answer = dict(create())
        return kept.answer

    # -- any object, by its path -----------------------------------------------------------------------------------

    def create(self, path: str, body: Json, said: Json, messages_said: list[Json]) -> Json:
        """`messages_said` are those that came to be with the thread, or with the run."""
        match path.split("/")[1:]:
            case ["assistants"]:
                return self.create_assistant(body, said)
            case ["threads"]:
                return self.create_thread(body, said, messages_said)
            case ["threads", "runs"]:
                return self.create_thread_and_run(body, said, messages_said)
            case ["threads", thread_id, "messages"]:
                return self.create_message(thread_id, body, said)
            case ["threads", thread_id, "runs"]:
                return self.create_run(thread_id, body, said, messages_said)

    def retrieve(self, path: str) -> Json:
        match path.split("/")[1:]:
            case ["assistants", assistant_id]:
                return self.assistant(assistant_id)
            case ["threads", thread_id]:
                return self.thread(thread_id).doc
            case ["threads", thread_id, "messages", message_id]:
                return self.message(thread_id, message_id)
            case ["threads", thread_id, "runs", run_id]:
                return self.run(thread_id, run_id).doc
            case ["threads", thread_id, "runs", run_id, "steps", step_id]:
                return self.step(thread_id, run_id, step_id)

    def update(self, path: str, body: Json) -> Json:
        """The keys that are given replace the old ones; of tool resources, tool by tool."""
        doc = self.retrieve(path)
        resources = {key: doc[key] | body[key] for key in ("tool_resources",) if key in body}
        doc.update({**body, **resources})
        return doc

    def delete(self, path: str) -> Json:
        doc = self.retrieve(path)
        match path.split("/")[1:]:
            case ["assistants", assistant_id]:
                self.assistants[assistant_id] = None
            case ["threads", thread_id]:
                self.threads[thread_id].gone = True
            case ["threads", thread_id, "messages", message_id]:
                self.threads[thread_id].messages[message_id] = None
        return {"id": doc["id"], "object": f"{doc['object']}.deleted", "deleted": True}

    def list_all(self, path: str, query: Mapping[str, Json]) -> Json:
        """A page of the list at this path; messages also of one run alone."""
        match path.split("/")[1:]:
            case ["assistants"]:
                return page(self.assistants, "assistant", query)
            case ["threads", thread_id, "messages"]:
                run_id = query.get("run_id")
                mine = (lambda message: message["run_id"] == run_id) if run_id else (lambda _: True)
                return page(self.thread(thread_id).messages, "message", query, mine)
            case ["threads", thread_id, "runs"]:
                return page({key: run.doc for key, run in self.thread(thread_id).runs.items()}, "run", query)
            case ["threads", thread_id, "runs", run_id, "steps"]:
                return page(self.run(thread_id, run_id).steps, "run step", query)

    def everything(self) -> dict[str, Json]:
        """What each path shows: a document, or None where something was before it was deleted."""
        shown = {f"/assistants/{key}": assistant for key, assistant in self.assistants.items()}
        return shown | {path: doc for thread in self.threads.values() for path, doc in thread.paths().items()}

    # -- assistants ------------------------------------------------------------------------------------------------

    def create_assistant(self, body: Json, said: Json) -> Json:
        blank = {"name": None, "description": None, "instructions": None, "tools": [], "top_p": 1, "temperature": 1}
        rest = {"reasoning_effort": None, "tool_resources": {}, "metadata": {}, "response_format": "auto"}
        made = {"id": said.get("id"), "object": "assistant", "created_at": self.time, **blank, **rest, **body}
        self.assistants[made["id"]] = made
        return made

    def assistant(self, assistant_id: str) -> Json:
        found = self.assistants.get(assistant_id)
        if found is None:
            raise no_such("assistant", assistant_id)
        return found

    # -- threads ---------------------------------------------------------------------------------------------------

    def create_thread(self, body: Json, said: Json, messages_said: list[Json]) -> Json:
        thread_id = said.get("id")
        doc = {"id": thread_id, "object": "thread", "created_at": self.time}
        given = {key: body.get(key, {}) for key in ("metadata", "tool_resources")}
        thread = self.threads[thread_id] = Thread({**doc, **given})
        for given, message in zip(body.get("messages", []), messages_said, strict=True):
            self._add_message(thread, given, message["id"])
        return thread.doc

    def thread(self, thread_id: str) -> Thread:
        thread = self.threads.get(thread_id)
        if thread is None or thread.gone:
            raise no_such("thread", thread_id)
        return thread

    # -- messages --------------------------------------------------------------------------------------------------

    def create_message(self, thread_id: str, body: Json, said: Json) -> Json:
        thread = self.thread(thread_id)
        active = thread.active
        if active and not self.overdue(active):
            raise Refused(400, f"Can't add messages to {thread_id} while a run {active.doc['id']} is active.")
        if active:
            self.expire(active)
        return self._add_message(thread, body, said.get("id"))

    def _add_message(self, thread: Thread, body: Json, message_id: str) -> Json:
        made = message_doc(thread.doc["id"], body["content"], self.time)
        made |= {"id": message_id, "role": body["role"], "metadata": body.get("metadata", {})}
        thread.messages[message_id] = made
        return made

    def message(self, thread_id: str, message_id: str) -> Json:
        found = self.thread(thread_id).messages.get(message_id)
        if found is None:
            raise no_such("message", message_id)
        return found

    # -- runs ------------------------------------------------------------------------------------------------------

    def create_run(self, thread_id: str, body: Json, said: Json, messages_said: list[Json]) -> Json:
        assistant, thread = self.assistant(body["assistant_id"]), self.thread(thread_id)
        active = thread.active
        if active and not self.overdue(active):
            raise Refused(400, f"Thread {thread_id} already has an active run {active.doc['id']}.")
        self._startable(assistant, [*filter(None, thread.messages.values()), *body.get("additional_messages", [])])
        if active:
            self.expire(active)
        for given, message in zip(body.get("additional_messages", []), messages_said, strict=True):
            self._add_message(thread, given, message["id"])
        return self._add_run(thread, assistant, body, said.get("id"))

    def create_thread_and_run(self, body: Json, said: Json, messages_said: list[Json]) -> Json:
        assistant = self.assistant(body["assistant_id"])
        self._startable(assistant, body["thread"].get("messages", []))
        self.create_thread(body["thread"], {"id": said.get("thread_id")}, messages_said)
        return self._add_run(self.threads[said.get("thread_id")], assistant, body, said.get("id"))

    @staticmethod
    def _startable(assistant: Json, messages: list[Json]) -> None:
        if not assistant["instructions"] and not any(message["role"] == "user" for message in messages):
            needs = "Run creation requires a Thread with a user message or an assistant with instructions."
            raise Refused(400, needs)

    def _add_run(self, thread: Thread, assistant: Json, body: Json, run_id: str) -> Json:
        own = {"id": run_id, "assistant_id": assistant["id"], "thread_id": thread.doc["id"], "created_at": self.time}
        taken = {key: assistant[key] for key in ("model", "instructions", "tools", "temperature", "top_p")}
        taken["tool_resources"] = {**assistant["tool_resources"], **thread.doc["tool_resources"]}
        given = {key: body[key] for key in ("model", "metadata") if key in body}
        doc = {**BLANK_RUN, **own, **taken, **given, "status": "queued", "expires_at": self.time + LIFETIME}
        thread.runs[run_id] = Run(doc, streamed=body.get("stream", False))
        return doc

    def run(self, thread_id: str, run_id: str) -> Run:
        found = self.thread(thread_id).runs.get(run_id)
        if found is None:
            raise no_such("run", run_id)
        return found

    def step(self, thread_id: str, run_id: str, step_id: str) -> Json:
        found = self.run(thread_id, run_id).steps.get(step_id)
        if found is None:
            raise no_such("run step", step_id)
        return found

    def cancel(self, thread_id: str, run_id: str) -> Json:
        """Answers `cancelling`; the run is `cancelled` soon after."""
        run = self.run(thread_id, run_id)
        if not run.active:
            raise Refused(400, f"Cannot cancel run with status '{run.doc['status']}'.")
        told = {**run.doc, "status": "cancelling", "required_action": None}
        self._end(run, "cancelled", cancelled_at=self.time)
        return told

    def submit(self, thread_id: str, run_id: str, body: Json) -> Json:
        """Answers `queued`."""
        run = self.run(thread_id, run_id)
        status = "expired" if self.overdue(run) else run.doc["status"]
        if status != "requires_action":
            raise Refused(400, f'Runs in status "{status}" do not accept tool outputs.')
        got = [output["tool_call_id"] for output in body["tool_outputs"]]
        if sorted(got) != sorted(CALLS):
            raise Refused(400, f"Expected tool outputs for call_ids {list(CALLS)}, got {got}")
        outputs = {output["tool_call_id"]: output["output"] for output in body["tool_outputs"]}
        (step,) = run.steps.values()
        for call in step["step_details"]["tool_calls"]:
            call["function"]["output"] = outputs[call["id"]]
        step.update(status="completed", completed_at=self.time, usage=usage(1), expires_at=None)
        run.doc.update(status="queued", required_action=None)
        return run.doc

    # -- what a worker makes of a run ------------------------------------------------------------------------------

    def work(self, thread_id: str, run_id: str) -> tuple[list[Json], list[Json]]:
        """Its next turn, by the script that its model is named for. The new steps and messages, without their ids."""
        run = self.threads[thread_id].runs[run_id]
        run.doc.update(status="in_progress", started_at=self.time)
        if run.steps:
            return self._says(run, "Done.")
        match run.doc["model"]:
            case "fails":
                error = {"code": "server_error", "message": "Oops."}
                heard = self._prompt_texts(run, "Broken", error) if run.streamed else ([], [])
                self._end(run, "failed", failed_at=self.time, last_error=error)
                return heard
            case "calls":
                run.doc.update(status="requires_action", required_action=ASKED)
                return [self._step(run, "tool_calls", {"tool_calls": [call("ask", each) for each in CALLS]})], []
            case "own":
                step = self._step(run, "tool_calls", {"tool_calls": [call("get_weather", "call_own", WEATHER)]})
                run.steps["own"] = self._ended(step)
                (said, messages) = self._says(run, "Done.")
                return [run.steps.pop("own"), *said], messages
            case "cut":
                return self._says(run, "Half", cut=True)
            case "says":
                return self._says(run, "Hello there.")
        return [], []

    def _says(self, run: Run, text: str, *, cut: bool = False) -> tuple[list[Json], list[Json]]:
        message = message_doc(run.doc["thread_id"], text, self.time)
        message |= {"role": "assistant", "assistant_id": run.doc["assistant_id"], "run_id": run.doc["id"]}
        step = self._ended(self._step(run, "message_creation", {"message_creation": {"message_id": New("msg")}}))
        turns = len(run.steps) + 1
        if cut:
            message |= {"status": "incomplete", "incomplete_at": self.time, "completed_at": None}
            message["incomplete_details"] = {"reason": "max_tokens"}
            reason = {"reason": "max_completion_tokens"}
            self._end(run, "incomplete", turns, completed_at=self.time, incomplete_details=reason)
        else:
            self._end(run, "completed", turns, completed_at=self.time)
        return [step], [message]

    def _prompt_texts(self, run: Run, text: str, error: Json) -> tuple[list[Json], list[Json]]:
        """What a client heard before the run failed."""
        message = message_doc(run.doc["thread_id"], text, self.time)
        message |= {"role": "assistant", "assistant_id": run.doc["assistant_id"], "run_id": run.doc["id"]}
        message |= {"status": "incomplete", "incomplete_at": self.time, "completed_at": None}
        message["incomplete_details"] = {"reason": "run_failed"}
        step = self._step(run, "message_creation", {"message_creation": {"message_id": New("msg")}})
        ended = {"status": "failed", "failed_at": self.time, "expires_at": None, "last_error": error}
        return [{**step, **ended}], [message]

    def _step(self, run: Run, kind: str, details: Json) -> Json:
        own = {key: run.doc[key] for key in ("assistant_id", "thread_id", "expires_at")}
        made = {**BLANK_STEP, **own, "created_at": self.time, "run_id": run.doc["id"], "type": kind}
        return {**made, "step_details": {"type": kind, **details}}

    def _ended(self, step: Json) -> Json:
        return {**step, "status": "completed", "completed_at": self.time, "expires_at": None, "usage": usage(1)}

    def adopt(self, thread_id: str, run_id: str, steps: list[Json], messages: list[Json]) -> None:
        """What `work` foretold, as it came to be."""
        self.threads[thread_id].runs[run_id].steps |= {step["id"]: step for step in steps}
        self.threads[thread_id].messages |= {message["id"]: message for message in messages}

    def overdue(self, run: Run) -> bool:
        return run.active and self.now() >= run.doc["expires_at"]

    def expire(self, run: Run) -> None:
        self._end(run, "expired")

    def _end(self, run: Run, status: str, turns: int | None = None, **fields: Json) -> None:
        """Its end, with that of its open step; each turn cost the same."""
        for step in run.steps.values():
            if step["status"] == "in_progress":
                when = "expired_at" if status == "expired" else "cancelled_at"
                step.update({"status": status, when: self.time, "expires_at": None, "usage": usage(1)})
        spent = len(run.steps) if turns is None else turns
        run.doc.update(status=status, usage=usage(spent), expires_at=None, required_action=None, **fields)


# --- documents ------------------------------------------------------------------------------------------------------


def usage(turns: int) -> Json:
    details = {"prompt_token_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0}}
    return {"prompt_tokens": 10 * turns, "completion_tokens": 5 * turns, "total_tokens": 15 * turns, **details}


def call(name: str, call_id: str, output: str | None = None) -> Json:
    arguments = '{"city":"Oslo"}' if name == "get_weather" else "{}"
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments, "output": output}}


def message_doc(thread_id: str, text: str, at: int) -> Json:
    return {
        "id": New("msg"),
        "object": "thread.message",
        "created_at": at,
        "assistant_id": None,
        "thread_id": thread_id,
        "run_id": None,
        "status": "completed",
        "incomplete_details": None,
        "incomplete_at": None,
        "completed_at": at,
        "content": [{"type": "text", "text": {"value": text, "annotations": []}}],
        "attachments": [],
        "metadata": {},
    }


_asked = [{"id": each, "type": "function", "function": {"name": "ask", "arguments": "{}"}} for each in CALLS]
ASKED = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": _asked}}
NOTHING_YET = ("started_at", "cancelled_at", "failed_at", "completed_at", "required_action", "last_error")
UNLIMITED = ("reasoning_effort", "max_completion_tokens", "max_prompt_tokens", "incomplete_details", "usage")
BLANK_RUN = {
    **dict.fromkeys((*NOTHING_YET, *UNLIMITED)),
    "object": "thread.run",
    "metadata": {},
    "truncation_strategy": {"type": "auto", "last_messages": None},
    "response_format": "auto",
    "tool_choice": "auto",
    "parallel_tool_calls": True,
}
BLANK_STEP = {
    **dict.fromkeys(("cancelled_at", "completed_at", "expired_at", "failed_at", "last_error", "usage")),
    "id": New("step"),
    "object": "thread.run.step",
    "status": "in_progress",
    "metadata": {},
}


# --- lists ----------------------------------------------------------------------------------------------------------


def page(
    items: Mapping[str, Json],
    what: str,
    query: Mapping[str, Json],
    keep: Callable[[Json], bool] = lambda _: True,
) -> Json:
    """The page that a query asks for; `items` oldest first. `has_more` looks the way one travels."""
    limit, after, before = query.get("limit", 20), query.get("after"), query.get("before")
    ids = list(items) if query.get("order") == "asc" else list(reversed(items))
    for cursor in (after, before):
        if cursor is not None and cursor not in items:
            raise no_such(what, cursor)
    start = ids.index(after) + 1 if after else 0
    stop = ids.index(before) if before else len(ids)
    between = [items[each] for each in ids[start:stop] if items[each] is not None and keep(items[each])]
    kept = between[-limit:] if before and not after else between[:limit]
    ends = {"first_id": kept[0]["id"] if kept else None, "last_id": kept[-1]["id"] if kept else None}
    return {"object": "list", "data": kept, **ends, "has_more": len(between) > limit}
