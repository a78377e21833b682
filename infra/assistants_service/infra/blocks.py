"""Streams of bytes, cut to the size in which an engine stores them."""

from __future__ import annotations

from collections.abc import AsyncIterator


async def blocks(chunks: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """The same bytes in blocks of `size`; the last one may be shorter. Holds one block and one chunk in memory."""
    gathered = bytearray()
    async for chunk in chunks:
        gathered += chunk
        while len(gathered) >= size:
            yield bytes(memoryview(gathered)[:size])
            del gathered[:size]
    if gathered:
        yield bytes(gathered)
