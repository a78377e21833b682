"""A server of habits: each is something that a provider was seen to do, with the public source of that; or, where no
report was found, something that a standard, a schema or a document leaves open: then its source says `unreported`.

`serving()` has them all under `/NAME/v1`, over real HTTP. A habit is a function of what it was asked; it answers whole
or as a stream, as it was asked, unless streaming is what the habit is about. What has to come of it stands beside it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from aiohttp import web
from aiohttp.test_utils import TestServer

from assistants_service.core.ports.models import ForcedFunction, Function, Image, ToolCall, Turn

WEATHER: Final = Function(
    "get_weather", "Get the weather", {"type": "object", "properties": {"city": {"type": "string"}}}
)
OTHER: Final = Function("get_time", "Get the time", {"type": "object"})
FORCED: Final = ForcedFunction("get_weather")
PARIS: Final = '{"city":"Paris"}'
DONE: Final = "It is sunny."
UNWANTED = "No function is needed."  # in place of a call that was forced: no client reads it
GITHUB: Final = "https://github.com/"


def unreported(rule: str) -> str:
    """The source of a habit of which no report was found: the rule that allows it, or that it breaks."""
    return f"unreported; the rule is {rule}"


@dataclass(frozen=True)
class Answer:
    """A body, or the data of events. `text` is sent as it is."""

    body: Any = None
    events: Iterable[Any] | None = None
    status: int = 200
    text: str | None = None
    kind: str = "application/json"
    end: str = "data: [DONE]\n\n"
    headers: dict[str, str] = field(default_factory=dict)
    endless: bytes = b""  # sent again and again, until the client hangs up


@dataclass(frozen=True)
class Ask:
    body: dict[str, Any]
    path: str
    host: str

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def messages(self) -> list[dict[str, Any]]:
        found = self.body["messages"] if "messages" in self.body else self.body["input"]
        return [each for each in found if each.get("role") != "system"]

    @property
    def outputs(self) -> list[dict[str, Any]]:
        return [each for each in self.messages if each.get("role") == "tool" or "output" in each]

    @property
    def asked(self) -> dict[str, Any]:
        """The assistant's message with the calls."""
        return next(each for each in self.messages if each.get("tool_calls"))

    def says(self, text: str | None = DONE, finish: str | None = "stop", usage: Any = None, **fields: Any) -> Answer:
        """Chat Completions: a text and fields of the message, in chunks if it was asked so."""
        more = {"usage": usage} if usage else {}
        if not self.streamed:
            message = {"role": "assistant", "content": text, **fields}
            return Answer({"choices": [{"index": 0, "message": message, "finish_reason": finish}], **more})
        middle = len(text or "") // 2
        pieces = [text[:middle], text[middle:]] if text else []
        deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
        deltas += [{name: value} for name, value in fields.items()]
        return Answer(events=[*map(chunk, deltas), chunk({}, finish), *([{"choices": [], **more}] if more else [])])

    def calls(self, *made: dict[str, Any], finish: str = "tool_calls", **fields: Any) -> Answer:
        return self.says(None, finish, **fields, tool_calls=list(made) or [call()])

    def turn(self, first: Answer | None = None) -> Answer:
        """A call, and when its output is there, the text."""
        return self.says() if self.outputs else first or self.calls()


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish, **fields}]}


def call(call_id: str | None = "call_1", index: int | None = 0, **fields: Any) -> dict[str, Any]:
    made = {"id": call_id, "type": "function", "function": {"name": "get_weather", "arguments": PARIS}, **fields}
    return made if index is None else {"index": index, **made}


def refused(message: Any, status: int = 400, **fields: Any) -> Answer:
    return Answer(
        {"error": {"message": message, "type": "invalid_request_error", "param": None, **fields}}, status=status
    )


@dataclass(frozen=True)
class Habit:
    """`text` is what the model says in the end; or `fails` is in the message of the error, whose code is `code`.
    `asked` are fields of the prompt."""

    name: str
    source: str
    answer: Callable[[Ask], Answer]
    api: str = "chat"
    text: str | None = DONE
    finish: str = "stop"
    fails: str | None = None
    code: str = "server_error"
    asked: dict[str, Any] = field(default_factory=dict)
    streams: tuple[bool, ...] = (False, True)


HABITS: dict[str, Habit] = {}


def habit(source: str, **expected: Any) -> Callable[[Callable[[Ask], Answer]], Callable[[Ask], Answer]]:
    def add(answer: Callable[[Ask], Answer]) -> Callable[[Ask], Answer]:
        assert answer.__name__ not in HABITS
        HABITS[answer.__name__] = Habit(answer.__name__, source, answer, **expected)
        return answer

    return add


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """The URL, under which each habit has its name."""
    app = web.Application()
    app.router.add_post("/{name}/v1/{path:.*}", _handle)
    async with TestServer(app) as server:
        yield str(server.make_url("/")).rstrip("/")


async def _handle(request: web.Request) -> web.StreamResponse:
    ask = Ask(await request.json(), request.match_info["path"], request.headers["Host"])
    answer = HABITS[request.match_info["name"]].answer(ask)
    headers = {"retry-after-ms": "1", **answer.headers}
    if answer.events is None and not answer.endless:
        text = json.dumps(answer.body) if answer.text is None else answer.text
        return web.Response(text=text, status=answer.status, content_type=answer.kind, headers=headers)
    kind = "text/event-stream" if answer.events is not None else answer.kind
    response = web.StreamResponse(status=answer.status, headers={"Content-Type": kind, **headers})
    await response.prepare(request)
    for event in answer.events or ():
        data = event if isinstance(event, str) else f"data: {json.dumps(event)}\n\n"
        await response.write(data.encode())
    with contextlib.suppress(ConnectionError):
        while answer.endless:
            await response.write(answer.endless)
        await response.write(answer.end.encode())
        await response.write_eof()
    return response


# --- thinking models with tools: what they thought has to come back ---------------------------------------------------
# OpenRouter and LiteLLM only ask for it in their documents, and Groq is known to send it, not to want it back. There
# the refusal shows that it did not come back.

GEMINI: Final = "https://ai.google.dev/gemini-api/docs/thought-signatures"
DEEPSEEK: Final = "https://api-docs.deepseek.com/guides/thinking_mode#tool-calls"


@habit(GEMINI)
def gemini_thought_signature(ask: Ask) -> Answer:
    signature = {"google": {"thought_signature": "c2lnbmF0dXJl"}}
    if ask.outputs and ask.asked["tool_calls"][0].get("extra_content") != signature:
        return Answer(
            [{"error": {"code": 400, "message": "Function call is missing a thought_signature."}}], status=400
        )
    return ask.turn(ask.calls(call(extra_content=signature)))


@habit(GEMINI)
def gemini_wants_a_signature_that_it_never_gave(ask: Ask) -> Answer:
    """As for calls of another model, or of a run whose thoughts are gone."""
    if ask.outputs and "extra_content" not in ask.asked["tool_calls"][0]:
        return Answer(
            [{"error": {"code": 400, "message": "Function call is missing a thought_signature."}}], status=400
        )
    return ask.turn()


@habit(DEEPSEEK)
def deepseek_reasoning_content(ask: Ask) -> Answer:
    if ask.outputs and ask.asked.get("reasoning_content") != "Paris, then.":
        return refused("The `reasoning_content` in the thinking mode must be passed back to the API.")
    return ask.turn(ask.calls(reasoning_content="Paris, then."))


@habit(GITHUB + "earendil-works/pi/pull/3659")
def deepseek_wants_even_an_empty_reasoning(ask: Ask) -> Answer:
    if ask.outputs and "reasoning_content" not in ask.asked:
        return refused("The reasoning_content in the thinking mode must be passed back to the API.")
    return ask.turn()


@habit("https://openrouter.ai/docs/use-cases/reasoning-tokens#preserving-reasoning-blocks")
def openrouter_reasoning_details(ask: Ask) -> Answer:
    """In a stream the text of a block comes in pieces, its signature in the last."""
    block = {"type": "reasoning.text", "index": 0, "format": "anthropic-claude-v1"}
    whole = [{**block, "text": "Paris, then.", "signature": "sig"}]
    if ask.outputs:
        return ask.says() if ask.asked.get("reasoning_details") == whole else refused("thinking block is missing")
    if not ask.streamed:
        return ask.calls(reasoning="Paris, then.", reasoning_details=whole)
    details = [{**block, "text": "Paris, "}, {**block, "text": "then."}, {**block, "signature": "sig"}]
    deltas = [{"reasoning": part.get("text"), "reasoning_details": [part]} for part in details]
    return Answer(events=[*map(chunk, deltas), chunk({"tool_calls": [call()]}), chunk({}, "tool_calls")])


@habit(GITHUB + "groq/groq-python/pull/185")
def groq_reasoning(ask: Ask) -> Answer:
    if ask.outputs and ask.asked.get("reasoning") != "Paris, then.":
        return refused("reasoning is missing")
    return ask.turn(ask.calls(reasoning="Paris, then."))


@habit("https://docs.litellm.ai/docs/reasoning_content")
def litellm_thinking_blocks(ask: Ask) -> Answer:
    blocks = [{"type": "thinking", "thinking": "Paris, then.", "signature": "sig"}]
    if ask.outputs and ask.asked.get("thinking_blocks") != blocks:
        return refused("Expected `thinking`, but found `tool_use`.")
    return ask.turn(ask.calls(thinking_blocks=blocks))


@habit("https://docs.litellm.ai/blog/gemini_3")
def litellm_provider_specific_fields(ask: Ask) -> Answer:
    fields = {"thought_signature": "c2lnbmF0dXJl"}
    if ask.outputs and ask.asked["tool_calls"][0].get("provider_specific_fields") != fields:
        return refused("thought_signature is missing")
    return ask.turn(ask.calls(call(provider_specific_fields=fields)))


@habit(GITHUB + "BerriAI/litellm/issues/30835")
def mistral_does_not_take_back_what_it_thought(ask: Ask) -> Answer:
    if ask.outputs and "reasoning_content" in ask.asked:
        place = ["body", "messages", 2, "assistant", "reasoning_content"]
        detail = [{"type": "extra_forbidden", "loc": place, "msg": "Extra inputs are not permitted"}]
        return Answer({"object": "error", "message": {"detail": detail}, "type": "invalid_request_error"}, status=422)
    return ask.turn(ask.calls(reasoning_content="Hm."))


@habit("https://docs.mistral.ai/capabilities/reasoning/")
def mistral_thinks_in_parts_of_its_content(ask: Ask) -> Answer:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": DONE}]
    if ask.streamed:
        return Answer(events=[chunk({"content": [part]}) for part in parts] + [chunk({"content": ""}, "stop")])
    return Answer({"choices": [{"message": {"role": "assistant", "content": parts}, "finish_reason": "stop"}]})


# --- the Responses API ------------------------------------------------------------------------------------------------


def respond(ask: Ask, *items: dict[str, Any], status: str = "completed", **fields: Any) -> Answer:
    """Streamed as the end alone, or with the items before it."""
    response = {"object": "response", "status": status, "error": None, "output": list(items), **fields}
    if not ask.streamed:
        return Answer(response)
    added: list[Any] = []
    for index, item in enumerate(items):
        added += [
            {"type": f"response.output_item.{what}", "output_index": index, "item": item} for what in ("added", "done")
        ]
        for part in item.get("content") or ():
            added.append({"type": "response.output_text.delta", "output_index": index, "delta": part.get("text") or ""})
    return Answer(events=[*added, {"type": f"response.{status}", "response": response}], end="")


def item(text: str = DONE) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def function_item() -> dict[str, Any]:
    return {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": PARIS}


@habit("https://platform.openai.com/docs/guides/reasoning#encrypted-reasoning-items", api="responses")
def openai_reasoning_items(ask: Ask) -> Answer:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}
    assert ask.body["include"] == ["reasoning.encrypted_content"] and ask.body["store"] is False
    if not ask.outputs:
        return respond(ask, thought, function_item())
    given = [each.get("type") for each in ask.body["input"]]
    if given[-3:] != ["reasoning", "function_call", "function_call_output"] or thought not in ask.body["input"]:
        return refused("Item 'fc_1' of type 'function_call' was provided without its required 'reasoning' item.")
    return respond(ask, item())


@habit(unreported("https://platform.openai.com/docs/api-reference/responses/create"), api="responses")
def a_server_without_encrypted_reasoning(ask: Ask) -> Answer:
    if "include" in ask.body:
        return refused("Unsupported value: 'include[0]'.", param="include")
    return respond(ask, item()) if ask.outputs else respond(ask, function_item())


@habit(GITHUB + "openai/codex/issues/3573", api="responses")
def azure_cannot_read_what_another_key_encrypted(ask: Ask) -> Answer:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}
    if thought in ask.body["input"]:
        return refused("The encrypted content gAAAA could not be verified.", code="invalid_encrypted_content")
    return respond(ask, item()) if ask.outputs else respond(ask, thought, function_item())


@habit(GITHUB + "tontinton/maki/pull/514", api="responses", streams=(True,))
def llama_cpp_events_without_index(ask: Ask) -> Answer:
    """Two calls at once, told apart by the ids of their items."""
    if ask.outputs:
        return respond(ask, item()) if len(ask.outputs) == 2 else refused("two outputs are owed")
    items = [{**function_item(), "id": f"fc_{n}", "call_id": f"call_{n}"} for n in (1, 2)]
    added = [{"type": "response.output_item.added", "item": {**each, "arguments": ""}} for each in items]
    kind = "response.function_call_arguments.delta"
    deltas = [{"type": kind, "item_id": each["id"], "delta": PARIS} for each in items]
    done = [{"type": "response.output_item.done", "item": each} for each in items]
    end = {"type": "response.completed", "response": {"status": "completed", "output": items}}
    return Answer(events=[added[0], deltas[0], added[1], deltas[1], *done, end], end="")


@habit(GITHUB + "NousResearch/hermes-agent/issues/76657", api="responses", asked={"history": True})
def llama_cpp_wants_the_type_of_an_item(ask: Ask) -> Answer:
    if any("type" not in each for each in ask.body["input"]):
        return refused("Cannot determine type of 'item'")
    return respond(ask, item())


@habit("https://platform.openai.com/docs/api-reference/responses", api="responses", finish="length")
def openai_incomplete_response(ask: Ask) -> Answer:
    return respond(ask, item(), status="incomplete", incomplete_details={"reason": "max_output_tokens"})


@habit(GITHUB + "ggml-org/llama.cpp/blob/master/tools/server/server-task.cpp", api="responses", finish="length")
def llama_cpp_completes_what_its_limit_cut(ask: Ask) -> Answer:
    return respond(ask, item(), usage={"input_tokens": 5, "output_tokens": 50})


RESPONSE: Final = "https://platform.openai.com/docs/api-reference/responses/object"


def incomplete(name: str, source: str, details: Any, **expected: Any) -> None:
    def answer(ask: Ask) -> Answer:
        return respond(ask, item(), status="incomplete", incomplete_details=details)

    answer.__name__ = name
    habit(source, api="responses", **expected)(answer)


OTHER_REASON: Final = unreported(RESPONSE)
incomplete("responses_incomplete_by_an_error", OTHER_REASON, {"reason": "error"}, fails="'error'")
incomplete(
    "responses_incomplete_for_a_reason_that_is_not_known", OTHER_REASON, {"reason": "because"}, fails="'because'"
)
incomplete("responses_incomplete_without_a_reason", OTHER_REASON, None, fails="'incomplete'")
incomplete("responses_incomplete_by_a_filter", RESPONSE, {"reason": "content_filter"}, finish="content_filter")


@habit("https://platform.openai.com/docs/api-reference/responses", api="responses", fails="The server is overloaded")
def openai_failed_response(ask: Ask) -> Answer:
    error = {"code": "server_error", "message": "The server is overloaded."}
    response = {"object": "response", "status": "failed", "error": error, "output": []}
    return (
        Answer(events=[{"type": "response.failed", "response": response}], end="") if ask.streamed else Answer(response)
    )


@habit(GITHUB + "qualcomm/GenieX/issues/567", api="responses", streams=(True,))
def responses_that_are_not_streamed_though_asked(ask: Ask) -> Answer:
    """The report is of `/v1/completions`."""
    return Answer({"object": "response", "status": "completed", "output": [item()]})


# --- finish reasons ---------------------------------------------------------------------------------------------------

FINISH: Final = "https://ai.google.dev/api/generate-content#FinishReason"


def ending(name: str, source: str, reason: str | None, **expected: Any) -> None:
    def answer(ask: Ask) -> Answer:
        return ask.says("" if "fails" in expected else DONE, reason)

    answer.__name__ = name
    habit(source, **expected)(answer)


ending("vllm_abort", GITHUB + "vllm-project/vllm/issues/57082", "abort", fails="'abort'")
ending(
    "deepseek_without_resources",
    "https://api-docs.deepseek.com/api/create-chat-completion",
    "insufficient_system_resource",
    fails="'insufficient_system_resource'",
)
ending("gemini_malformed_call", FINISH, "MALFORMED_FUNCTION_CALL", fails="'MALFORMED_FUNCTION_CALL'")
ending(
    "gemini_malformed_call_by_its_openai_endpoint",
    GITHUB + "NousResearch/hermes-agent/pull/83882",
    "function_call_filter: MALFORMED_FUNCTION_CALL",
    fails="MALFORMED_FUNCTION_CALL",
)
ending("gemini_max_tokens", FINISH, "MAX_TOKENS", finish="length")
ending("gemini_safety", FINISH, "SAFETY", finish="content_filter")
ending("gemini_recitation", FINISH, "RECITATION", finish="content_filter")
ending("gemini_prohibited_content", FINISH, "PROHIBITED_CONTENT", finish="content_filter")
ending("gemini_blocklist", FINISH, "BLOCKLIST", finish="content_filter")
ending("gemini_spii", FINISH, "SPII", finish="content_filter")
ending("mistral_model_length", "https://docs.mistral.ai/api/endpoint/chat", "model_length", finish="length")
ending("tgi_eos_token", "https://huggingface.co/docs/text-generation-inference/reference/api_reference", "eos_token")
ending("together_eos", GITHUB + "togethercomputer/together-python/blob/main/src/together/types/common.py", "eos")
ending("z_ai_sensitive", "https://docs.z.ai/api-reference/llm/chat-completion", "sensitive", finish="content_filter")
# Other spellings: hyphens of Vercel's SDK, capitals of SDKs for .NET, the name of Python's enumeration.
VERCEL: Final = GITHUB + "8monkey-ai/hebo-platform/pull/90"
ORACLE: Final = (
    "https://docs.oracle.com/en-us/iaas/tools/dotnet/latest/api/"
    "Oci.GenerativeaiinferenceService.Models.CohereChatResponse.FinishReasonEnum.html"
)
PYTHON: Final = unreported("https://docs.python.org/3/library/enum.html#enum.Enum.__str__")
LITELLM_REASONS: Final = GITHUB + "BerriAI/litellm/blob/main/litellm/litellm_core_utils/core_helpers.py"
BEDROCK: Final = "https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html"
ending("vercel_content_filter", VERCEL, "content-filter", finish="content_filter")
ending("vercel_tool_calls", VERCEL, "tool-calls")
ending("vercel_other_with_text", VERCEL, "other")
ending("vercel_other_with_nothing", VERCEL, "other", fails="'other'")
ending("oracle_max_tokens", ORACLE, "MaxTokens", finish="length")
ending("oracle_error_limit", ORACLE, "ErrorLimit", finish="length")
ending("gemini_by_its_name_in_python", PYTHON, "FinishReason.SAFETY", finish="content_filter")
ending("a_content_filter_in_capitals", PYTHON, "CONTENT_FILTER", finish="content_filter")
ending("gemini_other_with_nothing", FINISH, "OTHER", fails="'OTHER'")
ending("gemini_language", LITELLM_REASONS, "LANGUAGE", finish="content_filter")
ending("cohere_error_toxic", LITELLM_REASONS, "ERROR_TOXIC", finish="content_filter")
ending("cohere_complete", LITELLM_REASONS, "COMPLETE")
ending("bedrock_malformed_tool_use", BEDROCK, "malformed_tool_use", fails="'malformed_tool_use'")
ending("bedrock_guardrail", BEDROCK, "guardrail_intervened", finish="content_filter")
ending("bedrock_window", BEDROCK, "model_context_window_exceeded", finish="length")
# The report has it, with `_error` behind it, as the type of an error.
OVERLOADED: Final = GITHUB + "MoonshotAI/MoonshotAI-Cookbook/issues/16"
ending("moonshot_overloaded", OVERLOADED, "engine_overloaded", fails="'engine_overloaded'")
ending("a_reason_that_is_not_known", GITHUB + "earendil-works/pi/issues/2142", "because")


@habit("https://openrouter.ai/docs/api-reference/streaming", fails="Provider disconnected")
def openrouter_error_at_the_end(ask: Ask) -> Answer:
    error = {"code": 502, "message": "Provider disconnected", "metadata": {"error_type": "provider_unavailable"}}
    end = {"error": error, **chunk({"content": ""}, "error")}
    if ask.streamed:
        return Answer(events=[": OPENROUTER PROCESSING\n\n", chunk({"content": "It"}), end])
    return Answer({"error": error, "choices": [{"message": {"content": ""}, "finish_reason": "error"}]})


@habit(GITHUB + "genkit-ai/genkit/pull/6259", fails="Upstream is gone")
def openrouter_error_in_a_choice(ask: Ask) -> Answer:
    error = {"code": 502, "message": "Upstream is gone"}
    if ask.streamed:
        return Answer(events=[chunk({"content": ""}, "error", error=error)])
    return Answer({"choices": [{"message": {"content": ""}, "finish_reason": "error", "error": error}]})


# --- errors and where their words stand -------------------------------------------------------------------------------


@habit(GITHUB + "cyberchitta/openai_ex/pull/126", fails="API key not valid")
def gemini_error_in_a_list(ask: Ask) -> Answer:
    return Answer([{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}], status=400)


@habit(
    "https://ai.google.dev/gemini-api/docs/rate-limits", fails="exceeded your current quota", code="rate_limit_exceeded"
)
def gemini_quota(ask: Ask) -> Answer:
    error = {"code": 429, "message": "You exceeded your current quota.", "status": "RESOURCE_EXHAUSTED"}
    return Answer([{"error": error}], status=429)


@habit(GITHUB + "Gage-Technologies/mistral-go/issues/3", fails="body.n: Extra inputs are not permitted")
def mistral_error_with_an_object(ask: Ask) -> Answer:
    detail = [{"type": "extra_forbidden", "loc": ["body", "n"], "msg": "Extra inputs are not permitted", "input": 1}]
    return Answer({"object": "error", "message": {"detail": detail}, "type": "invalid_request_error"}, status=422)


@habit(GITHUB + "vllm-project/vllm/issues/3485", fails="The model `m` does not exist.")
def vllm_error_object(ask: Ask) -> Answer:
    error = {"object": "error", "message": "The model `m` does not exist.", "type": "NotFoundError", "code": 404}
    return Answer(error, status=404)


@habit(GITHUB + "BerriAI/litellm/issues/40578", fails="queue is full")
def vllm_error_in_a_stream(ask: Ask) -> Answer:
    error = {"error": {"message": "The queue is full.", "type": "InternalServerError", "code": 500}}
    return Answer(events=[chunk({"content": "It"}), error]) if ask.streamed else Answer(error, status=500)


@habit(GITHUB + "open-octo/octo-agent/pull/910", fails="overloaded", streams=(True,))
def an_error_in_a_stream_without_done(ask: Ask) -> Answer:
    return Answer(events=[{"error": {"message": "The engine is overloaded."}}], end="")


# llama.cpp until late 2025: the error stands in a field of its own, and no event has data.
LLAMA_FIELD: Final = GITHUB + "coddy-project/coddy-agent/pull/106"


@habit(LLAMA_FIELD, fails="KV cache is full", streams=(True,))
def llama_cpp_error_in_a_field_of_its_own(ask: Ask) -> Answer:
    error = {"code": 500, "message": "The KV cache is full.", "type": "server_error"}
    return Answer(text=f"error: {json.dumps(error)}\n\ndata: [DONE]\n\n", kind="text/event-stream")


@habit(
    unreported("https://html.spec.whatwg.org/multipage/server-sent-events.html"), fails="It is full", streams=(True,)
)
def an_error_in_a_field_of_its_own_that_is_no_object(ask: Ask) -> Answer:
    return Answer(text="error: It is full.\n\ndata: [DONE]\n\n", kind="text/event-stream")


@habit(unreported("https://html.spec.whatwg.org/multipage/server-sent-events.html"), streams=(True,))
def a_byte_order_mark_before_the_stream(ask: Ask) -> Answer:
    events = [chunk({"content": DONE}), chunk({}, "stop")]
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return Answer(text=f"\ufeff{text}data: [DONE]\n\n", kind="text/event-stream")


@habit(
    unreported("https://openrouter.ai/docs/use-cases/reasoning-tokens#preserving-reasoning-blocks"), streams=(False,)
)
def a_thought_that_is_nested_without_end(ask: Ask) -> Answer:
    deep: Any = "why"
    for _ in range(700):
        deep = [deep]
    return ask.turn(ask.calls(reasoning_details=[{"type": "reasoning.text", "text": deep}]))


@habit("https://docs.ollama.com/api/errors", fails="model 'm' not found")
def ollama_error_text(ask: Ask) -> Answer:
    return Answer({"error": "model 'm' not found"}, status=404)


@habit("https://fastapi.tiangolo.com/tutorial/handling-errors/", fails="Unauthorized")
def fastapi_detail(ask: Ask) -> Answer:
    return Answer({"detail": "Unauthorized"}, status=401)


# FastAPI's words where its status is lost, as in a stream that has begun.
FASTAPI: Final = unreported("https://fastapi.tiangolo.com/tutorial/handling-errors/")


@habit(FASTAPI, fails="The engine is dead")
def fastapi_detail_with_status_200(ask: Ask) -> Answer:
    detail = {"detail": "The engine is dead."}
    return Answer(events=[chunk({"content": "It"}), detail]) if ask.streamed else Answer(detail)


@habit(FASTAPI, fails="body.model: Field required")
def fastapi_details_with_status_200(ask: Ask) -> Answer:
    detail = {"detail": [{"type": "missing", "loc": ["body", "model"], "msg": "Field required", "input": {}}]}
    return Answer(events=[detail]) if ask.streamed else Answer(detail)


@habit(FASTAPI, api="responses", fails="The engine is dead")
def fastapi_detail_of_responses(ask: Ask) -> Answer:
    detail = {"detail": "The engine is dead."}
    return Answer(events=[detail], end="") if ask.streamed else Answer(detail)


@habit(GITHUB + "infiniflow/ragflow/issues/5676", fails="Too many at once, sk-***", code="rate_limit_exceeded")
def a_code_and_a_message_alone(ask: Ask) -> Answer:
    """SiliconFlow's form; the report is of status 503, not of 200 or a stream."""
    error = {"code": 429, "message": "Too many at once, sk-abcdef0123456789."}
    return Answer(events=[chunk({"content": "It"}), error]) if ask.streamed else Answer(error)


@habit(GITHUB + "QuantumNous/new-api/issues/2734", fails="Model does not exist. Please check it carefully.")
def siliconflow_error_beside_data_that_is_null(ask: Ask) -> Answer:
    """The report is of status 400, which others leave out (github.com/XpressAI/xaibo/pull/36)."""
    error = {"code": 20012, "message": "Model does not exist. Please check it carefully.", "data": None}
    return Answer(events=[error]) if ask.streamed else Answer(error)


@habit(unreported("https://platform.openai.com/docs/api-reference/chat/object"), fails="No such channel")
def an_error_with_msg_and_data_that_is_null(ask: Ask) -> Answer:
    error = {"msg": "No such channel.", "data": None, "choices": []}
    return Answer(events=[error]) if ask.streamed else Answer(error)


MINIMAX: Final = "https://platform.minimax.io/docs/api-reference/errorcode.md"


@habit(MINIMAX, fails="insufficient balance")
def minimax_error_with_status_200(ask: Ask) -> Answer:
    """Said as well in github.com/adrianlyjak/obsidian-aloud-tts/pull/114."""
    error = {"id": "x", "choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}
    return Answer(events=[error], end="") if ask.streamed else Answer(error)


@habit(GITHUB + "MiniMax-AI/MiniMax-M2.5/issues/18", fails="invalid api key")
def minimax_error_alone(ask: Ask) -> Answer:
    return Answer({"base_resp": {"status_code": 2049, "status_msg": "invalid api key"}}, status=401)


@habit(MINIMAX)
def minimax_success_beside_the_answer(ask: Ask) -> Answer:
    done = {"base_resp": {"status_code": 0, "status_msg": "success"}}
    answer = ask.says()
    if ask.streamed:
        return replace(answer, events=[*(each | done for each in answer.events or ()), {"choices": [], **done}])
    return replace(answer, body=answer.body | done)


# API Gateway passes on an error of a function that it calls with status 200, unless told otherwise.
LAMBDA: Final = "https://docs.aws.amazon.com/apigateway/latest/developerguide/handle-errors-in-lambda-integration.html"


@habit(LAMBDA, fails="Task timed out after 3.00 seconds")
def aws_lambda_error_message(ask: Ask) -> Answer:
    return Answer({"errorMessage": "Task timed out after 3.00 seconds", "errorType": "Sandbox.Timedout"})


@habit("https://docs.nestjs.com/exception-filters", fails="The key has expired.")
def nest_error_beside_the_name_of_its_status(ask: Ask) -> Answer:
    return Answer({"message": "The key has expired.", "error": "Unauthorized", "statusCode": 401}, status=401)


@habit(unreported("https://www.rfc-editor.org/rfc/rfc8259#section-2"), fails="No such model")
def an_error_that_is_a_string_of_json(ask: Ask) -> Answer:
    return Answer(events=['data: "No such model"\n\n'], end="") if ask.streamed else Answer("No such model")


@habit(unreported("https://www.rfc-editor.org/rfc/rfc8259#section-2"), fails="No such model")
def an_error_that_is_a_list_of_strings(ask: Ask) -> Answer:
    return Answer(["No such model"])


@habit(GITHUB + "octos-org/octos/issues/13", fails="Internal Network Failure", streams=(True,))
def an_event_error_with_plain_text(ask: Ask) -> Answer:
    begun = json.dumps(chunk({"content": "It"}))
    return Answer(events=[f"data: {begun}\n\n", "event: error\ndata: Internal Network Failure\n\n"])


@habit(GITHUB + "octos-org/octos/issues/13", fails="Internal Network Failure", streams=(True,))
def an_event_error_with_an_unknown_object(ask: Ask) -> Answer:
    """Its name says that it is an error; and its order of fields is free."""
    return Answer(events=['data: {"output": "", "msg": "Internal Network Failure"}\nevent:error\n\n'])


@habit(GITHUB + "charmbracelet/crush/issues/279", fails="tools is not allowed here")
def openrouter_raw_error(ask: Ask) -> Answer:
    return refused("Provider returned error", metadata={"raw": "tools is not allowed here", "provider_name": "Acme"})


@habit(
    "https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter",
    fails="filtered",
    code="invalid_prompt",
)
def azure_filtered_prompt(ask: Ask) -> Answer:
    return refused(
        "The response was filtered.", code="content_filter", innererror={"code": "ResponsibleAIPolicyViolation"}
    )


@habit("https://developers.cloudflare.com/support/troubleshooting/http-status-codes/", fails="failed with status 502")
def a_proxy_with_a_page(ask: Ask) -> Answer:
    return Answer(text="<html><h1>502 Bad Gateway</h1></html>", status=502, kind="text/html")


# --- fields that a server does not take -------------------------------------------------------------------------------


@habit(GITHUB + "agno-agi/agno/issues/1066")
def azure_without_stream_options(ask: Ask) -> Answer:
    if "stream_options" in ask.body:
        return refused("Unknown parameter: 'stream_options'.", param="stream_options", code="unknown_parameter")
    return ask.says()


@habit(GITHUB + "ChatGPTNextWeb/NextChat/issues/5410")
def o1_without_streams(ask: Ask) -> Answer:
    if ask.body.get("stream"):
        said = "Unsupported value: 'stream' does not support true with this model."
        return refused(f"{said} Only the default (false) value is supported.", param="stream", code="unsupported_value")
    return ask.says()


@habit(GITHUB + "earendil-works/pi/issues/3739")
def bedrock_without_streams_of_tools(ask: Ask) -> Answer:
    if ask.body.get("stream") and "tools" in ask.body:
        return refused("This model doesn't support tool use in streaming mode.")
    return ask.says()


@habit(GITHUB + "continuedev/continue/issues/8209")
def openai_streams_to_verified_organizations(ask: Ask) -> Answer:
    if ask.streamed:
        said = (
            "Your organization must be verified to stream this model. Please go to:"
            " https://platform.openai.com/settings/organization/general and click on Verify Organization."
            " If you just verified, it can take up to 15 minutes for access to propagate."
        )
        return refused(said, param="stream", code="unsupported_value")
    return ask.says()


@habit(GITHUB + "continuedev/continue/issues/8209", api="responses")
def openai_streams_responses_to_verified_organizations(ask: Ask) -> Answer:
    """The report does not say of which API."""
    said = "Your organization must be verified to stream this model."
    return refused(said, param="stream", code="unsupported_value") if ask.streamed else respond(ask, item())


@habit(GITHUB + "langchain-ai/langchain-nvidia/pull/201")
def nvidia_refuses_in_its_stream(ask: Ask) -> Answer:
    if ask.streamed and "tools" in ask.body:
        said = "Tool calling is not supported in streaming mode!"
        return Answer(events=[{"error": {"object": "error", "message": said, "type": "BadRequestError", "code": 400}}])
    return ask.says()


@habit(GITHUB + "editor-code-assistant/eca/issues/231")
def mistral_without_max_completion_tokens(ask: Ask) -> Answer:
    """Its later form, with a list: github.com/partITech/php-mistral/issues/76."""
    if "max_completion_tokens" in ask.body:
        detail = [
            {
                "type": "extra_forbidden",
                "loc": ["body", "max_completion_tokens"],
                "msg": "Extra inputs are not permitted",
            }
        ]
        return Answer({"object": "Error", "message": detail, "type": "invalid_request_error", "code": 3001}, status=422)
    assert ask.body["max_tokens"] == 50
    return ask.says()


@habit(GITHUB + "teilomillet/gollm/issues/33", asked={"max_tokens_field": "max_tokens"})
def openai_without_max_tokens(ask: Ask) -> Answer:
    if "max_tokens" in ask.body:
        use = "Use 'max_completion_tokens' instead."
        return refused(f"Unsupported parameter: 'max_tokens' is not supported with this model. {use}")
    assert ask.body["max_completion_tokens"] == 50
    return ask.says()


@habit(GITHUB + "soberlemur/autopo/issues/57", asked={"temperature": 1.0})
def a_model_without_temperature(ask: Ask) -> Answer:
    if "temperature" in ask.body:
        return refused("Unsupported parameter: 'temperature' is not supported with this model.", param="temperature")
    return ask.says()


@habit(GITHUB + "crmne/ruby_llm/issues/339", asked={"temperature": 0.5}, fails="does not support 0.5")
def a_temperature_that_was_meant(ask: Ask) -> Answer:
    if "temperature" in ask.body:
        return refused("Unsupported value: 'temperature' does not support 0.5 with this model.", param="temperature")
    return ask.says()


@habit(GITHUB + "evalstate/fast-agent/issues/279", asked={"parallel_tool_calls": False})
def a_model_without_parallel_tool_calls(ask: Ask) -> Answer:
    if "parallel_tool_calls" in ask.body:
        return refused("Unsupported parameter: 'parallel_tool_calls' is not supported with this model.")
    return ask.says()


@habit(GITHUB + "tailcallhq/forgecode/issues/1185", fails="is too large")
def openai_limit_too_large(ask: Ask) -> Answer:
    """Names the field, but it is the value that is refused. The report is of `max_tokens`."""
    if "max_completion_tokens" in ask.body:
        return refused("max_completion_tokens is too large: 50. This model's limit is 40 completion tokens.")
    return ask.says()


@habit(GITHUB + "lmstudio-ai/lmstudio-bug-tracker/issues/670", asked={"tool_choice": FORCED})
def lm_studio_without_forced_functions(ask: Ask) -> Answer:
    choice = ask.body.get("tool_choice")
    if isinstance(choice, dict):
        kinds = "Supported string values: none, auto, required"
        return Answer({"error": f"Invalid tool_choice type: 'object'. {kinds}"}, status=400)
    if not ask.outputs:
        assert choice == "required" and [tool["function"]["name"] for tool in ask.body["tools"]] == ["get_weather"]
    return ask.turn()


@habit("https://docs.ollama.com/api/openai-compatibility", asked={"tool_choice": FORCED})
def a_forced_function_that_is_ignored(ask: Ask) -> Answer:
    if isinstance(ask.body.get("tool_choice"), dict):
        return ask.says(UNWANTED)
    return ask.turn()


@habit(unreported("https://platform.openai.com/docs/api-reference/chat/create"), asked={"tool_choice": FORCED})
def words_before_a_forced_function(ask: Ask) -> Answer:
    if ask.outputs:
        return ask.says()
    assert isinstance(ask.body["tool_choice"], dict)
    return ask.says("Let me look.", "tool_calls", tool_calls=[call()])


@habit(
    unreported("https://platform.openai.com/docs/api-reference/chat/create"),
    asked={"tool_choice": FORCED},
    finish="content_filter",
)
def a_filter_before_a_forced_function(ask: Ask) -> Answer:
    return ask.says(finish="content_filter")


@habit(GITHUB + "anomalyco/opencode/issues/1680")
def mistral_ids_of_nine_letters(ask: Ask) -> Answer:
    """The id was another server's, behind the same proxy."""
    for each in ask.outputs:
        wanted = ask.asked["tool_calls"][0]["id"]
        if not re.fullmatch("[a-zA-Z0-9]{9}", each["tool_call_id"]) or each["tool_call_id"] != wanted:
            words = f"Tool call id was {wanted} but must be a-z, A-Z, 0-9, with a length of 9."
            return Answer(
                {"object": "error", "message": words, "type": "invalid_function_call", "code": "3280"}, status=400
            )
    return ask.turn()


# --- conversations that a server refuses, for ever if nothing changes -------------------------------------------------

PICTURE: Final = Image("https://images.test/a.png")
SEEN: Final = (Turn("user", ("What is this?", PICTURE)), Turn("assistant", "A cat."), Turn("user", "Sure?"))


def blank(ask: Ask) -> bool:
    """Whether a text in it consists of white space."""
    contents = [each.get("content", each.get("output")) for each in ask.messages if each.get("role") != "assistant"]
    parts = [part for content in contents for part in listed(content)]
    return not all((part if isinstance(part, str) else part.get("text", "x")).strip() for part in parts)


def listed(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content or ""]


def images(ask: Ask) -> bool:
    parts = [part for each in ask.messages for part in listed(each.get("content"))]
    return any("image" in part["type"] for part in parts if isinstance(part, dict))


@habit(GITHUB + "anthropics/claude-code/issues/23440", asked={"turns": (Turn("user", " \n"),)})
def anthropic_without_blank_messages(ask: Ask) -> Answer:
    if blank(ask):
        return refused("messages: text content blocks must contain non-whitespace text")
    return ask.says()


@habit(GITHUB + "anthropics/claude-code/issues/50375", asked={"turns": (Turn("user", ("", PICTURE, " ")),)})
def anthropic_without_blank_parts(ask: Ask) -> Answer:
    return refused("messages: text content blocks must be non-empty") if blank(ask) else ask.says()


@habit(GITHUB + "anthropics/claude-code/issues/23440", asked={"output": ""})
def anthropic_without_empty_outputs(ask: Ask) -> Answer:
    if blank(ask):
        return refused("messages.2.content.0.tool_result: text content blocks must be non-empty")
    return ask.turn()


@habit(GITHUB + "huggingface/smolagents/issues/757", asked={"turns": SEEN[:2]})
def mistral_answers_no_answer(ask: Ask) -> Answer:
    if ask.messages[-1]["role"] == "assistant":
        words = "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant"
        return Answer({"object": "error", "message": words, "type": "invalid_request_error"}, status=400)
    return ask.says()


@habit(GITHUB + "ericc-ch/copilot-api/pull/261", api="responses", asked={"turns": SEEN[:2]})
def anthropic_answers_no_answer(ask: Ask) -> Answer:
    if ask.messages[-1]["role"] == "assistant":
        words = "This model does not support assistant message prefill."
        return refused(f"{words} The conversation must end with a user message.")
    return respond(ask, item())


@habit(
    GITHUB + "NousResearch/hermes-agent/issues/20154",
    asked={
        "turns": (
            Turn("user", "How is it?"),
            Turn("assistant", calls=(ToolCall("call_1", "get_weather", PARIS),)),
            Turn("tool", "sunny", call_id="call_1"),
            Turn("user", "And?"),
        )
    },
)
def mistral_answers_before_the_user_speaks(ask: Ask) -> Answer:
    roles = [each["role"] for each in ask.messages]
    if ("tool", "user") in itertools.pairwise(roles):
        return refused("Unexpected role 'user' after role 'tool'", type="invalid_request_message_order", code="3230")
    return ask.says()


@habit(GITHUB + "nexu-io/nexu/issues/875", asked={"turns": SEEN})
def openrouter_model_that_sees_nothing(ask: Ask) -> Answer:
    return refused("No endpoints found that support image input", 404) if images(ask) else ask.says()


@habit(GITHUB + "ollama/ollama/issues/17301", api="responses", asked={"turns": SEEN})
def ollama_model_that_sees_nothing(ask: Ask) -> Answer:
    """The report is of its Anthropic API."""
    return refused("this model does not support image input (ref: b8bd630e)") if images(ask) else respond(ask, item())


@habit("https://docs.claude.com/en/docs/build-with-claude/vision", asked={"turns": SEEN})
def anthropic_image_that_is_too_large(ask: Ask) -> Answer:
    return refused("messages.0.content.1.image.source: image exceeds 5 MB maximum") if images(ask) else ask.says()


# --- shapes of replies ------------------------------------------------------------------------------------------------


@habit(GITHUB + "ollama/ollama/issues/7881")
def ollama_calls_without_index(ask: Ask) -> Answer:
    return ask.turn(ask.calls(call(index=None)))


@habit(GITHUB + "ollama/ollama/issues/4357")
def ollama_empty_finish_reasons(ask: Ask) -> Answer:
    if not ask.streamed:
        return ask.says()
    return Answer(events=[chunk({"content": "It is "}, ""), chunk({"content": "sunny."}, ""), chunk({}, "stop")])


@habit(GITHUB + "langbot-app/LangBot/pull/2262")
def calls_without_an_id(ask: Ask) -> Answer:
    """Those that servers make up must fit Mistral too: github.com/ml-explore/mlx-lm/issues/1375."""
    if ask.outputs:
        assert re.fullmatch("[a-zA-Z0-9]{9}", ask.outputs[0]["tool_call_id"])
    return ask.turn(ask.calls(call(None)))


@habit("https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter-annotations")
def azure_chunk_without_choices(ask: Ask) -> Answer:
    said = ask.says()
    return Answer(events=[{"choices": [], "prompt_filter_results": []}, *(said.events or ())]) if ask.streamed else said


@habit(GITHUB + "elizaOS/eliza/issues/30904", text="It is \U0001f31e.")
def a_character_cut_in_two(ask: Ask) -> Answer:
    """The report is of an agent's own stream."""
    if not ask.streamed:
        return ask.says("It is \U0001f31e.")
    return Answer(events=[chunk({"content": "It is \ud83c"}), chunk({"content": "\udf1e."}), chunk({}, "stop")])


@habit(GITHUB + "UKGovernmentBEIS/inspect_ai/pull/3802", text="It is \ufffd.")
def half_a_character(ask: Ask) -> Answer:
    return ask.says("It is \ud83c.")


@habit(GITHUB + "qualcomm/GenieX/issues/567", streams=(True,))
def a_whole_answer_where_a_stream_was_asked_for(ask: Ask) -> Answer:
    """The report is of `/v1/completions`."""
    message = {"role": "assistant", "content": DONE}
    return Answer({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


@habit(GITHUB + "vllm-project/vllm/issues/27572", streams=(True,))
def vllm_done_without_a_finish_reason(ask: Ask) -> Answer:
    """And SGLang: github.com/sgl-project/sglang/issues/4550."""
    return Answer(events=[chunk({"content": DONE})])


@habit(unreported("https://platform.openai.com/docs/api-reference/chat-streaming"), fails="broke off", streams=(True,))
def a_stream_without_its_end(ask: Ask) -> Answer:
    return Answer(events=[chunk({"content": "It"})], end="")


@habit(unreported("https://html.spec.whatwg.org/multipage/server-sent-events.html"), streams=(True,))
def lines_that_end_with_carriage_returns(ask: Ask) -> Answer:
    events = [chunk({"content": "It is "}), chunk({"content": "sunny."}), chunk({}, "stop")]
    return Answer(events=[f"event: message\r\nid: 1\r\ndata:{json.dumps(each)}\r\n\r\n" for each in events])


UNREADABLE: Final = "cannot be read"
SPECIFIED: Final = unreported("https://platform.openai.com/docs/api-reference/chat/object")


@habit(GITHUB + "Kilo-Org/kilocode/pull/5816", fails=UNREADABLE)
def numbers_as_ids(ask: Ask) -> Answer:
    return ask.calls({**call(), "id": 17})


@habit(SPECIFIED, fails=UNREADABLE)
def objects_as_names(ask: Ask) -> Answer:
    return ask.calls({**call(), "function": {"name": {"get": "weather"}, "arguments": PARIS}})


@habit(SPECIFIED, fails=UNREADABLE)
def texts_as_usage(ask: Ask) -> Answer:
    return ask.says(usage={"prompt_tokens": "many", "completion_tokens": "few"})


# --- calls in pieces, and empty ones ---------------------------------------------------------------------------------

SIGNATURE: Final = {"google": {"thought_signature": "c2lnbmF0dXJl"}}
CHUNKS: Final = unreported("https://platform.openai.com/docs/api-reference/chat-streaming/streaming")


@habit(CHUNKS, streams=(True,))
def a_name_that_comes_after_its_id(ask: Ask) -> Answer:
    if ask.outputs:
        made = ask.asked["tool_calls"][0]
        assert (made["id"], made["function"]) == ("call_1", {"name": "get_weather", "arguments": PARIS})
        assert made["extra_content"] == SIGNATURE
        return ask.says()
    pieces = [
        {"index": 0, "id": "call_1", "type": "function", "extra_content": SIGNATURE},
        {"index": 0, "function": {"name": "get_weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": PARIS}},
    ]
    return Answer(events=[*(chunk({"tool_calls": [piece]}) for piece in pieces), chunk({}, "tool_calls")])


@habit(GITHUB + "lmstudio-ai/lmstudio-bug-tracker/issues/830")
def an_empty_call_at_the_end(ask: Ask) -> Answer:
    if ask.outputs:
        return ask.says() if len(ask.outputs) == 1 else refused("an output of no call")
    empty = {"index": 1, "id": "", "type": "function", "function": {"name": "", "arguments": ""}}
    return ask.calls(call(), empty)


@habit(SPECIFIED)
def an_empty_function_call_beside_content(ask: Ask) -> Answer:
    return ask.says(function_call={})


# --- words that cannot be stored, echoes, and other ways to refuse a field -------------------------------------------

HALF: Final = unreported("https://www.rfc-editor.org/rfc/rfc8259#section-8.2")


@habit(HALF, fails="no \ufffd here")
def half_a_character_in_an_error(ask: Ask) -> Answer:
    return refused("no \ud83d here", code="\ud83d")


@habit(HALF, fails="no \ufffd here", streams=(True,))
def half_a_character_in_an_error_of_a_stream(ask: Ask) -> Answer:
    return Answer(events=[{"error": {"message": "no \ud83d here"}}])


ending("half_a_character_in_a_reason", HALF, "error: \ud83d", fails="'error: \ufffd'")

VLLM_ECHO: Final = GITHUB + "vllm-project/vllm/issues/49239"


def echo(ask: Ask, field: str) -> Answer:
    """pydantic's errors as Python writes them, with the request."""
    place, words = ("body", field), "Extra inputs are not permitted"
    errors = [{"type": "extra_forbidden", "loc": place, "msg": words, "input": ask.body}]
    return refused(f"1 validation error:\n  {errors[0]}\n {errors}", type="Bad Request", code=400)


@habit(VLLM_ECHO, asked={"parallel_tool_calls": False, "temperature": 1.0})
def vllm_echoes_the_request(ask: Ask) -> Answer:
    if "parallel_tool_calls" in ask.body:
        return echo(ask, "parallel_tool_calls")
    assert ask.body["max_completion_tokens"] == 50 and ask.body["temperature"] == 1
    return ask.says()


@habit(VLLM_ECHO, fails="unsupported")
def a_refusal_that_no_other_request_mends(ask: Ask) -> Answer:
    """Its words hold the request; what is asked without `refuse` is answered."""
    if ask.messages[0]["content"] == "well":
        assert ask.body["max_completion_tokens"] == 50
        return ask.says()
    return refused(f"unsupported request: {json.dumps(ask.body)}")


@habit(GITHUB + "Vali-98/ChatterUI/issues/564", asked={"temperature": 1.0, "top_p": 0.5})
def anthropic_takes_one_of_two(ask: Ask) -> Answer:
    if "temperature" in ask.body and "top_p" in ask.body:
        return refused("`temperature` and `top_p` cannot both be specified for this model. Please use only one.")
    assert ask.body["top_p"] == 0.5
    return ask.says()


@habit(GITHUB + "The-PR-Agent/pr-agent/issues/2456", asked={"temperature": 1.0})
def anthropic_without_temperature(ask: Ask) -> Answer:
    if "temperature" in ask.body:
        return refused("`temperature` is deprecated for this model.")
    return ask.says()


@habit(
    GITHUB + "openai/openai-python/issues/2540",
    api="responses",
    asked={"temperature": 1.0, "parallel_tool_calls": False},
)
def responses_without_temperature(ask: Ask) -> Answer:
    """The report is of `temperature` alone; of the other one: github.com/evalstate/fast-agent/issues/279 (Chat)."""
    for name in ("temperature", "parallel_tool_calls"):
        if name in ask.body:
            return refused(f"Unsupported parameter: '{name}' is not supported with this model.", param=name)
    assert ask.body["max_output_tokens"] == 50
    return respond(ask, item())


@habit(GITHUB + "lmstudio-ai/lmstudio-bug-tracker/issues/670", api="responses", asked={"tool_choice": FORCED})
def responses_without_forced_functions(ask: Ask) -> Answer:
    """The report is of Chat Completions."""
    choice = ask.body.get("tool_choice")
    if isinstance(choice, dict):
        return refused("Invalid tool_choice type: 'object'. Supported string values: none, auto, required")
    if ask.outputs:
        return respond(ask, item())
    assert choice == "required" and [tool["name"] for tool in ask.body["tools"]] == ["get_weather"]
    return respond(ask, function_item())


@habit("https://docs.ollama.com/api/openai-compatibility", api="responses", asked={"tool_choice": FORCED})
def responses_with_a_forced_function_that_is_ignored(ask: Ask) -> Answer:
    """The page says it of Chat Completions."""
    if isinstance(ask.body.get("tool_choice"), dict):
        return respond(ask, item(UNWANTED))
    return respond(ask, item()) if ask.outputs else respond(ask, function_item())


@habit(
    unreported("https://platform.openai.com/docs/api-reference/responses/create"),
    api="responses",
    asked={"tool_choice": FORCED},
)
def responses_with_words_before_a_forced_function(ask: Ask) -> Answer:
    if ask.outputs:
        return respond(ask, item())
    assert isinstance(ask.body["tool_choice"], dict)
    return respond(ask, item("Let me look."), function_item())


@habit(
    unreported("https://platform.openai.com/docs/api-reference/responses/create"),
    api="responses",
    asked={"tool_choice": FORCED},
    finish="content_filter",
)
def responses_with_a_filter_before_a_forced_function(ask: Ask) -> Answer:
    assert isinstance(ask.body["tool_choice"], dict)
    return respond(ask, item(), status="incomplete", incomplete_details={"reason": "content_filter"})


@habit(unreported("https://www.rfc-editor.org/rfc/rfc9110#section-8.4"))
def an_encoding_that_is_none(ask: Ask) -> Answer:
    said = ask.says()
    return replace(said, headers={"Content-Encoding": "none"})


@habit(SPECIFIED)
def usage_with_decimal_points(ask: Ask) -> Answer:
    return ask.says(usage={"prompt_tokens": 10.0, "completion_tokens": 5.0, "total_tokens": 15.0})


@habit(unreported("https://openrouter.ai/docs/use-cases/reasoning-tokens"))
def thoughts_of_other_types(ask: Ask) -> Answer:
    return ask.turn(ask.calls(reasoning={"text": "Hm."}, reasoning_details="Hm."))


# --- no end, and elsewhere --------------------------------------------------------------------------------------------

LONG: Final = GITHUB + "ollama/ollama/issues/16179"
ORIGIN: Final = unreported("https://www.rfc-editor.org/rfc/rfc6454#section-5")
CHUNKED: Final = unreported("https://www.rfc-editor.org/rfc/rfc9112#section-7.1")  # a body may be of any length


@habit(LONG, fails="too long", streams=(True,))
def a_stream_without_end(ask: Ask) -> Answer:
    return Answer(events=[], endless=f"data: {json.dumps(chunk({'content': 'x' * 65_000}))}\n\n".encode())


@habit(LONG, fails="without coming to an answer", streams=(True,))
def thoughts_without_end(ask: Ask) -> Answer:
    thought = chunk({"reasoning_content": "x" * 500_000})
    return Answer(events=[], endless=f"data: {json.dumps(thought)}\n\n".encode())


@habit(LONG, fails="without coming to an answer", api="responses", streams=(True,))
def thoughts_of_responses_without_end(ask: Ask) -> Answer:
    thought = {"type": "response.reasoning_text.delta", "output_index": 0, "delta": "x" * 500_000}
    return Answer(events=[], endless=f"data: {json.dumps(thought)}\n\n".encode())


@habit(unreported("https://html.spec.whatwg.org/multipage/server-sent-events.html"), fails="too long", streams=(True,))
def comments_without_end(ask: Ask) -> Answer:
    return Answer(events=[], endless=b": " + b"x" * 500_000 + b"\n\n")


@habit(CHUNKED, fails="too long", streams=(True,))
def an_event_without_end(ask: Ask) -> Answer:
    return Answer(events=['data: {"choices": "'], endless=b"x" * 65_536)


@habit(CHUNKED, fails="too long", streams=(False,))
def a_body_without_end(ask: Ask) -> Answer:
    return Answer(endless=b"x" * 65_536)


@habit(CHUNKED, fails="too long", streams=(False,))
def a_body_that_is_too_long(ask: Ask) -> Answer:
    return ask.says("x" * 5 * 1024 * 1024)


@habit(
    unreported("https://www.rfc-editor.org/rfc/rfc9110#section-15.4"),
    fails="redirects to another origin, http://elsewhere.test,",
)
def a_redirect_to_another_host(ask: Ask) -> Answer:
    return Answer({}, status=307, headers={"Location": "http://elsewhere.test/v1/chat/completions"})


@habit(ORIGIN, fails="redirects to another origin, http://127.0.0.1:9,")
def a_redirect_to_another_port(ask: Ask) -> Answer:
    return Answer({}, status=307, headers={"Location": f"http://127.0.0.1:9/{ask.path}"})


@habit(ORIGIN, fails="redirects to another origin, https://127.0.0.1:")
def a_redirect_to_another_scheme(ask: Ask) -> Answer:
    return Answer({}, status=308, headers={"Location": f"https://{ask.host}/{ask.path}"})


@habit("https://fastapi.tiangolo.com/reference/fastapi/#fastapi.FastAPI--redirect_slashes")
def a_redirect_to_a_slash(ask: Ask) -> Answer:
    if ask.path.endswith("/"):
        return ask.says()
    here = f"http://{ask.host}/a_redirect_to_a_slash/v1/{ask.path}/"
    return Answer({}, status=307, headers={"Location": here})
