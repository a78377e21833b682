"""Authenticates callers: API keys from the settings, API keys from the store, and access tokens of an identity
provider.

A request with a known key costs one hash and one dictionary lookup. The stored keys are reloaded every REFRESH seconds
while there are requests, so a key that is created or revoked takes effect within a minute in every process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from assistants_service.api.dialects import dialect_of, is_api
from assistants_service.api.keyless import Keyless
from assistants_service.api.request_keys import PROJECT
from assistants_service.core.errors import ApiError
from assistants_service.core.keys import Caller, Keys, Scope, digest
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.storage import StorageUnavailable

log = logging.getLogger(__name__)

REFRESH: Final = 20.0  # seconds after which the stored keys are reloaded, while there are requests
STALE: Final = 50.0  # seconds after which loaded keys are too old to answer any request
AGAIN: Final = 2.0  # seconds between reloads for unknown keys, regardless of how many requests bring one
READS = ("GET", "HEAD", "OPTIONS")


class AccessTokens(Protocol):
    """Access tokens of an identity provider."""

    async def scopes(self, token: str) -> Mapping[str, Scope]:
        """What the token's roles allow, by project. Raises the ApiError of a token that is not valid."""


class StoredKeys:
    """The callers of the stored keys, as loaded a short while ago."""

    def __init__(self, keys: Keys, clock: Clock) -> None:
        self._keys, self._clock = keys, clock
        self._callers: dict[bytes, Caller] = {}
        self._any_created = False
        self._read_at = self._failed_at = float("-inf")
        self._reading = asyncio.Lock()

    async def find(self, hashed: bytes) -> Caller | None:
        await self._recent(STALE)
        if hashed not in self._callers:  # it may be new
            await self._recent(AGAIN)
        return self._callers.get(hashed)

    async def any_created(self) -> bool:
        """Whether a key was ever created: revoking the last one does not open the service again."""
        if not self._any_created:
            await self._recent(STALE)
        return self._any_created

    async def _recent(self, age: float) -> None:
        """Make sure that the loaded keys are at most `age` seconds old. Raises StorageUnavailable.

        One request every REFRESH seconds waits for the store and ignores its failure; the others wait only if the
        loaded keys are too old for them.
        """
        due = min(age, REFRESH)
        if self._age() < due or (self._reading.locked() and self._age() < age):
            return
        async with self._reading:
            if self._age() < due:  # another request has reloaded them in the meantime
                return
            try:
                await self._read()
            except StorageUnavailable as error:
                log.warning("cannot read the API keys: %s", error)
                if self._age() >= age:
                    raise

    def _age(self) -> float:
        age = self._clock.now() - self._read_at
        return age if age >= 0 else STALE  # the clock was put back

    async def _read(self) -> None:
        begun = self._clock.now()
        if 0 <= begun - self._failed_at < AGAIN:  # only one of the waiting requests asks a store that does not respond
            raise StorageUnavailable("the store did not respond a moment ago")
        try:
            found = await self._keys.list_all()
        except StorageUnavailable:
            self._failed_at = self._clock.now()
            raise
        valid = [key for key in found if key.revoked_at is None]
        self._callers = {bytes.fromhex(key.hash): Caller(key.project, key.scope) for key in valid}
        self._any_created, self._read_at = bool(found), begun


class Callers:
    """Finds the caller of a request. If not `required` and no key exists, every caller that `keyless` accepts is
    project `default`."""

    def __init__(
        self,
        stored: StoredKeys,
        fixed: Mapping[str, str],
        tokens: AccessTokens | None,
        keyless: Keyless,
        *,
        required: bool,
    ) -> None:
        self._stored, self._tokens, self._keyless = stored, tokens, keyless
        self._fixed = {digest(key): Caller(project) for key, project in fixed.items()}
        self._required = required or bool(fixed) or tokens is not None

    async def find(self, request: web.Request) -> Caller:
        """Raises the 401 of an unknown caller, and the 403 of a known one without access."""
        if not self._required and not await self._stored.any_created():
            self._keyless.check(request)
            return Caller("default")
        dialect = dialect_of(request)
        credential = dialect.credential(request)
        hashed = digest(credential)
        if caller := self._fixed.get(hashed):
            return caller
        if self._tokens and credential.count(".") == 2:
            return _chosen(await self._tokens.scopes(credential), request.headers.get("OpenAI-Project"))
        if caller := await self._stored.find(hashed):
            return caller
        raise dialect.wrong_key(credential)


def _chosen(scopes: Mapping[str, Scope], wanted: str | None) -> Caller:
    """The project that a token is for; if there are several, the one that the client selects."""
    if wanted not in scopes and len(scopes) > 1:
        several = ", ".join(sorted(scopes))
        message = f"This access token is for several projects ({several}). Select one by the header OpenAI-Project."
        raise ApiError(message, status=403, code="project_needed")
    project = wanted if wanted in scopes else next(iter(scopes), None)
    if project is None:
        message = "This access token has no role that gives access to this service."
        raise ApiError(message, status=403, code="no_role")
    return Caller(project, scopes[project])


def authentication(callers: Callers) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_api(request):
            caller = await callers.find(request)
            if caller.scope == "read" and request.method not in READS:
                message = "You have insufficient permissions for this operation: this key is read-only."
                raise ApiError(message, status=403, code="missing_scope")
            request[PROJECT] = caller.project
        return await handler(request)

    return middleware
