"""The Azure Functions host in virtual time: it receives items, and has the worker's function take each over. It does
what tests/deployment/functions_host.py, where the sources stand, does over Azurite."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final

from assistants_service.core.ports.queue import Delivery
from assistants_service.core.ports.storage import Conflict, Storage, StorageUnavailable
from assistants_service.infra.sqlite.store import SqliteStorage
from assistants_service.worker.main import Worker

VISIBILITY_TIMEOUT: Final = 20.0  # seconds; the real one hides for 600, renews at half of it as here, and
RETRY: Final = 2.0  # shows an item again after the 30 of host.json
BATCH, POLL = 32, 0.1


class Receipts(SqliteStorage):
    """The queue as on Azure: every hiding makes a new receipt, and the ones before it void."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._renewals: Counter[tuple[str, int]] = Counter()  # by item and delivery

    async def extend(self, delivery: Delivery, *, visibility_timeout: float) -> Delivery:
        bare, each = self._bare(delivery), (delivery.id, delivery.count)
        if bare is None:
            raise Conflict
        self._renewals[each] += 1
        receipt = f"{delivery.count}.{self._renewals[each]}"
        await super().extend(bare, visibility_timeout=visibility_timeout)
        return replace(delivery, receipt=receipt)

    def _delete(self, delivery: Delivery) -> None:
        if bare := self._bare(delivery):
            super()._delete(bare)

    def _bare(self, delivery: Delivery) -> Delivery | None:
        """As the engine knows it, if its receipt is the newest."""
        count, _, renewals = delivery.receipt.partition(".")
        newest = self._renewals[delivery.id, delivery.count]
        return replace(delivery, receipt=count) if int(renewals or 0) == newest else None


@dataclass
class Host:
    """`late` tells for each delivery by how many seconds its function begins late. `spawn` begins a task of the host's
    process."""

    storage: Storage
    worker: Worker
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    late: Callable[[], float]
    visibility_timeout: float = VISIBILITY_TIMEOUT
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)
    _stopping: bool = False

    async def run(self) -> None:
        while not self._stopping:
            try:
                deliveries = await self.storage.receive(BATCH, visibility_timeout=self.visibility_timeout)
            except StorageUnavailable:
                deliveries = []
            for delivery in deliveries:
                task = self.spawn(self.process(delivery))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            if not deliveries:
                await asyncio.sleep(POLL)

    async def stop(self, grace: float) -> None:
        """It looks no more, and waits for what is under way. The Python worker is told nothing."""
        self._stopping = True
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=grace)

    async def process(self, delivery: Delivery) -> None:
        held = Held(self.storage, delivery)
        renewing = asyncio.create_task(held.renew(self.visibility_timeout))
        try:
            await asyncio.sleep(self.late())
            await self.worker.take_over(delivery)
        except (Conflict, StorageUnavailable):
            returned = False
        else:
            returned = True
        await held.stop(renewing)
        try:
            await (held.delete() if returned else held.release())
        except (Conflict, StorageUnavailable):
            pass  # not the host's any more; or it stays hidden, and comes back


@dataclass
class Held:
    """A message as its host holds it: by the newest receipt that the host knows of."""

    storage: Storage
    delivery: Delivery
    _renewing: bool = False

    async def renew(self, visibility_timeout: float) -> None:
        while True:
            await asyncio.sleep(visibility_timeout / 2)
            self._renewing = True
            try:
                self.delivery = await self.storage.extend(self.delivery, visibility_timeout=visibility_timeout)
            except (Conflict, StorageUnavailable):
                return  # a reply that was lost is a refusal to the next attempt
            finally:
                self._renewing = False

    async def stop(self, renewing: asyncio.Task[None]) -> None:
        """A renewal that is under way ends first."""
        while self._renewing and not renewing.done():
            await asyncio.sleep(0.01)
        renewing.cancel()
        await asyncio.wait((renewing,))

    async def delete(self) -> None:
        await self.storage.delete(self.delivery)

    async def release(self) -> None:
        self.delivery = await self.storage.extend(self.delivery, visibility_timeout=RETRY)
