"""Runs the model's searches in files. What goes wrong with one is told to the model, which goes on without it."""

from __future__ import annotations

import asyncio
import logging

from core import file_search
from core.ports import Search, SearchError, StorageUnavailable
from core.prompt import window_of
from core.resources import FileSearchResult, FileSearchToolCall, Run

log = logging.getLogger(__name__)

TIMEOUT = 60.0  # seconds of one search, with its embeddings
FAILED = "The files cannot be searched at the moment."
GO_ON = "Do not search again now: tell the user, and do not guess."


async def search(
    engine: Search, project: str, run: Run, call: FileSearchToolCall, window: int, share: int
) -> tuple[str, tuple[FileSearchResult, ...]]:
    """What the model is told beside what was found, and that. `window` in tokens, where the model's is not known;
    `share` is the number of searches that divide its part of the window. It changes nothing, so it may be repeated.

    Raises StorageUnavailable: nothing of the run can be stored either, so it waits until the store is back.
    """
    ranking = call.file_search.ranking_options
    try:
        queries = file_search.queries_of(call.asked.arguments)
        async with asyncio.timeout(TIMEOUT):
            found = await engine.search(
                project,
                file_search.stores_of(run),
                queries,
                most=file_search.most_results(run),
                ranker=ranking.ranker,
                score_threshold=ranking.score_threshold,
            )
    except ValueError as error:
        return f"Error: {error}.", ()
    except SearchError as error:
        return f"Error: {error} {GO_ON}", ()
    except StorageUnavailable:
        raise
    except Exception:  # a model's answer that says so is worth more than a run that fails
        log.exception("run %s: a search failed", run.id)
        return f"Error: {FAILED} {GO_ON}", ()
    most = file_search.most_tokens(window_of(run.model, window)) // share
    return "", file_search.results_of(found, most)
