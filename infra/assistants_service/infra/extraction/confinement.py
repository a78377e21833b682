"""The rights that a process which reads files does without, and the limits that it works within."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import sys
from pathlib import Path
from typing import Final

from assistants_service import core, infra

_LARGEST_LIBRARY: Final = 64 * 1024**2  # bytes; one is unpacked before files are read


def weakness() -> str:
    """Why a process that reads files is confined less on this machine than it could be: one sentence, or empty."""
    if sys.platform != "linux":
        return f"Files are read by a process that could open other files, since {sys.platform} has no Landlock."
    from assistants_service.infra.sandbox import landlock, seccomp

    try:
        landlock.version()
    except OSError as error:
        return f"Files are read by a process that could open other files. {error.strerror}."
    if platform.machine() not in seccomp.MACHINES:
        return f"Files are read by a process that could open other files, since this is {platform.machine()}."
    return ""


def confine(own: str) -> int:
    """Before anything is loaded: no network, no core dumps, exit with the parent; and where the system has Landlock, no
    files but libraries and the folder `own`, and few system calls. A descriptor for `limit_memory`."""
    mapped = -1
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        if libc.unshare(0x40000000):  # CLONE_NEWNET: no usable network interface; for root, or else
            libc.unshare(0x40000000 | 0x10000000)  # in a new user namespace. If neither is allowed: without
        mapped = _confine_as_code(own)
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    return mapped


def _confine_as_code(own: str) -> int:
    """Confines the process as interpreters are. If that is impossible, a file is still read, by a process that can do
    more: unlike code of a model, files come from the service's own callers."""
    from assistants_service.infra.sandbox import confinement

    mapped = os.open(confinement.MAPPED, os.O_RDONLY)
    code = [str(Path(module.__file__ or "").parent) for module in (core, infra)]  # which is not always installed
    try:
        readable = (*confinement.readable(), *code)
        confinement.confine(readable=readable, writable=(own, os.devnull), largest_file=_LARGEST_LIBRARY)
    except confinement.ConfinementError as error:
        if weakness():  # which the worker has told
            return mapped
        sys.stderr.write(f"Files are read in a process that is confined less than it could be: {error}\n")
    return mapped


def forbid_writing() -> None:
    """Called before the first file is read, and after the libraries are loaded, one of which has to be unpacked
    first."""
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def limit_memory(megabytes: int, mapped: int) -> None:
    """Memory that files may use beyond the process's present size, libraries and tables included. Linux only. `mapped`
    comes from `confine`."""
    if sys.platform == "linux":
        from assistants_service.infra.sandbox import confinement

        confinement.limit_memory(megabytes * 1024**2, mapped)


def limit_time(seconds: int) -> None:
    """CPU time of all threads; the parent limits wall-clock time."""
    with contextlib.suppress(ImportError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + seconds + 1, most))
