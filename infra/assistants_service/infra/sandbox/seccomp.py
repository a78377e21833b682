"""The filter of system calls: a program for the kernel's BPF machine, which a process can install but never remove.

https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html; codes are those of linux/bpf_common.h.
"""

from __future__ import annotations

import ctypes
import errno
import platform
from collections.abc import Iterable
from typing import Final

from assistants_service.infra.sandbox import syscalls

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand: a sock_filter
Program = list[Instruction]

MACHINES: Final = {"x86_64": (syscalls.X86_64, 0xC000003E), "aarch64": (syscalls.AARCH64, 0xC00000B7)}  # AUDIT_ARCH_*

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_EQUAL, _GREATER, _GREATER_OR_EQUAL, _ANY_BIT = 0x15, 0x25, 0x35, 0x45
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in seccomp_data

KILL: Final = 0x80000000  # the process
ALLOW: Final = 0x7FFF0000
_ERROR: Final = 0x00050000
_X32: Final = 0x40000000  # in numbers of the second ABI of x86_64

# CLONE_VM, CLONE_FILES, CLONE_SIGHAND, CLONE_THREAD: what a thread shares. `watch` sees only what all threads share.
_CLONE_THREAD: Final = 0x10D00
_CLONE_NAMESPACES: Final = 0x7E020080
_O_ACCMODE, _O_TRUNC, _O_TMPFILE = 3, 0o1000, 0o20000000
_AF_UNIX: Final = 1
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW, F_OFD_*, F_DUPFD_CLOEXEC, F_GETPIPE_SZ. Not
# F_SETOWN and F_SETSIG, which send signals to other processes.
_FCNTL: Final = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, TCGETS2. Not FIOSETOWN and FIOASYNC, which are F_SETOWN,
# too.
_IOCTL: Final = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x802C542A)
_RENAME: Final = (0, 1, 2)  # RENAME_NOREPLACE, RENAME_EXCHANGE; not RENAME_WHITEOUT, which makes a device
_CLOSE_RANGE: Final = (0, 4)  # CLOSE_RANGE_CLOEXEC; not CLOSE_RANGE_UNSHARE, which makes a second table of descriptors
_PRCTL: Final = (15, 16, 0x53564D41)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA; not PR_SET_PDEATHSIG


def program(machine: str, pid: int) -> Program:
    """The filter of the process `pid`. Raises KeyError for a machine whose numbers are not known."""
    column, architecture = MACHINES[machine]
    return [
        _load(_ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        _answer(KILL),
        _load(_NUMBER),
        (_GREATER_OR_EQUAL, 0, 1, _X32),  # no machine has numbers that high; on x86_64 they are x32
        _answer(KILL),
        (_GREATER, 0, 1, syscalls.LAST),
        _refuse(errno.ENOSYS),
        *_all(syscalls.ALLOWED[column], ALLOW),
        *_all(syscalls.IGNORED[column], _ERROR),
        *_all(syscalls.UNSUPPORTED[column], _ERROR | errno.ENOTSUP),
        *_all(syscalls.MISSING[column], _ERROR | errno.ENOSYS),
        *_checked(syscalls.CHECKED[column], pid),
        _refuse(errno.EPERM),
    ]


def install(pid: int) -> None:
    """Installs the filter for this thread, and threads that it starts. Raises OSError; needs PR_SET_NO_NEW_PRIVS."""
    lines = program(platform.machine(), pid)
    code = (_SockFilter * len(lines))(*(_SockFilter(*line) for line in lines))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, ctypes.byref(_SockFprog(len(lines), code)), 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "the filter of system calls was not accepted")


class _SockFilter(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(_SockFilter)))


def _load(offset: int) -> Instruction:
    return _LOAD, 0, 0, offset


def _argument(index: int) -> Instruction:
    """Loads the lower half of an argument: the kernel takes no more of an int, whatever is in the upper one."""
    return _load(_ARGUMENTS + 8 * index)


def _answer(value: int) -> Instruction:
    return _RETURN, 0, 0, value


def _refuse(number: int) -> Instruction:
    return _answer(_ERROR | number)


def _all(numbers: syscalls.Numbers, value: int) -> Program:
    return [line for number in numbers.values() for line in ((_EQUAL, 0, 1, number), _answer(value))]


def _checked(numbers: syscalls.Numbers, pid: int) -> Program:
    """Each body ends in an answer, so that what follows it still sees the call's number."""
    bodies = {
        "open": _opening(1),
        "openat": _opening(2),
        "clone": _starting_a_thread(),
        "fcntl": _one_of(1, _FCNTL, errno.EPERM),
        "ioctl": _one_of(1, _IOCTL, errno.ENOTTY),
        "kill": _one_of(0, (pid,), errno.EPERM),
        "tgkill": _one_of(0, (pid,), errno.EPERM),
        "prctl": _one_of(0, _PRCTL, errno.EPERM),
        "prlimit64": _one_of(0, (0, pid), errno.EPERM),
        "socketpair": _one_of(0, (_AF_UNIX,), errno.EPERM),  # asyncio wakes its loop by one
        "sendto": _without_address(),
        "renameat2": _one_of(4, _RENAME, errno.EINVAL),
        "close_range": _one_of(2, _CLOSE_RANGE, errno.EINVAL),
    }
    return [
        line for name, number in numbers.items() for line in ((_EQUAL, 0, len(bodies[name]), number), *bodies[name])
    ]


def _one_of(index: int, values: Iterable[int], error: int) -> Program:
    allowed = [line for value in values for line in ((_EQUAL, 0, 1, value), _answer(ALLOW))]
    return [_argument(index), *allowed, _refuse(error)]


def _opening(index: int) -> Program:
    """Not O_TMPFILE, whose bytes no folder shows. Not the access mode 3, for which Landlock asks no right at all. And
    not O_RDONLY with O_TRUNC, for which it asks the right to read before its third version."""
    return [
        _argument(index),
        (_ANY_BIT, 0, 1, _O_TMPFILE),
        _refuse(errno.EOPNOTSUPP),
        (_AND, 0, 0, _O_ACCMODE | _O_TRUNC),
        (_EQUAL, 3, 0, _O_TRUNC),
        (_AND, 0, 0, _O_ACCMODE),
        (_EQUAL, 1, 0, _O_ACCMODE),
        _answer(ALLOW),
        _refuse(errno.EACCES),
    ]


def _starting_a_thread() -> Program:
    return [
        _argument(0),
        (_ANY_BIT, 3, 0, _CLONE_NAMESPACES),
        (_AND, 0, 0, _CLONE_THREAD),
        (_EQUAL, 0, 1, _CLONE_THREAD),
        _answer(ALLOW),
        _refuse(errno.EPERM),
    ]


def _without_address() -> Program:
    """Allows to send to the other end alone: a pair of datagram sockets could send to any socket of the machine."""
    return [
        _argument(4),
        (_EQUAL, 0, 3, 0),
        _load(_ARGUMENTS + 8 * 4 + 4),
        (_EQUAL, 0, 1, 0),
        _answer(ALLOW),
        _refuse(errno.EPERM),
    ]
