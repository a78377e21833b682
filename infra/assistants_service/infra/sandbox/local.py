"""Interpreters on this machine (ports.sandbox.Sandbox), forked from a process that has imported their libraries."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Sequence

from assistants_service.core.ports.sandbox import InterpreterLost, SandboxBusy, SandboxUnavailable
from assistants_service.infra.sandbox import self_test
from assistants_service.infra.sandbox.fork_servers import ForkServers
from assistants_service.infra.sandbox.interpreter import LocalInterpreter
from assistants_service.infra.sandbox.limits import LIBRARIES, InterpreterLimits
from assistants_service.infra.sandbox.seccomp import MACHINES
from assistants_service.infra.sandbox.server_process import ForkServer, Unfit
from assistants_service.infra.sandbox.workspace import Workspace

logger = logging.getLogger(__name__)


class LocalSandbox:
    """No process is started before the first call."""

    def __init__(self, limits: InterpreterLimits = InterpreterLimits(), libraries: Sequence[str] = LIBRARIES) -> None:  # noqa: B008
        self._limits, self._libraries = limits, libraries
        self._workspace: Workspace | None = None
        self._verdict: asyncio.Task[str] | None = None
        self._starting = 0
        self._live: set[LocalInterpreter] = set()
        self._servers = ForkServers(self._forking, in_use=lambda: bool(self._live or self._starting))
        self._preload = True

    async def unavailable_reason(self) -> str:
        self._verdict = self._verdict or asyncio.ensure_future(self._tested())
        return await asyncio.shield(self._verdict)

    async def warm(self) -> None:
        if not await self.unavailable_reason():
            self._servers.prepare()

    async def start(self, session: str) -> LocalInterpreter:  # the process does not need the name
        if reason := await self.unavailable_reason():
            raise SandboxUnavailable(reason)
        if len(self._live) + self._starting >= self._limits.interpreters:
            raise SandboxBusy
        self._starting += 1
        try:
            interpreter = await self._started()
        except (InterpreterLost, Unfit, OSError) as error:
            logger.warning("cannot start an interpreter: %s", error)
            raise SandboxBusy from error
        finally:
            self._starting -= 1
        self._live.add(interpreter)
        interpreter.on_end = lambda: self._live.discard(interpreter)
        return interpreter

    async def close(self) -> None:
        if self._verdict:
            self._verdict.cancel()
            await asyncio.gather(self._verdict, return_exceptions=True)
        await asyncio.gather(*(each.close() for each in self._live))
        await self._servers.close()
        if self._workspace:
            await self._workspace.close()

    async def _started(self) -> LocalInterpreter:
        assert self._workspace  # noqa: S101 # the self-test made it
        server = await self._servers.get()
        try:
            interpreter = await LocalInterpreter.start(self._workspace, self._limits, server)
        except TimeoutError:
            self._servers.give_up(server)
            raise
        if interpreter.missing:
            logger.info("code cannot import %s, which the extra `code` installs", ", ".join(interpreter.missing))
        return interpreter

    async def _forking(self) -> ForkServer:
        """A fork server with the libraries, if interpreters can be forked from it then. Raises Unfit, InterpreterLost
        and OSError: a process that was killed or too slow says nothing about the libraries."""
        assert self._workspace  # noqa: S101
        if self._preload:
            try:
                return await self._loaded(self._workspace)
            except Unfit as unfit:
                logger.warning("each interpreter imports the libraries itself, which takes seconds: %s", unfit)
                self._preload = False
        return await ForkServer.start(self._workspace, self._limits, self._libraries, preload=False)

    async def _loaded(self, workspace: Workspace) -> ForkServer:
        """Tested again, since libraries may do to a process what the first test did not see. Raises Unfit,
        InterpreterLost and OSError."""
        server = await ForkServer.start(workspace, self._limits, self._libraries)
        try:
            if self._libraries and (weakness := await self_test.tried(workspace, self._limits, server)):
                raise Unfit(weakness)
        except BaseException:
            await server.close()
            raise
        return server

    async def _tested(self) -> str:
        if platform.machine() not in MACHINES:
            return f"Python is confined on {' and '.join(MACHINES)} only, and this is {platform.machine()}."
        try:
            self._workspace = await asyncio.to_thread(Workspace)
        except OSError as error:
            return f"The temporary folder cannot be used: {error}."
        return await self_test.weakness(self._workspace, self._limits)
