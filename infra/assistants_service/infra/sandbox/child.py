"""The process of an interpreter: it confines itself, and then takes one request after another.

`fork_server` forks it, with the libraries imported.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TextIO

from assistants_service.infra.sandbox import confinement, data_folder, folder, frames
from assistants_service.infra.sandbox.cell import Cells
from assistants_service.infra.sandbox.figures import Figures

_REQUESTS, _ANSWERS = 10, 11  # descriptors; 1 and 2 take what cells print
_MOST_PATHS: Final = 5_000  # paths of changed files, and of removed ones


@dataclass(frozen=True)
class Setup:
    """What the worker tells the fork server in the last argument, as JSON. Sizes are in bytes."""

    parent: int  # process id of the worker
    readable: Sequence[str]
    modules: Sequence[str]  # to be imported before the first cell
    preload: bool  # by the fork server, instead of by each interpreter
    memory: int
    largest_file: int
    images: int


@dataclass(frozen=True)
class Fork:
    """What the fork server leaves to a child: descriptors, and a folder of the child alone, with `data` and `scratch`
    in it."""

    parent: int  # process id of the fork server
    folder: str
    requests: int
    answers: int
    output: int


def run(setup: Setup, fork: Fork) -> None:
    """Serves requests until the worker closes its end; then the process ends. Raises ConfinementError."""
    take(fork.requests, fork.answers, fork.output)
    _start_afresh(f"{fork.folder}/scratch")
    mapped = os.open(confinement.MAPPED, os.O_RDONLY)
    data = _confined(setup, fork)
    os.chdir(data)
    sys.path.append(data)
    sys.argv[:] = [""]
    missing = load(setup.modules)
    confinement.limit_memory(setup.memory, mapped)
    os.close(mapped)
    _Service(data, setup.images).run(missing)


def places(scratch: str) -> dict[str, str]:
    """Environment variables that name the folder for temporary files."""
    return dict.fromkeys(("TMPDIR", "HOME", "MPLCONFIGDIR"), scratch)


def is_within(path: str, folders: Sequence[str]) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in folders)


def take(requests: int, answers: int, output: int) -> None:
    """Put these descriptors where they belong, and close all others that the process has inherited."""
    own = {0: os.open(os.devnull, os.O_RDONLY), 1: output, 2: output, _REQUESTS: requests, _ANSWERS: answers}
    above = {to: fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, max(own) + 1) for to, each in own.items()}
    for to, each in above.items():
        os.dup2(each, to, inheritable=False)
    for each in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
        if each not in own:
            with contextlib.suppress(OSError):  # the one that the folder was listed by is closed already
                os.close(each)


def _start_afresh(scratch: str) -> None:
    """Undo what all children have of the fork server alike. Of other generators of random numbers, `random` and the
    one of OpenSSL notice that they were forked."""
    os.environ.update(places(scratch))
    tempfile.tempdir = None
    if numbers := sys.modules.get("numpy.random"):
        numbers.seed()


def _confined(setup: Setup, fork: Fork) -> str:
    """Returns the path of the folder of data."""
    confinement.end_with(fork.parent)
    confinement.die_first()
    data = data_folder.attach(f"{fork.folder}/data", setup.readable)
    writable = (data, f"{fork.folder}/data", f"{fork.folder}/scratch", os.devnull)
    confinement.confine(readable=setup.readable, writable=writable, largest_file=setup.largest_file)
    return data


def load(modules: Sequence[str]) -> list[str]:
    """Returns the modules that are missing or broken: a cell that imports one gets the exception."""
    missing = []
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception:
            missing.append(name)
    return missing


def _output() -> TextIO:
    """One stream for stdout and stderr, so that both come in order."""
    return open(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)


class _Service:
    def __init__(self, data: str, images: int) -> None:
        self._data, self._files = data, folder.TrackedFolder(data)
        self._nonce = frames.NO_NONCE
        self._figures = Figures(lambda image: self._answer(frames.IMAGE, image), images)
        self._cells = Cells(self._figures, data)
        self._output = sys.stdout = sys.stderr = _output()

    def run(self, missing: list[str]) -> None:
        """Executes cells until the worker closes its end."""
        self._figures.attach()
        self._answer(frames.READY, json.dumps(missing).encode())
        while True:
            kind, payload = self._request()
            if kind == frames.EXECUTE:
                self._execute(payload.decode())
            elif kind == frames.WRITE:
                self._write(payload.decode())
            elif kind == frames.READ:
                self._read(payload.decode())
            elif kind == frames.PLACED:
                for path, version in json.loads(payload).items():
                    self._files.written(path, *version)

    def _execute(self, code: str) -> None:
        self._files.begin()
        self._figures.begin()
        outcome = self._cells.execute(code)
        self._flush()
        changes = self._files.changes()
        notes = self._figures.notes()
        if changes.unnamed:
            notes.append(f"Files whose names are not valid were left out: {changes.unnamed}.")
        result = {
            "value": outcome.value,
            "error": outcome.error,
            "changed": changes.changed[:_MOST_PATHS],
            "removed": changes.removed[:_MOST_PATHS],
            "notes": notes,
        }
        self._answer(frames.RESULT, json.dumps(result).encode())

    def _flush(self) -> None:
        """Cells may replace or close the stream of what they print."""
        try:
            self._output.flush()
        except (ValueError, OSError):
            self._output = _output()
        sys.stdout = sys.stderr = self._output

    def _write(self, path: str) -> None:
        """All frames of the file are read, whatever becomes of it."""
        refused = ""
        try:
            file = folder.open_to_write(self._data, path)
        except OSError as error:
            file, refused = -1, _said(error)
        while (frame := self._request())[0] == frames.DATA:
            try:
                if not refused:
                    _write_all(file, frame[1])
            except OSError as error:
                refused = _said(error)
        if file >= 0:
            self._close_written(file, path, keep=not refused and frame[0] != frames.DROP)
        self._answer(*((frames.REFUSED, refused.encode()) if refused else (frames.END, b"")))

    def _close_written(self, file: int, path: str, *, keep: bool) -> None:
        if keep:
            self._files.written(path, *folder.version(os.fstat(file)))
        else:
            os.unlink(os.path.join(self._data, path))  # noqa: PTH108, PTH118
            self._files.dropped(path)
        os.close(file)

    def _read(self, path: str) -> None:
        try:
            file = folder.open_to_read(self._data, path)
        except OSError as error:
            return self._answer(frames.REFUSED, _said(error).encode())
        for piece in folder.pieces(file):
            self._answer(frames.DATA, piece)
        os.close(file)
        self._answer(frames.END)

    def _request(self) -> tuple[bytes, bytes]:
        size, self._nonce, kind = frames.HEADER.unpack(self._exactly(frames.HEADER.size))
        return kind, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = os.read(_REQUESTS, size - len(parts))
            if not part:
                os._exit(0)
            parts += part
        return bytes(parts)

    def _answer(self, kind: bytes, payload: bytes = b"") -> None:
        _write_all(_ANSWERS, frames.pack(self._nonce, kind, payload))


def _said(error: OSError) -> str:
    return error.strerror or str(error)


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
