"""The rights that a process which reads files does without, and the limits that it works within."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
from pathlib import Path


def confine() -> None:
    """Before anything is loaded: no network, no core dumps, exit with the parent."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        if libc.unshare(0x40000000):  # CLONE_NEWNET: no usable network interface; for root, or else
            libc.unshare(0x40000000 | 0x10000000)  # in a new user namespace. If neither is allowed: without
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def forbid_writing() -> None:
    """Before the first file is read, and after the libraries are loaded, one of which has to be unpacked first."""
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def limit_memory(megabytes: int) -> None:
    """Memory that files may use beyond the process's present size, libraries and tables included. Linux only."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = now + megabytes * 1024**2
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def limit_time(seconds: int) -> None:
    """CPU time of all threads; the parent limits wall-clock time."""
    with contextlib.suppress(ImportError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + seconds + 1, most))
