"""Uploads: files that come in parts, each part by a request of its own. The commit orders stand here.

An upload ends by a change of its one document: of a completion, a cancellation and the expiry, one happens. Its parts
have no documents: the content that they are staged for knows them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from assistants_service.core import names
from assistants_service.core.errors import ApiError, no_such_upload
from assistants_service.core.files.service import PATIENCE, Files, expiry
from assistants_service.core.ports.storage import Conflict, Part
from assistants_service.core.protocol.files.requests import CompleteUpload, CreateUpload
from assistants_service.core.protocol.files.resources import File, Upload, UploadPart
from assistants_service.core.protocol.objects import Struct, encode
from assistants_service.core.request_context import RequestContext
from assistants_service.core.work_items import CleanUpFile, CleanUpUpload

LIFETIME: Final = 3600  # seconds in which an upload has to be completed (section 3.7)
MAX_PARTS: Final = 10_000


class Record(Struct, frozen=True, kw_only=True):
    """What is stored of an upload. `published`: the file's document was made, and is not made again."""

    upload: Upload
    file_id: str
    expires_after: int | None = None
    part_ids: tuple[str, ...] = ()
    published: bool = False


_decode = msgspec.json.Decoder(Record).decode


@dataclass(frozen=True, slots=True)
class Held:
    """A record, and the version of its document."""

    record: Record
    etag: str

    @property
    def upload(self) -> Upload:
        return self.record.upload


@dataclass(frozen=True, slots=True)
class Uploads:
    """The uploads of all projects. `limit` of one in bytes."""

    files: Files
    limit: int = 8 * 1024**3

    async def create(self, context: RequestContext, upload_id: str, body: CreateUpload) -> Upload:
        """A new upload. If it is there already, as it is."""
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
        record = Record(upload=upload, file_id=context.ids.new("file"), expires_after=seconds)
        # 1. enqueue: whatever becomes of the upload, a worker looks when its time is over.
        await self.files.enqueue(CleanUpUpload(project=project, upload_id=upload_id, sent_at=now), delay=LIFETIME)
        # 2. document
        try:
            # Create-if-missing: the same request, sent again.
            await self.files.storage.create(names.UPLOADS, names.document(project, upload_id), encode(record))
        except Conflict:
            return (await self._held(project, upload_id)).upload
        return upload

    async def pending(self, project: str, upload_id: str) -> Held:
        """An upload that takes parts. Raises ApiError for any other."""
        held = await self._held(project, upload_id)
        self._refuse_ended(held, "add parts to")
        return held

    async def add_part(self, context: RequestContext, held: Held, chunks: AsyncIterator[bytes]) -> UploadPart:
        """A part that is sent twice is two parts. Those that the completion does not name are dropped."""
        storage, name = self.files.storage, names.document(context.project, held.record.file_id)
        there = await storage.staged(names.CONTENTS, name)
        if len(there) >= MAX_PARTS or sum(part.size for part in there) >= self.limit:
            raise ApiError(f"An upload has {MAX_PARTS} parts and {self.limit} bytes at most.", param="data")
        part = await storage.stage(names.CONTENTS, name, context.ids.new("part"), chunks)
        if not part.size:
            raise ApiError("The part is empty.", param="data")
        return UploadPart(id=part.id, created_at=int(self.files.clock.now()), upload_id=held.upload.id)

    async def complete(self, context: RequestContext, upload_id: str, body: CompleteUpload) -> Upload:
        """The upload with its file. The same request again has the same answer."""
        project = context.project
        while True:
            held = await self._held(project, upload_id)
            if held.upload.status == "completed" and held.record.part_ids == tuple(body.part_ids):
                return await self._publish(project, held)
            self._refuse_ended(held, "complete")
            parts = await self._named(project, held, body.part_ids)
            try:
                # 1. content: of two completions with other parts, the first one counts.
                name = names.document(project, held.record.file_id)
                await self.files.storage.commit(names.CONTENTS, name, parts)
            except Conflict:
                if (await self._held(project, upload_id)).etag != held.etag:
                    continue  # it ended meanwhile
                message = "Another completion of this upload, with other parts, came first. Cancel the upload."
                raise ApiError(message, param="part_ids") from None
            if body.md5 and (found := await self._md5(project, held)) != body.md5.lower():
                await self.cancel(context, upload_id)
                message = f"The md5 of the parts is '{found}', and not '{body.md5}'. The upload is cancelled."
                raise ApiError(message, param="md5", code="invalid_value")
            try:
                # 2. document of the upload. If-Match: one of completion, cancellation and expiry happens.
                held = await self._replace(project, held, self._completed(held, body.part_ids))
            except Conflict:
                continue
            # 3. document of the file
            return await self._publish(project, held)

    async def cancel(self, context: RequestContext, upload_id: str) -> Upload:
        """Cancelled at once; the worker removes what is left."""
        project = context.project
        while True:
            held = await self._held(project, upload_id)
            if held.upload.status == "cancelled":
                return held.upload
            self._refuse_ended(held, "cancel")
            try:
                # 1. document. If-Match: as in `complete`.
                held = await self._replace(project, held, _ended(held, "cancelled"))
            except Conflict:
                continue
            # 2. enqueue: without it, the worker would come when the upload's time is over.
            await self.files.enqueue(CleanUpUpload(project=project, upload_id=upload_id, sent_at=context.now))
            self.files.notifier.notify("work")
            return held.upload

    # -- what a worker does ----------------------------------------------------------------------------------------

    async def tidy(self, project: str, upload_id: str) -> float | None:
        """Finish what a crash left undone, expire what was never completed, forget what is long over. Returns the time
        of the next look, if any."""
        stored = await self.files.storage.get(names.UPLOADS, names.document(project, upload_id))
        if stored is None:
            return None  # its creation never came
        held, now = Held(_decode(stored.body), stored.etag), self.files.clock.now()
        match held.upload.status:
            case "completed":
                await self._publish(project, held)
                await self._drop_late(project, held)
            case "pending" if now < held.upload.expires_at:
                return held.upload.expires_at
            case "pending":
                try:
                    # If-Match: as in `complete`.
                    await self._replace(project, held, _ended(held, "expired"))
                except Conflict:
                    return now
                await self._discard(project, held)
            case _:
                await self._discard(project, held)
        # A part may still come for an upload that has ended: its bytes are removed a day later.
        if now < held.upload.expires_at + PATIENCE:
            return held.upload.expires_at + PATIENCE
        await self.files.storage.remove(names.UPLOADS, stored.name)
        return None

    async def _drop_late(self, project: str, held: Held) -> None:
        """Remove parts that came to their end after the completion."""
        file_id, storage = held.record.file_id, self.files.storage
        name = names.document(project, file_id)
        if await storage.get(names.FILES, name) is None:  # published, and deleted since
            return await self._discard(project, held)
        parts = {part.id: part for part in await storage.staged(names.CONTENTS, name)}
        with contextlib.suppress(KeyError, Conflict):  # deleted meanwhile: the next look comes
            # The same commit again drops what it does not name.
            await storage.commit(names.CONTENTS, name, [parts[part_id] for part_id in held.record.part_ids])

    async def _discard(self, project: str, held: Held) -> None:
        await self.files.storage.discard(names.CONTENTS, names.document(project, held.record.file_id))

    # --------------------------------------------------------------------------------------------------------------

    async def _held(self, project: str, upload_id: str) -> Held:
        stored = await self.files.storage.get(names.UPLOADS, names.document(project, upload_id))
        if stored is None:
            raise no_such_upload(upload_id)
        return Held(_decode(stored.body), stored.etag)

    async def _replace(self, project: str, held: Held, record: Record) -> Held:
        name = names.document(project, record.upload.id)
        return Held(record, await self.files.storage.replace(names.UPLOADS, name, encode(record), held.etag))

    def _refuse_ended(self, held: Held, verb: str) -> None:
        late = held.upload.status == "pending" and self.files.clock.now() >= held.upload.expires_at
        status = "expired" if late else held.upload.status
        if status != "pending":
            raise ApiError(f"Cannot {verb} an upload with status '{status}'.")

    async def _named(self, project: str, held: Held, part_ids: Sequence[str]) -> list[Part]:
        """The parts of these ids. Raises ApiError unless they are there and make up what was announced."""
        there = await self.files.storage.staged(names.CONTENTS, names.document(project, held.record.file_id))
        by_id = {part.id: part for part in there}
        for index, part_id in enumerate(part_ids):
            if part_id not in by_id:
                message = f"No part found with id '{part_id[:200]}'."
                raise ApiError(message, param=f"part_ids[{index}]", code="invalid_value")
        parts = [by_id[part_id] for part_id in part_ids]
        size = sum(part.size for part in parts)
        if size != held.upload.bytes:
            message = f"The parts have {size} bytes, and the upload was created for {held.upload.bytes}."
            raise ApiError(message, param="part_ids")
        return parts

    async def _md5(self, project: str, held: Held) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        async for piece in self.files.read(project, held.record.file_id):
            digest.update(piece)
        return digest.hexdigest()

    def _completed(self, held: Held, part_ids: Sequence[str]) -> Record:
        upload, now = held.upload, int(self.files.clock.now())
        file = File(
            id=held.record.file_id,
            purpose=upload.purpose,
            filename=upload.filename,
            bytes=upload.bytes,
            created_at=now,
            expires_at=expiry(upload.purpose, held.record.expires_after, now),
        )
        completed = replace(upload, status="completed", file=file)
        return replace(held.record, upload=completed, part_ids=tuple(part_ids))

    async def _publish(self, project: str, held: Held) -> Upload:
        file = held.upload.file
        if file is None or held.record.published:
            return held.upload
        if file.expires_at is not None:
            now = self.files.clock.now()
            item = CleanUpFile(project=project, file_id=file.id, sent_at=now)
            await self.files.enqueue(item, delay=file.expires_at - now)
        # A content that is gone was deleted with its file, whose publisher died before noting it: a second publisher
        # would bring the file back.
        if await self.files.has_content(project, file.id):
            await self.files.publish(project, file)
        try:
            # If-Match: another one published it.
            await self._replace(project, held, replace(held.record, published=True))
        except Conflict:
            pass
        return held.upload


def _ended(held: Held, status: Literal["cancelled", "expired"]) -> Record:
    return replace(held.record, upload=replace(held.upload, status=status))
