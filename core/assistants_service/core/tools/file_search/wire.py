"""The wire types of `file_search`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import UNSET, UnsetType
from pydantic import Field

from assistants_service.core.protocol.bodies import Body, NamedStore
from assistants_service.core.protocol.hybrid_search import HybridSearch
from assistants_service.core.protocol.objects import Struct
from assistants_service.core.protocol.vector_stores.requests import StoreHelper
from assistants_service.core.protocol.vector_stores.resources import Attributes, TextContent
from assistants_service.core.tools.wire import Annotation, StepCall, ToolStruct

CONTENTS: Final = "step_details.tool_calls[*].file_search.results[*].content"  # the value of include[]


class RankingOptionsBody(Body):
    ranker: Literal["auto", "default_2024_08_21"] | None = None
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    hybrid_search: HybridSearch | None = None


class FileSearchOptions(Body):
    max_num_results: Annotated[int, Field(ge=1, le=50)] | None = None
    ranking_options: RankingOptionsBody | None = None


class FileSearchBody(Body):
    type: Literal["file_search"]
    file_search: FileSearchOptions | None = None


class FileSearchResources(Body):
    """In `tool_resources`."""

    vector_store_ids: Annotated[list[NamedStore], Field(max_length=1)] | None = None


class NewFileSearchResources(FileSearchResources):
    """The entry of an assistant or a thread that is created, perhaps together with a store."""

    vector_stores: Annotated[list[StoreHelper], Field(max_length=1)] | None = None


class FileSearchStores(Struct, frozen=True, kw_only=True):
    """In `tool_resources`."""

    vector_store_ids: tuple[str, ...] = ()


class HybridWeights(Struct, frozen=True, kw_only=True):
    embedding_weight: float
    text_weight: float


class RankingOptions(Struct, frozen=True, kw_only=True):
    """The ranking options as a call shows them."""

    ranker: str = "default_2024_08_21"
    score_threshold: float = 0.0


class ToolRankingOptions(RankingOptions, frozen=True, kw_only=True):
    """The ranking options as the tool has them."""

    hybrid_search: HybridWeights | None = None


class FileSearchSettings(Struct, frozen=True, kw_only=True):
    max_num_results: int | UnsetType = UNSET
    ranking_options: ToolRankingOptions = ToolRankingOptions()


class FileSearchTool(ToolStruct, frozen=True, kw_only=True, tag_field="type", tag="file_search"):
    file_search: FileSearchSettings | UnsetType = UNSET


class FileSearchResult(Struct, frozen=True, kw_only=True):
    """`content` is shown only if include[] asks for it."""

    file_id: str
    file_name: str
    score: float
    attributes: Attributes
    content: tuple[TextContent, ...] | UnsetType = UNSET


class FileSearch(Struct, frozen=True, kw_only=True):
    ranking_options: RankingOptions = RankingOptions()
    results: tuple[FileSearchResult, ...] = ()


class SearchRecord(Struct, frozen=True, kw_only=True, rename={"note": "told"}):
    """What the log stores of a search and the wire does not show: its arguments as the model gave them (JSON text), the
    first number of its results' markers, and notes to the model. None: it is not done yet."""

    arguments: str
    number: int
    note: str | None = None


NOT_SHOWN = SearchRecord(arguments="{}", number=0, note="")


class FileSearchToolCall(
    StepCall,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="file_search",
    omit_defaults=True,
    rename={"record": "asked"},
):
    """`record` is only in the log."""

    file_search: FileSearch
    record: SearchRecord = NOT_SHOWN


class CitedFile(Struct, frozen=True, kw_only=True):
    file_id: str


class FileCitation(Annotation, frozen=True, kw_only=True, tag_field="type", tag="file_citation"):
    file_citation: CitedFile

    def as_delta(self) -> FileCitationDelta:
        quoted = QuotedFile(file_id=self.file_citation.file_id)
        return FileCitationDelta(
            text=self.text, start_index=self.start_index, end_index=self.end_index, file_citation=quoted
        )


class QuotedFile(Struct, frozen=True, kw_only=True):
    """On streams there is a quote, which is empty, as recorded."""

    file_id: str
    quote: str = ""


class FileCitationDelta(Annotation, frozen=True, kw_only=True, tag_field="type", tag="file_citation"):
    file_citation: QuotedFile
