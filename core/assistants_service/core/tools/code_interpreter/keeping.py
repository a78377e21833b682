"""What a call leaves: the images that it showed, the files that it wrote, and the paths that are no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from msgspec.structs import replace

from assistants_service.core.files.outputs import CreatedFile, KeptFile
from assistants_service.core.ports.sandbox import CellResult, ChangedFile
from assistants_service.core.tools.code_interpreter import model_texts
from assistants_service.core.tools.code_interpreter.services import CodeServices
from assistants_service.core.tools.run_info import ThreadInfo

MOST_KEPT: Final = 100 * 1024 * 1024  # bytes of the images and files that one call leaves
MOST_FILES: Final = 2_000  # of a thread
MOST_NAMES: Final = 512 * 1024  # bytes of the paths of a thread's files: one call may remove or change them all
MOST_IMAGES: Final = 20  # of one call

Read = Callable[[str], AsyncIterator[bytes]]


@dataclass(slots=True)
class Keeping:
    """Keeps what one call has written. `users` are the paths of users' files. `read` gives the bytes of a file that it
    changed. `notes` say what is lost, and why."""

    project: str
    thread: ThreadInfo
    thread_id: str
    users: Set[str]
    read: Read
    services: CodeServices
    notes: list[str] = field(default_factory=list)
    room: int = field(default_factory=lambda: MOST_KEPT)  # bytes

    async def keep(self, result: CellResult) -> Left:
        """Store what there is room for. Raises InterpreterLost and StorageUnavailable."""
        full = bool(result.images or result.changed) and self.services.outputs.is_full(self.project)
        if full:
            self.notes.append(model_texts.FULL)
        made = [] if full else [*self._images_of(result.images), *self._files_of(result)]
        touched = [*result.removed, *(changed.path for changed in result.changed)]
        before = [path for path in touched if path in self.thread.files or path in self.users]
        kept = await self._store(made, before) if made or before else []
        images = [replace(image, path=f"{image.file_id}.png") for image in kept if not image.path]
        files = [file for file in kept if file.path]
        # What a path had before is no more, even if what it has now is not kept.
        there = {file.path for file in files}
        if unread := [f"{model_texts.FOLDER}{each.path}" for each in made if each.path and each.path not in there]:
            self.notes.append(f"{model_texts.list_paths(unread)} could not be read, and will be lost.")
        return Left(images, files, [path for path in before if path not in there], full)

    async def _store(self, made: Sequence[CreatedFile], before: Sequence[str]) -> list[KeptFile]:
        self.room = MOST_KEPT
        replaced = [self.thread.files[path].file_id for path in before if path in self.thread.files]
        return await self.services.outputs.keep(self.project, self.thread_id, made, replaced)

    def _images_of(self, images: Sequence[bytes]) -> list[CreatedFile]:
        kept = list[CreatedFile]()
        for image in images[:MOST_IMAGES]:
            if self.room < len(image):
                break
            self.room -= len(image)
            kept.append(CreatedFile("", len(image), partial(self._pieces, partial(_once, image))))
        if len(kept) < len(images):
            self.notes.append(f"Only the first {len(kept)} images are shown.")
        return kept

    def _files_of(self, result: CellResult) -> list[CreatedFile]:
        touched = {*result.removed, *(changed.path for changed in result.changed)}
        others = [path for path in self.thread.files if path not in touched]
        names, number = MOST_NAMES - sum(map(_size, others)), MOST_FILES - len(others)
        kept, lost = list[CreatedFile](), list[str]()
        for changed in result.changed:
            if changed.size <= self.room and _size(changed.path) <= names and number > 0:
                self.room, names, number = self.room - changed.size, names - _size(changed.path), number - 1
                kept.append(self._created(changed))
            else:
                lost.append(f"{model_texts.FOLDER}{changed.path}")
        if lost:
            self.notes.append(
                f"{model_texts.list_paths(lost)} will be lost: a call may leave {MOST_KEPT} bytes in files,"
                f" and a thread may have {MOST_FILES} files."
            )
        return kept

    def _created(self, changed: ChangedFile) -> CreatedFile:
        return CreatedFile(changed.path, changed.size, partial(self._pieces, partial(self.read, changed.path)))

    async def _pieces(self, read: Callable[[], AsyncIterator[bytes]]) -> AsyncIterator[bytes]:
        """What is read, which may be more than was said. Raises ValueError beyond the limit of the call."""
        async for piece in read():
            self.room -= len(piece)
            if self.room < 0:
                raise ValueError("it has more bytes than a call may leave")
            yield piece


@dataclass(frozen=True, slots=True)
class Left:
    """`images` and `files` are stored; `removed` are paths of the thread's and of users' files. `full`: the project may
    store no more, and nothing was kept."""

    images: Sequence[KeptFile] = ()
    files: Sequence[KeptFile] = ()
    removed: Sequence[str] = ()
    full: bool = False


def _size(path: str) -> int:
    return len(path.encode(errors="replace"))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
