"""LangChain's OpenAIAssistantRunnable: its three documented uses, and the asynchronous ones."""

from __future__ import annotations

import json
from typing import Any

import openai
from langchain_classic.agents import AgentExecutor
from langchain_classic.agents.openai_assistant import OpenAIAssistantRunnable
from langchain_classic.agents.openai_assistant.base import OpenAIAssistantFinish
from langchain_community.agents.openai_assistant import OpenAIAssistantV2Runnable
from langchain_core.agents import AgentFinish
from langchain_core.tools import tool

from play import MADE, play, refused, scenario


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"{city} is sunny"


@tool
def multiply(first: int, second: int) -> int:
    """The product of two integers."""
    return first * second


TOOLS = [get_weather, multiply]
BY_NAME: dict[str, Any] = {one.name: one for one in TOOLS}
FAST: dict[str, Any] = {"check_every_ms": 50}
TWO_ROUNDS = json.dumps(
    {
        "turns": [
            {"calls": [["get_weather", {"city": "Oslo"}], ["multiply", {"first": 6, "second": 7}]]},
            {"calls": [["get_weather", {"city": "Rome"}]]},
            {"say": "They said: {outputs}."},
        ]
    }
)
SAID = "They said: Oslo is sunny, 42, Rome is sunny."


def runnable(kind: type[OpenAIAssistantRunnable] = OpenAIAssistantRunnable, **options: Any) -> OpenAIAssistantRunnable:
    return kept(
        kind.create_assistant(
            name="A helper",
            instructions="Be brief.",
            tools=options.pop("tools", []),
            model="scripted",
            **FAST,
            **options,
        )
    )


def kept(agent: OpenAIAssistantRunnable) -> OpenAIAssistantRunnable:
    """It makes clients of its own."""
    MADE.extend((agent.client, agent.async_client))
    return agent


def text_of(message: Any) -> str:
    return str(message.content[0].text.value)


@scenario
async def plain(client: openai.OpenAI) -> None:
    """A new thread, then a second question on it."""
    agent = runnable(tools=[{"type": "code_interpreter"}])
    made = client.beta.assistants.retrieve(agent.assistant_id)
    assert (made.name, made.instructions, made.model) == ("A helper", "Be brief.", "scripted")
    assert [one.type for one in made.tools] == ["code_interpreter"]
    (first,) = agent.invoke(
        {"content": "What is 10 - 4?", "message_metadata": {"a": "b"}, "thread_metadata": {"c": "d"}}
    )
    assert (first.role, text_of(first)) == ("assistant", "Be brief. | What is 10 - 4?")
    assert client.beta.threads.retrieve(first.thread_id).metadata == {"c": "d"}
    asked = {"content": "And times 2?", "thread_id": first.thread_id, "instructions": "Be kind.", "temperature": 0.1}
    (second,) = agent.invoke(asked)
    assert text_of(second) == "Be kind. | And times 2?"
    said = client.beta.threads.messages.list(first.thread_id, order="asc").data
    assert [one.role for one in said] == ["user", "assistant"] * 2
    assert said[0].metadata == {"a": "b"}


@scenario
async def tools_by_hand(client: openai.OpenAI) -> None:
    """Not as an agent: calls come out, outputs go in."""
    agent, thread = runnable(tools=TOOLS), client.beta.threads.create()
    made = client.beta.assistants.retrieve(agent.assistant_id)
    assert [one.function.name for one in made.tools] == ["get_weather", "multiply"]
    assert made.tools[0].function.parameters["required"] == ["city"]
    result: Any = agent.invoke({"content": TWO_ROUNDS, "thread_id": thread.id})
    (run,) = client.beta.threads.runs.list(thread.id).data
    for expected in (["get_weather", "multiply"], ["get_weather"]):
        assert [one.function.name for one in result] == expected
        outputs = [{"tool_call_id": one.id, "output": _executed(one)} for one in result]
        result = agent.invoke({"tool_outputs": outputs, "run_id": run.id, "thread_id": thread.id})
    assert text_of(result[0]) == SAID


def _executed(call: Any) -> str:
    return str(BY_NAME[call.function.name].invoke(json.loads(call.function.arguments)))


@scenario
async def custom_execution(client: openai.OpenAI) -> None:
    """As an agent, with the loop that its documentation shows."""
    agent = runnable(tools=TOOLS, as_agent=True)
    response: Any = agent.invoke({"content": TWO_ROUNDS})
    rounds = 0
    while not isinstance(response, AgentFinish):
        rounds += 1
        last = response[-1]
        response = agent.invoke(
            {"tool_outputs": _outputs(response), "run_id": last.run_id, "thread_id": last.thread_id}
        )
    assert isinstance(response, OpenAIAssistantFinish)
    assert (rounds, response.return_values["output"]) == (2, SAID)
    again: Any = agent.invoke({"content": "Thanks", "thread_id": response.thread_id})
    assert again.return_values["output"] == "Be brief. | Thanks"
    assert client.beta.threads.runs.retrieve(response.run_id, thread_id=response.thread_id).status == "completed"


@scenario
async def agent_executor(client: openai.OpenAI) -> None:
    executor = AgentExecutor(agent=runnable(tools=TOOLS, as_agent=True), tools=TOOLS)
    result = executor.invoke({"content": TWO_ROUNDS})
    assert result["output"] == SAID
    run = client.beta.threads.runs.retrieve(result["run_id"], thread_id=result["thread_id"])
    assert run.status == "completed"
    steps = client.beta.threads.runs.steps.list(run.id, thread_id=run.thread_id).data
    assert [one.type for one in steps] == ["message_creation", "tool_calls", "tool_calls"]


@scenario
async def failed_run(client: openai.OpenAI) -> None:
    """A run that fails is an error that tells what happened."""
    failing = json.dumps({"turns": [{"status": 501, "say": "The model is on holiday"}]})
    try:
        runnable().invoke({"content": failing})
    except ValueError as error:
        assert "Unexpected run status: failed" in str(error)
        assert "The model is on holiday" in str(error)
    else:
        raise AssertionError("no error")


@scenario
async def asynchronous(client: openai.OpenAI) -> None:
    """acreate_assistant and ainvoke: calls come out, and outputs go in. LangChain 1.0.8 itself fails after a run that
    ends, whatever the server: it goes through an asynchronous page as if it were a list."""
    agent = kept(
        await OpenAIAssistantRunnable.acreate_assistant(
            name="A helper", instructions="Be brief.", tools=TOOLS, model="scripted", as_agent=True, **FAST
        )
    )
    actions: Any = await agent.ainvoke({"content": TWO_ROUNDS})
    assert [(action.tool, action.tool_input) for action in actions] == [
        ("get_weather", {"city": "Oslo"}),
        ("multiply", {"first": 6, "second": 7}),
    ]
    at = {"run_id": actions[0].run_id, "thread_id": actions[0].thread_id}
    actions = await agent.ainvoke({"tool_outputs": _outputs(actions), **at})
    assert [action.tool for action in actions] == ["get_weather"]
    async with refused(AttributeError):
        await agent.ainvoke({"tool_outputs": _outputs(actions), **at})
    run = client.beta.threads.runs.retrieve(at["run_id"], thread_id=at["thread_id"])
    assert run.status == "completed"
    assert text_of(client.beta.threads.messages.list(run.thread_id).data[0]) == SAID


def _outputs(actions: list[Any]) -> list[dict[str, str]]:
    return [
        {"tool_call_id": action.tool_call_id, "output": str(BY_NAME[action.tool].invoke(action.tool_input))}
        for action in actions
    ]


@scenario
async def community_runnable(client: openai.OpenAI) -> None:
    """The variant of langchain-community, whose ainvoke goes to the end."""
    agent = runnable(OpenAIAssistantV2Runnable, tools=TOOLS, as_agent=True)
    executor = AgentExecutor(agent=agent, tools=TOOLS)
    assert executor.invoke({"content": TWO_ROUNDS})["output"] == SAID
    assert (await executor.ainvoke({"content": TWO_ROUNDS}))["output"] == SAID


if __name__ == "__main__":
    play({"langchain": openai.OpenAI})
