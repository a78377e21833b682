"""Documents as block blobs, one each, in wire format."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from azure.core import MatchConditions
from azure.storage.blob import ContentSettings
from cachetools import LRUCache

from assistants_service.core.fanout import fan_out
from assistants_service.core.ports.documents import Document, Stored
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.infra.azure.blob_names import LISTED, blob_name
from assistants_service.infra.azure.calls import AzureClients, StoreRefused, call, require_open, write

JSON: Final = ContentSettings(content_type="application/json")
IF_MISSING: Final[dict[str, Any]] = {"match_condition": MatchConditions.IfMissing}
KNOWN_VERSIONS: Final = 20_000
CACHED_BODIES: Final = 32 * 1024 * 1024  # bytes; a list of 10,000 files reads none of them twice
CACHED_BODY: Final = 64 * 1024  # bytes of one at most
ENTRY: Final = 1024  # bytes that an entry of the cache takes besides its body
WEIGHED_PAGE: Final = 200  # rows
TOMBSTONES_PAGE: Final = 1_000  # rows that are looked at, and known, at a time
ADVANCES: Final = 100  # attempts at one document; each failure means that another writer got a version further


@dataclass(frozen=True, slots=True)
class Version:
    """The version of a document, and the ETag that it has in the store."""

    etag: str
    number: int


@dataclass(frozen=True, slots=True)
class Row:
    """An entry of a listing. `etag` is bare; it is empty, and `size` None, where the listing does not tell."""

    name: str
    etag: str = ""
    size: int | None = None


class AzureDocuments(AzureClients):
    """ports.storage.Documents. `page` is cheap for the newest of a listed container and otherwise scans the names."""

    def __init__(self) -> None:
        super().__init__()
        self._versions: LRUCache[tuple[str, str], Version] = LRUCache(KNOWN_VERSIONS)
        self._bodies: LRUCache[tuple[str, str], Stored] = LRUCache(
            CACHED_BODIES, lambda stored: len(stored.body) + ENTRY
        )

    async def get(self, container: str, name: str) -> Stored | None:
        blob = self._blob(container, blob_name(container, name))

        async def download() -> Stored:
            stream = await blob.download_blob()
            return Stored(name, await stream.readall(), str(stream.properties.etag))

        try:
            found = await call(download)
        except StoreRefused:
            return None
        return found if found.body else None

    async def create(self, container: str, name: str, body: bytes) -> str:
        # If-None-Match: * closes the race of two creators of one name.
        return await self._store(container, name, body, IF_MISSING)

    async def replace(self, container: str, name: str, body: bytes, etag: str) -> str:
        # If-Match closes the race of two writers that have read the same version.
        return await self._store(container, name, body, if_match(etag))

    async def _store(self, container: str, name: str, body: bytes, condition: dict[str, Any]) -> str:
        async def mine() -> str | None:
            found = await self.get(container, name)
            return found.etag if found and found.body == body else None

        return await write(lambda: self._put(container, name, body, condition), mine)

    async def _put(self, container: str, name: str, body: bytes, condition: dict[str, Any], **more: Any) -> str:
        blob = self._blob(container, blob_name(container, name))
        done = await blob.upload_blob(
            body, length=len(body), overwrite="etag" in condition, content_settings=JSON, **condition, **more
        )
        return str(done["etag"])

    async def remove(self, container: str, name: str) -> bool:
        blob = self._blob(container, blob_name(container, name))
        try:
            await call(blob.delete_blob)
        except StoreRefused as refusal:
            return refusal.resent  # the earlier sending deleted it
        finally:
            self._versions.pop((container, name), None)
        return True

    # -- projections -----------------------------------------------------------------------------------------------

    async def write_if_newer(self, document: Document) -> None:
        """One request where this process wrote the last version, or where the object is new; two or more otherwise."""
        container, name = document.container, document.name
        known = self._versions.get((container, name))
        if known is None and not document.created:
            known = await self._version(container, name)
        for _ in range(ADVANCES):
            if known is not None and known.number >= document.version:
                return
            # If-Match closes the race with a writer of another version: the second writer looks at the version that
            # is there, and only a later one replaces it. If-None-Match: * does the same for the first version.
            condition = if_match(known.etag) if known else IF_MISSING
            try:
                etag = await call(lambda condition=condition: self._put_version(document, condition))  # type: ignore[misc]
            except StoreRefused:  # by another writer, or by this one, whose reply was lost: the version tells
                known = await self._version(container, name)
                continue
            self._versions[container, name] = Version(etag, document.version)
            return
        raise StorageUnavailable(f"The document {container}/{name} changes too fast to be written.")

    async def _put_version(self, document: Document, condition: dict[str, Any]) -> str:
        metadata = {"version": str(document.version)}
        return await self._put(document.container, document.name, document.body, condition, metadata=metadata)

    async def _version(self, container: str, name: str) -> Version | None:
        try:
            there = await call(self._blob(container, blob_name(container, name)).get_blob_properties)
        except StoreRefused:
            self._versions.pop((container, name), None)
            return None
        number = int((there.metadata or {}).get("version", 0))
        found = self._versions[container, name] = Version(str(there.etag), number)
        return found

    async def remove_tombstones(self, container: str, prefix: str) -> None:
        async def delete(row: Row) -> None:
            # If-Match: what a late writer has put there since the listing is no tombstone.
            condition = if_match(f'"{row.etag}"')
            try:
                await call(lambda: self._blob(container, blob_name(container, row.name)).delete_blob(**condition))
            except StoreRefused:
                pass  # changed, or gone already
            self._versions.pop((container, row.name), None)

        after = None
        while rows := await call(lambda after=after: self._along(container, prefix, after, TOMBSTONES_PAGE)):  # type: ignore[misc]
            await fan_out(delete, [row for row in rows if row.size == 0])
            after = rows[-1].name

    # -- pages -----------------------------------------------------------------------------------------------------

    async def page(
        self, container: str, prefix: str, *, after: str | None, limit: int, newest_first: bool
    ) -> list[Stored]:
        found: list[Stored] = []
        rows = self._along if newest_first == (container in LISTED) else self._against
        while limit > len(found):
            wanted = limit - len(found)
            page = await call(lambda after=after, wanted=wanted: rows(container, prefix, after, wanted))  # type: ignore[misc]
            # A document may go between the listing and the reading, or be a tombstone: the next round fills the gap.
            bodies = await fan_out(partial(self._body, container), page)
            found += [body for body in bodies if body is not None]
            if len(page) < wanted:
                break
            after = page[-1].name
        return found

    async def _along(self, container: str, prefix: str, after: str | None, limit: int) -> list[Row]:
        """The next rows in the order of the service's own listing, which starts right there."""
        start = blob_name(container, after) if after is not None else None
        options: dict[str, Any] = {"start_from": start} if start is not None else {}
        listing = (
            require_open(self._service)
            .get_container_client(container)
            .list_blobs(name_starts_with=blob_name(container, prefix), results_per_page=min(limit + 1, 5000), **options)
        )
        rows: list[Row] = []
        async for blob in listing:
            # start_from includes the start itself, and is no more than a hint to a server that does not know it.
            if start is not None and blob.name <= start:
                continue
            rows.append(Row(blob_name(container, blob.name), str(blob.etag or "").strip('"'), blob.size))
            if len(rows) == limit:
                break
        return rows

    async def _against(self, container: str, prefix: str, after: str | None, limit: int) -> list[Row]:
        """The next rows in the reverse order: reads all names before `after`, 5,000 a request, and keeps the last."""
        end = blob_name(container, after) if after is not None else None
        names: deque[str] = deque(maxlen=limit)
        listing = (
            require_open(self._service)
            .get_container_client(container)
            .list_blob_names(name_starts_with=blob_name(container, prefix))
        )
        async for name in listing:
            if end is not None and name >= end:
                break
            names.append(name)
        return [Row(blob_name(container, name)) for name in reversed(names)]

    async def list_names(self, container: str, *, after: str | None, limit: int, prefix: str = "") -> Sequence[str]:
        return [row.name for row in await call(lambda: self._along(container, prefix, after, limit))]

    async def weigh(self, container: str, prefix: str) -> int:
        """Adds up sizes in small pages: the SDK keeps the event loop for 0.23 ms a row while it reads one."""

        async def listed() -> int:
            client = require_open(self._service).get_container_client(container)
            blobs = client.list_blobs(name_starts_with=blob_name(container, prefix), results_per_page=WEIGHED_PAGE)
            return sum([blob.size or 0 async for blob in blobs])

        return await call(listed)

    async def _body(self, container: str, row: Row) -> Stored | None:
        cached = self._bodies.get((container, row.name))
        if cached and cached.etag.strip('"') == row.etag:
            return cached
        stored = await self.get(container, row.name)
        if stored and len(stored.body) <= CACHED_BODY:
            self._bodies[container, row.name] = stored
        return stored


def if_match(etag: str) -> dict[str, Any]:
    return {"etag": etag, "match_condition": MatchConditions.IfNotModified}
