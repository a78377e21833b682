"""Names in telemetry: those of OpenTelemetry's semantic conventions, where they exist.

HTTP: semantic conventions 1.44. GenAI: as of 1.42, still in development, so they may change. All names are defined
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

# Bounds in seconds. Those of model calls are the conventions'; requests and queueing are much faster.
FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SLOW: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_BUCKETS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


@dataclass(frozen=True, slots=True)
class Convention:
    """A kind of span. `name` is made from its facts; `duration` is the histogram of its duration, by the facts in
    `dimensions`, which have few values each: no ids."""

    name: str
    kind: str
    duration: str
    dimensions: tuple[str, ...]
    fixed: Mapping[str, str]
    buckets: tuple[float, ...] = SLOW


SPANS: Final[Mapping[str, Convention]] = {
    # An HTTP request to the API. A streamed one lasts as long as its stream.
    "request": Convention(
        "{method} {route}", "SERVER", "http.server.request.duration", ("method", "route", "code", "error"), {}, FAST
    ),
    # A worker's work on a run for one work item: until the run ends, or waits for its client.
    "run": Convention(
        "invoke_agent",
        "CONSUMER",
        "gen_ai.invoke_agent.duration",
        ("project", "status", "error"),
        {
            "gen_ai.operation.name": "invoke_agent",
            "messaging.system": "assistants",
            "messaging.destination.name": "work",
        },
    ),
    # A model call, including retries.
    "model": Convention(
        "chat {model}",
        "CLIENT",
        "gen_ai.client.operation.duration",
        ("provider", "model", "error"),
        {"gen_ai.operation.name": "chat"},
    ),
    # A call that the worker executes: of an action, or of another tool.
    "tool": Convention(
        "execute_tool {tool}",
        "INTERNAL",
        "gen_ai.execute_tool.duration",
        ("tool", "error"),
        {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.type": "function"},
    ),
}

# The attribute of each fact.
ATTRIBUTES: Final[Mapping[str, str]] = {
    "error": "error.type",
    "project": "assistants.project",
    # requests
    "method": "http.request.method",
    "route": "http.route",
    "path": "url.path",
    "scheme": "url.scheme",
    "code": "http.response.status_code",
    "request_id": "assistants.request.id",
    # runs
    "thread_id": "gen_ai.conversation.id",
    "run_id": "assistants.run.id",
    "message_id": "assistants.message.id",
    "step_id": "assistants.run.step.id",
    "assistant_id": "gen_ai.agent.id",
    "status": "assistants.run.status",
    # files and vector stores
    "file_id": "assistants.file.id",
    "upload_id": "assistants.upload.id",
    "vector_store_id": "assistants.vector_store.id",
    "batch_id": "assistants.vector_store.batch.id",
    # model calls
    "provider": "gen_ai.provider.name",
    "model": "gen_ai.request.model",
    "stream": "gen_ai.request.stream",
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "finish": "gen_ai.response.finish_reasons",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    "token_type": "gen_ai.token.type",
    # actions
    "tool": "gen_ai.tool.name",
    "call_id": "gen_ai.tool.call.id",
    # content: only if allowed
    "instructions": "gen_ai.system_instructions",
    "messages": "gen_ai.input.messages",
    "reply": "gen_ai.output.messages",
    "arguments": "gen_ai.tool.call.arguments",
    "output": "gen_ai.tool.call.result",
    # work items and storage
    "outcome": "assistants.work.outcome",
    "operation": "assistants.storage.operation",
    "reason": "assistants.storage.reason",
}


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    unit: str
    description: str


TOKENS: Final = Metric("gen_ai.client.token.usage", "{token}", "Tokens of a model call, by type.")

COUNTERS: Final[Mapping[str, Metric]] = {
    "run": Metric("assistants.runs", "{run}", "Runs that ended, by status, and by code where they failed."),
    "delivery": Metric("assistants.work.deliveries", "{delivery}", "Deliveries of work items, by outcome."),
}

HISTOGRAMS: Final[Mapping[str, Metric]] = {
    "queued": Metric("assistants.run.queued", "s", "From the request until a worker claims the run."),
    "overhead": Metric("assistants.run.overhead", "s", "A worker's time for a run, without models and actions."),
}

# Read where they are counted anyway (infra.azure.calls, infra.sqlite.store).
STORAGE_OPERATIONS: Final = Metric(
    "assistants.storage.operations", "{operation}", "Requests sent to the store, by kind."
)
STORAGE_RETRIES: Final = Metric("assistants.storage.retries", "{retry}", "Those that were sent again, by reason.")
