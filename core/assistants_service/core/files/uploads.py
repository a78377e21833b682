"""Uploads: files in parts, each sent in its own request. This module implements the order of their writes.

An upload ends by one change of its document: exactly one of completion, cancellation and expiry succeeds. Its parts
have no documents: the content that they are staged for lists them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.files.service import PATIENCE, FileService
from assistants_service.core.files.upload_records import Record, StoredUpload, UploadRecords
from assistants_service.core.ports.contents import StagedPart
from assistants_service.core.ports.storage import Conflict
from assistants_service.core.protocol.files.requests import MAX_UPLOAD, CompleteUpload, CreateUpload
from assistants_service.core.protocol.files.resources import Upload, UploadPart
from assistants_service.core.request_context import RequestContext
from assistants_service.core.resources import FILE
from assistants_service.core.work_items import CleanUpFile, CleanUpUpload

LIFETIME: Final = 3600  # seconds within which an upload has to be completed
MAX_PARTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class UploadService:
    """The uploads of all projects. `limit` of one in bytes."""

    files: FileService
    limit: int = MAX_UPLOAD

    @property
    def _records(self) -> UploadRecords:
        return UploadRecords(self.files.storage)

    async def create(self, context: RequestContext, upload_id: str, body: CreateUpload) -> Upload:
        """A new upload. If it exists, return it as it is."""
        if body.bytes > self.limit:
            message = "Invalid 'bytes': integer above maximum value. Expected a value"
            message = f"{message} <= {self.limit}, but got {body.bytes} instead."
            raise ApiError(message, param="bytes", code="integer_above_max_value")
        project, now = context.project, context.now
        upload = Upload(
            id=upload_id,
            bytes=body.bytes,
            created_at=int(now),
            filename=body.filename,
            purpose=body.purpose,
            expires_at=int(now) + LIFETIME,
        )
        seconds = body.expires_after.seconds if body.expires_after else None
        record = Record(upload=upload, file_id=context.ids.new(FILE.prefix), expires_after=seconds)
        # 1. enqueue: a worker checks the upload when its time is over.
        await self.files.enqueue(CleanUpUpload(project=project, upload_id=upload_id, sent_at=now), delay=LIFETIME)
        # 2. document
        try:
            await self._records.create(project, record)
        except Conflict:
            return (await self._records.get(project, upload_id)).upload
        return upload

    async def pending(self, project: str, upload_id: str) -> StoredUpload:
        """An upload that accepts parts. Raises ApiError otherwise."""
        stored = await self._records.get(project, upload_id)
        self._refuse_ended(stored, "add parts to")
        return stored

    async def add_part(self, context: RequestContext, stored: StoredUpload, chunks: AsyncIterator[bytes]) -> UploadPart:
        """A part that is sent twice is two parts. Parts that the completion does not name are dropped."""
        storage, name = self.files.storage, names.document(context.project, stored.record.file_id)
        there = await storage.staged(names.CONTENTS, name)
        if len(there) >= MAX_PARTS or sum(part.size for part in there) >= self.limit:
            raise ApiError(f"An upload can have at most {MAX_PARTS} parts and {self.limit} bytes.", param="data")
        part = await storage.stage(names.CONTENTS, name, context.ids.new("part"), chunks)
        if not part.size:
            raise ApiError("The part is empty.", param="data")
        return UploadPart(id=part.id, created_at=int(self.files.clock.now()), upload_id=stored.upload.id)

    async def complete(self, context: RequestContext, upload_id: str, body: CompleteUpload) -> Upload:
        """Complete the upload, with its file. Repeating the request returns the same answer."""
        project = context.project
        while True:
            stored = await self._records.get(project, upload_id)
            if stored.upload.status == "completed" and stored.record.part_ids == tuple(body.part_ids):
                return await self._publish(project, stored)
            self._refuse_ended(stored, "complete")
            parts = await self._named(project, stored, body.part_ids)
            try:
                # 1. content: of two completions with different parts, the first one counts.
                name = names.document(project, stored.record.file_id)
                await self.files.storage.commit(names.CONTENTS, name, parts)
            except Conflict:
                if (await self._records.get(project, upload_id)).etag != stored.etag:
                    continue  # it has ended in the meantime
                message = "This upload is already being completed with other parts. Cancel it and create another one."
                raise ApiError(message, param="part_ids") from None
            if body.md5 and (found := await self._md5(project, stored)) != body.md5.lower():
                await self.cancel(context, upload_id)
                message = f"The MD5 of the parts is '{found}', not '{body.md5}'. The upload was cancelled."
                raise ApiError(message, param="md5", code="invalid_value")
            completed = stored.record.completed(body.part_ids, int(self.files.clock.now()))
            try:
                # 2. document of the upload. If-Match: exactly one of completion, cancellation and expiry succeeds.
                stored = await self._records.replace(project, stored, completed)
            except Conflict:
                continue
            # 3. document of the file
            return await self._publish(project, stored)

    async def cancel(self, context: RequestContext, upload_id: str) -> Upload:
        """Cancel at once; the worker removes the rest."""
        project = context.project
        while True:
            stored = await self._records.get(project, upload_id)
            if stored.upload.status == "cancelled":
                return stored.upload
            self._refuse_ended(stored, "cancel")
            try:
                # 1. document. If-Match: as in `complete`.
                stored = await self._records.replace(project, stored, stored.record.ended("cancelled"))
            except Conflict:
                continue
            # 2. enqueue: otherwise the worker would come only when the upload's time is over.
            await self.files.enqueue(CleanUpUpload(project=project, upload_id=upload_id, sent_at=context.now))
            self.files.notifier.notify("work")
            return stored.upload

    # -- for the worker --------------------------------------------------------------------------------------------

    async def clean_up(self, project: str, upload_id: str) -> float | None:
        """Finish what a crash interrupted, expire incomplete uploads, and remove old ones. Returns the time of the next
        check, if any."""
        stored, now = await self._records.find(project, upload_id), self.files.clock.now()
        if stored is None:
            return None  # it was never created
        match stored.upload.status:
            case "completed":
                await self._publish(project, stored)
                await self._drop_late(project, stored)
            case "pending" if now < stored.upload.expires_at:
                return stored.upload.expires_at
            case "pending":
                try:
                    # If-Match: as in `complete`.
                    await self._records.replace(project, stored, stored.record.ended("expired"))
                except Conflict:
                    return now
                await self._discard(project, stored)
            case _:
                await self._discard(project, stored)
        # A part may still arrive for an upload that has ended: its bytes are removed a day later.
        if now < stored.upload.expires_at + PATIENCE:
            return stored.upload.expires_at + PATIENCE
        await self.files.storage.remove(names.UPLOADS, names.document(project, upload_id))
        return None

    async def _drop_late(self, project: str, stored: StoredUpload) -> None:
        """Remove parts that arrived after the completion."""
        file_id, storage = stored.record.file_id, self.files.storage
        name = names.document(project, file_id)
        if await storage.get(names.FILES, name) is None:  # published, and deleted since
            return await self._discard(project, stored)
        parts = {part.id: part for part in await storage.staged(names.CONTENTS, name)}
        with contextlib.suppress(KeyError, Conflict):  # deleted in the meantime: the next check follows
            # Repeating the commit drops all parts that it does not name.
            await storage.commit(names.CONTENTS, name, [parts[part_id] for part_id in stored.record.part_ids])

    async def _discard(self, project: str, stored: StoredUpload) -> None:
        await self.files.storage.discard(names.CONTENTS, names.document(project, stored.record.file_id))

    # --------------------------------------------------------------------------------------------------------------

    def _refuse_ended(self, stored: StoredUpload, verb: str) -> None:
        late = stored.upload.status == "pending" and self.files.clock.now() >= stored.upload.expires_at
        status = "expired" if late else stored.upload.status
        if status != "pending":
            raise ApiError(f"Cannot {verb} an upload with status '{status}'.")

    async def _named(self, project: str, stored: StoredUpload, part_ids: Sequence[str]) -> list[StagedPart]:
        """The parts with these ids. Raises ApiError unless they exist and have the announced total size."""
        there = await self.files.storage.staged(names.CONTENTS, names.document(project, stored.record.file_id))
        by_id = {part.id: part for part in there}
        for index, part_id in enumerate(part_ids):
            if part_id not in by_id:
                message = f"No part found with id '{part_id[:200]}'."
                raise ApiError(message, param=f"part_ids[{index}]", code="invalid_value")
        parts = [by_id[part_id] for part_id in part_ids]
        size = sum(part.size for part in parts)
        if size != stored.upload.bytes:
            message = f"The parts have {size} bytes in total, but the upload was created for {stored.upload.bytes}."
            raise ApiError(message, param="part_ids")
        return parts

    async def _md5(self, project: str, stored: StoredUpload) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        async for piece in self.files.read(project, stored.record.file_id):
            digest.update(piece)
        return digest.hexdigest()

    async def _publish(self, project: str, stored: StoredUpload) -> Upload:
        file = stored.upload.file
        if file is None or stored.record.published:
            return stored.upload
        if file.expires_at is not None:
            now = self.files.clock.now()
            item = CleanUpFile(project=project, file_id=file.id, sent_at=now)
            await self.files.enqueue(item, delay=file.expires_at - now)
        # A missing content was deleted with its file, and the publisher died before recording the publication:
        # publishing again would restore the file.
        if await self.files.has_content(project, file.id):
            await self.files.publish(project, file)
        try:
            # If-Match: another process has published it.
            await self._records.replace(project, stored, replace(stored.record, published=True))
        except Conflict:
            pass
        return stored.upload
