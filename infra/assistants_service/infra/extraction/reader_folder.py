"""The folder of a reader: all that it may write, until it reads files, and where it finds the file that it reads."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PREFIX: Final = "assistants-reader-"
_LEFT_BEHIND: Final = 3600.0  # seconds after which a folder must be left over from a killed process


class ReaderFolder:
    """A reader's folder in the temporary folder; no other user can enter it. Raises OSError."""

    def __init__(self) -> None:
        _remove_left_over(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()

    @contextlib.contextmanager
    def linked(self, file: Path, kind: str) -> Iterator[Path]:
        """The file under a second name, since a reader may open nothing outside. The name has the extension `kind`:
        kreuzberg reads a wide workbook in little memory only if its name says what it is."""
        inside = self.path / f"file{kind}"
        try:
            os.link(file, inside)
        except OSError:  # it is on another file system
            shutil.copyfile(file, inside)
        try:
            yield inside
        finally:
            inside.unlink()

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _remove_left_over(shared: Path) -> None:
    """A reader that is in use changes its folder more often."""
    for folder in shared.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if found.st_uid == os.getuid() and found.st_mtime < time.time() - _LEFT_BEHIND:
                shutil.rmtree(folder)
