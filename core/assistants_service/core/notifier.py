"""Wakes waiters in the same process at once. Other processes poll."""

from __future__ import annotations

import asyncio


class Notifier:
    """First listen, then read, then wait: this misses no notification between the read and the wait."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[asyncio.Future[None]]] = {}

    def notify(self, topic: str) -> None:
        for listener in self._listeners.pop(topic, ()):
            if not listener.done():
                listener.set_result(None)

    def listen(self, topic: str) -> Listener:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listeners.setdefault(topic, set()).add(future)
        return Listener(self._listeners, topic, future)


class Listener:
    def __init__(
        self, listeners: dict[str, set[asyncio.Future[None]]], topic: str, future: asyncio.Future[None]
    ) -> None:
        self._listeners, self._topic, self.future = listeners, topic, future

    async def wait(self, timeout: float) -> bool:
        """True if notified, False after `timeout` seconds. Can be used once."""
        try:
            done, _ = await asyncio.wait((self.future,), timeout=timeout)
            return bool(done)
        finally:
            self.close()

    def close(self) -> None:
        """Stop listening; harmless if already notified or closed."""
        waiting = self._listeners.get(self._topic)
        if waiting is not None:
            waiting.discard(self.future)
            if not waiting:
                del self._listeners[self._topic]
