"""API keys created by the command: documents in the store, each with the hash of its key and never the key itself.

A key is 256 random bits, which cannot be guessed. So one round of SHA-256 protects it as well as a slow hash would, and
is cheap enough for every request. Revoked keys are kept as a record.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec.structs import replace

from assistants_service.core import names
from assistants_service.core.ids import Ids
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.documents import Documents
from assistants_service.core.ports.storage import Conflict
from assistants_service.core.protocol.objects import Struct, encode

Scope = Literal["read", "full"]
PAGE = 200  # keys per read
LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request: the project of its key, and whether the key may change anything there."""

    project: str
    scope: Scope = "full"


class Key(Struct, frozen=True, kw_only=True):
    """`hash` is the digest of the key in hex, `last` its last four characters, times are Unix times. `name` describes
    the key to people; keys of earlier versions have none."""

    id: str
    project: str
    scope: Scope
    hash: str
    last: str
    created_at: int
    revoked_at: int | None = None
    name: str = ""


_decoder = msgspec.json.Decoder(Key)


def digest(key: str) -> bytes:
    """Keys are looked up by hash, so that timing reveals nothing about a key."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def check(project: str, name: str) -> None:
    """Raises ValueError for a project or a name that cannot be."""
    if not names.PROJECT.fullmatch(project):
        raise ValueError(f"{project!r} is not a valid project name: {names.PROJECT_RULE}")
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise ValueError(f"A key's name must be a single line of at most {LONGEST_NAME} characters.")


class Keys:
    """The keys of all projects."""

    def __init__(self, storage: Documents, clock: Clock, ids: Ids) -> None:
        self._storage, self._clock, self._ids = storage, clock, ids

    async def create(self, project: str, scope: Scope, name: str = "") -> tuple[str, Key]:
        """A new key, and its stored record. Raises ValueError for an invalid project or name."""
        check(project, name)
        text = f"sk-{secrets.token_urlsafe(32)}"
        key = Key(
            id=self._ids.new("key"),
            project=project,
            scope=scope,
            hash=digest(text).hex(),
            last=text[-4:],
            created_at=int(self._clock.now()),
            name=name,
        )
        await self._storage.create(names.KEYS, key.id, encode(key))
        return text, key

    async def list_all(self) -> list[Key]:
        """Oldest first, revoked ones as well."""
        found: list[Key] = []
        after = None
        while True:
            page = await self._storage.page(names.KEYS, "key_", after=after, limit=PAGE, newest_first=False)
            for stored in page:
                with contextlib.suppress(msgspec.DecodeError):  # by a later version, or by hand: not a key to this one
                    found.append(_decoder.decode(stored.body))
            if len(page) < PAGE:
                return found
            after = page[-1].name

    async def revoke(self, key_id: str) -> Key | None:
        """The revoked key; None if there is no such key. Revoking it again changes nothing."""
        while True:
            stored = await self._storage.get(names.KEYS, key_id) if re.fullmatch(r"key_\w+", key_id) else None
            if stored is None:
                return None
            key = _decoder.decode(stored.body)
            if key.revoked_at is not None:
                return key
            revoked = replace(key, revoked_at=int(self._clock.now()))
            try:
                # If-Match: two concurrent revocations; the first date stays.
                await self._storage.replace(names.KEYS, key_id, encode(revoked), stored.etag)
            except Conflict:
                continue
            return revoked
