"""The built-in model: what it calls, with which arguments, and what it says."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from assistants_service.core.ports.models import Deltas, ForcedFunction, Function, Image, Prompt, Reply, Tokens, Turn
from assistants_service.core.protocol.response_formats import (
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
    TextFormat,
)
from assistants_service.core.tools.code_interpreter.arguments import code_of
from assistants_service.core.tools.code_interpreter.model_texts import function_of
from assistants_service.core.tools.file_search.tool import FUNCTION as SEARCH
from assistants_service.infra.models.offline import DISCLAIMER, OfflineModel
from assistants_service.infra.models.offline_arguments import arguments
from scripted_upstreams import WEATHER, assembled, prompt

TIME = Function("getLocalTime", "Tells the time somewhere")
NOTE = Function("add_note", parameters={"type": "object", "properties": {"n": {"type": "integer"}}})
TOOLS = (WEATHER, TIME, NOTE)


async def offline(*turns: Turn, deltas: Deltas | None = None, **fields: Any) -> Reply:
    return await OfflineModel().reply(prompt(*turns, **fields), deltas)


def called(reply: Reply) -> list[str]:
    return [call.name for call in reply.calls]


async def test_offline_answers_from_the_conversation() -> None:
    turns = (Turn("user", "Hello"), Turn("assistant", "Yes?"), Turn("user", "How many legs has an ant?"))
    reply = await offline(*turns, instructions="Be kind.")
    assert reply.text == (
        f'{DISCLAIMER} You said: "How many legs has an ant?".'
        " This conversation has 3 messages. I was given instructions."
    )
    assert reply.finish == "stop"
    assert reply.tokens == Tokens(prompt=10, completion=len(reply.text.split()))
    assert await offline(*turns, instructions="Be kind.") == reply


async def test_offline_counts_images() -> None:
    reply = await offline(Turn("user", (Image("https://x.test/a.png"),)))
    assert reply.text.endswith('You said: "". This conversation has 1 message and 1 image.')


async def test_offline_answers_an_empty_conversation() -> None:
    reply = await OfflineModel().reply(Prompt("offline", None, ()), None)
    assert reply.text.endswith("This conversation has 0 messages.")


@pytest.mark.parametrize(
    ("text", "fields", "names"),
    [
        ("What is the weather in Paris?", {}, ["get_weather"]),
        ("WEATHER and time, now!", {}, ["get_weather", "getLocalTime"]),
        ("weather and time", {"parallel_tool_calls": False}, ["get_weather"]),
        ("What are the cities like?", {}, []),
        ("Get the current one for a user", {}, []),  # only stop words
        ("Take notes", {}, ["add_note"]),
        ("What is the weather in Paris?", {"tool_choice": "none"}, []),
        ("Hi", {"tool_choice": "required"}, ["get_weather"]),
        ("weather", {"tool_choice": ForcedFunction("add_note")}, ["add_note"]),
    ],
)
async def test_offline_calls_functions(text: str, fields: dict[str, Any], names: list[str]) -> None:
    reply = await offline(Turn("user", text), tools=TOOLS, **fields)
    assert called(reply) == names
    assert reply.finish == ("tool_calls" if names else "stop")
    assert (not reply.text) == bool(names)


async def test_offline_streams_what_it_replies() -> None:
    heard = Deltas()
    reply = await offline(Turn("user", "weather and time in Paris"), tools=TOOLS, deltas=heard)
    assert assembled(heard) == list(reply.calls)
    assert [json.loads(call.arguments) for call in reply.calls] == [{"city": "Paris"}, {}]
    assert len({call.id for call in reply.calls}) == 2
    assert all(re.fullmatch("call_[a-z0-9]{24}", call.id) for call in reply.calls)
    heard = Deltas()
    reply = await offline(deltas=heard)
    assert len(heard.texts) > 10
    assert "".join(heard.texts) == reply.text


async def test_offline_quotes_outputs_and_ends() -> None:
    asked = Turn("user", "Is the weather fine, and the time?")
    calls = (await offline(asked, tools=TOOLS)).calls
    outputs = (Turn("tool", "sunny", call_id=calls[0].id), Turn("tool", "noon", call_id=calls[1].id))
    turns = (asked, Turn("assistant", calls=calls), *outputs)
    reply = await offline(*turns, tools=TOOLS, tool_choice="required")
    assert reply.text == f"{DISCLAIMER} get_weather answered: sunny getLocalTime answered: noon"
    again = await offline(*turns, Turn("assistant", reply.text), asked, tools=TOOLS)
    assert called(again) == called(await offline(asked, tools=TOOLS))
    assert {call.id for call in again.calls}.isdisjoint(call.id for call in calls)


@pytest.mark.parametrize("name", ["queries", "code"])
async def test_a_users_function_is_no_tool_because_of_a_parameter(name: str) -> None:
    """Tools are known by what their descriptions ask of the model."""
    parameters = {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}
    mine = Function("lookup", "Looks up countries", parameters)
    assert called(await offline(Turn("user", "What is 2 + 3?"), tools=(mine,))) == []
    reply = await offline(Turn("user", "Which countries?"), tools=(mine,))
    assert [json.loads(call.arguments) for call in reply.calls] == [{name: "Which countries?"}]


async def test_offline_searches_files_for_what_was_said_and_cites_the_best_sentence() -> None:
    asked, search = Turn("user", "Who ate the cake of 2024?"), SEARCH
    (call,) = (await offline(asked, tools=(search,))).calls
    assert (call.name, json.loads(call.arguments)) == ("file_search", {"queries": ["Who ate the cake of 2024?"]})
    found = "【4:0†a b.txt】\nRex ate. It rained.\n\n【4:1†c.txt】\nNobody.\nAnna ate the cake!\n\n也吃了。蛋糕。"
    turns = asked, Turn("assistant", calls=(call,)), Turn("tool", found, call_id=call.id)
    reply = await offline(*turns, tools=(search,))
    assert reply.text == f'{DISCLAIMER} Your files say: "Anna ate the cake!"【4:1†c.txt】'


@pytest.mark.parametrize("output", ["Nothing was found.", "Error: Vector store vs_1 has expired."])
async def test_offline_says_why_it_cites_nothing(output: str) -> None:
    asked, search = Turn("user", "Who?"), SEARCH
    (call,) = (await offline(asked, tools=(search,))).calls
    turns = asked, Turn("assistant", calls=(call,)), Turn("tool", output, call_id=call.id)
    reply = await offline(*turns, tools=(search,))
    assert reply.text == f"{DISCLAIMER} Your files say nothing about it: {output}"


async def test_offline_stops_at_its_limit() -> None:
    reply = await offline(max_completion_tokens=5)
    assert (reply.text, reply.finish, reply.tokens.completion) == ("This is the offline model", "length", 5)


async def test_offline_answers_in_json() -> None:
    plain = await offline(response_format=JsonObjectFormat())
    assert json.loads(plain.text) == {"note": DISCLAIMER, "answer": 'You said: "Hi". This conversation has 1 message.'}
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    shape = JsonSchemaFormat(json_schema=JsonSchema(name="x", schema=schema))
    assert json.loads((await offline(Turn("user", "I am 42"), response_format=shape)).text) == {"n": 42}
    text = await offline(response_format=TextFormat())
    assert text.text.startswith(DISCLAIMER)


@pytest.mark.parametrize(
    ("text", "city"),
    [
        ("What is the weather in Paris?", "Paris"),
        ("Please compare Rome with New York today.", "New York"),
        ("How is San Francisco, CA now?", "San Francisco, CA"),
        ("Can I go there? Say it, I'm in Zürich. Thanks!", "Zürich"),
        ('Find "the blue door" in Rome', "the blue door"),
        ("Book 'some table' for Anna", "some table"),
        ("It's not Anna's", "Anna's"),
        ("how is the weather in paris", "paris"),
        ("Weather", "Weather"),
        ("", ""),
    ],
)
def test_offline_finds_strings(text: str, city: str) -> None:
    assert arguments(WEATHER.parameters or {}, text) == {"city": city}


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "integer"}, "about 12.7 or 3", 12),
        ({"type": "number"}, "about -12.5 or 3", -12.5),
        ({"type": "number"}, "3", 3),
        ({"type": "integer"}, "none", 1),
        ({"type": ["null", "boolean"]}, "x", True),
        ({"type": "null"}, "x", None),
        ({"const": 5}, "x", 5),
        ({"enum": ["red", "blue"]}, "Blue, please", "blue"),
        ({"enum": ["red", "blue"]}, "reddish", "red"),
        ({"enum": [1, 2]}, "2", 1),
        ({"type": "array", "items": {"type": "integer"}}, "7", [7]),
        ({"type": "array"}, "7", ["7"]),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, "7", 7),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, "7", 7),
        ({"$ref": "#/$defs/missing"}, "7", "7"),
        (True, "7", "7"),
    ],
)
def test_offline_makes_values(schema: Any, text: str, value: Any) -> None:
    wrapped = {"properties": {"v": schema}, "required": ["v"]}
    if isinstance(schema, dict) and "$defs" in schema:
        wrapped["$defs"] = schema["$defs"]
    assert arguments(wrapped, text) == {"v": value}


def test_offline_makes_objects() -> None:
    schema = {
        "properties": {
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "maxCount": {"type": "integer"},
            "unasked": {"type": "string"},
            "inner": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
        },
        "required": ["inner"],
    }
    assert arguments(schema, "In Celsius, count 3") == {"unit": "celsius", "maxCount": 3, "inner": {"a": True}}
    assert arguments({}, "anything") == {}


def test_offline_ends_in_schemas_that_contain_themselves() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    tree = {"type": "object", "properties": {"of": {"type": "array", "items": {"$ref": "#"}}}, "required": ["of"]}
    loop = {"properties": {"a": {"$ref": "#/properties/a"}}, "required": ["a"]}
    assert json.dumps(arguments(node, "x")).count("next") == 13
    assert json.dumps(arguments(tree, "x")).count("[]") == 1
    assert arguments(loop, "x") == {"a": "x"}


# --- code ------------------------------------------------------------------------------------------------------------

PYTHON = function_of("python_2", {"notes.txt": "notes.txt", "sales.csv": "sales.csv", "costs.csv": "old costs.csv"})
SALES = "month,sold,price\nJan,10,1.5\nFeb,30,2\n"


def printed(code: str, folder: Path) -> str:
    """What the program prints, with this folder in the place of /mnt/data."""
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard):
        exec(code.replace("/mnt/data/", f"{folder}/"), {})
    return heard.getvalue()


@pytest.mark.parametrize(
    ("asked", "heard"),
    [
        ("What is 3 * (4 + 5)?", "27"),
        ("How much is 2^10 - 24.", "1000"),
        ("1,000 + 2.5, please", "1002.5"),
        ("(1 + 2", "3"),
        ("What is the average of costs.csv?", "1 rows\npaid: sum 7, mean 7, from 7 to 7"),
        (
            "Summarize my sales!",
            "2 rows\nsold: sum 40, mean 20, from 10 to 30\nprice: sum 3.5, mean 1.75, from 1.5 to 2",
        ),
    ],
)
async def test_offline_has_python_compute(asked: str, heard: str, tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text(SALES, encoding="utf-8")
    (tmp_path / "costs.csv").write_text("what,paid\nrent,7\n", encoding="utf-8")
    reply = await offline(Turn("user", asked), tools=(PYTHON,))
    (call,) = reply.calls
    assert call.name == "python_2"
    assert printed(code_of(call.arguments), tmp_path).strip() == heard


@pytest.mark.parametrize("asked", ["Hello", "I have 3 cats.", "It is 2026-11-29.", "Call 555-1234.", "Read my files."])
async def test_offline_has_python_do_nothing_else(asked: str) -> None:
    assert not (await offline(Turn("user", asked), tools=(PYTHON,))).calls


@pytest.mark.parametrize("asked", ["1" * 250_000, "1 " * 100_000, "1" * 900 + " " * 250_000, "1+" * 100_000])
async def test_offline_reads_any_message_in_a_moment(asked: str) -> None:
    async with asyncio.timeout(10):
        await offline(Turn("user", asked), tools=(PYTHON,))


@pytest.mark.parametrize("name", ["it's.csv", "new $(x) {y}.csv"])
async def test_offline_reads_files_of_old_programs(name: str, tmp_path: Path) -> None:
    """Spreadsheets write no UTF-8 unless they are asked to."""
    (tmp_path / name).write_bytes("Stadt,Länge\nKöln,1\nBonn\nJena,2,3\n".encode("cp1252"))
    reply = await offline(Turn("user", f"Total of {name}"), tools=(function_of("python", {name: name}),))
    assert printed(code_of(reply.calls[0].arguments), tmp_path) == "3 rows\n"
    (tmp_path / name).write_bytes("Stadt;Länge\nKöln;1\n".encode("cp1252") + b"\x81")
    assert printed(code_of(reply.calls[0].arguments), tmp_path)


async def test_offline_plots_a_file_and_links_the_plot() -> None:
    asked = Turn("user", "Plot sales.csv, please.")
    reply = await offline(asked, tools=(PYTHON,))
    code = code_of(reply.calls[0].arguments)
    compile(code, "<plot>", "exec")
    assert "/mnt/data/sales.csv" in code
    assert 'plt.savefig("/mnt/data/plot.png")' in code
    output = Turn("tool", "2 rows\n[Files written:\n- /mnt/data/plot.png (9 bytes)]", call_id=reply.calls[0].id)
    answer = await offline(asked, Turn("assistant", calls=reply.calls), output, tools=(PYTHON,))
    assert answer.text.endswith("[plot.png](sandbox:/mnt/data/plot.png)")


async def test_offline_runs_python_if_it_must() -> None:
    reply = await offline(Turn("user", "Hello"), tools=(PYTHON,), tool_choice=ForcedFunction("python_2"))
    compile(code_of(reply.calls[0].arguments), "<forced>", "exec")
