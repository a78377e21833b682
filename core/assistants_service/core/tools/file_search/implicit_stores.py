"""Stores created together with an assistant or thread: by `tool_resources.file_search.vector_stores`, or for
attachments of messages.

The store is created first, then the assistant, the thread or the message. Its id is derived from the id that the
request has reserved: the same request, repeated after a crash with its key, creates no second store, and no other
request creates or fills a store with this id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from assistants_service.core.errors import ApiError
from assistants_service.core.ids import id_of
from assistants_service.core.protocol.vector_stores.requests import StoreHelper
from assistants_service.core.protocol.vector_stores.resources import ExpiresAfter
from assistants_service.core.request_context import RequestContext
from assistants_service.core.resources import VECTOR_STORE
from assistants_service.core.tools.file_search.wire import FileSearchStores, NewFileSearchResources
from assistants_service.core.vector_stores.lookups import has_expired
from assistants_service.core.vector_stores.new import NewFile, NewStore, chunking_of
from assistants_service.core.vector_stores.service import VectorStoreService
from assistants_service.core.vector_stores.state import StoreState

OF_THREADS: Final = ExpiresAfter(days=7)  # of a thread's store, unless the client sets another


@dataclass(frozen=True, slots=True)
class IndexedAttachments:
    """The attachments of new messages are in the vector store `after`; the thread had `before` ("": none)."""

    before: str
    after: str


def store_of(entry: FileSearchStores | None) -> str:
    """The id of a thread's vector store; "" if it has none."""
    return next(iter(entry.vector_store_ids if entry else ()), "")


@dataclass(frozen=True, slots=True)
class ImplicitStores:
    """The Preparation of file_search."""

    vector_stores: VectorStoreService

    async def for_assistant(
        self, context: RequestContext, assistant_id: str, body: NewFileSearchResources | None
    ) -> NewFileSearchResources | None:
        """Replaces the requested store by the id of the created one."""
        wanted = _wanted(body)
        if wanted is None:
            return body
        return _with_store(await self._make(context, assistant_id, wanted, [], None))

    async def for_thread(
        self,
        context: RequestContext,
        thread_id: str,
        body: NewFileSearchResources | None,
        file_ids: Sequence[str],
    ) -> NewFileSearchResources | None:
        """The same for a thread. Attachments of its messages are added to its store."""
        wanted = _wanted(body)
        if wanted is None and body and body.vector_store_ids and file_ids:
            await self.vector_stores.attach(context, body.vector_store_ids[0], _new(file_ids))
            return body
        if wanted is None and not file_ids:
            return body
        return _with_store(await self._make(context, thread_id, wanted or StoreHelper(), file_ids, OF_THREADS))

    async def for_messages(
        self, context: RequestContext, reserved_id: str, entry: FileSearchStores | None, file_ids: Sequence[str]
    ) -> IndexedAttachments:
        """Adds the files to the store of the thread; or to a new one, if the thread has none or its store is gone.

        The new store's id is derived from that of the message or run, not of the thread: an existing store means that
        the same request came before. With the thread's id, one of two concurrent first messages would leave its files
        out, and a thread whose store was deleted would create one with the same id again."""
        before = store_of(entry)
        if before and _is_usable(await self._look(context, before), context.now):
            await self.vector_stores.attach(context, before, _new(file_ids))
            return IndexedAttachments(before, before)
        return IndexedAttachments(before, await self._make(context, reserved_id, StoreHelper(), file_ids, OF_THREADS))

    async def _look(self, context: RequestContext, store_id: str) -> StoreState:
        return (await self.vector_stores.repository.load(context.project, store_id)).state

    async def _make(
        self,
        context: RequestContext,
        reserved_id: str,
        wanted: StoreHelper,
        files: Sequence[str],
        expires_after: ExpiresAfter | None,
    ) -> str:
        chunking = chunking_of(wanted.chunking_strategy)
        new = [NewFile(file_id, chunking=chunking) for file_id in wanted.file_ids or ()] + _new(files)
        store_id = id_of(VECTOR_STORE.prefix, reserved_id.partition("_")[2])
        state = await self._look(context, store_id)
        if state.version:  # the same request came before
            if _is_usable(state, context.now):
                await self.vector_stores.attach(context, store_id, new)
                return store_id
            store_id = context.ids.new(VECTOR_STORE.prefix)  # and the store it created is gone
        store = NewStore(new, expires_after=expires_after, metadata=wanted.metadata)
        return (await self.vector_stores.create(context, store_id, store)).id


def _is_usable(state: StoreState, now: float) -> bool:
    """Whether the store exists and has not expired."""
    return state.store is not None and not state.deleted and not has_expired(state.store, now)


def _wanted(body: NewFileSearchResources | None) -> StoreHelper | None:
    """Raises the 400 for a body that names a store and asks for a new one."""
    if body is None or not body.vector_stores:
        return None
    if body.vector_store_ids:
        name = "tool_resources.file_search"
        raise ApiError(
            f"Give either '{name}.vector_store_ids' or '{name}.vector_stores', not both.",
            param=f"{name}.vector_stores",
            code="mutually_exclusive_parameters",
        )
    return body.vector_stores[0]


def _with_store(store_id: str) -> NewFileSearchResources:
    return NewFileSearchResources(vector_store_ids=[store_id])


def _new(files: Sequence[str]) -> list[NewFile]:
    return [NewFile(file_id) for file_id in files]
