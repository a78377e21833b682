"""Whether the passage that answers a question is found: documents of every kind, uploaded, read, embedded offline, and
searched over HTTP. `pytest -s tests/wire/test_passages.py` prints the figures."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import sample_documents
from assistants_service.core.search.ranking import VECTOR, WORDS
from assistants_service.infra.embeddings.offline import OfflineEmbeddings
from assistants_service.infra.extraction.pool import ReaderPool
from inprocess_service import in_process
from multipart_forms import upload

TOP = 5
Search = Callable[[str], Awaitable[Sequence[tuple[str, str]]]]  # file name and text of what is found


async def test_the_passage_is_among_the_first_five(tmp_path: Path) -> None:
    """Of at least nine questions in ten; and neither words alone nor vectors alone find more."""
    asked = sample_documents.questions()
    readers, model = ReaderPool(processes=1), OfflineEmbeddings()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(readers.close)
        stack.push_async_callback(model.close)
        service = await stack.enter_async_context(in_process(extraction=readers, embeddings=model))
        files = [await upload(service.api, path.read_bytes(), path.name) for path in sample_documents.build(tmp_path)]
        store = await service.api.post("/vector_stores", {"file_ids": [file["id"] for file in files]})
        counts = (await service.ingested(store))["file_counts"]
        assert counts["completed"] == counts["total"] == len(files)

        async def both(question: str) -> Sequence[tuple[str, str]]:
            query = {"query": question, "max_num_results": TOP}
            found = (await service.api.post(f"/vector_stores/{store['id']}/search", query))["data"]
            return [(each["filename"], each["content"][0]["text"]) for each in found]

        async def vectors(question: str) -> Sequence[tuple[str, str]]:
            found = await service.searcher.search_stores(
                "default", [store["id"]], [question], limit=TOP, weights=VECTOR
            )
            return [(each.filename, each.text) for each in found]

        async def words(question: str) -> Sequence[tuple[str, str]]:
            found = await service.searcher.search_stores("default", [store["id"]], [question], limit=TOP, weights=WORDS)
            return [(each.filename, each.text) for each in found]

        async def hits(search: Search) -> int:
            found = [(question, await search(question.question)) for question in asked]
            return sum(any(sample_documents.answers(each, *passage) for passage in first) for each, first in found)

        by = {"vectors": await hits(vectors), "words": await hits(words), "both": await hits(both)}
    print(f"\nof {len(asked)} questions about {len(files)} documents, the answer is among the first {TOP}: {by}")
    assert len(asked) >= 30
    assert by["both"] >= 0.9 * len(asked)
    assert by["both"] >= max(by["vectors"], by["words"])
