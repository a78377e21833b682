"""Cuts streams of bytes into blocks of the size that an engine stores."""

from __future__ import annotations

from collections.abc import AsyncIterator


async def blocks(chunks: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """The same bytes in blocks of `size`; the last one may be shorter. Keeps one block and one chunk in memory."""
    gathered = bytearray()
    async for chunk in chunks:
        gathered += chunk
        while len(gathered) >= size:
            yield bytes(memoryview(gathered)[:size])
            del gathered[:size]
    if gathered:
        yield bytes(gathered)
