"""Idempotency-Key: repeating a POST that creates, with the same key, creates nothing new and gets the same answer.

The key reserves the id of the object before it is created. The object is then written under that id in one conditional
write, so a repeated request can tell whether it exists, even after a crash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from aiohttp import web

from assistants_service.api.handling import answer, services_of
from assistants_service.api.request_keys import PROJECT
from assistants_service.api.services import Services
from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.ports.documents import Stored
from assistants_service.core.ports.storage import Conflict, Storage
from assistants_service.core.protocol.bodies import Body
from assistants_service.core.protocol.objects import Struct, encode
from assistants_service.core.resources import Resource

LIFETIME = 24 * 3600.0  # seconds for which a key is remembered
MAX_KEY = 255  # characters


NONE = msgspec.Raw(b"null")


class Reservation(Struct, frozen=True, kw_only=True):
    """`digest` is that of the request; `answer` is added with the first response."""

    digest: str
    id: str
    at: float
    answer: msgspec.Raw = NONE


_decoder = msgspec.json.Decoder(Reservation)


@dataclass(slots=True)
class Reserved:
    """The id to create the object under. `known` is the earlier answer, if there is one."""

    storage: Storage
    id: str
    name: str = ""
    reservation: Reservation | None = None
    etag: str = ""

    @property
    def known(self) -> web.Response | None:
        answered = self.reservation.answer if self.reservation else NONE
        return None if answered == NONE else web.Response(body=bytes(answered), content_type="application/json")

    async def keep(self, response: web.Response) -> web.Response:
        """Store the answer, or return the one that was stored first. After a crash before this, the answer is made from
        the object itself."""
        if not self.reservation or not isinstance(response.body, bytes):
            return response
        answered = msgspec.structs.replace(self.reservation, answer=msgspec.Raw(response.body))
        try:
            # If-Match: if two requests answer at once for the same object, the first answer counts.
            await self.storage.replace(names.IDEMPOTENCY, self.name, encode(answered), self.etag)
        except Conflict:
            stored = await self.storage.get(names.IDEMPOTENCY, self.name)
            self.reservation = _decoder.decode(stored.body) if stored else None
        return self.known or response


async def create_once(
    request: web.Request, resource: Resource, create: Callable[[str], Awaitable[object]], naming: Body | None = None
) -> web.Response:
    """The answer with what `create` makes under the given id, or the answer to an earlier request with this key. Raises
    the 400 for a key that was used for a different request, and the 404 for a file or store that the body `naming`
    refers to and that does not exist."""
    object_id = services_of(request).ids.new(resource.prefix)
    return await create_under(request, object_id, create, content=await request.read(), naming=naming)


async def create_under(
    request: web.Request,
    object_id: str,
    create: Callable[[str], Awaitable[object]],
    *,
    content: bytes,
    naming: Body | None = None,
) -> web.Response:
    """`create_once` with this id, unless the key has reserved another. `content` identifies the request."""
    reserved = await reserve(request, content, object_id, naming)
    return reserved.known or await reserved.keep(answer(await create(reserved.id)))


async def reserve(request: web.Request, body: bytes, object_id: str, naming: Body | None = None) -> Reserved:
    """This id, or the one that an earlier request with the same key and `body` reserved. A refused request reserves
    nothing, so the client can correct it and reuse the key; a repeated one is not refused for objects deleted since."""
    services, project = services_of(request), request[PROJECT]
    key = request.headers.get("Idempotency-Key")
    if key is None:
        await services.references.check(project, naming)
        return Reserved(services.storage, object_id)
    if not 0 < len(key) <= MAX_KEY:
        message = f"Invalid 'Idempotency-Key': expected 1 to {MAX_KEY} characters."
        raise ApiError(message, param="Idempotency-Key", code="invalid_value")
    name = names.document(project, hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest())
    content = f"{request.method} {request.path}\n".encode(errors="surrogatepass") + body
    mine = Reservation(digest=hashlib.sha256(content).hexdigest(), id=object_id, at=services.clock.now())
    while True:
        stored = await services.storage.get(names.IDEMPOTENCY, name)
        try:
            reservation, etag = await _reserve(services, project, name, stored, mine, naming)
        except Conflict:
            continue  # another request with this key was faster: see what it reserved
        if reservation.digest != mine.digest:
            message = "This Idempotency-Key was already used for a different request. Use another key."
            raise ApiError(message, param="Idempotency-Key", code="idempotency_key_reused")
        return Reserved(services.storage, reservation.id, name, reservation, etag)


async def _reserve(
    services: Services, project: str, name: str, stored: Stored | None, mine: Reservation, naming: Body | None
) -> tuple[Reservation, str]:
    """The key's reservation: the stored one, or `mine`. Raises Conflict, and the 404 for missing objects in `mine`."""
    if stored:
        found = _decoder.decode(stored.body)
        if mine.at - found.at < LIFETIME:
            return found, stored.etag
    await services.references.check(project, naming)
    if stored is None:
        # Create-if-missing: two requests with the same new key.
        return mine, await services.storage.create(names.IDEMPOTENCY, name, encode(mine))
    # If-Match: two requests with the same expired key.
    return mine, await services.storage.replace(names.IDEMPOTENCY, name, encode(mine), stored.etag)
