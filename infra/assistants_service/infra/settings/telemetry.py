"""Settings of logs, traces and metrics."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, SecretStr

from assistants_service.infra.settings.urls import Url


class TelemetrySettings(BaseModel):
    """Logs, traces and metrics."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="minimum level of the log on stderr"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="text: log lines for people; json: one JSON object per line"
    )
    applicationinsights_connection_string: SecretStr | None = Field(
        None, description="Application Insights resource that receives traces and metrics"
    )
    otel_exporter_otlp_endpoint: Url | None = Field(
        None,
        description=(
            "URL that receives traces and metrics by OTLP over HTTP; other OTEL_* variables of the OpenTelemetry"
            " SDK apply too"
        ),
    )
    otel_service_name: str = Field("assistants", description="name of this process in traces and metrics")
    otel_instrumentation_genai_capture_message_content: bool = Field(
        False, description="whether traces contain prompts, answers and tool outputs"
    )
