"""Settings of the worker and of runs."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field


class WorkerSettings(BaseModel):
    """How runs are executed."""

    actions: str | None = Field(None, description="Python module whose @action functions the worker executes")
    action_timeout: Annotated[float, Field(gt=0)] = Field(60, description="seconds that one call of an action may take")
    action_threads: Annotated[int, Field(ge=4)] = Field(
        512, description="maximum number of threads for actions in one worker, including those that hang"
    )
    max_tool_rounds: Annotated[int, Field(ge=1)] = Field(
        100, description="rounds of tool calls after which a run fails if the model still calls tools"
    )
    tool_history_tokens: Annotated[int, Field(ge=0)] = Field(
        8_000,
        description=(
            "tokens of a prompt that may be used for tool calls and outputs of earlier runs of the thread; 0: none"
        ),
    )
    run_expires_after: Annotated[int, Field(ge=1, le=86_400)] = Field(
        600, description="seconds after which a run expires"
    )
    stream_flush_ms: Annotated[int, Field(ge=1)] = Field(
        50, description="milliseconds between writes of deltas to a stream"
    )
    worker_concurrency: Annotated[int, Field(ge=1)] = Field(
        1000, description="runs that one worker works on at once; projects that want more take turns"
    )
    worker_visibility_timeout: Annotated[float, Field(ge=1, le=600)] = Field(
        45, description="seconds after which another worker takes over the runs of a worker that died"
    )
    shutdown_grace: Annotated[float, Field(ge=0)] = Field(
        25, description="seconds that active runs may take to finish after SIGTERM"
    )
