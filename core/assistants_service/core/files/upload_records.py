"""The stored record of an upload: how it is read, and replaced if it has not changed in the meantime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec.structs import replace

from assistants_service.core import names
from assistants_service.core.errors import no_such_upload
from assistants_service.core.files.service import expiry
from assistants_service.core.ports.documents import Documents
from assistants_service.core.protocol.files.resources import File, Upload
from assistants_service.core.protocol.objects import Struct, encode


class Record(Struct, frozen=True, kw_only=True):
    """The stored record of an upload. `published`: the file's document was created, and is not created again."""

    upload: Upload
    file_id: str
    expires_after: int | None = None
    part_ids: tuple[str, ...] = ()
    published: bool = False

    def ended(self, status: Literal["cancelled", "expired"]) -> Record:
        return replace(self, upload=replace(self.upload, status=status))

    def completed(self, part_ids: Sequence[str], now: int) -> Record:
        upload = self.upload
        file = File(
            id=self.file_id,
            purpose=upload.purpose,
            filename=upload.filename,
            bytes=upload.bytes,
            created_at=now,
            expires_at=expiry(upload.purpose, self.expires_after, now),
        )
        return replace(self, upload=replace(upload, status="completed", file=file), part_ids=tuple(part_ids))


_decode = msgspec.json.Decoder(Record).decode


@dataclass(frozen=True, slots=True)
class StoredUpload:
    """A record, and the ETag of its document."""

    record: Record
    etag: str

    @property
    def upload(self) -> Upload:
        return self.record.upload


@dataclass(frozen=True, slots=True)
class UploadRecords:
    """The records of all projects."""

    documents: Documents

    async def create(self, project: str, record: Record) -> None:
        """Raises Conflict if the upload exists."""
        # Create-if-missing: the same request, repeated.
        await self.documents.create(names.UPLOADS, names.document(project, record.upload.id), encode(record))

    async def find(self, project: str, upload_id: str) -> StoredUpload | None:
        document = await self.documents.get(names.UPLOADS, names.document(project, upload_id))
        return None if document is None else StoredUpload(_decode(document.body), document.etag)

    async def get(self, project: str, upload_id: str) -> StoredUpload:
        """Raises the 404 if there is none."""
        stored = await self.find(project, upload_id)
        if stored is None:
            raise no_such_upload(upload_id)
        return stored

    async def replace(self, project: str, stored: StoredUpload, record: Record) -> StoredUpload:
        """Raises Conflict if the upload is not as it was in `stored`."""
        name = names.document(project, record.upload.id)
        return StoredUpload(record, await self.documents.replace(names.UPLOADS, name, encode(record), stored.etag))
