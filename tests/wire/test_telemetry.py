"""A run is one trace, from the request to the model, whichever worker has it and wherever; metrics tell how it went."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from assistants_service.api import openapi
from assistants_service.core.resources import PARAMS
from assistants_service.core.tools.code_interpreter import interpreters
from assistants_service.infra.configuration import read_settings
from assistants_service.infra.telemetry import opentelemetry as telemetry
from assistants_service.infra.telemetry.semantic_conventions import ATTRIBUTES
from assistants_service.infra.wiring import models_of
from captured_telemetry import Exported
from inprocess_service import BETA, InProcess, in_process, path_of
from scripted_sandbox import CODE, FakeSandbox
from scripted_upstreams import Upstream, choice, chunk, events, function, serving, whole
from service_process import Process

Json = Any
CANARY = "canary-7f3a"  # what users, models and tools say
USAGE = {"prompt_tokens": 11, "completion_tokens": 7}
WEATHER = {"type": "function", "function": {"name": "get_weather"}}
ACTIONS = """
from assistants_service import action

@action
def get_weather(city: str) -> str:
    return f"rain in {city}"
"""
CALLERS_TRACE = "0af7651916cd43dd8448eb211c80319c"


@dataclass
class Service:
    """One process, or an API and a worker that share nothing but the store."""

    api: InProcess
    worker: InProcess
    processes: list[Exported]
    upstream: Upstream

    @property
    def spans(self) -> list[ReadableSpan]:
        """Of all processes, in the order in which they began."""
        return sorted((span for each in self.processes for span in each.spans), key=lambda span: span.start_time or 0)

    async def rest(self) -> None:
        """Until the worker has nothing in its hands: its last span has ended."""
        await self.worker.stop_worker(grace=10)

    def trace_of(self, span: ReadableSpan) -> list[ReadableSpan]:
        return [each for each in self.spans if each.context.trace_id == span.context.trace_id]

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def metric(self, name: str, **wanted: str) -> float:
        return sum(process.metric(name, **wanted) for process in self.processes)


@contextlib.asynccontextmanager
async def telling(
    storage: str = "sqlite://:memory:", *, apart: bool = False, content: bool = False, **settings: Any
) -> AsyncIterator[Service]:
    async with contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serving())
        given = read_settings({"openai_base_url": upstream.url, "openai_api_key": "sk-canary", "model_retries": 0})
        processes: list[Exported] = []
        services: list[InProcess] = []
        for number in range(2 if apart else 1):
            exported = Exported(content=content)
            models = models_of(given, exported.telemetry)
            stack.push_async_callback(models.close)
            alone = {"storage": storage, "models": models, "telemetry": exported.telemetry, **settings}
            services.append(await stack.enter_async_context(in_process(worker=not apart or number == 1, **alone)))
            exported.telemetry.watch(services[-1].storage)
            processes.append(exported)
        yield Service(services[0], services[-1], processes, upstream)


async def ended(service: Service, run: Json, *names: str) -> None:
    """Hear the run's events until one of these; a worker elsewhere may do it."""
    async with service.api.api.stream("GET", f"{path_of(run)}/events") as stream:
        async for event in stream:
            if event.name in (names or ("thread.run.completed",)):
                return
    raise AssertionError(stream.names)


def ids(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}-{span.context.span_id:016x}"


def parent_of(span: ReadableSpan) -> str:
    assert span.parent
    return f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}"


@pytest.fixture(params=["one process", "apart on SQLite", "apart on Azurite"])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    match request.param:
        case "one process":
            made = telling()
        case "apart on SQLite":
            made = telling(f"sqlite:///{tmp_path}/a.db", apart=True)
        case _:
            made = telling(request.getfixturevalue("azurite").account(), apart=True)
    async with made as one:
        yield one


async def test_one_trace_holds_a_run_with_a_tool_round(service: Service) -> None:
    service.upstream.script = [
        whole(choice(tool_calls=[function("get_weather", f'{{"city":"{CANARY}"}}')], usage=USAGE)),
        whole(choice(content=CANARY, usage=USAGE)),
    ]
    run = await service.api.start_run(assistant=await service.api.assistant(tools=[WEATHER]))
    await ended(service, run, "thread.run.requires_action")
    output = {"tool_outputs": [{"tool_call_id": "call_1", "output": CANARY}]}
    await service.api.api.post(f"{path_of(run)}/submit_tool_outputs", output)
    await ended(service, run)
    await service.rest()

    (created,) = service.named("POST /v1/threads/{thread_id}/runs")
    (submitted,) = service.named("POST /v1/threads/{thread_id}/runs/{run_id}/submit_tool_outputs")
    trace = service.trace_of(created)
    assert [span.name for span in trace] == [created.name, *("invoke_agent", "chat gpt-4o") * 2]
    _, first, first_call, second, second_call = trace
    assert created.kind is SpanKind.SERVER
    assert (parent_of(first), parent_of(first_call)) == (ids(created), ids(first))
    assert (parent_of(second), parent_of(second_call)) == (ids(created), ids(second))
    # The submission is a trace of its own; the work that it caused names it.
    assert service.trace_of(submitted) == [submitted]
    assert not first.links
    assert [link.context.span_id for link in second.links] == [submitted.context.span_id]
    assert dict(first.attributes or {}) == {
        "gen_ai.operation.name": "invoke_agent",
        "messaging.system": "assistants",
        "messaging.destination.name": "work",
        "assistants.project": "default",
        "gen_ai.conversation.id": run["thread_id"],
        "assistants.run.id": run["id"],
        "gen_ai.agent.id": run["assistant_id"],
        "assistants.run.status": "requires_action",
    }
    assert dict(second_call.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.stream": True,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
    }


async def test_one_trace_holds_a_streamed_run_and_it_is_the_callers(service: Service) -> None:
    service.upstream.script = [events(chunk(content=CANARY), chunk(finish="stop"), {"choices": [], "usage": USAGE})]
    body = {"assistant_id": await service.api.assistant(), "stream": True}
    path = f"/v1/threads/{await service.api.thread(CANARY)}/runs"
    answer = await service.api.api.send(
        "POST", path, body, headers={"traceparent": f"00-{CALLERS_TRACE}-{'1' * 16}-01"}
    )
    assert b"event: thread.run.completed" in answer.raw
    await service.rest()
    (created,) = service.named("POST /v1/threads/{thread_id}/runs")
    assert parent_of(created) == f"{CALLERS_TRACE}-{'1' * 16}"
    trace = service.trace_of(created)
    assert [span.name for span in trace] == [created.name, "invoke_agent", "chat gpt-4o"]
    assert (trace[2].attributes or {})["gen_ai.request.stream"] is True


async def test_metrics_tell_how_runs_went(service: Service) -> None:
    service.upstream.script = [whole(choice(content="Hello.", usage=USAGE)), whole({"error": "no"}, 401)]
    assistant = await service.api.assistant()
    for status in ("completed", "failed"):
        await ended(service, await service.api.start_run(assistant=assistant), f"thread.run.{status}")
    await service.rest()
    assert service.metric("assistants.runs", assistants__run__status="completed", assistants__project="default") == 1
    assert service.metric("assistants.runs", assistants__run__status="failed", error__type="server_error") == 1
    assert service.metric("assistants.run.queued") == 2
    assert service.metric("assistants.run.overhead") == 2
    assert service.metric("gen_ai.client.token.usage", gen_ai__token__type="input") == 1
    assert service.metric("gen_ai.client.operation.duration", error__type="server_error") == 1
    assert service.metric("http.server.request.duration", http__route="/v1/threads/{thread_id}/runs") == 2
    assert service.metric("assistants.storage.operations") >= 10
    (failed,) = [span for span in service.named("chat gpt-4o") if span.status.status_code is StatusCode.ERROR]
    assert (failed.status.description, failed.events) == (None, ())


async def test_an_action_is_a_span_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "traced_actions.py").write_text(ACTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    async with telling(actions="traced_actions") as service:
        call = function("get_weather", f'{{"city":"{CANARY}"}}')
        service.upstream.script = [whole(choice(tool_calls=[call])), whole(choice(content="Rain."))]
        await service.api.finished(assistant=await service.api.assistant(tools=[WEATHER]))
        await service.rest()
        (tool,) = service.named("execute_tool get_weather")
        (run,) = service.named("invoke_agent")
        assert parent_of(tool) == ids(run)
        assert (tool.attributes or {})["gen_ai.tool.call.id"] == "call_1"


@pytest.mark.parametrize(
    ("sandbox", "error"),
    [
        (FakeSandbox(), None),
        (FakeSandbox(lost="it used too much memory"), "InterpreterLost"),
        (FakeSandbox(busy=1), "SandboxBusy"),
    ],
    ids=["executed", "lost", "busy"],
)
async def test_metrics_and_the_log_tell_of_code_that_was_not_executed(
    sandbox: FakeSandbox, error: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(interpreters, "RETRIES", ())
    async with telling(sandbox=sandbox) as service:
        call = function("python", '{"code":"1/0"}')  # an exception of the code is none of the operator's
        service.upstream.script = [whole(choice(tool_calls=[call])), whole(choice(content="Done."))]
        run = await service.api.finished(assistant=await service.api.assistant(tools=[CODE]))
        await service.rest()
        (span,) = service.named("execute_tool code_interpreter")
        assert (span.attributes or {}).get("error.type") == error
        told = {"error__type": error} if error else {}
        duration = "gen_ai.execute_tool.duration"
        assert service.metric(duration, gen_ai__tool__name="code_interpreter", **told) == 1
        said = [record.getMessage() for record in caplog.records if run["id"] in record.getMessage()]
        assert len(said) == (error is not None)


@pytest.mark.parametrize("content", [False, True])
async def test_content_is_told_only_if_that_is_wanted(content: bool) -> None:
    async with telling(content=content) as service:
        service.upstream.script = [whole(choice(content=f"{CANARY} answer"))]
        thread = await service.api.thread(f"{CANARY} question")
        await service.api.finished(thread, instructions=f"{CANARY} orders")
        await service.rest()
        told = "".join(span.to_json() for span in service.spans)
        assert "sk-canary" not in told
        if not content:
            assert CANARY not in told
            return
        (call,) = service.named("chat gpt-4o")
        attributes = call.attributes or {}
        asked = [{"role": "user", "parts": [{"type": "text", "content": f"{CANARY} question"}]}]
        assert json.loads(str(attributes["gen_ai.input.messages"])) == asked
        assert json.loads(str(attributes["gen_ai.system_instructions"]))[0]["content"] == f"{CANARY} orders"
        assert json.loads(str(attributes["gen_ai.output.messages"]))[0]["parts"][0]["content"] == f"{CANARY} answer"


async def test_a_request_to_every_path_can_be_told_of() -> None:
    """With the ids that it names: one without a name as an attribute would be a 500 in each answer."""
    paths = json.loads((Path(openapi.__file__).parent / "openapi.json").read_text())["paths"]
    named = {name for path in paths for name in re.findall(r"{(\w+)}", path)}
    async with telling() as service, aiohttp.ClientSession(service.api.url, headers=BETA) as session:
        for verb, path in ((verb, path) for path, verbs in paths.items() for verb in verbs if path != "/models"):
            async with session.request(verb, f"/v1{re.sub('{.*?}', 'one', path)}") as response:
                assert response.status < 500, (verb, path)
        told = {fact for span in service.spans for fact in span.attributes or {}}
    assert named >= PARAMS
    assert {ATTRIBUTES[name] for name in PARAMS} <= told


async def test_what_a_caller_sends_cannot_spoil_an_export() -> None:
    """Bytes that are no text, ids that are none, unknown methods: all of it can be encoded, and is of few kinds."""
    async with telling() as service:
        for line in (b"GET /v1/%ff", b"LOCK /v1/threads/thread_%ff", b"GET /v1/threads/thread_%0a/runs/" + b"r" * 500):
            reader, writer = await asyncio.open_connection(service.api.url.host, service.api.url.port)
            writer.write(
                line + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOpenAI-Beta: assistants=v2\r\n\r\n"
            )
            await reader.read()
            writer.close()
        attributes = [dict(span.attributes or {}) for span in service.spans]
        assert json.dumps(attributes, ensure_ascii=False).encode()
        assert {each["http.request.method"] for each in attributes} == {"GET", "_OTHER"}
        assert all(len(str(value)) <= 200 for each in attributes for value in each.values())
        assert not [each for each in attributes if "gen_ai.conversation.id" in each]


# --- where it goes ----------------------------------------------------------------------------------------------------


class Collector:
    """Stands for Application Insights and for an OTLP collector: what came, by path."""

    def __init__(self) -> None:
        self.bodies: dict[str, list[bytes]] = {}

    async def handle(self, request: web.Request) -> web.Response:
        self.bodies.setdefault(request.path, []).append(await request.read())
        return web.json_response({"itemsReceived": 1, "itemsAccepted": 1, "errors": []})


async def test_a_process_exports_to_application_insights_and_by_otlp_and_flushes_when_it_ends(tmp_path: Path) -> None:
    collector, app = Collector(), web.Application()
    app.router.add_route("*", "/{path:.*}", collector.handle)
    async with TestServer(app) as server:
        address = str(server.make_url("/")).rstrip("/")
        environment = {
            "STORAGE": f"sqlite:///{tmp_path}/a.db",
            "APPLICATIONINSIGHTS_CONNECTION_STRING": f"InstrumentationKey={UUID(int=1)};IngestionEndpoint={address}",
            "OTEL_EXPORTER_OTLP_ENDPOINT": address,
            "OTEL_SERVICE_NAME": "acme",
        }
        process = await asyncio.to_thread(Process, "serve", environment)
        try:
            async with aiohttp.ClientSession(headers=BETA) as session:
                assistant = await (await session.post(f"{process.url}/v1/assistants", json={"model": "m"})).json()
                body = {"assistant_id": assistant["id"], "instructions": "Greet.", "stream": True}
                assert b"completed" in await (await session.post(f"{process.url}/v1/threads/runs", json=body)).read()
                await session.get(f"{process.url}/health")
            assert await asyncio.to_thread(process.terminate) == 0
        finally:
            process.kill()
    assert not [line for line in process.log if "ERROR" in line or "WARNING" in line], process.log

    traces = [ExportTraceServiceRequest.FromString(body) for body in collector.bodies["/v1/traces"]]
    assert {a.value.string_value for t in traces for a in t.resource_spans[0].resource.attributes} >= {"acme"}
    spans = [span for t in traces for r in t.resource_spans for s in r.scope_spans for span in s.spans]
    run = [span for span in spans if span.name in ("POST /v1/threads/runs", "invoke_agent", "chat m")]
    assert (len(run), len({span.trace_id for span in run})) == (3, 1)
    assert len(spans) == 4, "of the probe nothing is told"
    metrics = [ExportMetricsServiceRequest.FromString(body) for body in collector.bodies["/v1/metrics"]]
    names = {m.name for each in metrics for r in each.resource_metrics for s in r.scope_metrics for m in s.metrics}
    assert names >= {"assistants.runs", "assistants.run.queued", "assistants.storage.operations"}

    envelopes = [envelope for body in collector.bodies.pop("/v2.1/track") for envelope in json.loads(body)]
    kinds = {envelope["data"]["baseType"] for envelope in envelopes}
    assert kinds == {"RequestData", "RemoteDependencyData", "MetricData"}
    assert {e["tags"]["ai.cloud.role"] for e in envelopes} == {"acme"}
    # What bicep/queries.json looks for in the tables AppRequests and AppMetrics.
    data = [envelope["data"]["baseData"] for envelope in envelopes]
    assert ("POST /v1/threads/runs", "200") in {(each.get("name"), each.get("responseCode")) for each in data}
    points = {each["metrics"][0]["name"]: each["properties"] for each in data if "metrics" in each}
    assert points["assistants.runs"]["assistants.run.status"] == "completed"
    assert points["assistants.work.deliveries"]["assistants.work.outcome"]
    assert "http.route" not in points["http.server.request.duration"]
    trace = f"{int.from_bytes(run[0].trace_id):032x}"
    assert sum(envelope["tags"].get("ai.operation.id") == trace for envelope in envelopes) == 3
    assert set(collector.bodies) == {"/v1/traces", "/v1/metrics"}


def test_an_exporter_that_hangs_holds_up_the_end_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a collector that takes connections and says nothing."""
    released = threading.Event()

    class Hanging(SpanProcessor):
        def shutdown(self) -> None:
            released.wait(120)

    monkeypatch.setattr(telemetry, "FLUSH_TIMEOUT", 0.1)
    one = telemetry.OpenTelemetry([])
    one.traces.add_span_processor(Hanging())
    begun = time.monotonic()
    asyncio.run(one.close())
    assert time.monotonic() - begun < 60
    released.set()
