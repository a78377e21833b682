"""Log formats: text for people, or JSON for machines. Both contain the ids of core.log_context, and the trace.

Content and secrets are never logged: no code passes them to a logger, and a test checks that.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from assistants_service.core import log_context
from assistants_service.infra.settings.settings import Settings

NOISY = ("azure", "httpx2", "httpcore2", "openai", "opentelemetry")
# Callers choose parts of what is logged, such as a request's path: it must not be able to imitate a log line.
CONTROL = {code: f"\\u{code:04x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


def configure(settings: Settings, *, hosted: bool = False) -> None:
    """Configure logging by the settings: to stderr, or in a host's process (`hosted`) to its handlers."""
    root = logging.getLogger()
    if not hosted:
        logging.basicConfig(handlers=[logging.StreamHandler()], force=True)
    root.setLevel(settings.log_level.upper())
    for handler in root.handlers:
        handler.setFormatter(JsonLines() if settings.log_format == "json" else Lines())
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("azure.identity").setLevel(logging.ERROR)  # very long warnings of errors logged here anyway


class Lines(logging.Formatter):
    """`time LEVEL logger: message (request_id=..., thread_id=...)`, then the traceback, if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage().translate(CONTROL)
        about = ", ".join(f"{key}={value}" for key, value in facts().items())
        line = f"{self.formatTime(record)} {record.levelname} {record.name}: {message}{f' ({about})' if about else ''}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One object per line: time (RFC 3339), level, logger, message, exception (a traceback), and the ids."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **facts(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def facts() -> Mapping[str, str]:
    """request_id, project, thread_id, run_id, trace_id, span_id: those that are known here."""
    known = {key: value for key, value in log_context.current().items() if value}
    # Imported only if telemetry is on.
    if tracing := sys.modules.get("opentelemetry.trace"):
        span = tracing.get_current_span().get_span_context()
        if span.is_valid:
            known |= {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
    return known
