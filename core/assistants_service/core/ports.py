"""What the domain asks of the world: a storage engine, a clock, models, and telemetry.

Engines implement `Storage`; one contract suite (tests/test_storage_contract.py) holds for all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from assistants_service.core.search.merge_policy import Weight
    from assistants_service.core.search.ranking import Query, Weights


class Conflict(Exception):
    """Another process wrote: the condition of a write did not hold, so nothing was written. Read and decide again."""


class StorageUnavailable(Exception):
    """The store did not answer, or answered that it cannot now. A write may or may not have happened."""


class ContentGone(StorageUnavailable):
    """The content was discarded while it was read: what came of it is not the whole."""


class Unsent(StorageUnavailable):
    """Nothing has happened, for certain: the store was not even asked, or undid what it had begun."""


class Full(Unsent):
    """The store has no room for it."""


class Undecided(StorageUnavailable):
    """A commit was sent, and it is unknown whether it is in the log."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a log stood when it was last read or written: the condition of the next append.

    `generation` counts roll-overs, `offset` is in bytes from the start of that generation. `etag` is the engine's own
    (empty where it needs none).
    """

    generation: int
    offset: int
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Tail:
    """What a log holds beyond a mark, and where it ends now.

    `data` starts at the mark that was asked for; with `restarted`, the log was rolled over since, and `data` is the
    whole new generation, to be folded on the snapshot that the generation starts from.
    """

    data: bytes
    mark: Mark
    restarted: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """A projection: the wire JSON of one object as of a version of its thread (the number of commits folded).

    An empty body is a tombstone: readers find nothing, and no late writer brings the object back.
    """

    container: str
    name: str
    body: bytes
    version: int
    created: bool = False  # this commit created the object, so that no older document can exist: saves a read


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as read: bytes for the wire, and the ETag (quoted, as HTTP wants it)."""

    name: str
    body: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Part:
    """What was staged under an id, `size` in bytes: a content is put together of such parts."""

    id: str
    size: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a work item. `count` is 1 for the first; `receipt` proves that this delivery still holds it."""

    id: str
    body: bytes
    count: int
    receipt: str = field(repr=False)


Project = Callable[[], Sequence[Document]]


def nothing() -> Sequence[Document]:
    """The projection of a log that has no documents."""
    return ()


class Listing(Protocol):
    """The names in a container, whatever they are of."""

    async def list_names(self, container: str, *, after: str | None, limit: int, prefix: str = "") -> Sequence[str]:
        """Up to `limit` names that start with `prefix`, beyond the name `after`, in an order of the engine's own: of
        documents, tombstones, logs and contents; and of what is only staged, unless the engine removes that by itself.
        Never on the way of a request."""


class Documents(Protocol):
    """JSON documents by container and name (`project/id`, `project/thread/id`, ...)."""

    async def get(self, container: str, name: str) -> Stored | None:
        """The document, or None if it is absent or a tombstone."""

    async def create(self, container: str, name: str, body: bytes) -> str:
        """Store a new plain document and return its ETag. Raises Conflict if the name is taken."""

    async def replace(self, container: str, name: str, body: bytes, etag: str) -> str:
        """Store over the version that has this ETag, and return the new one. Raises Conflict if it moved or is gone."""

    async def remove(self, container: str, name: str) -> bool:
        """Delete for good; False if there was none."""

    async def page(
        self, container: str, prefix: str, *, after: str | None, limit: int, newest_first: bool
    ) -> list[Stored]:
        """Up to `limit` documents whose name starts with `prefix`, in the order of their names (ids sort by creation)
        or in the reverse of it, beyond the name `after` (which need not exist any more)."""

    async def advance(self, document: Document) -> None:
        """Project: write unless a document of the same or a later version is there. Idempotent, never back in time."""

    async def sweep(self, container: str, prefix: str) -> None:
        """Delete for good the tombstones whose names start with `prefix`: when no late writer is left."""


class Logs(Protocol):
    """Append-only logs. A block is stored whole or not at all, and only where the writer thinks the log ends."""

    async def start(
        self, container: str, name: str, block: bytes, project: Project = nothing
    ) -> tuple[Mark, Sequence[Document]]:
        """Create a log with its first block. Raises Conflict if it exists. Returns as `append` does."""

    async def append(
        self, container: str, name: str, mark: Mark, block: bytes, project: Project = nothing
    ) -> tuple[Mark, Sequence[Document]]:
        """Append at `mark` (limit 64 MiB) and return the new mark. Raises Conflict if the log moved or is gone.

        `project` makes the documents of this block; it is called once, when the condition has held. An engine with
        transactions stores them in the same one, any other leaves them to the caller: returned are those that the
        caller still has to `advance`.
        A lost reply is no conflict: the engine reads back, and its own block at the mark means success.
        """

    async def read(self, container: str, name: str, since: Mark | None, *, limit: int | None = None) -> Tail | None:
        """All after `since` (None: from the start of the current generation). None if there is no such log.

        With a `limit`, that many bytes after the mark `since` at most, wherever that cuts a block, and the new mark is
        where they end. A generation that began since comes as a whole.
        """

    async def roll(self, container: str, name: str, mark: Mark) -> Mark:
        """Begin the next generation: an empty log, conditional on `mark`. Raises Conflict if the log moved.

        What the old generation held is kept under `name` + `.` + its number.
        """

    async def drop(self, container: str, name: str) -> None:
        """Delete a log if it is there."""

    async def logs(self, container: str) -> Sequence[str]:
        """The names of all logs that end in `.log`, without what is kept of their old generations, in no order. Goes
        through all names of the container: never on the way of a request."""

    async def weigh(self, container: str, prefix: str) -> int:
        """How many bytes are kept under names that start with `prefix`, logs and documents together. Goes through all
        of their names: never on the way of a request."""


class Contents(Listing, Protocol):
    """Bytes by the gigabyte, in a memory of a few MiB. Parts are staged, then one commit makes them the content.

    A content is there as a whole or not at all, and never changes.
    """

    async def stage(self, container: str, name: str, part: str, chunks: AsyncIterator[bytes]) -> Part:
        """Store a part. `part` is an id that was not used for this content before; all of a content have one length.

        What is staged cannot be read. If `chunks` raises, what came is removed where the engine can do that with one
        part; where it cannot, or if the process dies, it is left to `discard`.
        """

    async def staged(self, container: str, name: str) -> Sequence[Part]:
        """The parts that there are, in no order, committed or not; of one that is being staged, what came so far."""

    async def commit(self, container: str, name: str, parts: Sequence[Part]) -> None:
        """Make these parts, in this order, the content, and drop all others. Nothing is copied.

        The same again changes nothing. Raises Conflict if there is a content of other parts, or a part is not there.
        """

    def download(
        self, container: str, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """The bytes from `offset` on (`length` at most), in pieces of a few MiB; none if there is no such content.

        Raises ContentGone if the content is discarded meanwhile.
        """

    async def discard(self, container: str, name: str) -> None:
        """Delete the content, and whatever is staged for it. Idempotent."""


class Queue(Protocol):
    """Work items: at least once, in no order, hidden while a worker has them."""

    async def send(self, body: bytes, *, delay: float = 0) -> None:
        """Enqueue (48 KiB at most), visible after `delay` seconds (7 days at most)."""

    async def receive(self, limit: int, *, hide: float) -> list[Delivery]:
        """Up to `limit` (32 at most) visible items, hidden from others for `hide` seconds."""

    async def extend(self, delivery: Delivery, *, hide: float) -> Delivery:
        """Hide for `hide` seconds from now; the returned delivery replaces the old one, and the item has its body from
        then on. Raises Conflict if lost."""

    async def delete(self, delivery: Delivery) -> None:
        """The work is done. No error if another worker holds the item by now, or if it is gone."""

    async def bury(self, delivery: Delivery, reason: str) -> None:
        """Move a poison item to the queue of the buried ones, for people to look at."""


class Storage(Documents, Logs, Contents, Queue, Protocol):
    """A storage engine. It counts by kind what it asked of the store, and by reason what it had to ask again."""

    operations: Counter[str]
    retries: Counter[str]

    async def open(self) -> None:
        """Connect, and create what is missing. Raises StorageUnavailable, or ValueError for a bad configuration."""

    async def close(self) -> None: ...

    async def ping(self) -> None:
        """Raises StorageUnavailable unless the store answers."""


class Clock(Protocol):
    def now(self) -> float:
        """Unix time in seconds."""


# --- models -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call as the model asked for it; `arguments` is JSON text, not validated (as on the wire)."""

    id: str
    name: str
    arguments: str


class Image(NamedTuple):
    """`url` is https:, data:, or `file:` and the id of a file, which the worker replaces by its data before it asks a
    model."""

    url: str
    detail: str = "auto"


@dataclass(frozen=True, slots=True)
class Thought:
    """What a model thought before it called functions. `data` is JSON that only its provider's adapter reads; that one
    provider wants it back with the outputs of the calls. Up to 1 MiB, and never for clients."""

    provider: str
    data: str


Content = str | tuple[str | Image, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One entry of the conversation, oldest first.

    role `user`: `content` is a text or, if it has images, texts and images in their order. role `assistant`: it is a
    text, and there may be `calls`, and the `thought` that led to them. role `tool`: it is the output of the call
    `call_id`.
    """

    role: str
    content: Content = ""
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    thought: Thought | None = None

    @property
    def parts(self) -> tuple[str | Image, ...]:
        """What there is of it: empty texts are left out."""
        parts = (self.content,) if isinstance(self.content, str) else self.content
        return tuple(part for part in parts if part)

    @property
    def text(self) -> str:
        return "\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(part for part in self.parts if isinstance(part, Image))


@dataclass(frozen=True, slots=True)
class Prompt:
    """One model call. None means: not set, the provider's default holds."""

    model: str
    instructions: str | None
    turns: tuple[Turn, ...]
    tools: tuple[Mapping[str, Any], ...] = ()  # function definitions: name, description?, parameters, strict
    tool_choice: str | Mapping[str, Any] = "auto"  # auto, none, required, or {"type": "function", "function": {"name"}}
    parallel_tool_calls: bool = True
    temperature: float | None = None
    top_p: float | None = None
    reasoning_effort: str | None = None
    response_format: Any = "auto"  # "auto" or the wire's object
    max_completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model of `provider` answered. `finish`: stop, tool_calls, length or content_filter."""

    text: str = ""
    refusal: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish: str = "stop"
    tokens: Tokens = Tokens()
    thought: Thought | None = None
    provider: str = field(default="", compare=False)


class Deltas(Protocol):
    """Where a streamed reply goes while it is made. Cheap, and never waits for a reader."""

    def text(self, value: str) -> None: ...

    def refusal(self, value: str) -> None: ...

    def call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        """A fragment of a function call: id and name come whole with the first fragment, `arguments` grows."""

    def restart(self) -> bool:
        """The reply broke off and may be asked for again: forget what came of it. False if a client may have seen
        something, which cannot be taken back."""


class ModelError(Exception):
    """The provider failed, after its retries. `code`: server_error, rate_limit_exceeded or invalid_prompt.

    `message` is for users, and may quote what was asked. `provider`, the HTTP `status` and the `reason` are for the
    log: there is no content in them. Empty, where they are not known."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.provider, self.reason = "", ""
        self.status: int | None = None


class Refused(ModelError):
    """The provider answered with an error. `said`: its words and the fields that it names, not for the log."""

    said = ""


class BrokenOff(ModelError):
    """The connection ended, or fell silent, in the middle of a streamed reply."""


class ContextExceeded(ModelError):
    """The prompt has more tokens than the model takes. `window`: how many that are, if the provider says it."""

    def __init__(self, code: str, message: str, window: int | None = None) -> None:
        super().__init__(code, message)
        self.window = window


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """`full` is PROVIDER/MODEL, by which a run finds it as well as by its id."""

    id: str
    created: int
    owned_by: str
    full: str = ""


class NoSuchModel(ValueError):
    """No provider has a model of this name. The message says which providers there are."""


class Models(Protocol):
    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        """Ask the model once; streamed into `deltas` if given. Raises ModelError."""

    async def check(self, model: str) -> None:
        """Raises NoSuchModel for a name that no provider has, as far as that is known without asking for an answer."""

    def window(self, model: str) -> int:
        """How many tokens prompt and answer may have together, as far as it is known."""

    async def list(self) -> Sequence[ModelInfo]:
        """The models that are there. A provider that does not answer is left out."""

    async def close(self) -> None: ...


class Tokenizer(Protocol):
    """Counts the tokens of a text, nearly: each model has a tokenizer of its own. No text has more than UTF-8 bytes."""

    def count(self, text: str) -> int:
        """What was counted lately is remembered. May be called from threads."""


# --- ingestion ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a text is cut, in tokens; as it stands the strategy `auto` (section 3.8). Requests are checked to have
    100 <= size <= 4096 and 0 <= overlap <= size / 2."""

    size: int = 800
    overlap: int = 400


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file's text. `start` is its place in the text, in code points; `tokens` is its length."""

    text: str
    start: int
    tokens: int


class Unreadable(Exception):
    """No text can be had of this file. `code` and `message` are those of its `last_error`: unsupported_file and
    invalid_file are final, server_error is no fault of the file."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Extraction(Protocol):
    async def chunks(self, path: Path, filename: str, chunking: Chunking) -> Sequence[Chunk]:
        """The text of the file at `path` in chunks, at least one, in their order; the same for the same bytes.

        What the file is, the extension of `filename` says, or else its bytes. A call that waits for its turn may be
        cancelled, and one that is at work, too. Raises Unreadable.
        """

    async def close(self) -> None: ...


class EmbeddingError(Exception):
    """No vectors can be had now, after retries; the message may be shown to clients."""


Kind = Literal["passage", "query"]  # what a text is to a search: many models want to know


class Embeddings(Protocol):
    """`model` names what made a vector, and so does the vector's width: vectors that differ in either cannot be
    compared, so both travel with what is stored."""

    model: str
    weights: Weights  # of a hybrid search with these vectors, unless it asks for others

    async def embed(self, texts: Sequence[str], kind: Kind = "passage") -> NDArray[np.float32]:
        """A row of length 1 (or 0, where a text says nothing to the model) for each text; rows without dimensions if
        there are no vectors on this platform. Raises EmbeddingError."""

    async def close(self) -> None: ...


# --- search -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Passage:
    """A result of a search: the `number`th chunk (from 0) of a source. `score` in 0..1."""

    source: str
    number: int
    score: float
    text: str


class SegmentGone(Exception):
    """There is no such segment. If it was merged, the state of the store that names it is old: look at it again."""


class Merging(Protocol):
    """Makes one segment of several, where it is the store's log that says which segments there are."""

    def plan(self, segments: Sequence[Weight]) -> Sequence[str]:
        """The names of those that should become one next; none if all is well."""

    async def merge(self, store: str, names: Sequence[str], live: Collection[str], into: str) -> int | None:
        """Write what these hold of the `live` sources as `into`. Returns its size in bytes, None if there is nothing.

        Raises SegmentGone, and Conflict if `into` was dropped meanwhile."""


class VectorIndex(Protocol):
    """The chunks of vector stores, searched. `store` is `project/store`; one suite (tests/test_vector_index.py) holds
    for all implementations.

    A store's log names its *segments*: a file that was ingested is one, named by its source. What is put is not yet
    part of the store, and what the log does not name any more is loose: neither is ever found, and both are dropped by
    name. `merging` is None if the index merges by itself. All methods raise StorageUnavailable.
    """

    merging: Merging | None

    async def put(
        self, store: str, source: str, chunks: Sequence[Chunk], vectors: NDArray[np.float32], model: str
    ) -> int:
        """Write the segment of one file: its chunks, and a vector for each, made by `model`. Returns its size in bytes.

        There is all of it or nothing. `source` names file and attempt, so the same source has the same chunks; put
        again, it is there once. Raises Conflict if it was dropped meanwhile.
        """

    async def drop(self, store: str, names: Iterable[str]) -> None:
        """Remove segments. Idempotent."""

    async def search(
        self,
        store: str,
        segments: Collection[str],
        queries: Sequence[Query],
        eligible: Collection[str],
        limit: int,
        *,
        weights: Weights,
        threshold: float = 0.0,
    ) -> list[Passage]:
        """The `limit` chunks of the `eligible` sources in these segments that fit one of the queries best, the best
        first, ties by source and number. `segments` are all that the store has now.

        A score is in 0..1 and depends on no other result. Chunks below `threshold` are left out, and those that have
        nothing in common with a query. Raises SegmentGone.
        """

    async def read(self, store: str, name: str, source: str) -> Sequence[tuple[int, str]]:
        """The chunks of a source in a segment, in their order, each with its place in the file's text; none if there is
        no such segment."""

    async def delete(self, store: str, names: Iterable[str]) -> None:
        """Remove the store: these segments, which are all that its log knows of, and what else there is. Idempotent."""

    async def tidy(self, store: str, known: Callable[[], Awaitable[Collection[str]]]) -> None:
        """After work on the store: bring its index into shape if that is due. `known` says of which segments the log
        knows at the time when it is called: what was there before, and is not among them, belongs to no source."""


# --- telemetry ----------------------------------------------------------------------------------------------------

Fact = str | int | float | bool | tuple[str, ...]


class Span(Protocol):
    """Something that takes its time, while it lasts."""

    def tell(self, **facts: Fact) -> None:
        """What became known meanwhile."""


class Telemetry(Protocol):
    """What operators get to see: spans, of which those of one run are one trace, and metrics. In the domain's words;
    the engine knows the names of the standard. Never fails, never waits.

    Ids, names, numbers and kinds of errors are facts; what users, models and tools say is content, told only if
    `content` allows it.
    """

    content: bool

    def span(self, what: str, *, trace: str = "", cause: str = "", **facts: Fact) -> AbstractContextManager[Span]:
        """`what` is request, run, model or tool. It belongs to `trace`, a W3C traceparent, or else to the span around;
        `cause` is what made it happen, if that is of another trace."""

    def trace(self) -> str:
        """The traceparent of the span around, to travel with a work item. Empty if there is none."""

    def count(self, what: str, **facts: Fact) -> None:
        """One more: a run that ended, a delivery of a work item."""

    def measure(self, what: str, value: float, **facts: Fact) -> None:
        """How long a run was queued, in seconds."""


class Silence:
    """Telemetry that is switched off, and a span of it."""

    content = False

    def span(self, what: str, *, trace: str = "", cause: str = "", **facts: Fact) -> Silence:
        return self

    def tell(self, **facts: Fact) -> None: ...

    def trace(self) -> str:
        return ""

    def count(self, what: str, **facts: Fact) -> None: ...

    def measure(self, what: str, value: float, **facts: Fact) -> None: ...

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *_: object) -> None: ...


SILENCE = Silence()
