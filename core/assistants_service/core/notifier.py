"""Wakes waiters in the same process at once. Between processes the waiter's timeout is the poll."""

from __future__ import annotations

import asyncio


class Notifier:
    """Listen first, then look, then wait: a notification between the look and the wait is not missed."""

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
        """True if it was notified, False after `timeout` seconds. Serves once."""
        try:
            done, _ = await asyncio.wait((self.future,), timeout=timeout)
            return bool(done)
        finally:
            self.close()

    def close(self) -> None:
        """Forget it; harmless if it was notified or closed before."""
        waiting = self._listeners.get(self._topic)
        if waiting is not None:
            waiting.discard(self.future)
            if not waiting:
                del self._listeners[self._topic]
