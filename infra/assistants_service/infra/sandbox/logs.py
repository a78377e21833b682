"""What a cell printed: a file without a name, which it appends to, and of which the worker reads head and tail."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


class OutputLog:
    """The kernel bounds it as it does each file of the interpreter. Only the worker reads it, and never more than it
    returns."""

    def __init__(self, folder: Path) -> None:
        file, path = tempfile.mkstemp(dir=folder)
        os.close(file)
        self.descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        os.unlink(path)  # noqa: PTH108

    def clear(self) -> None:
        os.ftruncate(self.descriptor, 0)

    def text(self, most: int) -> tuple[str, int]:
        """Up to `most` bytes, and how many were left out in the middle."""
        size = os.fstat(self.descriptor).st_size
        if size <= most:
            return os.pread(self.descriptor, most, 0).decode(errors="replace"), 0
        half = most // 2
        head, tail = os.pread(self.descriptor, half, 0), os.pread(self.descriptor, half, size - half)
        left_out = size - 2 * half
        shown = f"\n... {left_out:,} bytes are left out ...\n"
        return head.decode(errors="replace") + shown + tail.decode(errors="replace"), left_out

    def close(self) -> None:
        os.close(self.descriptor)
