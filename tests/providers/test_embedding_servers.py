"""Embeddings of servers as they are: each habit below has its public source. What it takes to get vectors of them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from assistants_service.core.ports.embeddings import EmbeddingError
from assistants_service.infra.embeddings.families import Family, Input, family_of
from assistants_service.infra.embeddings.provider import SHORTEST, ProviderEmbeddings
from assistants_service.infra.settings.settings import Settings
from assistants_service.infra.wiring import embeddings_of, models_of
from scripted_upstreams import Upstream, hang_up, router, serving, whole

Habit = Callable[[web.Request], Any]
Body = Mapping[str, Any]


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with serving() as one:
        yield one


def counted(text: str) -> list[float]:
    """A direction that tells what a text is about: how many a and b it has."""
    return [float(text.count("a")), float(text.count("b")), 1e-3]


def answered(texts: Sequence[str], **more: Any) -> web.Response:
    rows = [{"object": "embedding", "index": place, "embedding": counted(text)} for place, text in enumerate(texts)]
    return web.json_response({"object": "list", "data": rows, **more})


def refused(status: int, error: Any) -> web.Response:
    return web.json_response(error, status=status, headers={"retry-after-ms": "1"})


def habit(refusal: Callable[[Body], web.Response | None]) -> Habit:
    async def answer(request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        return refusal(body) or answered(body["input"])

    return answer


def tokens(text: str) -> int:
    return len(text.split())


# --- habits -------------------------------------------------------------------------------------------------------


def llama_cpp(body: Body) -> web.Response | None:
    """Each text must fit into the physical batch, of 512 tokens by default (ggml-org/llama.cpp pull request 7389; with
    status 500, issues 11105 and 12295)."""
    for text in body["input"]:
        if (n := tokens(text)) > 512:
            what = f"input ({n} tokens) is too large to process. increase the physical batch size"
            return refused(500, {"error": {"code": 500, "message": what, "type": "server_error"}})
    return None


def tei(body: Body) -> web.Response | None:
    """At most 32 texts (`--max-client-batch-size`), each of what the model takes: 512 tokens of most (the CLI's
    arguments of huggingface/text-embeddings-inference, and its errors: 413 with type Validation)."""
    if (n := len(body["input"])) > 32:
        return refused(413, {"error": f"batch size {n} > maximum allowed batch size 32", "error_type": "Validation"})
    for text in body["input"]:
        if (n := tokens(text)) > 512:
            what = f"Input validation error: `inputs` must have less than 512 tokens. Given: {n}"
            return refused(413, {"error": what, "error_type": "Validation"})
    return None


def gemini(body: Body) -> web.Response | None:
    """At most 100 texts (StarTrail-org/LEANN pull request 214, geldata/gel issue 9032); the error is in a list
    (cyberchitta/openai_ex pull request 126)."""
    if len(body["input"]) <= 100:
        return None
    what = "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch\n"
    return refused(400, [{"error": {"code": 400, "message": what, "status": "INVALID_ARGUMENT"}}])


def dashscope(body: Body) -> web.Response | None:
    """At most 10 texts (memodb-io/memobase issue 142)."""
    if len(body["input"]) <= 10:
        return None
    what = "<400> InternalError.Algo.InvalidParameter: batch size is invalid, it should not be larger than 10."
    return refused(400, {"error": {"message": what, "type": "InvalidParameter", "code": "InvalidParameter"}})


def voyage(body: Body) -> web.Response | None:
    """Refuses `encoding_format` float (labring/FastGPT issue 6820)."""
    if "encoding_format" not in body:
        return None
    what = "Value 'float' supplied for argument 'encoding_format' is not valid -- accepted values are ['base64', null]."
    return refused(400, {"detail": what})


def vllm(body: Body) -> web.Response | None:
    """A model of 512 tokens (vllm-project/vllm, `maximum context length` of its OpenAI server)."""
    for text in body["input"]:
        if (n := tokens(text)) > 512:
            what = f"This model's maximum context length is 512 tokens. However, you requested {n} tokens in the input."
            return refused(400, {"error": {"message": what, "type": "BadRequestError", "code": 400}})
    return None


LONG = ("a " * 1500 + "b " * 500).strip()
SHORT = [("a " if place % 2 else "b ") * (1 + place % 7) for place in range(300)]


@pytest.mark.parametrize("refusal", [llama_cpp, tei, gemini, dashscope, voyage, vllm], ids=lambda each: each.__name__)
async def test_each_text_gets_its_vector_whatever_a_server_refuses(
    refusal: Callable[[Body], web.Response | None], upstream: Upstream
) -> None:
    upstream.script = [habit(refusal)]
    texts = [*SHORT[:150], LONG, *SHORT[150:]]
    async with router(upstream.url) as models:
        model = ProviderEmbeddings(models, "small")
        vectors = await model.embed(texts)
        expected = np.array([counted(text) for text in texts])
        assert np.allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=0.06)
        tried = len(upstream.requests)
        assert np.array_equal(await model.embed(texts), vectors)
        again = [body["input"] for _, body, _ in upstream.requests[tried:]]
    # What the server takes is known by then: nothing is tried in vain, but for what learning it would cost once more.
    assert len(again) <= -(-len(texts) // 8) + 1  # 10 are halves of 16 at most
    assert len(again) < tried
    assert not any("encoding_format" in body for _, body, _ in upstream.requests[tried:]) or refusal is not voyage


async def test_files_that_are_embedded_at_once_learn_of_a_refused_field_together(upstream: Upstream) -> None:
    upstream.script = [habit(voyage)]
    async with router(upstream.url) as models:
        model = ProviderEmbeddings(models, "small")
        await asyncio.gather(*(model.embed(SHORT[:128]) for _ in range(3)))
    assert {len(body["input"]) for _, body, _ in upstream.requests} == {128}
    assert len(upstream.requests) <= 6


async def test_a_text_that_is_too_long_gets_the_mean_of_its_parts(upstream: Upstream) -> None:
    upstream.script = [habit(vllm)]
    async with router(upstream.url) as models:
        (vector,) = await ProviderEmbeddings(models, "small").embed(["a " * 600 + "b " * 600])
    sent = [text for _, body, _ in upstream.requests for text in body["input"] if tokens(text) <= 512]
    assert sum(map(tokens, sent)) == 1200
    assert vector[:2] == pytest.approx([0.7071, 0.7071], abs=0.02)
    assert all(text.strip() in ("a " * tokens(text) + "", "b " * tokens(text) + "") or tokens(text) for text in sent)


async def test_one_long_text_does_not_make_batches_smaller(upstream: Upstream) -> None:
    upstream.script = [habit(vllm)]
    async with router(upstream.url) as models:
        model = ProviderEmbeddings(models, "small")
        await model.embed([LONG, *SHORT[:100]])
        tried = len(upstream.requests)
        await model.embed(SHORT[:128])
    assert [len(body["input"]) for _, body, _ in upstream.requests[tried:]] == [128]


async def test_numbers_may_come_in_base64_and_without_their_places(upstream: Upstream) -> None:
    """As OpenAI's clients ask for them (huggingface/text-embeddings-inference issue 288). That a server sends them
    unasked, or leaves `index` out, is not reported."""
    rows = [[1.0, 0.0], [0.0, 2.0]]
    coded = [{"embedding": base64.b64encode(np.array(row, "<f4").tobytes()).decode()} for row in rows]
    for data in (coded, [{"embedding": row} for row in rows], [{"embedding": row, "index": None} for row in rows]):
        upstream.script = [whole({"data": data})]
        async with router(upstream.url) as models:
            assert (await ProviderEmbeddings(models, "small").embed(["a", "b"])).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("data", [[{"embedding": "?"}], [{"embedding": "AAA="}], [{"embedding": [1.0]}] * 2])
async def test_what_is_no_vector_is_told(data: Any, upstream: Upstream) -> None:
    upstream.script = [whole({"data": data})]
    async with router(upstream.url) as models:
        with pytest.raises(EmbeddingError, match="cannot be read"):
            await ProviderEmbeddings(models, "small").embed(["a"])


async def test_what_is_refused_at_any_size_fails_soon_and_with_the_reason(upstream: Upstream) -> None:
    upstream.script = [whole({"error": {"message": "The model does not support embeddings.", "code": None}}, 400)]
    async with router(upstream.url) as models:
        with pytest.raises(EmbeddingError, match="does not support embeddings"):
            await ProviderEmbeddings(models, "small").embed([LONG] * 128)
    # To one text by 7 halvings; from there to SHORTEST characters, both parts first and then the one, by 6 more.
    assert len(upstream.requests) <= 1 + 7 + 2 * 6
    assert all(len(text) >= SHORTEST for _, body, _ in upstream.requests for text in body["input"])


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_an_outage_or_a_wrong_key_is_no_reason_to_halve(status: int, upstream: Upstream) -> None:
    upstream.script = [whole({"error": {"message": "Not now."}}, status)]
    async with router(upstream.url, retries=1) as models:
        with pytest.raises(EmbeddingError, match="Not now"):
            await ProviderEmbeddings(models, "small").embed(["a", "b"])
    assert len(upstream.requests) == (2 if status in (429, 500, 503) else 1)
    assert all(len(body["input"]) == 2 for _, body, _ in upstream.requests)


async def test_an_outage_in_the_midst_of_halving_is_waited_for(upstream: Upstream) -> None:
    served = habit(tei)
    upstream.script = [served, hang_up, whole({"error": {"message": "Wait."}}, 429), served]
    async with router(upstream.url, retries=2) as models:
        assert len(await ProviderEmbeddings(models, "small").embed(SHORT[:64])) == 64


# --- what models want to be told ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "query", "passage", "weight"),
    [
        ("intfloat/multilingual-e5-large", "query: ", "passage: ", 0.8),
        ("e5-base-v2", "query: ", "passage: ", 0.8),
        ("intfloat/multilingual-e5-large-instruct", "Instruct: Given", "", 0.8),
        ("ollama/nomic-embed-text", "search_query: ", "search_document: ", 0.4),
        ("BAAI/bge-base-en-v1.5", "Represent this sentence", "", 0.4),
        ("BAAI/bge-m3", "", "", 0.4),
        ("mxbai-embed-large:latest", "Represent this sentence", "", 0.4),
        ("snowflake-arctic-embed2", "query: ", "", 0.4),
        ("Qwen/Qwen3-Embedding-0.6B", "Instruct: Given", "", 0.4),
        ("embeddinggemma:300m", "task: search result | query: ", "title: none | text: ", 0.4),
        ("text-embedding-3-small", "", "", 0.4),
        ("text-embedding-ada-002", "", "", 0.8),
        ("gate5", "", "", 0.4),
    ],
)
def test_families_of_models_are_known_by_their_names(model: str, query: str, passage: str, weight: float) -> None:
    family = family_of(model)
    assert family.query.prefix.startswith(query) and bool(family.query.prefix) == bool(query)
    assert family.passage.prefix == passage
    assert family.weights.vector == pytest.approx(weight)
    assert family.weights.vector + family.weights.words == pytest.approx(1)


async def test_queries_and_passages_are_told_apart(upstream: Upstream) -> None:
    upstream.script = [habit(vllm)]
    family = Family(Input("query: "), Input("passage: ", {"input_type": "passage"}))
    async with router(upstream.url) as models:
        model = ProviderEmbeddings(models, "small", family=family)
        await model.embed(["a"], "query")
        await model.embed(["a " * 600, ""])
    asked, *passages = [body for _, body, _ in upstream.requests]
    assert (asked["input"], "input_type" in asked) == (["query: a"], False)
    assert {body["input_type"] for body in passages} == {"passage"}
    assert all(text.startswith("passage: ") for body in passages for text in body["input"])  # every part of a long one


async def test_settings_overrule_what_is_known_of_a_model() -> None:
    given: dict[str, Any] = {"openai_base_url": "http://127.0.0.1:1/v1", "embedding_model": "e5-small"}
    known = embeddings_of(Settings(**given), models_of(Settings(**given)))
    assert known.weights.vector == 0.8
    told = {"query": {"prefix": "Q: "}, "passage": {"fields": {"input_type": "passage"}}}
    settings = Settings(**given, embedding_input=told, embedding_weight=0.25)
    model = embeddings_of(settings, models_of(settings))
    assert isinstance(model, ProviderEmbeddings)
    assert model._family.query == Input("Q: ")
    assert model._family.passage == Input("", {"input_type": "passage"})
    assert (model.weights.vector, model.weights.words) == (0.25, 0.75)
    offline = Settings(embedding_weight=0.5)
    assert embeddings_of(offline, models_of(offline)).weights.vector == 0.5
