"""Contents as block blobs. A part is a sequence of staged blocks, and a commit is one Put Block List: no byte is
copied.

Azure removes uncommitted blocks after a week.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from azure.storage.blob import BlobBlock, ContentSettings

from assistants_service.core.ports.contents import StagedPart
from assistants_service.core.ports.storage import Conflict, ContentGone
from assistants_service.infra.azure.calls import AzureClients, StoreRefused, call
from assistants_service.infra.azure.documents import IF_MISSING
from assistants_service.infra.blocks import blocks

BLOCK: Final = 4 * 1024 * 1024  # bytes of each block of a part except the last; a blob can have 50,000 blocks
OCTETS: Final = ContentSettings(content_type="application/octet-stream")


class AzureContents(AzureClients):
    """assistants_service.ports.storage.Contents."""

    async def stage(self, container: str, name: str, part: str, chunks: AsyncIterator[bytes]) -> StagedPart:
        blob, size, number = self._blob(container, name), 0, 0
        async for block in blocks(chunks, BLOCK):
            # A block that is sent twice replaces itself: the same id has the same bytes.
            await call(lambda b=block, n=number: blob.stage_block(_block_id(part, n), b, length=len(b)))  # type: ignore[misc]
            size, number = size + len(block), number + 1
        return StagedPart(part, size)

    async def staged(self, container: str, name: str) -> Sequence[StagedPart]:
        sizes: dict[str, int] = {}
        try:
            committed, waiting = await call(lambda: self._blob(container, name).get_block_list("all"))
        except StoreRefused:
            return []
        for block in [*committed, *waiting]:
            part = str(block.id).rpartition(".")[0]
            sizes[part] = sizes.get(part, 0) + block.size
        return [StagedPart(part, size) for part, size in sizes.items()]

    async def commit(self, container: str, name: str, parts: Sequence[StagedPart]) -> None:
        blob = self._blob(container, name)
        ids = [_block_id(part.id, number) for part in parts for number in range(-(-part.size // BLOCK))]
        try:
            # If-None-Match: * closes the race of two commits with different parts: the first one stays.
            listed = [BlobBlock(block_id) for block_id in ids]
            await call(lambda: blob.commit_block_list(listed, content_settings=OCTETS, **IF_MISSING))
        except StoreRefused as refusal:
            # The same commit, by another process or by this one with a lost response: nothing is left to do.
            if await self._committed(container, name) != ids:
                raise Conflict(str(refusal)) from None

    async def _committed(self, container: str, name: str) -> list[str]:
        try:
            committed, _ = await call(lambda: self._blob(container, name).get_block_list("committed"))
        except StoreRefused:
            return []
        return [str(block.id) for block in committed]

    async def download(
        self, container: str, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        blob, start = self._blob(container, name), offset
        end = None if length is None else offset + length
        while end is None or offset < end:
            wanted = BLOCK if end is None else min(BLOCK, end - offset)

            async def fetch(offset: int = offset, wanted: int = wanted) -> tuple[bytes, int]:
                stream = await blob.download_blob(offset=offset, length=wanted)
                return await stream.readall(), int(str(stream.properties.content_range).rpartition("/")[2])

            try:
                data, size = await call(fetch)
            except StoreRefused as refusal:
                if offset == start:
                    return  # there is no such content, or it ends before
                raise ContentGone(f"The content {container}/{name} is gone: {refusal}") from None
            yield data
            offset += len(data)
            end = size if end is None else min(end, size)

    async def discard(self, container: str, name: str) -> None:
        blob = self._blob(container, name)
        try:
            _, waiting = await call(lambda: blob.get_block_list("all"))
        except StoreRefused:
            return  # there is nothing
        if waiting:
            # Staged blocks cannot be deleted, only left out of a commit. That creates an empty blob, so it is done only
            # if there are such blocks: of two workers that discard the same content, one could create it after the
            # other has finished, and die. If-None-Match: * spares a content that was committed in the meantime; it is
            # deleted next.
            with contextlib.suppress(StoreRefused):
                await call(lambda: blob.commit_block_list([], **IF_MISSING))
        with contextlib.suppress(StoreRefused):  # another process was faster
            await call(blob.delete_blob)


def _block_id(part: str, number: int) -> str:
    """Azure requires ids of one length for all blocks of a blob (at most 64 bytes)."""
    return f"{part}.{number:05}"
