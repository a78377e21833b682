"""What the domain asks of a storage engine: the queue of work items."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a work item. `count` is 1 for the first; `receipt` proves that this delivery is the current
    one."""

    id: str
    body: bytes
    count: int
    receipt: str = field(repr=False)


class Queue(Protocol):
    """Work items: delivered at least once, unordered, hidden while a worker has them."""

    async def send(self, body: bytes, *, delay: float = 0) -> None:
        """Enqueue (at most 48 KiB), visible after `delay` seconds (at most 7 days)."""

    async def receive(self, limit: int, *, visibility_timeout: float) -> list[Delivery]:
        """Up to `limit` (at most 32) visible items, hidden from others for `visibility_timeout` seconds."""

    async def extend(self, delivery: Delivery, *, visibility_timeout: float) -> Delivery:
        """Hide for `visibility_timeout` seconds from now; the returned delivery replaces the old one, and its body is
        stored in the item. Raises Conflict if another worker has the item."""

    async def delete(self, delivery: Delivery) -> None:
        """The work is done. No error if another worker has the item by now, or if it is gone."""

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Move a poison item to the queue for inspection."""
