"""Telemetry by OpenTelemetry: to Application Insights, to an OTLP endpoint, or to both.

There is no global state: two services in one process (in a test) do not mix. Importing this module takes 0.1 s, and
Azure's exporter 0.5 s, so it is imported only if telemetry is on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from typing import Any

from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, SpanKind, StatusCode, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from assistants_service.core.ports.storage import Storage
from assistants_service.core.ports.telemetry import Fact
from assistants_service.infra.telemetry.semantic_conventions import (
    ATTRIBUTES,
    COUNTERS,
    FAST,
    HISTOGRAMS,
    SPANS,
    STORAGE_OPERATIONS,
    STORAGE_RETRIES,
    TOKEN_BUCKETS,
    TOKENS,
)
from assistants_service.infra.version import VERSION

FLUSH_TIMEOUT = 5.0  # seconds at the end of the process, for what was not exported yet

_W3C = TraceContextTextMapPropagator()


class OpenTelemetry:
    """ports.telemetry.Telemetry. `content` allows what users, models and tools say in spans."""

    def __init__(
        self,
        readers: Sequence[MetricReader],
        *,
        service_name: str = "assistants",
        content: bool = False,
    ) -> None:
        self.content = content
        resource = Resource.create(
            {
                "service.name": service_name,
                "service.version": VERSION,
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            }
        )
        self.traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._metrics = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        self.tracer, meter = self.traces.get_tracer("assistants"), self._metrics.get_meter("assistants")
        self._meter = meter
        self._counters = {what: meter.create_counter(m.name, m.unit, m.description) for what, m in COUNTERS.items()}
        self._histograms = {
            what: meter.create_histogram(m.name, m.unit, m.description, explicit_bucket_boundaries_advisory=FAST)
            for what, m in HISTOGRAMS.items()
        }
        self._durations = {
            what: meter.create_histogram(span.duration, "s", explicit_bucket_boundaries_advisory=span.buckets)
            for what, span in SPANS.items()
        }
        self._tokens = meter.create_histogram(
            TOKENS.name, TOKENS.unit, TOKENS.description, explicit_bucket_boundaries_advisory=TOKEN_BUCKETS
        )

    def span(self, what: str, *, trace: str = "", cause: str = "", **facts: Fact) -> _Span:
        return _Span(self, what, trace, cause, facts)

    def trace(self) -> str:
        context = get_current_span().get_span_context()
        if not context.is_valid:
            return ""
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def count(self, what: str, **facts: Fact) -> None:
        self._counters[what].add(1, _attributes(facts))

    def measure(self, what: str, value: float, **facts: Fact) -> None:
        self._histograms[what].record(value, _attributes(facts))

    def ended(self, what: str, seconds: float, facts: Mapping[str, Fact]) -> None:
        """Record the metrics of an ended span, whether or not its trace is sampled."""
        few = {fact: facts[fact] for fact in SPANS[what].dimensions if fact in facts}
        self._durations[what].record(seconds, {**SPANS[what].fixed, **_attributes(few)})
        for fact, kind in (("input_tokens", "input"), ("output_tokens", "output")):
            if fact in facts:
                attributes = {**SPANS[what].fixed, **_attributes({**few, "token_type": kind})}
                self._tokens.record(int(facts[fact]), attributes)  # type: ignore[arg-type]

    def watch(self, storage: Storage) -> None:
        """Export the store's counters."""

        def operations(_: CallbackOptions) -> list[Observation]:
            return [Observation(n, _attributes({"operation": kind})) for kind, n in dict(storage.operations).items()]

        def retries(_: CallbackOptions) -> list[Observation]:
            return [Observation(n, _attributes({"reason": kind})) for kind, n in dict(storage.retries).items()]

        for metric, callback in ((STORAGE_OPERATIONS, operations), (STORAGE_RETRIES, retries)):
            self._meter.create_observable_counter(metric.name, [callback], metric.unit, metric.description)

    async def close(self) -> None:
        """Export the rest, but do not wait for an endpoint that does not respond."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self.traces.shutdown()
            self._metrics.shutdown(timeout_millis=FLUSH_TIMEOUT * 1000)
            with contextlib.suppress(RuntimeError):  # the loop is closed: it took too long
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=flush, daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_TIMEOUT):
                await done.wait()


class _Outside:
    """The time in which a run waits for models and actions, which may overlap."""

    def __init__(self) -> None:
        self.busy, self.since, self.seconds = 0, 0.0, 0.0

    def enter(self, now: float) -> None:
        if not self.busy:
            self.since = now
        self.busy += 1

    def leave(self, now: float) -> None:
        self.busy -= 1
        if not self.busy:
            self.seconds += now - self.since


_outside: ContextVar[_Outside | None] = ContextVar("outside", default=None)


class _Span:
    """A span as a context manager (ports.telemetry.Span)."""

    __slots__ = ("_begun", "_facts", "_outside", "_span", "_telemetry", "_token", "_what")

    def __init__(self, telemetry: OpenTelemetry, what: str, trace: str, cause: str, facts: dict[str, Fact]) -> None:
        self._telemetry, self._what, self._facts = telemetry, what, facts
        convention = SPANS[what]
        self._span = telemetry.tracer.start_span(
            convention.name.format_map(facts),
            _context(trace) if trace else None,
            SpanKind[convention.kind],
            {**convention.fixed, **_attributes(facts)},
            [Link(get_current_span(_context(cause)).get_span_context())] if cause and cause != trace else None,
        )
        self._outside: Token[_Outside | None] | None = None

    def record(self, **facts: Fact) -> None:
        self._facts.update(facts)
        self._span.set_attributes(_attributes(facts))

    def __enter__(self) -> _Span:
        self._begun = time.perf_counter()
        self._token = contexts.attach(set_span_in_context(self._span))
        if self._what == "run":
            self._outside = _outside.set(_Outside())
        elif outside := _outside.get():
            outside.enter(self._begun)
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        now, telemetry = time.perf_counter(), self._telemetry
        if error is not None:
            # Without message and traceback: they may contain content.
            self.record(error=str(getattr(error, "code", None) or type(error).__name__))
        if "error" in self._facts:
            self._span.set_status(StatusCode.ERROR)
        outside = _outside.get()
        if self._outside is not None:
            if outside and outside.seconds:
                telemetry.measure("overhead", now - self._begun - outside.seconds)
            _outside.reset(self._outside)
        elif outside:
            outside.leave(now)
        contexts.detach(self._token)
        self._span.end()
        telemetry.ended(self._what, now - self._begun, self._facts)


def _attributes(facts: Mapping[str, Fact]) -> dict[str, Any]:
    return {ATTRIBUTES[fact]: value for fact, value in facts.items() if value != ""}


def _context(traceparent: str) -> Context:
    """A context with that span as the current one; an empty one if the traceparent is invalid."""
    return _W3C.extract({"traceparent": traceparent}, Context())
