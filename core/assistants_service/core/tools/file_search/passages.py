"""The options of a run's searches, and the text in which a model gets the results.

Each result comes with a marker, 【4:0†report.pdf】, by which an answer cites it (citations.py). The first number is
unique to the search within its thread, the second counts the results of a step.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET

from assistants_service.core.ports.models import CountTokens
from assistants_service.core.ports.search import Weights
from assistants_service.core.protocol.vector_stores.resources import TextContent
from assistants_service.core.tools.file_search.resources import stores_in
from assistants_service.core.tools.file_search.wire import (
    FileSearchResult,
    FileSearchSettings,
    FileSearchTool,
    FileSearchToolCall,
    RankingOptions,
)
from assistants_service.core.tools.run_info import RunInfo, StepInfo
from assistants_service.core.tools.wire import StepCall
from assistants_service.core.vector_stores.search import Found

MOST_QUERIES: Final = 5
LONGEST_QUERY: Final = 4_096  # characters
MOST_RESULTS, MOST_RESULTS_GPT_35 = 20, 5  # by default (published document)
MOST_TOKENS: Final = 16_000  # of passages for the searches of one turn (the vendor's guide)
WINDOW_SHARE: Final = 0.25  # maximum share of the model's window,
RUN_SHARE: Final = 0.5  # and for all searches of a run together


def stores_of(run: RunInfo) -> tuple[str, ...]:
    """The vector stores that the run searches: its assistant's and its thread's, as of its creation."""
    return stores_in(run.tool_resources)


def tool_in(run: RunInfo) -> FileSearchTool | None:
    return next((tool for tool in run.tools if isinstance(tool, FileSearchTool)), None)


def _settings(run: RunInfo) -> FileSearchSettings:
    tool = tool_in(run)
    return tool.file_search if tool and tool.file_search is not UNSET else FileSearchSettings()


def ranking_of(run: RunInfo) -> RankingOptions:
    options = _settings(run).ranking_options
    return RankingOptions(ranker=options.ranker, score_threshold=options.score_threshold)


def weights_of(run: RunInfo) -> Weights | None:
    """The run's hybrid_search weights, if it sets them."""
    weights = _settings(run).ranking_options.hybrid_search
    return Weights(vector=weights.embedding_weight, words=weights.text_weight) if weights else None


def most_results(run: RunInfo) -> int:
    default = MOST_RESULTS_GPT_35 if run.model.rpartition("/")[2].startswith("gpt-3.5") else MOST_RESULTS
    return _settings(run).max_num_results or default


def room(steps: Iterable[StepInfo], window: int, count: CountTokens) -> int:
    """How many tokens of passages a model with this window may still get for the searches of a turn, in addition to
    those of these steps of the run. Passages stay in the prompt until the run ends."""
    results = (result for step in steps for _, found in numbered(step.calls) for _, result in found)
    used = sum(count(text) for result in results for text in _texts(result))
    return max(0, min(MOST_TOKENS, int(window * WINDOW_SHARE), int(window * RUN_SHARE) - used))


def queries_of(arguments: str) -> list[str]:
    """The model's queries. Raises ValueError with a message for the model."""
    try:
        fields = msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ValueError(f"the arguments are not a JSON object: {error}") from None
    queries = fields.get("queries", fields.get("query"))  # some models use this name
    queries = [queries] if isinstance(queries, str) else queries
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise ValueError("`queries` must be an array of strings")
    found = [query.strip()[:LONGEST_QUERY] for query in queries if query.strip()]
    if not found:
        raise ValueError("`queries` is empty")
    return found[:MOST_QUERIES]


def results_of(found: Sequence[Found], tokens: int, count: CountTokens) -> tuple[FileSearchResult, ...]:
    """The best results whose passages fit into so many tokens; the first one is shortened to fit."""
    results: list[FileSearchResult] = []
    for each in found:
        text = each.text
        if (cost := count(text)) > tokens:
            if results:
                break
            text = _beginning(text, tokens, count)
        results.append(
            FileSearchResult(
                file_id=each.file_id,
                file_name=each.filename,
                score=each.score,
                attributes=each.attributes,
                content=(TextContent(text=text),),
            )
        )
        tokens = max(0, tokens - cost)
    return tuple(results)


def _beginning(text: str, tokens: int, count: CountTokens) -> str:
    """The longest beginning of the text that has at most so many tokens."""
    return text[: bisect.bisect_right(range(len(text)), tokens, key=lambda end: count(text[:end])) - 1]


Place = tuple[int, int]  # the numbers of a marker


def numbered(calls: Iterable[StepCall]) -> Iterator[tuple[FileSearchToolCall, list[tuple[Place, FileSearchResult]]]]:
    """The searches among the calls of a step, each with its results and the numbers of their markers."""
    first = 0
    for call in calls:
        if isinstance(call, FileSearchToolCall):
            results = call.file_search.results
            yield call, [((call.record.number, place), result) for place, result in enumerate(results, first)]
            first += len(results)


def marker(place: Place, result: FileSearchResult) -> str:
    return f"【{place[0]}:{place[1]}†{plain_name(result.file_name)}】"


def plain_name(name: str) -> str:
    """A file's name in the form used in markers."""
    return "".join(" " if character in "【】†\n\r" else character for character in name)


def output_of(call: FileSearchToolCall, found: Sequence[tuple[Place, FileSearchResult]]) -> str:
    """The output of the call, as the model reads it."""
    passages = ["\n".join([marker(place, result), *_texts(result)]) for place, result in found]
    note = [call.record.note] if call.record.note else []
    return "\n\n".join([*passages, *note]) or "Nothing was found."


def _texts(result: FileSearchResult) -> list[str]:
    return [] if result.content is UNSET else [part.text for part in result.content]
