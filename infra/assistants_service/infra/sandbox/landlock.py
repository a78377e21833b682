"""Landlock: the files that a process may open, which it can narrow but never widen. Numbers are those of
linux/landlock.h.

https://www.kernel.org/doc/html/latest/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from typing import Final

NEWEST: Final = 6  # the version of the ABI up to which this module knows what there is
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on all machines

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG = 1 << 7, 1 << 8
_REFER, _TRUNCATE = 1 << 13, 1 << 14
# All rights of each version; what is not granted below is refused: to execute, and to make links, devices and sockets.
_RIGHTS: Final = (13, 14, 15, 15, 16, 16)
_READING: Final = _READ_FILE | _READ_DIR
_WRITING: Final = _READING | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
_OF_FILES: Final = _READ_FILE | _WRITE_FILE | _TRUNCATE  # rights that a rule for a file may have
_TCP: Final = 3  # to bind and to connect
_SCOPES: Final = 3  # abstract sockets and signals


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"  # of packed structures, which Python 3.14 wants to be told
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The version of the kernel's ABI, up to NEWEST. Raises OSError where there is no Landlock, or it is disabled."""
    return min(_call(_CREATE_RULESET, None, 0, 1), NEWEST)


def restrict(*, readable: Iterable[str], writable: Iterable[str]) -> None:
    """This thread, and threads that it starts, open nothing but these files and what is in these folders. Paths that do
    not exist are left out. Raises OSError; needs PR_SET_NO_NEW_PRIVS."""
    abi = version()
    rights = (1 << _RIGHTS[abi - 1]) - 1
    attributes = _Ruleset(rights, _TCP, _SCOPES)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _call(_CREATE_RULESET, ctypes.byref(attributes), size, 0)
    try:
        for path in readable:
            _allow(ruleset, path, _READING & rights)
        for path in writable:
            _allow(ruleset, path, _WRITING & rights)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (
        FileNotFoundError,
        NotADirectoryError,
        PermissionError,
    ):  # which none of its files could be opened by, either
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        _call(_ADD_RULE, ruleset, 1, ctypes.byref(_PathBeneath(rights, place)), 0)  # LANDLOCK_RULE_PATH_BENEATH
    finally:
        os.close(place)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    answer = int(libc.syscall(number, *arguments))
    if answer < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return answer
