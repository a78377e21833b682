"""The built-in model: no key, no network and no intelligence, but every feature of a run, deterministically."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from dataclasses import replace
from typing import Any

from assistants_service.core.ports.models import Deltas, Function, Prompt, Reply, Tokens, Turn
from assistants_service.core.protocol.response_formats import JsonObjectFormat, JsonSchemaFormat
from assistants_service.infra.models import offline_code
from assistants_service.infra.models.offline_arguments import arguments, takes, words
from assistants_service.infra.models.reply_builder import ReplyBuilder

DISCLAIMER = "This is the offline model of Assistants Service: it repeats and counts, it does not think."

_LONGEST_QUOTE = 500
_PIECES = re.compile(r"\s*\S+")
_PASSAGE = re.compile(r"^(【\d+:\d+†[^【】\n]*】)\n(.*?)(?=\n\n【\d+:\d+†|\Z)", re.DOTALL | re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
# Words of function names and descriptions that do not indicate when to call them.
_STOP_WORDS = frozenset(
    words("""about also based call called calls check current data does each example fetch find from function functions
    gets give given gives have here information into like look lookup make makes more name need only other please
    provide return returned returns show some specific such tell text than that their them then there these they this
    tool tools used user users uses using value values want what when where whether which will with would your""")
)


class OfflineModel:
    """Calls the functions whose name or description shares a word with the last user message, quotes their outputs, and
    otherwise quotes the message itself. It searches files for the message, and cites the sentence that shares most
    words with it. It has Python compute sums, and the figures and the plot of a CSV file. Tokens are words."""

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        builder = ReplyBuilder(deltas)
        functions = _functions(prompt)
        if functions:
            await _call(functions, prompt, builder)
            pieces, limit = [], None
        else:
            pieces, limit = _PIECES.findall(_answer(prompt)), prompt.max_completion_tokens
        for piece in pieces[:limit]:
            builder.text(piece)
            await asyncio.sleep(0)  # lets readers see the words one by one
        reply = builder.reply("length" if limit is not None and len(pieces) > limit else "stop", Tokens())
        spoken = [reply.text, *(call.arguments for call in reply.calls)]
        tokens = Tokens(prompt=_count(_prompt_texts(prompt)), completion=_count(spoken))
        return replace(reply, tokens=tokens)


async def _call(functions: list[Function], prompt: Prompt, builder: ReplyBuilder) -> None:
    asked = _asked(prompt)
    for position, function in enumerate(functions):
        # Derived from the position in the conversation: a worker that repeats the call after a crash gets the same ids.
        seed = json.dumps([len(prompt.turns), position, function.name, asked])
        call_id = "call_" + hashlib.sha256(seed.encode()).hexdigest()[:24]
        index = builder.call(call_id, function.name)
        given = _arguments_for(function, asked)
        for piece in _PIECES.findall(json.dumps(given)):
            builder.extend(index, piece)
            await asyncio.sleep(0)


def _arguments_for(function: Function, asked: str) -> Any:
    if _searches(function):
        return {"queries": [asked]}
    if offline_code.executes(function):
        return {"code": offline_code.program(function, asked) or f"print({DISCLAIMER!r})\n"}
    return arguments(function.parameters or {}, asked)


def _functions(prompt: Prompt) -> list[Function]:
    """The functions to call now; none if their outputs are there, or a run would never end."""
    choice, offered = prompt.tool_choice, list(prompt.tools)
    if not offered or choice == "none" or _outputs(prompt):
        return []
    if not isinstance(choice, str):
        return [tool for tool in offered if tool.name == choice.name][:1]
    if choice == "required":
        return offered[:1]
    said = words(_asked(prompt))
    wanted = [tool for tool in offered if _is_wanted(tool, _asked(prompt), said)]
    return wanted if prompt.parallel_tool_calls else wanted[:1]


def _is_wanted(function: Function, asked: str, said: list[str]) -> bool:
    if offline_code.executes(function):
        return bool(offline_code.program(function, asked))
    return _searches(function) or _concerns(function, said)


def _searches(function: Function) -> bool:
    """Whether it finds passages to cite: its description shows what their markers look like."""
    return "【" in (function.description or "") and takes(function.parameters, "queries")


def _concerns(function: Function, said: list[str]) -> bool:
    about = words(f"{function.name} {function.description or ''}")
    keys = [word for word in about if len(word) >= 4 and word not in _STOP_WORDS]
    return any(word.startswith(key) for word in said for key in keys)  # `temperatures` is about `temperature`


def _answer(prompt: Prompt) -> str:
    match prompt.response_format:
        case JsonSchemaFormat(json_schema=answer):
            said = " ".join([_asked(prompt), *(output for _, output in _outputs(prompt))])
            return json.dumps(arguments(answer.schema or {}, said), ensure_ascii=False)
        case JsonObjectFormat():
            return json.dumps({"note": DISCLAIMER, "answer": _plain(prompt)}, ensure_ascii=False)
    return f"{DISCLAIMER} {_plain(prompt)}"


def _plain(prompt: Prompt) -> str:
    if outputs := _outputs(prompt):
        tools = {tool.name: tool for tool in prompt.tools}
        return " ".join(_output_text(tools.get(name), name, output, _asked(prompt)) for name, output in outputs)
    turns = [turn for turn in prompt.turns if turn.role != "tool" and not (turn.calls and not turn.text)]
    images = sum(len(turn.images) for turn in turns)
    facts = [_plural(len(turns), "message")] + ([_plural(images, "image")] if images else [])
    given = " I was given instructions." if prompt.instructions else ""
    return f'You said: "{_asked(prompt)[:_LONGEST_QUOTE]}". This conversation has {" and ".join(facts)}.{given}'


def _output_text(tool: Function | None, name: str, output: str, asked: str) -> str:
    if tool and _searches(tool):
        return _quote(output, asked)
    links = offline_code.links(output) if tool and offline_code.executes(tool) else ""
    return f"{name} answered: {output}{links}"


def _quote(found: str, asked: str) -> str:
    """The sentence of the passages that shares most words with the question, with its citation marker."""
    said = set(words(asked)) - _STOP_WORDS
    sentences = [
        (len(said & set(words(sentence))), marker, sentence.strip())
        for marker, passage in _PASSAGE.findall(found)
        for sentence in _SENTENCE_END.split(passage)
        if sentence.strip()
    ]
    if not sentences:
        return f"Your files say nothing about it: {found}"
    _, marker, sentence = max(sentences, key=lambda each: each[0])  # of equals the first: results come best first
    return f'Your files say: "{sentence[:_LONGEST_QUOTE]}"{marker}'


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _last_user(prompt: Prompt) -> int:
    return max((index for index, turn in enumerate(prompt.turns) if turn.role == "user"), default=-1)


def _asked(prompt: Prompt) -> str:
    index = _last_user(prompt)
    return prompt.turns[index].text if index >= 0 else ""


def _outputs(prompt: Prompt) -> list[tuple[str, str]]:
    """Function names and their outputs since the last user message."""
    recent: tuple[Turn, ...] = prompt.turns[_last_user(prompt) + 1 :]
    names = {call.id: call.name for turn in recent for call in turn.calls}
    return [(names.get(turn.call_id, "The function"), turn.text) for turn in recent if turn.role == "tool"]


def _prompt_texts(prompt: Prompt) -> list[str]:
    calls = [call.arguments for turn in prompt.turns for call in turn.calls]
    return [prompt.instructions or "", *(turn.text for turn in prompt.turns), *calls]


def _count(texts: list[str]) -> int:
    return sum(len(text.split()) for text in texts)
