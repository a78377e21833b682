"""The files of /mnt/data, as the interpreter sees them: which there are, which have changed, and their bytes."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import stat
import sys
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from assistants_service.infra.sandbox.frames import CHUNK

_TICK: Final = 0.02  # seconds; two changes within less may leave the same time of the last change

MOST_PATH: Final = 1024  # bytes

# By path: inode, time of the last change in ns, size; digest if mapped.
FolderState = dict[str, tuple[int, int, int, bytes]]


@dataclass(frozen=True)
class Changes:
    changed: list[tuple[str, int]]
    removed: list[str]
    unnamed: int  # files with names that cannot be told


class MappedFiles:
    """The files that this process has ever mapped to write to them. Writing to a mapping need not change the time of
    the file's last change, so these files are compared by their content. Mappings that are not made by Python's `mmap`
    (numpy's are) are not noticed."""

    def __init__(self) -> None:
        self._inodes = set[int]()
        sys.addaudithook(self._hear)

    def digest(self, root: str, path: str, inode: int) -> bytes:
        """Empty for any other file."""
        if inode not in self._inodes:
            return b""
        with contextlib.suppress(OSError), os.fdopen(open_to_read(root, path), "rb") as file:
            digest = hashlib.blake2b()
            while piece := file.read(CHUNK):
                digest.update(piece)
            return digest.digest()
        return b""

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "mmap.__new__" and arguments[0] >= 0 and arguments[2] not in (mmap.ACCESS_READ, mmap.ACCESS_COPY):
            with contextlib.suppress(OSError):  # as `mmap` will find out
                self._inodes.add(os.fstat(arguments[0]).st_ino)


def state(root: str, mapped: MappedFiles | None = None) -> FolderState:
    """Regular files alone, by path relative to `root`; with digests of those that are `mapped`. Walks without
    recursion: a cell may have nested deeply."""
    found: FolderState = {}
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        for name, status in _entries(os.path.join(root, prefix)):  # noqa: PTH118
            if stat.S_ISDIR(status.st_mode):
                waiting.append(f"{prefix}{name}/")
            elif stat.S_ISREG(status.st_mode):
                digest = mapped.digest(root, prefix + name, status.st_ino) if mapped else b""
                found[prefix + name] = *version(status), digest
    return found


def version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _entries(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """The entries, without what is removed meanwhile and what cannot be reached: a path that is too long, a folder
    without rights."""
    with contextlib.suppress(OSError), os.scandir(path) as found:
        for entry in found:
            with contextlib.suppress(OSError):
                yield entry.name, entry.stat(follow_symlinks=False)


def settle(found: FolderState) -> None:
    """Wait until a change of any of these files is sure to show."""
    newest = max((changed for _, changed, *_ in found.values()), default=0) / 1e9
    time.sleep(min(_TICK, max(0.0, newest + _TICK - time.time())))


def changes(before: FolderState, after: FolderState) -> Changes:
    """Sorted by path."""
    changed = [(path, found[2]) for path, found in sorted(after.items()) if before.get(path) != found]
    removed = [path for path in sorted(before) if path not in after]
    told = [(path, size) for path, size in changed if is_valid(path)]
    return Changes(told, [path for path in removed if is_valid(path)], len(changed) - len(told))


class TrackedFolder:
    """What has changed since the worker was last told: by a call, or by threads before it. What the worker itself
    writes does not count."""

    def __init__(self, root: str) -> None:
        self._root, self._mapped = root, MappedFiles()
        self._told: FolderState | None = None  # before the first call, nothing but the worker writes

    def begin(self) -> None:
        """Before a call: its changes are sure to show."""
        if self._told is None:
            self._told = state(self._root, self._mapped)
        settle(self._told)

    def changes(self) -> Changes:
        """After a call. A change from now on is sure to show in the next one."""
        settle(state(self._root))
        before, self._told = self._told or {}, state(self._root, self._mapped)
        return changes(before, self._told)

    def written(self, path: str, inode: int, changed: int, size: int) -> None:
        """The worker has put a file there. `changed` is the time of its last change in ns."""
        if self._told is not None:
            self._told[path] = inode, changed, size, self._mapped.digest(self._root, path, inode)

    def dropped(self, path: str) -> None:
        """The worker has removed it."""
        if self._told is not None:
            self._told.pop(path, None)


def is_valid(path: str) -> bool:
    """Relative, in UTF-8 and not too long, without control characters and without steps upwards."""
    try:
        if len(path.encode()) > MOST_PATH:
            return False
    except UnicodeEncodeError:
        return False
    parts = path.split("/")
    return not ({"", ".", ".."} & set(parts)) and not any(unicodedata.category(each) == "Cc" for each in path)


def open_to_read(root: str, path: str) -> int:
    """Raises OSError, also for what is no regular file."""
    file = os.open(os.path.join(root, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # noqa: PTH118
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError("it is no regular file")
    return file


def open_to_write(root: str, path: str) -> int:
    """Opens a file, and creates the folders that it needs. Raises OSError."""
    whole = os.path.join(root, path)  # noqa: PTH118
    os.makedirs(os.path.dirname(whole), exist_ok=True)  # noqa: PTH103, PTH120
    return os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)


def pieces(file: int) -> Iterator[bytes]:
    while piece := os.read(file, CHUNK):
        yield piece
