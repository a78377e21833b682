"""Files: a document and a content each. This module implements the order of their writes.

The content is stored first and removed last, so no file is ever without it. Content without a file, which a crash may
leave, is removed by a work item that was sent before.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from assistants_service.core import names
from assistants_service.core.errors import ApiError, no_such_file
from assistants_service.core.fanout import fan_out
from assistants_service.core.ids import made_at
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.documents import Document, Stored
from assistants_service.core.ports.storage import Conflict, Storage, StorageUnavailable
from assistants_service.core.protocol.files.requests import CreateFile
from assistants_service.core.protocol.files.resources import File
from assistants_service.core.protocol.objects import encode
from assistants_service.core.request_context import RequestContext
from assistants_service.core.resources import FILE
from assistants_service.core.work_items import MAX_DELAY, CleanUpFile, PurgeFile, WorkItem, to_body

FIRST_LOOK: Final = 600.0  # seconds after which a worker checks whether the file was created
PATIENCE: Final = 24 * 3600.0  # seconds that an upload may take: after that, its bytes are removed
MARGIN: Final = 600.0  # seconds before that time in which no document is created any more
BATCH_LIFETIME: Final = 30 * 24 * 3600  # default lifetime in seconds of a file of purpose `batch` (published document)
OUTPUT: Final = "assistants_output"  # the purpose of files that tools make (outputs.py)
LAST: Final = 2**62  # version of a tombstone that no document replaces
SCAN: Final = 500  # documents per read if most may be filtered out

decode_file = msgspec.json.Decoder(File).decode

DetachFile = Callable[[str, str], Awaitable[None]]  # of project and file id


async def detach_nothing(project: str, file_id: str) -> None:
    """Nothing else refers to files."""


@dataclass(slots=True)
class Received:
    """Content of `size` bytes, stored under the id of a file that has no document yet. `used`: that file has been
    created, or may have been."""

    file_id: str
    size: int
    used: bool = False


@dataclass(frozen=True, slots=True)
class FileService:
    """The files of all projects."""

    storage: Storage
    clock: Clock
    notifier: Notifier
    detach_file: DetachFile = detach_nothing  # detaches a deleted file from what refers to it

    @contextlib.asynccontextmanager
    async def receive(self, context: RequestContext, chunks: AsyncIterator[bytes]) -> AsyncIterator[Received]:
        """Receives the content of a new file, for which `create` writes the document. Without a document, the content
        is removed when the caller is done; but not after an error after which a retry may find the file. Raises
        ApiError for an empty file, and for an upload that takes a day."""
        project, file_id, begun = context.project, context.ids.new(FILE.prefix), self.clock.now()
        name = names.document(project, file_id)
        # 1. enqueue, before the first byte: the worker finds whatever a crash leaves.
        await self.enqueue(CleanUpFile(project=project, file_id=file_id, sent_at=begun), delay=FIRST_LOOK)
        # 2. content
        try:
            part = await self.storage.stage(names.CONTENTS, name, "whole", chunks)
        except BaseException:  # refused while it arrived, or the client disconnected
            await self._discard_early(name)
            raise
        received = Received(file_id, part.size)
        try:
            if not part.size:
                raise ApiError("The file is empty.", param="file")
            if self.clock.now() > begun + PATIENCE - MARGIN:  # the worker might remove the content under the document
                raise ApiError("The upload took too long.", status=408)
            await self.storage.commit(names.CONTENTS, name, [part])
            yield received
        except ApiError:
            if not received.used:
                await self._discard_early(name)
            raise
        if not received.used:
            await self._discard_early(name)

    async def create(self, context: RequestContext, file_id: str, body: CreateFile, received: Received) -> File:
        """Create the file that the body describes. Its id is that of the content; or another one, if an earlier request
        with the same Idempotency-Key created that file, which is then returned. Raises ApiError if its bytes were
        removed since."""
        received.used = file_id == received.file_id
        if not received.used:
            await self._check_earlier(context.project, file_id)
        created_at = int(self.clock.now())  # when it is complete, not when its first byte arrived
        file = File(
            id=file_id,
            purpose=body.purpose,
            filename=body.filename,
            bytes=received.size,
            created_at=created_at,
            expires_at=expiry(body.purpose, body.expires_after.seconds if body.expires_after else None, created_at),
        )
        # 3. document
        return await self.publish(context.project, file)

    async def _check_earlier(self, project: str, file_id: str) -> None:
        """Check that the bytes of the earlier request with this Idempotency-Key are still there. If that request ended
        before it created the file, the worker removes them a day after their upload began, and the key may be valid for
        longer. Raises ApiError if the document could be created without bytes."""
        stored = await self.storage.get(names.FILES, names.document(project, file_id))
        if stored is not None:
            return
        too_late = self.clock.now() > made_at(file_id) + PATIENCE - MARGIN  # as in `receive`
        if too_late or not await self.has_content(project, file_id):
            raise ApiError("The file of this Idempotency-Key was deleted. Use another key to upload it again.")

    async def _discard_early(self, name: str) -> None:
        """Remove it before the worker would."""
        with contextlib.suppress(StorageUnavailable):
            await self.storage.discard(names.CONTENTS, name)

    async def publish(self, project: str, file: File) -> File:
        """Create the document of a file whose content is stored. If it exists, return the file as it is."""
        try:
            # Create-if-missing: the same request, repeated.
            await self.storage.create(names.FILES, names.document(project, file.id), encode(file))
        except Conflict:
            return decode_file((await self.fetch(project, file.id)).body)
        return file

    async def fetch(self, project: str, file_id: str) -> Stored:
        """The document. Raises the 404 for a file that is unknown or has expired."""
        stored = await self.storage.get(names.FILES, names.document(project, file_id))
        if stored is None or self._expired(decode_file(stored.body)):
            raise no_such_file(file_id)
        return stored

    async def existing(self, project: str, file_ids: Sequence[str]) -> set[str]:
        """Returns the files that exist and have not expired."""
        found = await fan_out(lambda file_id: self.storage.get(names.FILES, names.document(project, file_id)), file_ids)
        files = [decode_file(stored.body) for stored in found if stored]
        return {file.id for file in files if not self._expired(file)}

    async def page(
        self, project: str, *, purpose: str | None, after: str | None, limit: int, newest_first: bool
    ) -> list[Stored]:
        """Up to `limit` documents after the id `after`, ordered by the start of their upload."""
        found: list[Stored] = []
        cursor = names.document(project, after) if after else None
        while len(found) < limit:
            wanted = limit - len(found) if purpose is None else max(SCAN, limit - len(found))
            rows = await self.storage.page(
                names.FILES, f"{project}/", after=cursor, limit=wanted, newest_first=newest_first
            )
            for row in rows:
                file = decode_file(row.body)
                if purpose in (None, file.purpose) and not self._expired(file):
                    found.append(row)
            if len(rows) < wanted:
                break
            cursor = rows[-1].name
        return found[:limit]

    def read(self, project: str, file_id: str, *, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The content, as ports.contents returns it."""
        return self.storage.download(names.CONTENTS, names.document(project, file_id), offset=offset, length=length)

    async def has_content(self, project: str, file_id: str) -> bool:
        return bool([piece async for piece in self.read(project, file_id, length=1)])

    async def delete(self, context: RequestContext, file_id: str) -> None:
        """The file is gone at once; the worker removes the rest. Raises the 404 for an unknown file."""
        file = decode_file((await self.fetch(context.project, file_id)).body)
        # 1. enqueue: a crash after this leaves the file, and an item that is dropped after a while.
        await self.enqueue(PurgeFile(project=context.project, file_id=file_id, sent_at=context.now))
        # 2. document
        if file.purpose == OUTPUT:
            await self._write_tombstone(context.project, file_id)
        elif not await self.storage.remove(names.FILES, names.document(context.project, file_id)):
            raise no_such_file(file_id)
        self.notifier.notify("work")

    # -- for the worker --------------------------------------------------------------------------------------------

    async def clean_up(self, project: str, file_id: str, begun: float) -> float | None:
        """Remove a file that was not created in time or has expired. Returns the time of the next check, if any.

        Expired files are hidden from readers immediately, so it does not matter how late this happens.
        """
        now = self.clock.now()
        stored = await self.storage.get(names.FILES, names.document(project, file_id))
        if stored is None:
            if now < begun + PATIENCE:
                return min(begun + PATIENCE, now + max(FIRST_LOOK, now - begun))
            await self.empty(project, file_id)
            # Of an output that was kept after its thread, and deleted since, the tombstone is left. Nothing writes the
            # document of such a file any more.
            await self.storage.remove(names.FILES, names.document(project, file_id))
            return None
        file = decode_file(stored.body)
        if not self._expired(file):
            return file.expires_at
        # The document first: after a crash, the next delivery finds none, and removes the rest.
        await self.storage.remove(names.FILES, stored.name)
        await self.empty(project, file_id)
        return None

    async def purge(self, project: str, file_id: str) -> bool:
        """Remove the rest of a deleted file. False if it is not deleted (yet)."""
        if await self.storage.get(names.FILES, names.document(project, file_id)):
            return False
        await self.empty(project, file_id)
        return True

    async def withdraw(self, project: str, file_id: str) -> None:
        """Remove an output whose thread is gone, whether or not it was shown."""
        await self._write_tombstone(project, file_id)
        await self.empty(project, file_id)

    async def _write_tombstone(self, project: str, file_id: str) -> None:
        """Replace the document by a permanent tombstone: a process that still projects the log could otherwise write it
        again."""
        await self.storage.write_if_newer(Document(names.FILES, names.document(project, file_id), b"", LAST))

    async def empty(self, project: str, file_id: str) -> None:
        """Remove what is left of a file without a document. The content goes last, so that an interrupted removal is
        repeated."""
        await self.detach_file(project, file_id)
        await self.storage.discard(names.CONTENTS, names.document(project, file_id))

    # --------------------------------------------------------------------------------------------------------------

    def _expired(self, file: File) -> bool:
        return file.expires_at is not None and self.clock.now() >= file.expires_at

    async def enqueue(self, item: WorkItem, *, delay: float = 0) -> None:
        """`delay` in seconds, negative values count as 0: Azure would refuse them. If it is longer than the queue
        allows, the item arrives early, and is sent again for the rest of the time."""
        await self.storage.send(to_body(item), delay=max(0.0, min(delay, MAX_DELAY)))


def expiry(purpose: str, seconds: int | None, created_at: int) -> int | None:
    """The time at which a file created at `created_at` expires. `seconds` is its `expires_after`; None: the default."""
    if seconds is None and purpose == "batch":
        seconds = BATCH_LIFETIME
    return None if seconds is None else created_at + seconds
