"""Permanently takes from a process, before it does anything risky: files, system calls, capabilities, resources.

Landlock and the filter of system calls apply to the calling thread and to threads that it starts, so `confine` is
called before any library starts threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from assistants_service.infra.sandbox import landlock, seccomp

# Libraries, fonts, time zones and file types. Not all of /usr, which also contains applications and their data.
_SYSTEM: Final = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share", "/usr/local/lib", "/usr/local/share"),
    *(
        "/etc/ld.so.cache",
        "/etc/fonts",
        "/etc/localtime",
        "/etc/mime.types",
        "/dev/urandom",
        "/dev/random",
        "/dev/zero",
    ),
)
_OPEN_FILES: Final = 256
MAPPED: Final = "/proc/self/statm"


class ConfinementError(Exception):
    """The process could not be confined. It must end."""


def readable() -> tuple[str, ...]:
    """The paths that Python and its libraries are read from. These are folders of libraries only: an installation, or a
    folder of sys.path, may also contain data of the service."""
    paths = sysconfig.get_paths()
    libraries = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    base = [os.fspath(Path(sys.base_prefix, name)) for name in ("lib", "lib64")]
    added = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    return tuple(dict.fromkeys((*_SYSTEM, *base, *libraries, *added)))


def end_with(parent: int) -> None:
    """End this process when the thread that started it ends. Raises ConfinementError if it has already ended."""
    _prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        raise ConfinementError("the process that started this one has ended")


def die_first() -> None:
    """If memory runs out, the kernel kills this process before others."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def give_way() -> None:
    """If processors are busy, others get them before this process and its children."""
    with contextlib.suppress(OSError):
        os.nice(10)


def confine(*, readable: Iterable[str], writable: Iterable[str], largest_file: int) -> None:
    """Confine this process. `largest_file` is in bytes. Raises ConfinementError."""
    if len(os.listdir("/proc/self/task")) != 1:  # noqa: PTH208
        raise ConfinementError("threads run already, which cannot be confined any more")
    try:
        _limit_resources(largest_file)
        _drop_capabilities()
        _prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
        landlock.restrict(readable=readable, writable=writable)
        seccomp.install(os.getpid())
    except KeyError as error:
        raise ConfinementError(f"the system calls of {error} are not known") from None
    except (OSError, ValueError) as error:
        raise ConfinementError(str(error)) from error


def limit_memory(size: int, mapped: int) -> None:
    """Allow `size` bytes more than the process has mapped now. `mapped` is a descriptor of MAPPED, opened before the
    confinement."""
    pages = int(os.pread(mapped, 100, 0).split()[0])
    most = pages * resource.getpagesize() + size
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_resources(largest_file: int) -> None:
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, largest_file),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_RTPRIO, 0),
    ):
        limits = (most if now == resource.RLIM_INFINITY else min(most, now) for now in resource.getrlimit(kind))
        resource.setrlimit(kind, (next(limits), next(limits)))


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _drop_capabilities() -> None:
    """Drop all three sets. Without capabilities, root has the rights of an ordinary user."""
    header, nothing = _Header(0x20080522, 0), (ctypes.c_uint32 * 6)()  # _LINUX_CAPABILITY_VERSION_3
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(ctypes.byref(header), nothing):
        raise OSError(ctypes.get_errno(), "capabilities could not be dropped")


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise ConfinementError(f"prctl {option}: {os.strerror(ctypes.get_errno())}")
