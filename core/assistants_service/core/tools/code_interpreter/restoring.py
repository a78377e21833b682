"""What code finds: the files of its thread in a new interpreter, and those of the user's that it does not have yet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from assistants_service.core.errors import ApiError
from assistants_service.core.fanout import fan_out
from assistants_service.core.files.service import decode_file
from assistants_service.core.tools.code_interpreter.interpreters import Session
from assistants_service.core.tools.code_interpreter.model_texts import FOLDER, list_paths
from assistants_service.core.tools.code_interpreter.naming import new_names, users_files
from assistants_service.core.tools.code_interpreter.services import CodeServices
from assistants_service.core.tools.run_info import ThreadInfo

SMALL: Final = 256 * 1024  # bytes of a file that is read whole before it is written
AHEAD: Final = 32  # files that are read at the same time


@dataclass(slots=True)
class Restoring:
    """For one call. `notes` say what is not there, and why; `names` are those of users' files that the log does not
    have yet, by id."""

    project: str
    thread: ThreadInfo
    session: Session
    services: CodeServices
    notes: list[str] = field(default_factory=list)
    names: Mapping[str, str] = field(default_factory=dict)

    async def restore(self) -> None:
        """The files as the last finished call left them. The interpreter takes one at a time, but the store is asked
        for many at once."""
        paths = list(self.thread.files)
        for start in range(0, len(paths), AHEAD):
            group = paths[start : start + AHEAD]
            contents = await fan_out(self._kept, group)
            for path, content in zip(group, contents, strict=True):
                if not await self._write([path], content):
                    self.notes.append(f"The file {FOLDER}{path} was deleted by the user.")

    async def give(self, file_ids: Sequence[str]) -> None:
        """The user's files, under their ids and their names."""
        self._note_missing(file_ids)
        new = [file_id for file_id in file_ids if file_id not in self.session.provided]
        if not new:
            return
        users = await users_files(self.project, self.thread, file_ids, self.services)
        self.names = new_names(self.thread, users)
        contents = await fan_out(self._users, new)
        for file_id, content in zip(new, contents, strict=True):
            there = users.get(file_id)
            if not there or not await self._write(there.paths, content):
                self.notes.append(f"The file {file_id} does not exist any more.")
            self.session.provided.add(file_id)

    def _note_missing(self, file_ids: Sequence[str]) -> None:
        """Those that earlier calls have found. An interpreter that is used again still has them."""
        others = {name for file_id, name in self.thread.file_names.items() if file_id not in file_ids}
        missing = sorted(others - self.thread.files.keys() - self.thread.removed)
        if missing and not self.session.state:
            listed = list_paths([f"{FOLDER}{name}" for name in missing])
            self.notes.append(f"Not among the user's files any more, and so not there: {listed}.")

    async def _kept(self, path: str) -> RestoredFile:
        kept = self.thread.files[path]
        return await self._content(kept.file_id, kept.bytes)

    async def _users(self, file_id: str) -> RestoredFile:
        try:
            stored = await self.services.files.fetch(self.project, file_id)
        except ApiError:
            return RestoredFile(file_id, 0, None)
        return await self._content(file_id, decode_file(stored.body).bytes)

    async def _content(self, file_id: str, size: int) -> RestoredFile:
        if size > SMALL:
            there = await self.services.files.has_content(self.project, file_id)
            return RestoredFile(file_id, size, b"" if there else None)
        data = b"".join([piece async for piece in self.services.files.read(self.project, file_id)]) if size else b""
        return RestoredFile(file_id, size, data if data or not size else None)

    async def _write(self, paths: Sequence[str], content: RestoredFile) -> bool:
        """Returns whether there is such a content."""
        if content.ahead is None:
            return False
        refused: dict[str, str] = {}
        for path in paths:
            large = content.size > SMALL
            data = self.services.files.read(self.project, content.file_id) if large else _once(content.ahead)
            try:
                await self.session.interpreter.write(path, data)
            except ValueError as error:
                refused[f"{FOLDER}{path}"] = str(error)
        if refused:
            said = " or ".join(refused)
            self.notes.append(f"There is no {said}: {next(iter(refused.values())).rstrip('.')}.")
        return True


@dataclass(frozen=True, slots=True)
class RestoredFile:
    """Of a file: the whole of a small one. None: there is none any more."""

    file_id: str
    size: int
    ahead: bytes | None


async def _once(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data
