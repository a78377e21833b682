"""Interpreters on this machine (ports.sandbox.Sandbox). The next one is started before it is needed."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Sequence

from assistants_service.core.ports.sandbox import InterpreterLost, SandboxBusy, SandboxUnavailable
from assistants_service.infra.sandbox import self_test
from assistants_service.infra.sandbox.interpreter import LocalInterpreter
from assistants_service.infra.sandbox.limits import LIBRARIES, InterpreterLimits
from assistants_service.infra.sandbox.seccomp import MACHINES
from assistants_service.infra.sandbox.workspace import Workspace

logger = logging.getLogger(__name__)


class LocalSandbox:
    """No process is started before the first call."""

    def __init__(self, limits: InterpreterLimits = InterpreterLimits(), libraries: Sequence[str] = LIBRARIES) -> None:  # noqa: B008
        self._limits, self._libraries = limits, libraries
        self._workspace: Workspace | None = None
        self._verdict: asyncio.Task[str] | None = None
        self._spare: asyncio.Task[LocalInterpreter] | None = None
        self._starting = 0
        self._live: set[LocalInterpreter] = set()

    async def unavailable_reason(self) -> str:
        self._verdict = self._verdict or asyncio.ensure_future(self._tested())
        return await asyncio.shield(self._verdict)

    async def warm(self) -> None:
        if not await self.unavailable_reason():
            self._prepare()

    async def start(self, session: str) -> LocalInterpreter:  # the process does not need the name
        if reason := await self.unavailable_reason():
            raise SandboxUnavailable(reason)
        if len(self._live) + self._starting >= self._limits.interpreters:
            raise SandboxBusy
        self._starting += 1
        try:
            interpreter = await self._next()
        except (InterpreterLost, OSError) as error:
            logger.warning("cannot start an interpreter: %s", error)
            raise SandboxBusy from error
        finally:
            self._starting -= 1
        self._live.add(interpreter)
        interpreter.on_end = lambda: self._live.discard(interpreter)
        self._prepare()
        return interpreter

    async def close(self) -> None:
        begun = [task for task in (self._verdict, self._spare) if task]
        self._spare = None
        for task in begun:
            task.cancel()
        ended = await asyncio.gather(*begun, return_exceptions=True)
        spare = [each for each in ended if isinstance(each, LocalInterpreter)]
        await asyncio.gather(*(each.close() for each in (*self._live, *spare)))
        if self._workspace:
            await self._workspace.close()

    def _prepare(self) -> None:
        if self._spare is None and len(self._live) + self._starting < self._limits.interpreters:
            self._spare = asyncio.ensure_future(self._started())
            self._spare.add_done_callback(self._prepared)

    def _prepared(self, spare: asyncio.Task[LocalInterpreter]) -> None:
        """If it could not be started, forget it, so that the next call tries again."""
        if spare is self._spare and not spare.cancelled() and (error := spare.exception()):
            self._spare = None
            logger.warning("cannot start an interpreter in advance: %s", error)

    async def _next(self) -> LocalInterpreter:
        spare, self._spare = self._spare, None
        if spare is None:
            return await self._started()
        interpreter = await spare
        return interpreter if interpreter.alive else await self._started()

    async def _started(self) -> LocalInterpreter:
        assert self._workspace  # noqa: S101 # the self-test made it
        interpreter = await LocalInterpreter.start(self._workspace, self._limits, self._libraries)
        if interpreter.missing:
            logger.info("Code cannot import %s, which the extra `code` installs", ", ".join(interpreter.missing))
        return interpreter

    async def _tested(self) -> str:
        if platform.machine() not in MACHINES:
            return f"Python is confined on {' and '.join(MACHINES)} only, and this is {platform.machine()}."
        try:
            self._workspace = await asyncio.to_thread(Workspace)
        except OSError as error:
            return f"The temporary folder cannot be used: {error}."
        return await self_test.weakness(self._workspace, self._limits)
