"""A process's telemetry in the hands of a test."""

from __future__ import annotations

from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from assistants_service.infra.telemetry.opentelemetry import OpenTelemetry


class Exported:
    """What `telemetry` was told."""

    def __init__(self, *, content: bool = False) -> None:
        self._spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.telemetry = OpenTelemetry([self._reader], content=content)
        self.telemetry.traces.add_span_processor(SimpleSpanProcessor(self._spans))

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._spans.get_finished_spans())

    def metric(self, name: str, **wanted: str) -> float:
        """The sum of a counter, or the number of measurements, over the points with these attributes (a dot is __)."""
        attributes = {key.replace("__", "."): value for key, value in wanted.items()}
        data = self._reader.get_metrics_data()
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
        points = [p for m in metrics if m.name == name for p in m.data.data_points]
        chosen = [p for p in points if attributes.items() <= dict(p.attributes or {}).items()]
        return sum(p.count if isinstance(p, HistogramDataPoint) else p.value for p in chosen)
