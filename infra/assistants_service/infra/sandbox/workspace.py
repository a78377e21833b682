"""The folders of the interpreters of one worker, and what a worker that was killed left behind."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import tempfile
from pathlib import Path
from typing import Final

_PREFIX: Final = "assistants-code-"
_LOCK: Final = "lock"  # held by the worker, as long as it lives


class Workspace:
    """A folder in the temporary folder, that no other user can enter. Blocks: not for the event loop."""

    def __init__(self) -> None:
        _sweep(Path(tempfile.gettempdir()))
        self.root = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        self._lock = _locked(self.root / _LOCK)
        self._numbers = itertools.count(1)

    def folder(self) -> Path:
        """A new one, with `data` and `scratch` in it."""
        made = self.root / str(next(self._numbers))
        made.mkdir(0o700)
        (made / "data").mkdir()
        (made / "scratch").mkdir()
        return made

    def remove(self, folder: Path) -> None:
        """Of an interpreter that has ended."""
        remove_tree(folder)

    def close(self) -> None:
        remove_tree(self.root)
        os.close(self._lock)


def remove_tree(root: Path) -> None:
    """Folders without rights and folders that are nested too deeply for a path, too: each is moved up before it is
    emptied. Nothing else may work in there. Raises OSError."""
    root.chmod(0o700)
    waiting, numbers = [root], itertools.count()
    while waiting:
        folder = waiting.pop()
        for path in _emptied(folder):
            path.chmod(0o700)  # to move a folder is to write in it
            waiting.append(path.rename(root / f".removed-{next(numbers)}"))
        if folder != root:
            folder.rmdir()
    root.rmdir()


def _emptied(folder: Path) -> list[Path]:
    """Its folders, when its files are gone."""
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
