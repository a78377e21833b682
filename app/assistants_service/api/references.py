"""Files and vector stores that a body names must be there before anything comes of it: a run finds out too late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from assistants_service.api.service import Service
from assistants_service.core import names
from assistants_service.core.errors import ApiError, no_such, no_such_file
from assistants_service.core.fanout import fan_out
from assistants_service.core.ids import SAFE_ID
from assistants_service.core.ports.models import NoSuchModel
from assistants_service.core.protocol.bodies import Body

FILE, STORE = "file", "vector store"
KINDS: Final = {"file_id": FILE, "file_ids": FILE, "vector_store_ids": STORE}


async def check(service: Service, project: str, body: Body | None) -> None:
    """Reads one document for each id, and none if there are no ids. Raises the 404 of a file or a store that is
    unknown to the project; a store that has expired is known. Raises the 400 of a model that no provider has."""
    await check_model(service, getattr(body, "model", None))
    named = list(dict.fromkeys(_named(body)))
    await fan_out(lambda each: _find(service, project, *each), named)


async def check_model(service: Service, model: str | None) -> None:
    """Raises the 400 of a name for which no provider answers."""
    try:
        if model:
            await service.models.check(model)
    except NoSuchModel as error:
        raise ApiError(str(error), param="model", code="model_not_found") from None


def _named(node: object, kind: str = "") -> Iterator[tuple[str, str]]:
    """Kind and id of whatever is named in the body, or in this part of it."""
    match node:
        case str() if kind:
            yield kind, node
        case list():
            for item in node:
                yield from _named(item, kind)
        case Body():
            for field, value in node:
                yield from _named(value, KINDS.get(field, ""))


async def _find(service: Service, project: str, kind: str, object_id: str) -> None:
    safe = SAFE_ID.fullmatch(object_id)
    if kind == FILE:
        if not safe:
            raise no_such_file(object_id[:200])
        await service.files.fetch(project, object_id)
    else:
        if not safe:
            raise no_such(STORE, object_id[:200])
        await service.stores.fetch(names.VECTOR_STORES, project, object_id)
