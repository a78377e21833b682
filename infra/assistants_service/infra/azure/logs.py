"""Logs as append blobs. A generation is one blob: rolling over replaces it with an empty one of the same name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from azure.core import MatchConditions
from azure.storage.blob import BlobProperties

from assistants_service.core.fanout import fan_out
from assistants_service.core.ports.documents import Document
from assistants_service.core.ports.logs import Mark, Project, Tail, no_documents
from assistants_service.core.ports.storage import Conflict
from assistants_service.infra.azure.calls import StoreRefused, call, require_open, write
from assistants_service.infra.azure.documents import IF_MISSING, AzureDocuments, if_match

MAX_BLOCK: Final = 64 * 1024 * 1024  # Azure accepts 100 MiB since its API version 2022-11-02


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Some bytes of a log, and the log's end."""

    data: bytes
    mark: Mark


class AzureLogs(AzureDocuments):
    """ports.storage.Logs. The generation is in the blob's metadata; a first one has none."""

    async def start(
        self, container: str, name: str, block: bytes, project: Project = no_documents
    ) -> tuple[Mark, Sequence[Document]]:
        blob = self._blob(container, name)
        try:
            # If-None-Match: * closes the race of two creators of one name.
            etag = str((await call(lambda: blob.create_append_blob(**IF_MISSING)))["etag"])
        except StoreRefused:
            # Only an empty first generation may be started: its creator died, or lost a response, before the first
            # block.
            mark = await self._end(container, name)
            if mark is None or (mark.generation, mark.offset) != (0, 0):
                raise Conflict(f"The log {container}/{name} exists.") from None
            etag = mark.etag
        # The condition on the ETag closes the race of two writers that found the same empty log.
        return await self.append(container, name, Mark(0, 0, etag), block, project)

    async def append(
        self, container: str, name: str, mark: Mark, block: bytes, project: Project = no_documents
    ) -> tuple[Mark, Sequence[Document]]:
        if len(block) > MAX_BLOCK:
            raise ValueError(f"A block has {MAX_BLOCK} bytes at most, this one {len(block)}.")
        blob = self._blob(container, name)
        # The position closes the race of two appenders. If-Match ensures that it is the position in this generation.
        condition = if_match(mark.etag) if mark.etag else {}
        end = mark.offset + len(block)

        async def send() -> Mark:
            done = await blob.append_block(block, length=len(block), appendpos_condition=mark.offset, **condition)
            return Mark(mark.generation, end, str(done["etag"]))

        return await write(send, lambda: self._mine(container, name, mark, block)), project()

    async def _mine(self, container: str, name: str, mark: Mark, block: bytes) -> Mark | None:
        """The log's position after this process's own block, if the block is there."""
        end = Mark(mark.generation, mark.offset + len(block), mark.etag)
        for candidate in (name, archive_name(name, mark.generation)):  # the log, or its archive after a roll-over
            try:
                piece = await self._piece(container, candidate, mark.offset, len(block))
            except StoreRefused:
                continue
            if candidate == name and piece.mark.generation != mark.generation:
                continue
            if piece.data != block:
                return None
            # If the log has grown already, the old ETag makes the next append fail, as it should.
            ours_is_last = candidate == name and piece.mark.offset == end.offset
            return piece.mark if ours_is_last else end
        return None

    async def read(self, container: str, name: str, since: Mark | None, *, limit: int | None = None) -> Tail | None:
        """One request, unless the log has been rolled over since."""
        if since is None:
            return await self._whole(container, name)
        condition: dict[str, Any] = {}
        if since.etag:
            condition = {"etag": since.etag, "match_condition": MatchConditions.IfModified}
        try:
            piece = await self._piece(container, name, since.offset, limit, condition)
        except StoreRefused as refusal:
            if refusal.status == 404:
                return None
            # 304: unchanged. 416: no byte beyond the mark. If the log ends exactly there, there is nothing new; if it
            # ends elsewhere, or its ETag differs, it may be another generation.
            if refusal.status == 416 and (since.etag or refusal.size not in {None, since.offset}):
                return await self._behind(container, name, since)
            return Tail(b"", since)
        if piece.mark.generation != since.generation:
            return await self._whole(container, name, since)
        end = since.offset + len(piece.data)
        # Without the ETag: it would answer "unchanged" to a reader that is not at the end.
        return Tail(piece.data, piece.mark if end == piece.mark.offset else Mark(piece.mark.generation, end))

    async def _behind(self, container: str, name: str, since: Mark) -> Tail | None:
        end = await self._end(container, name)
        if end is None:
            return None
        if end.generation != since.generation:
            return await self._whole(container, name, since)
        return Tail(b"", min(end, since, key=lambda mark: mark.offset))

    async def _whole(self, container: str, name: str, since: Mark | None = None) -> Tail | None:
        try:
            piece = await self._piece(container, name, 0, None)
        except StoreRefused:
            return None
        if piece.mark.offset == 0 and piece.mark.generation == 0:
            return None  # its creator has not written the first block yet, or never will
        return Tail(piece.data, piece.mark, restarted=since is not None and since.generation != piece.mark.generation)

    async def _piece(
        self, container: str, name: str, offset: int, length: int | None, condition: dict[str, Any] | None = None
    ) -> LogPiece:
        blob = self._blob(container, name)
        # An offset of 0 is left out: a range of an empty blob is an error, the whole of it is not.
        options = {**(condition or {}), **({"offset": offset} if offset or length else {})}

        async def download() -> LogPiece:
            stream = await blob.download_blob(length=length, **options)
            data = await stream.readall()
            total = stream.properties.content_range
            return LogPiece(data, _mark(stream.properties, int(total.rpartition("/")[2]) if total else len(data)))

        return await call(download)

    async def roll_over(self, container: str, name: str, mark: Mark) -> Mark:
        blob = self._blob(container, name)
        # 1. Read up to the mark, under the ETag that step 3 requires.
        try:
            piece = await self._piece(container, name, 0, None)
        except StoreRefused as refusal:
            raise Conflict(str(refusal)) from None
        if (piece.mark.generation, piece.mark.offset) != (mark.generation, mark.offset):
            raise Conflict(f"The log {container}/{name} has changed.")
        # 2. Archive it. A process delayed since step 1 must not replace a longer text with a shorter one: the length is
        # the version, and a document never goes back.
        archive = archive_name(name, mark.generation)
        await self.write_if_newer(Document(container, archive, piece.data, mark.offset, created=True))
        # 3. If-Match closes the race with an append since step 1, and with another process that rolls over.
        mine, metadata = mark.generation + 1, {"generation": str(mark.generation + 1)}

        async def send() -> Mark:
            done = await blob.create_append_blob(metadata=metadata, **if_match(piece.mark.etag))
            return Mark(mine, 0, str(done["etag"]))

        async def there() -> Mark | None:
            end = await self._end(container, name)
            return end if end and (end.generation, end.offset) == (mine, 0) else None

        return await write(send, there)

    async def drop(self, container: str, name: str) -> None:
        end = await self._end(container, name)
        if end is None:
            return
        # The log goes last: after a crash, the next process finds the generations by it.
        archives = (archive_name(name, generation) for generation in range(end.generation))
        await fan_out(partial(self._delete, container), archives)
        await self._delete(container, name)

    async def logs(self, container: str) -> Sequence[str]:
        async def listed() -> list[str]:
            blobs = require_open(self._service).get_container_client(container).list_blob_names()
            return [name async for name in blobs if name.endswith(".log")]

        return await call(listed)

    async def _delete(self, container: str, name: str) -> None:
        try:
            await call(self._blob(container, name).delete_blob)
        except StoreRefused:
            pass  # gone already

    async def _end(self, container: str, name: str) -> Mark | None:
        try:
            properties = await call(self._blob(container, name).get_blob_properties)
        except StoreRefused:
            return None
        return _mark(properties, properties.size)


def archive_name(name: str, generation: int) -> str:
    return f"{name}.{generation}"


def _mark(properties: BlobProperties, size: int) -> Mark:
    return Mark(int((properties.metadata or {}).get("generation", 0)), size, str(properties.etag))
