"""The services of core, created once for each process. The handlers use them."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from assistants_service.api.limits import ProjectLimits
from assistants_service.core.assistants.service import AssistantService
from assistants_service.core.files.service import FileService
from assistants_service.core.files.uploads import UploadService
from assistants_service.core.ids import Ids
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.models import Models
from assistants_service.core.ports.storage import Storage
from assistants_service.core.ports.telemetry import SILENCE, Telemetry
from assistants_service.core.protocol.files.requests import MAX_UPLOAD
from assistants_service.core.references import References
from assistants_service.core.request_context import RequestContext
from assistants_service.core.threads.attachments import ThreadPreparation
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.threads.run_service import NoLimit, RunService
from assistants_service.core.threads.service import ThreadService
from assistants_service.core.tool_preparation import ToolPreparation
from assistants_service.core.tools.resource_rules import Aggregates
from assistants_service.core.vector_stores.repository import VectorStoreRepository
from assistants_service.core.vector_stores.search import Searcher
from assistants_service.core.vector_stores.service import VectorStoreService


@dataclass(frozen=True, slots=True)
class Services:
    """All writes go through the service of their aggregate. Reads may use its repository.

    `poll_after`: how long pollers should wait, in seconds. `file_limit`: bytes of a file that is sent in one request.
    """

    assistants: AssistantService
    threads: ThreadService
    runs: RunService
    vector_stores: VectorStoreService
    files: FileService
    uploads: UploadService
    searcher: Searcher
    references: References
    models: Models
    storage: Storage
    clock: Clock
    ids: Ids
    notifier: Notifier
    telemetry: Telemetry
    limits: ProjectLimits | None
    poll_after: float
    file_limit: int

    @property
    def thread_repository(self) -> ThreadRepository:
        return self.threads.repository

    @property
    def store_repository(self) -> VectorStoreRepository:
        return self.vector_stores.repository

    def context(self, project: str) -> RequestContext:
        """The context of a request that has just arrived."""
        return RequestContext(project, self.clock.now(), self.ids, self.telemetry.trace())


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)


def services_over(
    storage: Storage,
    threads: ThreadRepository,
    stores: VectorStoreRepository,
    searcher: Searcher,
    models: Models,
    clock: Clock,
    ids: Ids,
    notifier: Notifier,
    *,
    run_lifetime: int = 600,
    poll_after: float = 0.1,
    file_limit: int = 512 * 1024**2,
    upload_limit: int = MAX_UPLOAD,
    telemetry: Telemetry = SILENCE,
    limits: ProjectLimits | None = None,
) -> Services:
    """`run_lifetime` is in seconds, `upload_limit` is the maximum size of an uploaded file in bytes."""
    files = FileService(storage, clock, notifier)
    vector_stores = VectorStoreService(storage, stores, files)
    tools, references = ToolPreparation.over(Aggregates(files, vector_stores)), References(models, files, stores)
    assistants, preparation = AssistantService(storage, tools, references), ThreadPreparation(threads, tools)
    return Services(
        assistants=assistants,
        threads=ThreadService(threads, preparation, references),
        runs=RunService(
            storage,
            notifier,
            threads,
            assistants,
            references,
            preparation,
            (limits and limits.runs) or NoLimit(),
            run_lifetime,
        ),
        vector_stores=vector_stores,
        files=files,
        uploads=UploadService(files, upload_limit),
        searcher=searcher,
        references=references,
        models=models,
        storage=storage,
        clock=clock,
        ids=ids,
        notifier=notifier,
        telemetry=telemetry,
        limits=limits,
        poll_after=poll_after,
        file_limit=file_limit,
    )
