"""What a worker uses, created once per process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from assistants_service.core.files.outputs import OutputFiles
from assistants_service.core.files.service import FileService
from assistants_service.core.files.uploads import UploadService
from assistants_service.core.ids import Ids
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.embeddings import Embeddings
from assistants_service.core.ports.extraction import Extraction
from assistants_service.core.ports.models import Models, Tokenizer
from assistants_service.core.ports.storage import Storage
from assistants_service.core.ports.telemetry import SILENCE, Telemetry
from assistants_service.core.stored_bytes import StoredBytes
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.tools.offer import ServicesByKind, started
from assistants_service.core.tools.worker_parts import WorkerParts
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.vector_stores.search import Search
from assistants_service.worker.actions import Actions
from assistants_service.worker.budget import Budget
from assistants_service.worker.images import Images
from assistants_service.worker.slots import CHORES, ISOLATION, WAITING, Slots
from assistants_service.worker.store_work import JOBS, Ingestion

VISIBILITY_TIMEOUT = 45.0  # seconds that a dead worker's item stays hidden: how late a crash is noticed


@dataclass(slots=True)
class WorkerContext:
    storage: Storage
    threads: ThreadRepository
    stores: VectorStoreRepository
    models: Models
    actions: Actions
    extraction: Extraction
    embeddings: Embeddings
    clock: Clock
    ids: Ids
    notifier: Notifier
    flush_interval: float = 0.05  # seconds between writes to a stream
    visibility_timeout: float = VISIBILITY_TIMEOUT
    max_rounds: int = 100  # of tool calls in one run: a model may continue for ever
    tool_history_tokens: int = 8_000  # tokens of a prompt for tool outputs of earlier runs
    tombstone_seconds: float = 600.0  # seconds that a deleted object's tombstones stay: no request takes so long
    telemetry: Telemetry = SILENCE
    max_runs: int = 1000  # runs in flight; they mostly wait for models
    max_waiting: int = WAITING  # work items that wait for slots of one kind
    searcher: Search = field(kw_only=True)
    tokenizer: Tokenizer = field(kw_only=True)
    output_retention: float = field(kw_only=True, default=0.0)  # seconds that files of tools outlive their thread
    stored: StoredBytes | None = field(kw_only=True, default=None)  # the limit of a project's bytes
    for_tools: Mapping[str, object] = field(kw_only=True, default_factory=dict)  # what one tool alone needs, by type
    tools: ServicesByKind = field(init=False)
    budget: Budget = field(init=False)
    images: Images = field(init=False)
    ingestion: Ingestion = field(init=False)
    runs: Slots = field(init=False)
    chores: Slots = field(init=False)
    suspects: tuple[Slots, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.budget = Budget(self.models, self.tokenizer, self.tool_history_tokens)
        self.images, self.tools = Images(self.files), started(self._parts)
        patience = self.visibility_timeout / 4  # before a waiting item would have to be hidden again
        jobs, self.runs, self.chores = (Slots(n, self.max_waiting, patience) for n in (JOBS, self.max_runs, CHORES))
        self.suspects = tuple(Slots(n) for n in ISOLATION)
        files, readers = self.files, (self.extraction, self.embeddings)
        self.ingestion = Ingestion(self.storage, self.stores, files, *readers, self.clock, jobs)

    @property
    def slots(self) -> tuple[Slots, ...]:
        """One for each kind of work, so that no kind can block another."""
        return self.runs, self.ingestion.jobs, self.chores, *self.suspects

    def isolation_slots(self, claims: int) -> Slots | None:
        """The additional slots for a run with so many claims without a result: one of those in work when a worker died
        may be the cause. The fewer work together, the fewer die with it; a run that fails if its worker dies once more
        works alone among its kind. None: it needs no additional slot."""
        return self.suspects[min(claims, len(self.suspects) + 1) - 2] if claims > 1 else None

    @property
    def _parts(self) -> WorkerParts:
        return WorkerParts(
            self.actions,
            self.searcher,
            self.stores,
            self.files,
            self.outputs,
            self.clock,
            self.ids,
            self.tokenizer,
            self.budget.window,
            self.for_tools,
        )

    @property
    def outputs(self) -> OutputFiles:
        return OutputFiles(self.files, self.ids, self.output_retention, self.stored)

    @property
    def files(self) -> FileService:
        return FileService(self.storage, self.clock, self.notifier, self.stores.detach_file)

    @property
    def uploads(self) -> UploadService:
        return UploadService(self.files)
