"""Puts files into an index, as tests do; as a program, one of 20 chunks for each line of its input, and says so.

python index_filler.py STORAGE NUMBER_OF_THE_FIRST_FILE
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from assistants_service.core.ports.extraction import Chunk
from assistants_service.core.search.embedded import EmbeddedIndex
from assistants_service.infra.configuration import read_settings
from assistants_service.infra.wiring import SystemClock, index_of, storage_of
from scripted_ingestion import Bag

STORE = "default/vs_1"


async def put(index: EmbeddedIndex, store: str, source: str, texts: Sequence[str], model: str = Bag.model) -> int:
    chunks = [Chunk(text, 10 * place, len(text.split())) for place, text in enumerate(texts)]
    return await index.put(store, source, chunks, await Bag().embed(texts), model)


async def fill(storage: str, first: str) -> None:
    settings = read_settings({"storage": storage})
    engine = storage_of(settings, SystemClock())
    await engine.open()
    index, number = index_of(settings, engine), int(first)
    while await asyncio.to_thread(sys.stdin.readline):
        await put(index, STORE, f"file-{number}.1", [f"tide {number} {place}" for place in range(20)])
        print(f"file-{number}.1", flush=True)
        number += 1


if __name__ == "__main__":
    asyncio.run(fill(*sys.argv[1:]))
