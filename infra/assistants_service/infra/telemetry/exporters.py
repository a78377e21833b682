"""Where telemetry is exported to: Application Insights, whatever speaks OTLP, or both.

Azure's exporter takes half a second to import: done only where it is switched on.
"""

from __future__ import annotations

import os
from typing import Any

from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from assistants_service.infra.configuration import ConfigurationError
from assistants_service.infra.settings.settings import Settings
from assistants_service.infra.telemetry.opentelemetry import OpenTelemetry


def telemetry_to(settings: Settings) -> OpenTelemetry:
    """Telemetry to the configured destinations. Raises ConfigurationError."""
    insights: dict[str, Any] = {}
    readers: list[MetricReader] = []
    if settings.applicationinsights_connection_string:
        # Without these, the exporter also reports about itself to Microsoft, and gets its configuration there.
        os.environ.setdefault("APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL", "true")
        os.environ.setdefault("APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED", "true")
        from azure.monitor.opentelemetry.exporter import AzureMonitorMetricExporter, AzureMonitorTraceExporter

        insights["connection_string"] = settings.applicationinsights_connection_string.get_secret_value()
        insights["disable_offline_storage"] = True  # the root file system may be read-only
        try:
            readers.append(PeriodicExportingMetricReader(AzureMonitorMetricExporter(**insights)))
        except ValueError as error:
            raise ConfigurationError(f"APPLICATIONINSIGHTS_CONNECTION_STRING is not valid: {error}") from None
    if settings.otel_exporter_otlp_endpoint:
        # Endpoint, headers, certificates, intervals and samplers are read from the environment: OTEL_*.
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    telemetry = OpenTelemetry(
        readers,
        service_name=settings.otel_service_name,
        content=settings.otel_instrumentation_genai_capture_message_content,
    )
    if insights:
        exporter = AzureMonitorTraceExporter(tracer_provider=telemetry.traces, **insights)
        telemetry.traces.add_span_processor(BatchSpanProcessor(exporter))
    if settings.otel_exporter_otlp_endpoint:
        telemetry.traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return telemetry
