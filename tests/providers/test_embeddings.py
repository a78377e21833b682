"""Vectors: of a provider over real HTTP, and of the model that needs none."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from assistants_service.core.ports.embeddings import EmbeddingError
from assistants_service.infra.configuration import ConfigurationError
from assistants_service.infra.embeddings.offline import OfflineEmbeddings
from assistants_service.infra.embeddings.provider import MOST_BYTES, ProviderEmbeddings, batches
from assistants_service.infra.settings.settings import Settings
from assistants_service.infra.wiring import embeddings_of, models_of
from scripted_upstreams import Upstream, hang_up, router, serving, whole


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with serving() as one:
        yield one


async def embedding(request: web.Request) -> web.Response:
    """Each text's length, in the last order that a client would expect."""
    body = await request.json()
    rows = [{"index": place, "embedding": [len(text), 1.0]} for place, text in enumerate(body["input"])]
    return web.json_response({"data": rows[::-1]})


async def embed(upstream: Upstream, texts: list[str], dimensions: int | None = None, **options: Any) -> Any:
    async with router(upstream.url, **options) as models:
        return await ProviderEmbeddings(models, "acme/small", dimensions).embed(texts)


async def test_each_text_gets_its_own_vector_of_length_one(upstream: Upstream) -> None:
    upstream.script = [embedding]
    vectors = await embed(upstream, ["abc", "", "a" * 100])
    expected = np.array([[3, 1], [1, 1], [100, 1]], np.float32)
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True))
    assert upstream.requests[0][0] == "/v1/embeddings"
    assert upstream.body == {"model": "small", "input": ["abc", " ", "a" * 100], "encoding_format": "float"}


async def test_many_texts_go_in_batches_in_their_order(upstream: Upstream) -> None:
    upstream.script = [embedding]
    texts = ["x" * (1 + place) for place in range(300)]
    vectors = await embed(upstream, texts)
    assert [len(body["input"]) for _, body, _ in upstream.requests] == [128, 128, 44]
    assert np.allclose(vectors[:, 0] / vectors[:, 1], np.arange(1, 301))


def test_a_batch_is_bounded_by_its_bytes_but_takes_any_one_text() -> None:
    big = "ä" * (MOST_BYTES // 2)
    assert [len(batch) for batch in batches([big + "x", "a", "b", big, "c"])] == [1, 2, 1, 1]
    assert [len(batch) for batch in batches(["a" * 1024] * 300)] == [128, 128, 44]


async def test_no_texts_send_no_request(upstream: Upstream) -> None:
    assert len(await embed(upstream, [])) == 0
    assert not upstream.requests


async def test_dimensions_are_asked_for_and_checked(upstream: Upstream) -> None:
    upstream.script = [embedding]
    assert (await embed(upstream, ["a"], 2)).shape == (1, 2)
    assert upstream.body["dimensions"] == 2
    with pytest.raises(EmbeddingError, match="cannot be read"):
        await embed(upstream, ["a"], 3)


async def test_the_name_says_provider_model_and_dimensions() -> None:
    async with router("http://127.0.0.1:1/v1") as models:
        names = [ProviderEmbeddings(models, *given).model for given in [("small",), ("acme/small",), ("small", 256)]]
    assert names == ["acme/small", "acme/small", "acme/small@256"]


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 1, "embedding": [1.0]}, {"index": 1, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": ["x"]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [None]}],
        [{"index": 0}, {"index": 1}],
    ],
)
async def test_an_answer_that_is_none_is_an_error(data: Any, upstream: Upstream) -> None:
    upstream.script = [whole({"data": data})]
    with pytest.raises(EmbeddingError, match="sent a reply that cannot be read"):
        await embed(upstream, ["a", "b"])


async def test_failures_are_retried_and_then_told_without_the_key(upstream: Upstream) -> None:
    upstream.script = [whole({"error": {"message": "wait"}}, 429), hang_up, embedding]
    assert (await embed(upstream, ["a"], retries=2)).shape == (1, 2)
    upstream.script = [whole({"error": {"message": "Incorrect API key provided: sk-abcdef12"}}, 401)]
    with pytest.raises(EmbeddingError, match=r"Incorrect API key provided: sk-\*\*\*"):
        await embed(upstream, ["a"])


# --- the offline model --------------------------------------------------------------------------------------------


async def test_the_offline_model_knows_what_is_alike() -> None:
    model = OfflineEmbeddings()
    texts = [
        "How long is the holiday of an employee?",
        "Employees have thirty days of paid vacation.",
        "The engine's lubricating oil is changed every month.",
        "",
    ]
    vectors = await model.embed(texts)
    assert (vectors.shape, vectors.dtype) == ((4, 256), np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 0], atol=1e-6)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > far + 0.1
    assert np.array_equal(vectors[1:2], await model.embed(texts[1:2]))
    await model.close()


async def test_the_offline_model_works_off_the_event_loop() -> None:
    model, turns = OfflineEmbeddings(), 0
    working = asyncio.create_task(model.embed(["The ferry leaves at noon. " * 200] * 300))
    while not working.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await working).shape == (300, 256)
    assert turns > 10
    await model.close()


async def test_a_long_text_of_rare_characters_takes_little_memory() -> None:
    model, rare = OfflineEmbeddings(), "\U00010300" * 32_000  # four tokens each
    short = await model.embed([rare[:100]])  # and the tables are read
    tracemalloc.start()
    try:
        long = await model.embed([rare])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await model.close()
    assert peak < 20_000_000
    assert np.allclose(long, short, atol=1e-3)


async def test_no_texts_have_no_vectors() -> None:
    model = OfflineEmbeddings()
    assert (await model.embed([])).shape == (0, 256)
    await model.close()


@pytest.mark.parametrize("missing", ["wordllama", "tokenizers", "safetensors"])
def test_without_its_packages_files_have_no_vectors_and_the_log_says_so_once(missing: str) -> None:
    """In a process of its own, where nothing is loaded yet."""
    program = """
import asyncio, importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == MISSING:
            raise ModuleNotFoundError(f"No module named '{name}'")
sys.meta_path.insert(0, Missing())
from assistants_service.infra.embeddings.offline import OfflineEmbeddings
async def main():
    model = OfflineEmbeddings()
    for given in (["a", "b"], "passage"), (["a"], "query"), ([], "passage"):
        print((await model.embed(*given)).shape)
    await model.close()
asyncio.run(main())
"""
    program = program.replace("MISSING", repr(missing))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "(2, 0)\n(1, 0)\n(0, 0)\n"
    (line,) = done.stderr.splitlines()
    assert missing in line
    assert "by their words alone" in line
    assert "EMBEDDING_MODEL" in line


def test_the_offline_model_imports_nothing_that_it_does_not_need() -> None:
    program = """
import asyncio, json, logging, sys
from assistants_service.infra.embeddings.offline import OfflineEmbeddings
asyncio.run(OfflineEmbeddings().embed(["a"]))
print(json.dumps([name for name in ("wordllama", "requests", "openai") if name in sys.modules]))
assert not logging.getLogger().handlers
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


async def test_a_model_of_a_provider_that_is_not_there_ends_the_start() -> None:
    settings = Settings(embedding_model="text-embedding-3-small")
    with pytest.raises(ConfigurationError, match="EMBEDDING_MODEL is not valid: no configured provider has the model"):
        embeddings_of(settings, models_of(settings))
    assert embeddings_of(Settings(), models_of(Settings())).model.startswith("offline/")
