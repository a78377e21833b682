"""Executes those calls of a step that are the worker's own."""

from __future__ import annotations

from collections import Counter

from assistants_service.core.fanout import fan_out
from assistants_service.core.protocol.tools.resources import StepToolCall
from assistants_service.core.threads.decide import CallTools
from assistants_service.core.threads.events import StepOutputs
from assistants_service.core.threads.state import ThreadState
from assistants_service.core.tools.registry import tool_of
from assistants_service.core.tools.tool import Execution, Output
from assistants_service.worker.context import WorkerContext


async def outputs_of(move: CallTools, project: str, state: ThreadState, context: WorkerContext) -> StepOutputs:
    """Executes the calls and returns their outputs as one event. `state` is that of their thread. Raises
    StorageUnavailable."""
    calls, run, steps = move.calls, move.run_state.run, move.run_state.steps
    kinds = Counter(map(type, calls))

    async def execute(call: StepToolCall) -> Output:
        return await _traced(Execution(project, state, run, steps, call, kinds[type(call)]), context)

    outputs = dict(zip((call.id for call in calls), await fan_out(execute, calls), strict=True))
    return StepOutputs(
        run_id=run.id,
        step_id=move.step_id,
        outputs={call_id: output.text for call_id, output in outputs.items()},
        results={call_id: raw for call_id, output in outputs.items() if (raw := output.raw)},
    )


async def _traced(execution: Execution[StepToolCall], context: WorkerContext) -> Output:
    call, telemetry = execution.call, context.telemetry
    tool = tool_of(call)
    name, arguments = tool.called_with(call)
    with telemetry.span("tool", tool=name or tool.kind, call_id=call.id) as span:
        output = await tool.execute(execution, context.tools[tool.kind])
        if output.error:
            span.record(error=output.error)
        if telemetry.content:
            span.record(arguments=arguments, **({"output": output.text} if output.text else {}))
        return output
