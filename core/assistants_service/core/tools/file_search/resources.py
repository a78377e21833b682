"""The vector stores to search: that of the assistant, and that of the thread, which gets the files that messages
attach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from assistants_service.core.errors import ApiError
from assistants_service.core.protocol.objects import Struct
from assistants_service.core.tools.file_search.implicit_stores import ImplicitStores, IndexedAttachments, store_of
from assistants_service.core.tools.file_search.wire import (
    FileSearchResources,
    FileSearchStores,
    NewFileSearchResources,
)
from assistants_service.core.tools.resource_rules import Aggregates, ResourceRules


def stores_in(resources: Mapping[str, Struct]) -> tuple[str, ...]:
    """The ids of the vector stores."""
    entry = resources.get("file_search")
    return entry.vector_store_ids if isinstance(entry, FileSearchStores) else ()


class FileSearchRules(ResourceRules[FileSearchResources, FileSearchStores]):
    stored = FileSearchStores
    body = FileSearchResources
    new_body = NewFileSearchResources
    attachable = True

    def keeps(self, body: FileSearchResources) -> bool:
        """An empty object leaves the entry as it is: in the published schema, `vector_store_ids` has no default."""
        return body.vector_store_ids is None

    def attached(
        self, entry: FileSearchStores | None, file_ids: Sequence[str], prepared: IndexedAttachments | None
    ) -> FileSearchStores | None:
        if prepared is None:
            return entry
        if store_of(entry) != prepared.before:  # a 409, which the SDKs retry
            raise ApiError("The vector store of the thread has changed. Please retry your request.", status=409)
        return entry if prepared.after == prepared.before else FileSearchStores(vector_store_ids=(prepared.after,))

    def preparation(self, aggregates: Aggregates) -> ImplicitStores:
        return ImplicitStores(aggregates.vector_stores)
