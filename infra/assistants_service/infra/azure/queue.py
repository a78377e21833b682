"""The work queue: Azure Storage Queues, bodies as plain UTF-8 JSON text."""

from __future__ import annotations

import json
import math
from functools import partial

from azure.storage.queue import QueueMessage

from assistants_service.core.ports.queue import Delivery
from assistants_service.core.ports.storage import Conflict
from assistants_service.infra.azure.calls import AzureClients, StoreRefused, call, require_open

FOR_EVER = -1


class AzureQueue(AzureClients):
    """ports.storage.Queue. Times are rounded up to whole seconds. A stale receipt or a missing message means: lost."""

    async def send(self, body: bytes, *, delay: float = 0) -> None:
        # A lost response leads to a second message: the queue delivers at least once anyway.
        work = require_open(self._work)
        await call(lambda: work.send_message(body.decode(), visibility_timeout=math.ceil(delay), time_to_live=FOR_EVER))

    async def receive(self, limit: int, *, visibility_timeout: float) -> list[Delivery]:
        work = require_open(self._work)

        async def first_page() -> list[QueueMessage]:
            # One request: reading the next page would be another poll.
            pages = work.receive_messages(
                messages_per_page=limit, visibility_timeout=_seconds(visibility_timeout)
            ).by_page()
            async for page in pages:
                return [message async for message in page]
            return []

        messages = await call(first_page)
        return [Delivery(m.id, m.content.encode(), m.dequeue_count or 1, m.pop_receipt or "") for m in messages]

    async def extend(self, delivery: Delivery, *, visibility_timeout: float) -> Delivery:
        """A lost response is a Conflict, too: the new receipt is unknown, so the item will be delivered again."""
        work, timeout, body = require_open(self._work), _seconds(visibility_timeout), delivery.body.decode()
        update = partial(work.update_message, delivery.id, content=body, visibility_timeout=timeout)
        try:
            message = await call(partial(update, pop_receipt=delivery.receipt))
        except StoreRefused as refusal:
            raise Conflict(str(refusal)) from None
        return Delivery(delivery.id, delivery.body, delivery.count, message.pop_receipt or "")

    async def delete(self, delivery: Delivery) -> None:
        try:
            await call(partial(require_open(self._work).delete_message, delivery.id, pop_receipt=delivery.receipt))
        except StoreRefused:
            pass  # another worker has it by now, or it is gone

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        # Copied first: a crash in between leaves the item twice rather than nowhere.
        dead_letters = require_open(self._dead_letters)
        item = json.dumps({"item": delivery.body.decode(errors="replace"), "reason": reason}, ensure_ascii=False)
        await call(lambda: dead_letters.send_message(item, time_to_live=FOR_EVER))
        await self.delete(delivery)


def _seconds(visibility_timeout: float) -> int:
    return max(1, math.ceil(visibility_timeout))
