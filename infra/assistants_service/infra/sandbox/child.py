"""The process of an interpreter: it confines itself, loads libraries, and then takes one request after another.

Started by `process`. Its stdin has requests, its stdout takes answers, and its stderr takes what cells print.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from assistants_service.infra.sandbox import confinement, data_folder, folder, frames
from assistants_service.infra.sandbox.cell import Cells
from assistants_service.infra.sandbox.figures import Figures

_CHANNEL: Final = 10  # descriptors of requests and answers are not below
_MOST_TOLD: Final = 5_000  # paths of changed files, and of removed ones


@dataclass(frozen=True)
class Setup:
    """What the worker tells in the last argument, as JSON. Sizes are in bytes."""

    parent: int  # process id
    folder: str  # of this interpreter alone, with `data` and `scratch` in it
    readable: Sequence[str]
    modules: Sequence[str]  # to be loaded before the first cell
    memory: int
    largest_file: int
    images: int


def main() -> None:
    """Ends with status 1 and a reason on stderr if the process cannot be confined."""
    setup = Setup(**json.loads(sys.argv.pop()))
    channel = _channel()
    mapped = os.open(confinement.MAPPED, os.O_RDONLY)
    try:
        data = _confined(setup)
    except confinement.ConfinementError as error:
        sys.exit(f"The interpreter cannot be confined: {error}")
    os.chdir(data)
    sys.path[:] = [*(entry for entry in sys.path if _is_within(entry, setup.readable)), data]
    sys.argv[:] = [""]
    sys.stdout = sys.stderr = open(  # noqa: SIM115 # in one stream, so that both come in order
        1, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
    )
    missing = _load(setup.modules)
    confinement.limit_memory(setup.memory, mapped)
    os.close(mapped)
    _Service(channel, data, setup.images).run(missing)


def _confined(setup: Setup) -> str:
    """Where the folder of data is."""
    confinement.end_with(setup.parent)
    confinement.yield_to_others()
    data = data_folder.attach(f"{setup.folder}/data", setup.readable)
    writable = (data, f"{setup.folder}/data", f"{setup.folder}/scratch", os.devnull)
    confinement.confine(readable=setup.readable, writable=writable, largest_file=setup.largest_file)
    return data


def _channel() -> tuple[int, int]:
    """Requests and answers, which leave 0, 1 and 2 to the cells."""
    requests, answers = (fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, _CHANNEL) for each in (0, 1))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _is_within(path: str, folders: Sequence[str]) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in folders)


def _load(modules: Sequence[str]) -> list[str]:
    """Those that are not there: a cell that imports one gets an ImportError."""
    missing = []
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    return missing


class _Service:
    def __init__(self, channel: tuple[int, int], data: str, images: int) -> None:
        self._requests, self._answers = channel
        self._data = data
        self._nonce = frames.NO_NONCE
        self._figures = Figures(lambda image: self._answer(frames.IMAGE, image), images)
        self._cells = Cells(self._figures, data)
        self._stdout = sys.stdout

    def run(self, missing: list[str]) -> None:
        """Until the worker closes its end."""
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

    def _execute(self, code: str) -> None:
        before = folder.settled(self._data)
        self._figures.begin()
        outcome = self._cells.execute(code)
        sys.stdout = sys.stderr = self._stdout
        self._stdout.flush()
        changes = folder.changes(before, folder.state(self._data))
        notes = self._figures.notes()
        if changes.unnamed:
            notes.append(f"Files whose names are not valid were left out: {changes.unnamed}.")
        result = {
            "value": outcome.value,
            "error": outcome.error,
            "changed": changes.changed[:_MOST_TOLD],
            "removed": changes.removed[:_MOST_TOLD],
            "notes": notes,
        }
        self._answer(frames.RESULT, json.dumps(result).encode())

    def _write(self, path: str) -> None:
        """All frames of the file are read, whatever becomes of it."""
        refused = ""
        try:
            file = folder.opened_to_write(self._data, path)
        except OSError as error:
            file, refused = -1, _said(error)
        while (frame := self._request())[0] == frames.DATA:
            try:
                if not refused:
                    _write_all(file, frame[1])
            except OSError as error:
                refused = _said(error)
        if file >= 0:
            os.close(file)
            if refused or frame[0] == frames.DROP:
                os.unlink(os.path.join(self._data, path))  # noqa: PTH108, PTH118
        self._answer(*((frames.REFUSED, refused.encode()) if refused else (frames.END, b"")))

    def _read(self, path: str) -> None:
        try:
            file = folder.opened_to_read(self._data, path)
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
            part = os.read(self._requests, size - len(parts))
            if not part:
                os._exit(0)
            parts += part
        return bytes(parts)

    def _answer(self, kind: bytes, payload: bytes = b"") -> None:
        _write_all(self._answers, frames.pack(self._nonce, kind, payload))


def _said(error: OSError) -> str:
    return error.strerror or str(error)


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
