"""A search engine that finds what a test puts into it, and what a model says to use it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assistants_service.core.errors import no_such
from assistants_service.core.files.service import FileService
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.models import ToolCall
from assistants_service.core.request_context import RequestContext
from assistants_service.core.vector_stores.new import NewStore
from assistants_service.core.vector_stores.search import Found
from assistants_service.core.vector_stores.service import VectorStoreService

if TYPE_CHECKING:
    from inprocess_service import InProcess


def found(file_id: str, filename: str, score: float, text: str, **attributes: Any) -> Found:
    return Found("vs_1", file_id, filename, attributes, 0, score, text)


FOODS = found("file-foods", "favorite_foods.txt", 0.75, "Filip Carola: cake", year=2024)
PETS = found("file-pets", "pets.md", 0.5, "Rex is a dog.")


@dataclass
class FakeSearch:
    """vector_stores.search.Search. `asked` is what it was asked; `before` runs first, and may raise or wait.
    Stores whose id says so are `gone`."""

    found: Sequence[Found] = (FOODS, PETS)
    before: Callable[[], Awaitable[None]] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def search_stores(
        self, project: str, store_ids: Sequence[str], queries: Sequence[str], **options: Any
    ) -> Sequence[Found]:
        self.asked.append({"project": project, "stores": list(store_ids), "queries": list(queries), **options})
        if self.before:
            await self.before()
        for store_id in store_ids:
            if store_id.startswith("vs_gone"):
                raise no_such("vector store", store_id)
        return self.found[: options["limit"]]


def tool(**options: Any) -> dict[str, Any]:
    return {"type": "file_search", "file_search": options} if options else {"type": "file_search"}


def stores(*ids: str) -> dict[str, Any]:
    return {"file_search": {"vector_store_ids": list(ids)}}


async def made_stores(service: InProcess, *ids: str) -> dict[str, Any]:
    """Empty stores that have these ids, and the resources that name them."""
    clock = service.parts.clock
    vector_stores = VectorStoreService(service.storage, service.stores, FileService(service.storage, clock, Notifier()))
    for store_id in ids:
        await vector_stores.create(RequestContext("default", clock.now(), service.parts.ids), store_id, NewStore())
    return stores(*ids)


def searching(*queries: str, call_id: str = "call_s", name: str = "file_search") -> ToolCall:
    return ToolCall(call_id, name, json.dumps({"queries": queries}))
