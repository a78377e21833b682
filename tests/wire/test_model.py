"""Random sequences of all operations, sent to two processes over one store, each answer as the reference foretells it.

`make model` sends 30 times as many (MODEL=100: 100 times), other ones each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import logging
import os
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from assistants_service.core.ports.models import Deltas, Prompt, Reply, ToolCall
from assistants_service.worker import lease
from inprocess_service import NOTHING, Answer, Gate, InProcess, ManualClock, calls, fails, in_process, says
from reference_api import CALLS, TERMINAL, Reference, Refused, Thread
from scripted_models import BareModels

Json = Any
MODEL = int(os.environ.get("MODEL", "0"))  # 0: the same sequences each time
PROJECTS = itertools.count()  # one for each sequence, as all are over one store
ENOUGH = 20.0  # seconds in which a worker has done what it can do

TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)  # a message is not empty
METADATA = st.dictionaries(TEXT, TEXT, max_size=2)
SCRIPT = st.sampled_from(["says", "calls", "calls", "own", "cut", "fails", "hangs"])
KEY = st.sampled_from([*[None] * 9, *"abcdef"])
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "user", "assistant"]), "content": WORDS},
    optional={"metadata": METADATA},
)
MESSAGES = st.lists(MESSAGE, max_size=3)
RESOURCES = st.sampled_from([{}, {"code_interpreter": {"file_ids": []}}, {"file_search": {"vector_store_ids": []}}])
UPDATE = {"metadata": METADATA, "tool_resources": RESOURCES}  # of a thread
THREAD = st.fixed_dictionaries({}, optional={"messages": MESSAGES, **UPDATE})
TALK = st.fixed_dictionaries({"messages": st.lists(MESSAGE, min_size=1, max_size=3)}, optional=UPDATE)
ASSISTANT = {
    "name": st.none() | TEXT,
    "description": TEXT,
    "instructions": TEXT,
    "temperature": st.sampled_from([0.5, 1.5]),
    "top_p": st.sampled_from([0.0, 0.5]),
    "metadata": METADATA,
    "tool_resources": RESOURCES,
}
NEW_ASSISTANT = st.fixed_dictionaries({"model": SCRIPT}, optional=ASSISTANT)
RUN = {"model": SCRIPT, "metadata": METADATA, "stream": st.booleans()}
ANSWERED = st.sampled_from([CALLS, CALLS[::-1], CALLS, CALLS[:1], (*CALLS, *CALLS)])
PREFIXES = {"messages": "msg", "runs": "run", "steps": "step"}


class Ticking(ManualClock):
    """A microsecond passes with each look: ids of both processes sort as they were made."""

    def now(self) -> float:
        self.time += 1e-6
        return self.time


class ByName(BareModels):
    """ports.models.Models: a model's name is its script, which reference.Reference.work knows too."""

    def __init__(self) -> None:
        self.acts = {
            "says": says("Hello", " there."),
            "calls": calls(*(ToolCall(each, "ask", "{}") for each in CALLS)),
            "own": calls(ToolCall("call_own", "get_weather", '{"city":"Oslo"}')),
            "cut": says("Half", finish="length"),
            "fails": fails("server_error", "Oops.", "Bro", "ken"),
            "hangs": says("Let me", Gate()),
        }

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        act = says("Done.") if prompt.turns and prompt.turns[-1].role == "tool" else self.acts[prompt.model]
        return await act(prompt, deltas)


@dataclass
class Pager:
    """A client that reads a list page by page, while it changes. `there` is what it held at first."""

    path: str
    query: dict[str, Json]
    there: set[str]
    seen: list[str] = field(default_factory=list)


class Sequence(RuleBasedStateMachine):
    """Requests go to the process `via`, until a rule picks the other one."""

    def __init__(self, storage: str) -> None:
        super().__init__()
        self.clock, self.models, self.runner = Ticking(), ByName(), asyncio.Runner()
        self.reference = Reference(lambda: self.clock.time)
        self.settings = {"storage": storage, "api_keys": f"p{next(PROJECTS)}:key", "event_log_rollover": 5}
        self.processes = [self.start(), self.start()]
        self.via = 0
        self.pager: Pager | None = None
        self.keyed: list[tuple[str, Json, str]] = []

    def start(self) -> tuple[InProcess, contextlib.AsyncExitStack]:
        async def enter() -> InProcess:
            process = in_process(clock=self.clock, models=self.models, actions="examples.weather", **self.settings)
            return await stack.enter_async_context(process)

        stack = contextlib.AsyncExitStack()
        return self.runner.run(enter()), stack

    def teardown(self) -> None:
        for _, stack in self.processes:
            self.runner.run(stack.aclose())
        self.runner.close()

    # -- asking ----------------------------------------------------------------------------------------------------

    def send(self, method: str, path: str, body: Json = NOTHING, *, key: str | None = None) -> Answer:
        return self.runner.run(self._send(self.via, method, path, body, key))

    async def _send(self, via: int, method: str, path: str, body: Json = NOTHING, key: str | None = None) -> Answer:
        client = self.processes[via][0].client("key")
        return await client.send(method, f"/v1{path}", body, headers={"Idempotency-Key": key})

    def notify(self) -> None:
        """All processes look, as they would by themselves within a second."""
        for process, _ in self.processes:
            process.notifier.notify_all()  # type: ignore[attr-defined]

    def check(self, answer: Answer, foretell: Callable[[], Json]) -> bool:
        """Whether the request was done, as was foretold."""
        try:
            expected = foretell()
        except Refused as refusal:
            assert (answer.status, answer.error["message"]) == (refusal.status, refusal.message)
            return False
        assert (answer.status, said(answer)) == (200, expected)
        return True

    def ask(self, method: str, path: str, foretell: Callable[[], Json], body: Json = NOTHING) -> bool:
        return self.check(self.send(method, path, body), foretell)

    def eventually(self, path: str, expected: Json) -> None:
        """Both processes come to show it (None: nothing), since a worker is about to see to it."""
        self.runner.run(self._eventually(path, expected))

    async def _eventually(self, path: str, expected: Json) -> None:
        for via in range(len(self.processes)):
            shown: Json = NOTHING
            try:
                async with asyncio.timeout(ENOUGH):
                    while True:
                        answer = await self._send(via, "GET", path)
                        shown = answer.body if answer.status == 200 else None
                        if shown == expected:
                            break
                        self.notify()
                        await asyncio.sleep(0.005)
            except TimeoutError:
                raise AssertionError(f"{path} shows {shown}, and should {expected}") from None

    def listed(self, path: str) -> list[Json]:
        """All of a list, oldest first."""
        answer = self.send("GET", f"{path}?order=asc&limit=100")
        return answer.body["data"] if answer.status == 200 else []

    # -- picking ---------------------------------------------------------------------------------------------------

    def pick(self, data: st.DataObject, what: str, likely: Iterable[Json], others: Iterable[Json]) -> Json:
        likely = [*likely] * 3
        return data.draw(st.sampled_from([*likely, *others, *likely]), label=what)

    def a_path(self, data: st.DataObject, *kinds: str) -> str:
        """Of something that is there, was there, or never was."""
        shown = {path: doc for path, doc in self.reference.everything().items() if path.split("/")[-2] in kinds}
        alive = [path for path, doc in shown.items() if doc is not None]
        return str(self.pick(data, "path", alive, [*shown, *self.strangers(*kinds)]))

    def strangers(self, *kinds: str) -> list[str]:
        """Paths of things that never were, in places that are there or not."""
        threads = ["/threads/thread_x", *(path for path in self.reference.everything() if path.count("/") == 2)]
        runs = [f"{threads[0]}/runs/run_x", *(path for path in self.reference.everything() if "/runs/" in path)]
        places = {
            "assistants": ["/assistants/asst_x"],
            "threads": threads[:1],
            "messages": [f"{threads[0]}/messages/msg_x", f"{threads[-1]}/messages/msg_x"],
            "runs": [f"{threads[0]}/runs/run_x", f"{threads[-1]}/runs/run_x"],
            "steps": [f"{runs[-1].partition('/steps')[0]}/steps/step_x"],
        }
        return [path for kind in kinds for path in places[kind]]

    def an_assistant(self, data: st.DataObject) -> str:
        return self.a_path(data, "assistants").rpartition("/")[2]

    # -- objects ---------------------------------------------------------------------------------------------------

    @initialize(script=SCRIPT, content=WORDS, seed=st.integers(0, 2**32))
    def begin(self, script: str, content: str, seed: int) -> None:
        """With one of everything, so that the rules find something."""
        self.random = random.Random(seed)
        self.create("/assistants", {"model": script}, None)
        (assistant,) = self.reference.assistants
        thread = {"messages": [{"role": "user", "content": content}]}
        self.create("/threads/runs", {"assistant_id": assistant, "thread": thread}, None)

    @rule(request=st.tuples(st.just("/assistants"), NEW_ASSISTANT) | st.tuples(st.just("/threads"), THREAD), key=KEY)
    def create_assistant_or_thread(self, request: tuple[str, Json], key: str | None) -> None:
        self.create(*request, key)

    @rule(data=st.data(), body=MESSAGE, key=KEY)
    def create_message(self, data: st.DataObject, body: Json, key: str | None) -> None:
        self.create(f"{self.a_path(data, 'threads')}/messages", body, key)

    @rule(data=st.data())
    def retrieve(self, data: st.DataObject) -> None:
        path = self.a_path(data, "assistants", "threads", "messages", "runs", "steps")
        self.ask("GET", path, lambda: self.reference.retrieve(path))

    @rule(data=st.data(), body=st.fixed_dictionaries({}, optional={"model": SCRIPT, **ASSISTANT}))
    def update_assistant(self, data: st.DataObject, body: Json) -> None:
        path = self.a_path(data, "assistants")
        self.ask("POST", path, lambda: self.reference.update(path, body), body)

    @rule(data=st.data(), body=st.fixed_dictionaries({}, optional=UPDATE))
    def update(self, data: st.DataObject, body: Json) -> None:
        path = self.a_path(data, "threads", "messages", "runs")
        if path.count("/") > 2:
            body.pop("tool_resources", None)
        self.ask("POST", path, lambda: self.reference.update(path, body), body)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """Of a thread nothing is shown any more, as soon as a worker has emptied it."""
        path = self.a_path(data, "assistants", "threads", "messages", "messages", "messages")
        if self.ask("DELETE", path, lambda: self.reference.delete(path)) and path.count("/") == 2:
            for inner, doc in self.reference.everything().items():
                if inner.startswith(path):
                    self.eventually(inner, doc)

    # -- runs ------------------------------------------------------------------------------------------------------

    @rule(data=st.data(), body=st.fixed_dictionaries({}, optional={**RUN, "additional_messages": MESSAGES}), key=KEY)
    def create_run(self, data: st.DataObject, body: Json, key: str | None) -> None:
        body["assistant_id"] = self.an_assistant(data)
        self.create(f"{self.a_path(data, 'threads')}/runs", body, key)

    @rule(data=st.data(), body=st.fixed_dictionaries({"thread": TALK}, optional=RUN), key=KEY)
    def create_thread_and_run(self, data: st.DataObject, body: Json, key: str | None) -> None:
        body["assistant_id"] = self.an_assistant(data)
        self.create("/threads/runs", body, key)

    def a_run(self, data: st.DataObject, *statuses: str) -> tuple[str, str, str]:
        """The path, thread and id of a run, often one of these statuses."""
        shown = {path: doc for path, doc in self.reference.everything().items() if path.split("/")[-2] == "runs"}
        likely = [path for path, doc in shown.items() if doc and doc["status"] in statuses]
        path = self.pick(data, "run", likely, [*shown, *self.strangers("runs")])
        return path, path.split("/")[2], path.split("/")[4]

    @precondition(lambda self: self.reference.runs("in_progress", "requires_action"))
    @rule(data=st.data())
    def cancel_run(self, data: st.DataObject) -> None:
        path, thread, run = self.a_run(data, "in_progress", "requires_action")
        if self.ask("POST", f"{path}/cancel", lambda: self.reference.cancel(thread, run)):
            self.shows(thread, run)

    @precondition(lambda self: self.reference.runs("requires_action"))
    @rule(data=st.data(), answered=ANSWERED, output=TEXT, stream=st.booleans())
    def submit_tool_outputs(self, data: st.DataObject, answered: Json, output: str, stream: bool) -> None:
        path, thread, run = self.a_run(data, "requires_action")
        outputs = [{"tool_call_id": each, "output": f"{output} of {each}"} for each in answered]
        body = {"tool_outputs": outputs, "stream": stream}
        answer = self.send("POST", f"{path}/submit_tool_outputs", body)
        if self.check(answer, lambda: self.reference.submit(thread, run, body)):
            self.work(thread, run, answer)

    @rule(data=st.data())
    def watch_run(self, data: st.DataObject) -> None:
        """One that has ended: of others the stream stays open."""
        path, thread, run = self.a_run(data, *TERMINAL)
        with contextlib.suppress(Refused):
            if self.reference.run(thread, run).active:
                return
        answer = self.send("GET", f"{path}/events")
        try:
            status = self.reference.run(thread, run).doc["status"]
        except Refused as refusal:
            assert (answer.status, answer.error["message"]) == (refusal.status, refusal.message)
        else:
            assert [name for name, _ in events(answer)][-2:] == [f"thread.run.{status}", "done"]

    # -- what runs come to -----------------------------------------------------------------------------------------

    def work(self, thread_id: str, run_id: str, answer: Answer) -> None:
        """A worker takes the run's next turn."""
        steps, messages = self.reference.work(thread_id, run_id)
        run, thread = self.reference.run(thread_id, run_id), self.reference.thread(thread_id)
        self.eventually(f"/threads/{thread_id}/runs/{run_id}", run.doc)
        new_steps = [s for s in self.listed(f"/threads/{thread_id}/runs/{run_id}/steps") if s["id"] not in run.steps]
        new_messages = [m for m in self.listed(f"/threads/{thread_id}/messages") if m["id"] not in thread.messages]
        assert (new_steps, new_messages) == (steps, messages)
        self.reference.adopt(thread_id, run_id, new_steps, new_messages)
        self.shows(thread_id, run_id)
        if streamed(answer):
            assert events(answer)[-1] == ("done", None)
            assert events(answer)[-2] == (f"thread.run.{run.doc['status']}", run.doc)

    def shows(self, thread_id: str, run_id: str) -> None:
        """The documents of a run and its steps follow."""
        run = self.reference.run(thread_id, run_id)
        self.eventually(f"/threads/{thread_id}/runs/{run_id}", run.doc)
        for step_id, step in run.steps.items():
            self.eventually(f"/threads/{thread_id}/runs/{run_id}/steps/{step_id}", step)

    # -- creating, with and without an Idempotency-Key -------------------------------------------------------------

    def create(self, path: str, body: Json, key: str | None) -> None:
        if body.get("stream") and (key or self.script(body) == "hangs"):
            del body["stream"]  # the answer would never end; a streamed one is not kept
        if key:
            self.keyed.append((path, body, key))
        answer = self.send("POST", path, body, key=key)
        created = said(answer)
        thread_id = created.get("thread_id") or created.get("id") or ""
        known = self.reference.threads.get(thread_id, Thread({}))
        runs, told = set(known.runs), self.listed(f"/threads/{thread_id}/messages") if "thread" in thread_id else []
        texts = [message for message in told if message["run_id"] is None and message["id"] not in known.messages]
        create = functools.partial(self.reference.create, path, body, created, texts)
        done = self.check(answer, lambda: self.reference.once(key, [path, body], create))
        if done and path.endswith("/runs") and created["id"] not in runs:
            for other in runs:  # one of them may have ended to make room
                self.shows(thread_id, other)
            self.work(thread_id, created["id"], answer)

    def script(self, body: Json) -> str | None:
        """What a run would do."""
        assistant = self.reference.assistants.get(body["assistant_id"]) or {}
        return body.get("model") or assistant.get("model")

    @precondition(lambda self: self.keyed)
    @rule(data=st.data())
    def create_again(self, data: st.DataObject) -> None:
        """The same request with its key: once more the same answer, unless a day has passed."""
        path, body, key = data.draw(st.sampled_from(self.keyed))
        self.create(path, body, key)

    # -- lists -----------------------------------------------------------------------------------------------------

    @invariant()
    def a_client_reads(self) -> None:
        """After each step, from either process: a page of any list, between any cursors; or a reader's next page."""
        lists = sorted({path.rpartition("/")[0] for path in self.reference.everything()} - {"/threads"})
        lists += [path for path in lists if 0 < len(self.there(path)) < len(self.children(path))] * 3  # with gaps
        if self.random.random() < 0.5:
            path = self.random.choice(lists)
            self.read(path, self.any_query(path))
            return
        if self.pager is None:
            path, limit = self.random.choice(lists), self.random.choice([1, 2])
            self.pager = Pager(path, {"limit": limit, "order": self.random.choice(["asc", "desc"])}, self.there(path))
        self.turn_the_page(self.pager)

    def any_query(self, path: str) -> dict[str, Json]:
        cursors, kind = [None, None, *self.children(path)], path.rpartition("/")[2]
        strangers = [] if kind == "assistants" else [f"{PREFIXES[kind]}_x"]
        query = {
            "limit": self.random.choice([None, 1, 2, 3]),
            "order": self.random.choice([None, "asc", "desc"]),
            "after": self.random.choice(cursors),
            "before": self.random.choice([*cursors, *strangers]),  # one stranger at most
        }
        if kind == "messages":
            query["run_id"] = self.random.choice([None, None, *self.reference.threads[path.split("/")[2]].runs])
        return {name: value for name, value in query.items() if value}

    def turn_the_page(self, pager: Pager) -> None:
        """Until the last page. None twice; and none skipped that was there all the time."""
        page = self.read(pager.path, {**pager.query, **({"after": pager.seen[-1]} if pager.seen else {})})
        if page is None:  # the thread was deleted
            self.pager = None
            return
        pager.seen += [item["id"] for item in page["data"]]
        assert len(set(pager.seen)) == len(pager.seen)
        if not page["has_more"]:
            assert pager.there & self.there(pager.path) <= set(pager.seen)
            self.pager = None

    def read(self, path: str, query: Mapping[str, Json]) -> Json:
        """The page; None if the list is refused."""
        answer = self.runner.run(self._send(self.random.randrange(2), "GET", with_query(path, query)))
        return answer.body if self.check(answer, lambda: self.reference.list_all(path, query)) else None

    def children(self, path: str) -> dict[str, Json]:
        """What the list at this path holds, or held, by id."""
        inner = {each.rpartition("/"): doc for each, doc in self.reference.everything().items()}
        return {key: doc for (parent, _, key), doc in inner.items() if parent == path}

    def there(self, path: str) -> set[str]:
        return {key for key, doc in self.children(path).items() if doc is not None}

    # -- the world -------------------------------------------------------------------------------------------------

    @rule()
    def ask_the_other_process(self) -> None:
        self.via = 1 - self.via

    @rule(which=st.integers(0, 1))
    def restart_a_process(self, which: int) -> None:
        """What it had in hand, the other one takes over."""
        self.runner.run(self.processes[which][1].aclose())
        self.processes[which] = self.start()

    @rule(seconds=st.sampled_from([61, 601, 24 * 3600]))
    def time_passes(self, seconds: int) -> None:
        """A run at work expires by itself. No worker looks at one that waits for a client, since the queue has a clock
        of its own; but the next message of its thread finds it expired."""
        self.clock.time += seconds
        self.notify()
        for thread_id, thread in self.reference.threads.items():
            run = thread.active
            if thread.gone or run is None or not self.reference.overdue(run):
                continue
            if run.doc["status"] == "requires_action":
                self.create(f"/threads/{thread_id}/messages", {"role": "user", "content": "Hello?"}, None)
            else:
                self.reference.expire(run)
            self.shows(thread_id, run.doc["id"])

    @rule()
    def look_at_everything(self) -> None:
        for path, shown in self.reference.everything().items():
            self.eventually(path, shown)


# --- requests and answers -------------------------------------------------------------------------------------------


def with_query(path: str, query: Mapping[str, Json]) -> str:
    return f"{path}?{'&'.join(f'{key}={value}' for key, value in query.items())}" if query else path


def streamed(answer: Answer) -> bool:
    return answer.headers["Content-Type"].startswith("text/event-stream")


def events(answer: Answer) -> list[tuple[str, Json]]:
    """Names and payloads; the last one has none."""
    frames = [
        dict(line.split(": ", 1) for line in frame.split("\n")) for frame in answer.raw.decode().split("\n\n")[:-1]
    ]
    return [(f["event"], None if f["event"] == "done" else json.loads(f["data"])) for f in frames]


def said(answer: Answer) -> Json:
    """The object that a request answers with; of a stream, the run as it was at its start."""
    if not streamed(answer):
        return answer.body
    starts = ("thread.run.created", "thread.run.queued")
    return next(payload for name, payload in events(answer) if name in starts)


# --- the tests ------------------------------------------------------------------------------------------------------


def some(examples: int, steps: int) -> settings:
    """Deadlines and health checks are about slow and rare examples; these are slow, as each is a whole service."""
    return settings(
        max_examples=examples * max(1, MODEL),
        stateful_step_count=steps,
        derandomize=not MODEL,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.reuse, Phase.generate, Phase.shrink],
    )


@pytest.fixture(autouse=True)
def _nothing_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference has no clock for what a model is at: test_in_progress.py shows that."""
    monkeypatch.setattr(lease, "ANNOUNCE_AFTER", float("inf"))


def play(storage: str, how: settings, log: pytest.LogCaptureFixture) -> None:
    run_state_machine_as_test(lambda: Sequence(storage), settings=how)
    assert not [record.getMessage() for record in log.records if record.levelno >= logging.ERROR]


def test_sqlite_answers_as_the_reference_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    play(f"sqlite:///{tmp_path}/model.db", some(25, 20), caplog)


def test_azure_answers_as_the_reference_does(azure_account: str, caplog: pytest.LogCaptureFixture) -> None:
    play(azure_account, some(4, 20), caplog)
