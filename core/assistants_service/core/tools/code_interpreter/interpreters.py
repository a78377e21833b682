"""The interpreters of threads. The log is the source of truth; an interpreter is a cache of the state that it names.

A thread has one interpreter, which keeps its variables from call to call and from run to run. It is reused only if its
state is the one that the log names as the result of the last call; otherwise a new one is started. An exception during
a call, including its cancellation, ends the interpreter, because the log does not contain the state that it is in.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from assistants_service.core.ids import Ids
from assistants_service.core.ports.clock import Clock
from assistants_service.core.ports.sandbox import Interpreter, Sandbox, SandboxBusy

log = logging.getLogger(__name__)

MOST: Final = 4  # interpreters of a worker
SECONDS: Final = 60.0  # of a call
IDLE: Final = 20 * 60.0  # seconds for which an interpreter is kept after its last call
RETRIES: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 5.0)  # seconds between attempts to start one

ThreadKey = tuple[str, str]  # a project and a thread


@dataclass(eq=False, slots=True)
class Session:
    """An interpreter of a thread. `state` identifies its state after the last call, and is empty before the first;
    `provided` are the ids of users' files that were written into it."""

    interpreter: Interpreter
    state: str = ""
    provided: set[str] = field(default_factory=set)
    used_at: float = 0.0
    expiry: asyncio.TimerHandle | None = None  # while it is idle


class Interpreters:
    """The interpreters of one worker: at most `most`, each kept for up to `idle` seconds after its last call. If all
    are in use, further calls wait in order. An idle interpreter is closed to make room for a new one, the one that was
    used longest ago first."""

    def __init__(
        self,
        sandbox: Sandbox,
        clock: Clock,
        ids: Ids,
        *,
        most: int = MOST,
        idle: float = IDLE,
        seconds: float = SECONDS,
    ) -> None:
        """`seconds` is the time limit of a call that models are told; the sandbox enforces it."""
        self._sandbox, self._clock, self._ids, self._most, self._idle_for = sandbox, clock, ids, most, idle
        self.seconds = seconds
        self._turns, self._used = asyncio.Semaphore(most), 0
        self._idle: OrderedDict[ThreadKey, Session] = OrderedDict()  # used longest ago first
        self._closing: set[asyncio.Task[None]] = set()
        self._logged = False

    async def available(self) -> bool:
        """Whether code is executed here. If so, the sandbox prepares to start interpreters while the model thinks."""
        executed = await self.check()
        if executed:
            await self._sandbox.warm()
        return executed

    async def check(self) -> bool:
        """Whether code is executed here. The log says once why it is not."""
        unavailable = await self._sandbox.unavailable_reason()
        if unavailable and not self._logged:
            self._logged = True
            log.warning("code_interpreter is off: %s", unavailable)
        return not unavailable

    def new_state(self) -> str:
        """A name that no other execution has, in this process or in another one."""
        return self._ids.nonce() + self._ids.nonce()

    @contextlib.asynccontextmanager
    async def session(self, project: str, thread_id: str, state: str) -> AsyncIterator[Session]:
        """A session for one call: the thread's idle one if it is in this `state`, otherwise a new one. The caller sets
        the session's state after the call. Raises SandboxUnavailable and SandboxBusy."""
        key = project, thread_id
        async with self._turns:
            self._used += 1
            try:
                session = await self._fitting(key, state)
                try:
                    yield session
                except BaseException:
                    await self._close(session)
                    raise
            finally:
                self._used -= 1
            before = self._kept(key, session)
        if before:
            await self._close(before)

    async def close(self) -> None:
        while self._idle:
            await self._close(self._idle.popitem()[1])
        await asyncio.gather(*self._closing)

    async def _fitting(self, key: ThreadKey, state: str) -> Session:
        kept = self._idle.pop(key, None)
        if kept and kept.expiry:
            kept.expiry.cancel()
        if kept and self._continues(kept, state):
            return kept
        if kept:
            await self._close(kept)
        while len(self._idle) + self._used > self._most:
            await self._close(self._idle.popitem(last=False)[1])
        for pause in itertools.chain(RETRIES, (None,)):
            try:
                return Session(await self._sandbox.start(self.new_state()))
            except SandboxBusy:
                if pause is None:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError

    def _continues(self, session: Session, state: str) -> bool:
        """An idle interpreter may have died, such as when the machine ran out of memory: then a new one is started."""
        recent = self._clock.now() < session.used_at + self._idle_for
        return session.state == state and recent and session.interpreter.alive

    def _kept(self, key: ThreadKey, session: Session) -> Session | None:
        """Keep the session for the next call. Returns the session that it replaces, if any. There are two only if
        two executors of this process worked on the run at once; one of them has lost its claim."""
        before = self._idle.pop(key, None)
        session.used_at, loop = self._clock.now(), asyncio.get_running_loop()
        session.expiry = loop.call_later(self._idle_for, self._expire, key, session)
        self._idle[key] = session
        return before

    def _expire(self, key: ThreadKey, session: Session) -> None:
        if self._idle.get(key) is session:
            del self._idle[key]
            self._begin_to_close(session)

    async def _close(self, session: Session) -> None:
        """Close the session completely even if the caller is cancelled, so that its process does not remain."""
        await asyncio.shield(self._begin_to_close(session))

    def _begin_to_close(self, session: Session) -> asyncio.Task[None]:
        if session.expiry:
            session.expiry.cancel()
        closing = asyncio.create_task(session.interpreter.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        return closing
