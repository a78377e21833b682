"""Runs the model's searches. The model gets errors as the call's output, and continues without the results."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from assistants_service.core.errors import ApiError
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.models import CountTokens
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.tools.file_search import passages
from assistants_service.core.tools.file_search.wire import FileSearchToolCall
from assistants_service.core.tools.tool import Execution, Output, ToolServices
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.vector_stores.search import Found, Search

log = logging.getLogger(__name__)

TIMEOUT = 60.0  # seconds for one search, including its embeddings
WAIT = 60.0  # seconds after its start that a run waits for the files of its stores (the vendor's guide)
LOOK_EVERY = 1.0  # seconds between reads of a store whose files another process ingests
FAILED = "The files cannot be searched at the moment."
FULL = "There is no room for more passages. Do not search again: answer from those that you have."
GO_ON = "Do not search again now: tell the user, and do not guess."

Ask = Callable[[Sequence[str]], Awaitable[Sequence[Found]]]  # searches these stores


@dataclass(frozen=True, slots=True)
class SearchServices(ToolServices):
    """`count` counts the tokens of a text, in a thread; `window` returns the context size of a model in tokens."""

    search: Search
    stores: VectorStoreRepository
    clock: Clock
    count: CountTokens
    window: Callable[[str], int]


async def ready(services: SearchServices, project: str, store_id: str, until: float) -> None:
    """Wait until the files of a store are ingested, or until this time."""
    stores = services.stores
    while (left := until - services.clock.now()) > 0:
        listener = stores.listen(project, store_id)
        try:
            state = (await stores.load(project, store_id)).state
            if state.deleted or not state.waiting:
                return
            await listener.wait(min(left, LOOK_EVERY))
        finally:
            listener.close()


async def search(execution: Execution[FileSearchToolCall], services: SearchServices) -> Output:
    """The output of a search, with its results. A search has no visible effect, so it may be repeated.

    Raises StorageUnavailable: then nothing of the run could be stored either, so it waits for the store.
    """
    run, call, project = execution.run, execution.call, execution.project
    threshold = call.file_search.ranking_options.score_threshold
    stores, limit = passages.stores_of(run), passages.most_results(run)
    window, count = services.window(run.model), services.count
    tokens = await asyncio.to_thread(passages.room, list(execution.steps), window, count) // execution.beside
    if not tokens:
        return Output(f"Error: {FULL}")
    try:
        queries = passages.queries_of(call.record.arguments)
    except ValueError as error:
        return Output(f"Error: {error}.")

    def ask(store_ids: Sequence[str]) -> Awaitable[Sequence[Found]]:
        weights = passages.weights_of(run)
        return services.search.search_stores(
            project, store_ids, queries, limit=limit, threshold=threshold, weights=weights
        )

    try:
        async with asyncio.timeout(TIMEOUT):
            found, problems = await _search(ask, stores, limit)
    except StorageUnavailable:
        raise
    except Exception:  # an error that the model can report is better than a failed run
        log.exception("run %s: a search failed", run.id)
        return Output(f"Error: {FAILED} {GO_ON}")
    note = f"Error: {' '.join(problems)} {GO_ON}" if problems else ""
    return Output(note, await asyncio.to_thread(passages.results_of, found, tokens, count))


async def _search(ask: Ask, store_ids: Sequence[str], limit: int) -> tuple[Sequence[Found], list[str]]:
    """The results, and the errors of stores that could not be searched: the others are searched all the same."""
    try:
        return await ask(store_ids), []
    except ApiError as error:
        if len(store_ids) == 1:
            return [], [error.message]
    each = [await _search(ask, [store_id], limit) for store_id in store_ids]
    found = sorted((one for found, _ in each for one in found), key=lambda one: one.score, reverse=True)
    return found[:limit], [problem for _, problems in each for problem in problems]
