"""What is left of deleted threads: their own documents and logs, and the files that their tools made."""

from __future__ import annotations

from dataclasses import dataclass

from assistants_service.core.files.outputs import OutputFiles
from assistants_service.core.log.state import View
from assistants_service.core.threads.repository import ThreadRepository
from assistants_service.core.threads.state import ThreadChange, ThreadState


@dataclass(frozen=True, slots=True)
class ThreadPurge:
    """`last`: no late write can arrive any more."""

    threads: ThreadRepository
    outputs: OutputFiles
    last: bool = False

    async def load(self, project: str, thread_id: str) -> View[ThreadState, ThreadChange]:
        return await self.threads.load(project, thread_id)

    async def purge(self, project: str, thread_id: str) -> None:
        """Empty it. The log is left: it names the files."""
        await self.threads.purge(project, thread_id)
        if not self.last:  # else a second delivery of the item would leave tombstones of files that no log names
            await self.outputs.withdraw(project, await self._files(project, thread_id))

    async def purge_tombstones(self, project: str, thread_id: str) -> None:
        """Remove what is left, that of the files before the log."""
        await self.outputs.remove(project, await self._files(project, thread_id))
        await self.threads.purge_tombstones(project, thread_id)

    async def _files(self, project: str, thread_id: str) -> list[str]:
        state = await self.threads.cached(project, thread_id)
        return [] if state.known else sorted(state.referenced_files)
