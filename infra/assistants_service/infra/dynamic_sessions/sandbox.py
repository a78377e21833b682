"""Interpreters in sessions of Azure (ports.sandbox.Sandbox)."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from typing import Final

from assistants_service.core.ports.sandbox import InterpreterLost, SandboxBusy, SandboxUnavailable
from assistants_service.infra.dynamic_sessions.failures import Denied, PoolFull, RequestRefused, Unanswered
from assistants_service.infra.dynamic_sessions.interpreter import SessionInterpreter
from assistants_service.infra.dynamic_sessions.pool import SessionPool
from assistants_service.infra.sandbox.limits import LIBRARIES, InterpreterLimits

log = logging.getLogger(__name__)

CHECKED_FOR: Final = 60.0  # seconds for which a failed check is believed
_CHECK: Final = 5.0  # seconds for a check
LAST_REQUESTS: Final = 5.0  # seconds for sessions to end when the worker ends


class DynamicSessions:
    """Sends no request before the first call."""

    def __init__(self, pool: SessionPool, limits: InterpreterLimits, libraries: Sequence[str] = LIBRARIES) -> None:
        self._pool, self._limits, self._libraries = pool, limits, libraries
        self._checking: asyncio.Task[None] | None = None
        self._reason: str | None = None
        self._believed_until = 0.0
        self._live: set[SessionInterpreter] = set()
        self._ending: set[asyncio.Task[None]] = set()

    async def unavailable_reason(self) -> str:
        """As in the port. A reason may go away: a role assignment takes minutes to be effective. So it is checked again
        in the background. A pool that does not respond is no reason, since it may respond when a run needs it."""
        expired = asyncio.get_running_loop().time() >= self._believed_until
        if not self._checking or (expired and self._checking.done()):
            self._checking = asyncio.create_task(self._check())
        if self._reason is None:
            await asyncio.shield(self._checking)
        return self._reason or ""

    async def warm(self) -> None:
        """The pool keeps sessions ready."""

    async def start(self, session: str) -> SessionInterpreter:  # the name stays in this process
        if reason := await self.unavailable_reason():
            raise SandboxUnavailable(reason)
        if len(self._live) >= self._limits.interpreters:
            raise SandboxBusy
        interpreter = SessionInterpreter(self._pool, _new_identifier(), self._limits)
        self._live.add(interpreter)
        interpreter.on_end = lambda: self._live.discard(interpreter)
        try:
            await interpreter.begin(self._libraries)
        except BaseException as error:
            self._end(interpreter)
            raise self._as_told(error) from error
        interpreter.on_end = lambda: self._end(interpreter)
        return interpreter

    async def close(self) -> None:
        if self._checking:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)
        for interpreter in list(self._live):
            self._end(interpreter)
        if ending := list(self._ending):
            _, late = await asyncio.wait(ending, timeout=LAST_REQUESTS)
            for task in late:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
        await self._pool.close()

    async def _check(self) -> None:
        """Checks the pool with a token and a request."""
        reason, believed = "", CHECKED_FOR
        try:
            async with asyncio.timeout(_CHECK):
                await self._pool.check(_new_identifier())
            believed = float("inf")
        except (Denied, RequestRefused) as error:
            reason = f"The session pool cannot be used: {error}."
        except (Unanswered, TimeoutError) as error:
            log.warning("the session pool for code_interpreter does not respond: %s", error or "no answer in time")
        self._believe(reason, believed)

    def _believe(self, reason: str, seconds: float) -> None:
        self._reason, self._believed_until = reason, asyncio.get_running_loop().time() + seconds

    def _as_told(self, error: BaseException) -> BaseException:
        if isinstance(error, Denied):
            reason = f"The session pool cannot be used: {error}."
            log.error("code_interpreter: %s", reason)
            self._believe(reason, CHECKED_FOR)
            return SandboxUnavailable(reason)
        if isinstance(error, PoolFull | RequestRefused | Unanswered | InterpreterLost):
            log.warning(
                "cannot start a session: %s", f"the pool is full: {error}" if isinstance(error, PoolFull) else error
            )
            return SandboxBusy()
        return error

    def _end(self, interpreter: SessionInterpreter) -> None:
        self._live.discard(interpreter)
        ending = interpreter.end()
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


def _new_identifier() -> str:
    """The name of a session for Azure, which allows 4 to 128 characters: another one for each start, so that a late
    request about an earlier session never meets it. Who knows it and may use the pool can read the session's files."""
    return secrets.token_hex(32)
