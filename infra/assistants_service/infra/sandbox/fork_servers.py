"""The fork server of a sandbox: started when it is needed, replaced when it has ended, ended when it was not used for a
while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from assistants_service.infra.sandbox.server_process import ForkServer

logger = logging.getLogger(__name__)

IDLE: Final = 10 * 60.0  # seconds for which it is kept without an interpreter


class ForkServers:
    """One at a time. `start` starts it, and `in_use` tells whether there are interpreters, which would end with it."""

    def __init__(self, start: Callable[[], Awaitable[ForkServer]], in_use: Callable[[], bool]) -> None:
        self._start, self._in_use = start, in_use
        self._current: asyncio.Future[ForkServer] | None = None
        self._retired: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None

    def prepare(self) -> asyncio.Future[ForkServer]:
        """The one that there is; if there is none, or it has ended, a new one, which is being started."""
        self._expire_later()
        if (server := self._ready()) and server.ended:
            logger.warning("the process that interpreters are forked from has ended; another one is started")
            self.give_up(server)
        if not self._current:
            self._current = asyncio.ensure_future(self._start())
            self._current.add_done_callback(self._started)
        return self._current

    async def get(self) -> ForkServer:
        """Raises what `start` raises."""
        return await asyncio.shield(self.prepare())

    def give_up(self, server: ForkServer) -> None:
        """End it; the next call gets another one."""
        if self._ready() is server:
            self._current = None
        closing = asyncio.ensure_future(server.close())
        self._retired.add(closing)
        closing.add_done_callback(self._retired.discard)

    async def close(self) -> None:
        if self._expiry:
            self._expiry.cancel()
        if self._current:
            self._current.cancel()
            (ended,) = await asyncio.gather(self._current, return_exceptions=True)
            if isinstance(ended, ForkServer):
                await ended.close()
        await asyncio.gather(*self._retired)

    def _started(self, starting: asyncio.Future[ForkServer]) -> None:
        """If it could not be started, forget it, so that the next call tries again."""
        if not starting.cancelled() and (error := starting.exception()):
            self._current = None
            logger.warning("cannot start the process that interpreters are forked from: %s", error)

    def _ready(self) -> ForkServer | None:
        current = self._current
        if not current or not current.done() or current.cancelled() or current.exception():
            return None
        return current.result()

    def _expire_later(self) -> None:
        if self._expiry:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_later(IDLE, self._expire)

    def _expire(self) -> None:
        if self._in_use():
            self._expire_later()
        elif server := self._ready():
            self.give_up(server)
