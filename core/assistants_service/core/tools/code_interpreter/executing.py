"""Executes a call: in the interpreter of its thread, whose files are as the log has them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from msgspec.structs import replace

from assistants_service.core.errors import ApiError
from assistants_service.core.files.outputs import CreatedFile, KeptFile
from assistants_service.core.ports.sandbox import (
    CellResult,
    ChangedFile,
    InterpreterLost,
    SandboxBusy,
    SandboxUnavailable,
)
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.tools.code_interpreter import model_texts
from assistants_service.core.tools.code_interpreter.arguments import code_of
from assistants_service.core.tools.code_interpreter.interpreters import Session
from assistants_service.core.tools.code_interpreter.resources import files_in
from assistants_service.core.tools.code_interpreter.services import CodeServices
from assistants_service.core.tools.code_interpreter.wire import CodeInterpreterToolCall, Executed
from assistants_service.core.tools.run_info import RunInfo, ThreadInfo
from assistants_service.core.tools.tool import Execution, Output

log = logging.getLogger(__name__)

MOST_KEPT: Final = 100 * 1024 * 1024  # bytes of the files that one call leaves
MOST_NAMES: Final = 512 * 1024  # characters of their paths: with the rest of a call they are one commit
MOST_IMAGES: Final = 20  # of one call


def files_of(run: RunInfo) -> tuple[str, ...]:
    """The user's files: the assistant's, and the thread's with those of its messages, as the run has them."""
    return files_in(run.tool_resources)


async def execute(execution: Execution[CodeInterpreterToolCall], services: CodeServices) -> Output:
    """At least once, and each time from the files that the last finished call left. Raises StorageUnavailable."""
    code, interpreters = code_of(execution.call.record.arguments), services.interpreters
    if not code.strip():
        return Output(model_texts.NO_CODE, Executed())
    if interpreters is None:
        return Output(model_texts.OFF, Executed())
    project, thread, thread_id = execution.project, execution.thread, execution.run.thread_id
    try:
        async with interpreters.session(project, thread_id, thread.executed) as session:
            call = Call(project, execution.run, thread, session, services)
            output = await call.execute(code, state=interpreters.new_state())
            session.state = output.stored.state
            return output
    except InterpreterLost as lost:
        log.warning("run %s: its interpreter was lost: %s", execution.run.id, lost.reason)
        return _lost(lost, interpreters.new_state())
    except SandboxBusy as busy:
        log.warning("run %s: its code was not executed, as no interpreter was free", execution.run.id)
        return Output(model_texts.BUSY, Executed(), type(busy).__name__)
    except SandboxUnavailable as unavailable:
        return Output(model_texts.OFF, Executed(), type(unavailable).__name__)
    except StorageUnavailable:
        raise
    except Exception as error:  # a model's answer that says so is worth more than a run that fails
        log.exception("run %s: a call of code failed", execution.run.id)
        return Output(model_texts.FAILED, Executed(state=interpreters.new_state()), type(error).__name__)


def _lost(lost: InterpreterLost, state: str) -> Output:
    """With what the code printed before its interpreter ended."""
    logs = model_texts.storable(lost.logs)
    stored = Executed(state=state, logs=model_texts.cut_to(logs, model_texts.MOST_LOGS))
    return Output(model_texts.lost(lost.reason, logs), stored, type(lost).__name__)


@dataclass(slots=True)
class Call:
    """A call in a session."""

    project: str
    run: RunInfo
    thread: ThreadInfo
    session: Session
    services: CodeServices
    notes: list[str] = field(default_factory=list)

    async def execute(self, code: str, state: str) -> Output:
        restarted = not self.session.state and self.thread.executed != ""
        await self._provide_files()
        if not self.session.state:
            await self._restore()
        result = await self.session.interpreter.run(code)
        images, files = await self._keep(result)
        logs = model_texts.storable(result.logs)
        stored = Executed(
            state=state,
            logs=model_texts.cut_to(logs, model_texts.MOST_LOGS),
            images=tuple(images),
            files=tuple(files),
            removed=tuple(path for path in result.removed if path in self.thread.files),
        )
        text = model_texts.output_of(result, images, files, [*self.notes, *result.notes], restarted=restarted)
        return Output(model_texts.storable(text), stored)

    # -- what the code finds ---------------------------------------------------------------------------------------

    async def _provide_files(self) -> None:
        """The user's files that the session does not have yet, under their ids and their names. A file of the thread
        that has such a name stays."""
        new = [file_id for file_id in files_of(self.run) if file_id not in self.session.provided]
        names = await self.services.named_files.names(self.project, files_of(self.run)) if new else {}
        for file_id in new:
            paths = [path for path in (file_id, names.get(file_id, "")) if path and path not in self.thread.files]
            await self._provide_file(file_id, list(dict.fromkeys(paths)))
            self.session.provided.add(file_id)

    async def _provide_file(self, file_id: str, paths: Sequence[str]) -> None:
        try:
            await self.services.files.fetch(self.project, file_id)
        except ApiError:
            self.notes.append(f"The file {file_id} does not exist any more.")
            return
        for path in paths:
            await self._write(path, self.services.files.read(self.project, file_id))

    async def _restore(self) -> None:
        """The files as the last finished call left them."""
        for path, kept in self.thread.files.items():
            if kept.bytes and not await self.services.files.has_content(self.project, kept.file_id):
                self.notes.append(f"The file {model_texts.FOLDER}{path} was deleted by the user.")
                continue
            await self._write(
                path, self.services.files.read(self.project, kept.file_id) if kept.bytes else _no_chunks()
            )

    async def _write(self, path: str, content: AsyncIterator[bytes]) -> None:
        try:
            await self.session.interpreter.write(path, content)
        except ValueError as error:
            self.notes.append(f"The file {model_texts.FOLDER}{path} is not there: {error}.")

    # -- what it leaves --------------------------------------------------------------------------------------------

    def _files_of(self, changed: Sequence[ChangedFile]) -> list[CreatedFile]:
        """Those that there is room for: in the store, and for their names in the log."""
        read, room, names = self.session.interpreter.read, MOST_KEPT, MOST_NAMES
        files, lost = list[CreatedFile](), list[str]()
        for file in changed:
            if file.size <= room and len(file.path) <= names:
                room, names = room - file.size, names - len(file.path)
                files.append(CreatedFile(file.path, file.size, partial(read, file.path)))
            else:
                lost.append(f"{model_texts.FOLDER}{file.path}")
        if lost:
            self.notes.append(
                f"{model_texts.list_paths(lost)} will be lost: a call may leave {MOST_KEPT} bytes in files."
            )
        return files

    async def _keep(self, result: CellResult) -> tuple[list[KeptFile], list[KeptFile]]:
        """The images that the code showed and the files that it wrote, stored. Raises InterpreterLost and
        StorageUnavailable."""
        files = self._files_of(result.changed)
        images = [CreatedFile("", len(image), partial(_one_chunk, image)) for image in result.images[:MOST_IMAGES]]
        if len(result.images) > MOST_IMAGES:
            self.notes.append(f"Only the first {MOST_IMAGES} images are shown.")
        if not images and not files and not result.removed:
            return [], []
        paths = [*(changed.path for changed in result.changed), *result.removed]
        replaced = [self.thread.files[path].file_id for path in paths if path in self.thread.files]
        kept = await self.services.outputs.keep(self.project, self.run.thread_id, [*images, *files], replaced)
        shown = [replace(image, path=f"{image.file_id}.png") for image in kept if not image.path]
        return shown, [file for file in kept if file.path]


async def _one_chunk(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _no_chunks() -> AsyncIterator[bytes]:
    return
    yield b""
