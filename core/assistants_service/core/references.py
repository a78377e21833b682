"""Checks that the files, stores and models that a body refers to exist before anything is written: a run would fail
later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from assistants_service.core import names
from assistants_service.core.errors import ApiError, no_such, no_such_file
from assistants_service.core.fanout import fan_out
from assistants_service.core.files.service import FileService
from assistants_service.core.ids import SAFE_ID
from assistants_service.core.ports.models import Models, NoSuchModel
from assistants_service.core.protocol.bodies import Body
from assistants_service.core.vector_stores.repository import VectorStoreRepository

FILE, STORE = "file", "vector store"
KINDS: Final = {"file_id": FILE, "file_ids": FILE, "vector_store_ids": STORE}


@dataclass(frozen=True, slots=True)
class References:
    """Checks references in bodies, before an Idempotency-Key is reserved and before an update."""

    models: Models
    files: FileService
    stores: VectorStoreRepository

    async def check(self, project: str, body: Body | None) -> None:
        """Reads one document for each id. Raises the 404 for a file or store that is unknown to the project (an expired
        store is known), and the 400 for a model that no provider has."""
        await self.check_model(getattr(body, "model", None))
        named = list(dict.fromkeys(_named(body)))
        await fan_out(lambda each: self._find(project, *each), named)

    async def check_model(self, model: str | None) -> None:
        """Raises the 400 for a name that no provider serves."""
        try:
            if model:
                await self.models.check(model)
        except NoSuchModel as error:
            raise ApiError(str(error), param="model", code="model_not_found") from None

    async def _find(self, project: str, kind: str, object_id: str) -> None:
        safe = SAFE_ID.fullmatch(object_id)
        if kind == FILE:
            if not safe:
                raise no_such_file(object_id[:200])
            await self.files.fetch(project, object_id)
        else:
            if not safe:
                raise no_such(STORE, object_id[:200])
            await self.stores.fetch(names.VECTOR_STORES, project, object_id)


def _named(node: object, kind: str = "") -> Iterator[tuple[str, str]]:
    """Kind and id of every reference in the body, or in this part of it."""
    match node:
        case str() if kind:
            yield kind, node
        case list():
            for item in node:
                yield from _named(item, kind)
        case Body():
            for field, value in node:
                yield from _named(value, KINDS.get(field, ""))
