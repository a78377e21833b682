"""The folders of the interpreters of one worker, and what a worker that was killed left behind."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import logging
import os
import tempfile
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

_PREFIX: Final = "assistants-code-"
_LOCK: Final = "lock"  # held by the worker, as long as it lives


class Workspace:
    """A folder in the temporary folder that no other user can enter. To make one takes time: not on the event loop."""

    def __init__(self) -> None:
        _sweep(Path(tempfile.gettempdir()))
        self.root = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        self._lock = _locked(self.root / _LOCK)
        self._numbers = itertools.count(1)
        self._removals: dict[Path, asyncio.Task[None]] = {}

    def folder(self) -> Path:
        """A new one, with `data` and `scratch` in it."""
        made = self.root / str(next(self._numbers))
        for each in (made, made / "data", made / "scratch"):
            each.mkdir(0o700)
        return made

    def discard(self, folder: Path) -> asyncio.Future[None]:
        """Remove it, if its interpreter has ended. That takes seconds where a cell made many files."""
        if folder not in self._removals:
            task = self._removals[folder] = asyncio.ensure_future(asyncio.to_thread(_remove, folder))
            task.add_done_callback(lambda _: self._removals.pop(folder))
        return asyncio.shield(self._removals[folder])

    async def close(self) -> None:
        await asyncio.gather(*self._removals.values())
        await asyncio.to_thread(_remove, self.root)
        os.close(self._lock)


def _remove(folder: Path) -> None:
    try:
        if folder.exists():  # it may have been removed before
            remove_tree(folder)
    except OSError as error:
        logger.warning("the folder %s of an interpreter could not be removed: %s", folder, error)


def remove_tree(root: Path) -> None:
    """Folders without rights and folders that are nested too deeply for a path, too: each is moved up before it is
    emptied. Nothing else may work in there. Raises OSError."""
    root.chmod(0o700)
    waiting, numbers = [root], itertools.count()
    while waiting:
        folder = waiting.pop()
        for path in _emptied(folder):
            try:
                path.rmdir()
            except OSError:  # it is not empty
                path.chmod(0o700)  # to move a folder is to write in it
                waiting.append(path.rename(root / f".removed-{next(numbers)}"))
        if folder != root:
            folder.rmdir()
    root.rmdir()


def _emptied(folder: Path) -> list[Path]:
    """Deletes its files and returns its folders."""
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.path)  # noqa: PTH108
    return [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]


def _locked(path: Path) -> int:
    """Raises BlockingIOError if another process holds it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(file)
        raise
    return file


def _sweep(shared: Path) -> None:
    for folder in shared.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # it is another user's, or in use
            if folder.lstat().st_uid == os.getuid() and (folder / _LOCK).exists():
                lock = _locked(folder / _LOCK)
                remove_tree(folder)
                os.close(lock)
