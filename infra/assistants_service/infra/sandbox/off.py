"""No sandbox: each run that wants to execute code is told why it cannot (ports.sandbox.Sandbox)."""

from __future__ import annotations

from assistants_service.core.ports.sandbox import Interpreter, SandboxUnavailable


class NoSandbox:
    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def unavailable_reason(self) -> str:
        return self._reason

    async def warm(self) -> None:
        """Nothing to have ready."""

    async def start(self, session: str) -> Interpreter:
        raise SandboxUnavailable(self._reason)

    async def close(self) -> None:
        """Nothing to close."""
