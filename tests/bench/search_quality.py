"""How well are files found? The sections of a book of questions and answers (`faq/`), each a file without its title;
asked are its titles that are questions. By words, by vectors and by both, over HTTP.

What answers a question is the section that was written for it. Others may do so, too, and many sections share no word
with their question: so the figures are low, and good for comparing one with another.
"""

from __future__ import annotations

import asyncio
import json
import math
import statistics
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from driver import Client
from stand import Figure, Stand, at_least

FAQ = Path(__file__).parent / "faq"
LANGUAGES = {"en": "English", "de": "German", "ru": "Russian", "ja": "Japanese"}
TOP, AT_ONCE = 10, 8
ANYWAY = 0.9  # of what the better one finds, both together find at least
BALANCES: Mapping[str, Mapping[str, float] | None] = {
    "words": {"embedding_weight": 0, "text_weight": 1},
    "vectors": {"embedding_weight": 1, "text_weight": 0},
    "both": None,
}


async def search_quality(stand: Stand, engine: str) -> AsyncIterator[Figure]:
    async with stand.service(engine) as one:
        for language, name in LANGUAGES.items():
            sections: list[tuple[str, str]] = json.loads((FAQ / f"{language}.json").read_text())
            files = await upload(one.client, [text for _, text in sections])
            store = await _store(one.client, files)
            asked = [(title, file) for (title, _), file in zip(sections, files, strict=True) if title[-1] in "?!？"]
            found = {by: await _quality(one.client, store, asked, balance) for by, balance in BALANCES.items()}
            for by, quality in found.items():
                least = at_least(ANYWAY * max(found["words"], found["vectors"])) if by == "both" else None
                what = f"{name}, {len(asked)} questions, {len(files)} files, by {by}: nDCG@{TOP}"
                yield Figure(engine, what, quality, "", limit=least)


async def upload(client: Client, texts: list[str]) -> list[str]:
    """The ids of new files, in the order of the texts."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, text: str) -> str:
        async with room:
            return await client.upload(f"section-{number}.txt", text.encode())

    return await asyncio.gather(*(one(number, text) for number, text in enumerate(texts)))


async def _store(client: Client, files: list[str]) -> str:
    store = (await client.call("POST", "/vector_stores", {"file_ids": files}))["id"]
    async with asyncio.timeout(120):
        while (counts := (await client.call("GET", f"/vector_stores/{store}"))["file_counts"])["in_progress"]:
            await asyncio.sleep(0.1)
    assert counts["completed"] == len(files), counts
    return str(store)


async def _quality(
    client: Client, store: str, asked: list[tuple[str, str]], balance: Mapping[str, float] | None
) -> float:
    """The mean, over the questions, of 1 / log2(1 + rank) of the file that was written for it; 0 from the 11th on."""

    async def gain(question: str, file: str) -> float:
        body = {"query": question, "max_num_results": 50, "ranking_options": {"hybrid_search": balance}}
        found = (await client.call("POST", f"/vector_stores/{store}/search", body))["data"]
        files = list(dict.fromkeys(each["file_id"] for each in found))[:TOP]
        return 1 / math.log2(2 + files.index(file)) if file in files else 0.0

    return statistics.fmean([await gain(question, file) for question, file in asked])
