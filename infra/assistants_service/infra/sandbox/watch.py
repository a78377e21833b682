"""Enforces limits for which the kernel has none without privileges: bytes and entries on disk, and threads. They are
checked 10 to 20 times a second.

No file that a cell created is opened: folders are listed, and files are examined by stat.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from assistants_service.infra.sandbox.limits import InterpreterLimits, format_size

_PAUSE, _LONG_PAUSE = 0.05, 0.1  # seconds between checks; the second one if a check takes long
_LONG: Final = 0.005  # seconds
_MOST_MAPS: Final = 16 * 1024**2  # bytes of /proc/PID/maps: 65,530 mappings of files with usual names have fewer


class Watch:
    """Watches one process during a request, from a thread of its own. If a limit is exceeded, it sets `reason` and
    calls `kill`."""

    def __init__(self, pid: int, folder: Path, limits: InterpreterLimits, kill: Callable[[], None]) -> None:
        self.reason = ""
        self._pid, self._folder, self._limits, self._kill = pid, str(folder), limits, kill
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sandbox-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()

    def _run(self) -> None:
        pause = _PAUSE
        while not self._over.wait(pause):
            began = time.monotonic()
            if reason := excess(self._pid, self._folder, self._limits):
                self.reason = reason
                return self._kill()
            pause = _LONG_PAUSE if time.monotonic() - began > _LONG else _PAUSE


def excess(pid: int, folder: str, limits: InterpreterLimits) -> str:
    """The limit that the process exceeds, as the end of a sentence; empty if there is none or the process has ended."""
    try:
        threads = os.stat(f"/proc/{pid}/task").st_nlink - 2  # noqa: PTH116
        if threads > limits.threads:
            return f"started more than {limits.threads} threads"
        if threads > 1 and _is_zombie(
            pid
        ):  # its other threads go on, but their descriptors and mappings are not listed
            return "ended its main thread"
        size = _unlinked(pid, os.stat(folder).st_dev, limits)  # noqa: PTH116
    except (FileNotFoundError, ProcessLookupError):
        return ""
    except OSError as error:
        return "" if _is_ending(pid) else f"cannot be watched ({error})"
    for entries, status in enumerate(_statuses(folder), 1):
        if status is None:
            return "created folders that cannot be listed, or that are nested too deeply"
        size += status.st_blocks * 512
        if entries > limits.entries:
            return f"created more than {limits.entries:,} files and folders"
        if size > limits.folder:
            break
    return f"wrote more than {format_size(limits.folder)} to disk" if size > limits.folder else ""


def _is_ending(pid: int) -> bool:
    """Such a process has no memory any more, and Linux denies others than root a look at its files."""
    try:
        return Path(f"/proc/{pid}/statm").read_text().startswith("0 ")
    except OSError:
        return True


def _unlinked(pid: int, device: int, limits: InterpreterLimits) -> int:
    """Bytes of deleted files that the process has open or mapped. The size of a mapped one is unknown, so it counts
    with the maximum size of a file."""
    open_files = {}
    for number in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
        status = _status(f"/proc/{pid}/fd/{number}")
        if status and stat.S_ISREG(status.st_mode) and not status.st_nlink:
            open_files[status.st_ino] = status.st_blocks * 512
    mapped = _mapped(pid, device) - set(open_files)
    return sum(open_files.values()) + len(mapped) * limits.file


def _is_zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
        return file.read().rpartition(b")")[2].split()[0] == b"Z"


def _mapped(pid: int, device: int) -> set[int]:
    """Inodes of deleted files of this device that are mapped. The fields of a line of maps are: address, permissions,
    offset, device, inode, path. Raises OSError if there are too many lines to read."""
    with open(f"/proc/{pid}/maps", "rb") as file:  # noqa: PTH123
        text = file.read(_MOST_MAPS)
    if len(text) == _MOST_MAPS:
        raise OSError(errno.E2BIG, "it has too many mappings of files with long names")
    lines = text.splitlines()
    named = b"%02x:%02x" % (os.major(device), os.minor(device))
    fields = (line.split(None, 5) for line in lines if line.endswith(b" (deleted)"))
    return {int(field[4]) for field in fields if field[3] == named}


def _statuses(root: str) -> Iterator[os.stat_result | None]:
    """The status of everything in the folder and below it; None for a folder that cannot be listed."""
    waiting = [root]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if status := _status(entry.path):
                        yield status
                        if stat.S_ISDIR(status.st_mode):
                            waiting.append(entry.path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):  # removed meanwhile
                yield None


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks="/proc/" in path)  # noqa: PTH116
    except FileNotFoundError:
        return None
