"""The service of assistants, which are plain documents with ETags, without a log."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from assistants_service.core import names
from assistants_service.core.assistants.commands import assistant_from, updated_assistant
from assistants_service.core.ports.documents import Stored
from assistants_service.core.ports.storage import Conflict, Storage
from assistants_service.core.protocol.assistants.requests import CreateAssistant, UpdateAssistant
from assistants_service.core.protocol.assistants.resources import StoredAssistant
from assistants_service.core.protocol.objects import encode
from assistants_service.core.references import References
from assistants_service.core.request_context import RequestContext
from assistants_service.core.resources import ASSISTANT
from assistants_service.core.tool_preparation import ToolPreparation

_decode = msgspec.json.Decoder(StoredAssistant).decode


@dataclass(frozen=True, slots=True)
class AssistantService:
    """The assistants of all projects."""

    storage: Storage
    preparation: ToolPreparation
    references: References

    async def create(self, context: RequestContext, assistant_id: str, body: CreateAssistant) -> StoredAssistant:
        """If an assistant with this id exists, the same request came before: return it as it is."""
        body = await self.preparation.for_assistant(context, assistant_id, body)
        assistant = assistant_from(body, assistant_id, context.now)
        name = names.document(context.project, assistant_id)
        try:
            # Create-if-missing: the same request, repeated.
            await self.storage.create(names.ASSISTANTS, name, encode(assistant))
        except Conflict:
            return await self.get(context.project, assistant_id)
        return assistant

    async def update(self, context: RequestContext, assistant_id: str, body: UpdateAssistant) -> StoredAssistant:
        """Raises the 404 for an unknown assistant, and for missing objects that the body refers to."""
        await self.references.check(context.project, body)
        while True:
            stored = await self.fetch(context.project, assistant_id)
            assistant = updated_assistant(_decode(stored.body), body)
            try:
                # If-Match: of two concurrent updates, neither is lost.
                await self.storage.replace(names.ASSISTANTS, stored.name, encode(assistant), stored.etag)
            except Conflict:
                continue
            return assistant

    async def delete(self, context: RequestContext, assistant_id: str) -> None:
        """Raises the 404 for an unknown assistant."""
        if not await self.storage.remove(names.ASSISTANTS, names.document(context.project, assistant_id)):
            raise ASSISTANT.unknown(assistant_id)

    async def get(self, project: str, assistant_id: str) -> StoredAssistant:
        """Raises the 404 for an unknown assistant."""
        return _decode((await self.fetch(project, assistant_id)).body)

    async def fetch(self, project: str, assistant_id: str) -> Stored:
        """The document. Raises the 404 for an unknown assistant."""
        stored = await self.storage.get(names.ASSISTANTS, names.document(project, assistant_id))
        if stored is None:
            raise ASSISTANT.unknown(assistant_id)
        return stored
