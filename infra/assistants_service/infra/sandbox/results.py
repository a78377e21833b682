"""What an interpreter reports of a call, checked and in the port's terms. A cell can forge a report, but only about its
own interpreter."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from assistants_service.core.ports.sandbox import CellResult, ChangedFile
from assistants_service.infra.sandbox.data_folder import DATA
from assistants_service.infra.sandbox.folder import is_valid
from assistants_service.infra.sandbox.frames import ForgedFrame
from assistants_service.infra.sandbox.limits import InterpreterLimits, format_size

T = TypeVar("T")

_MOST_NOTES: Final = 10


class Reported(msgspec.Struct, frozen=True):
    """The JSON object that `child` answers to EXECUTE."""

    value: str | None
    error: str | None
    changed: list[tuple[str, int]]
    removed: list[str]
    notes: list[str]


def cell_result(
    result: Reported,
    logs: str,
    left_out: int,
    images: tuple[bytes, ...],
    interrupted: bool,
    limits: InterpreterLimits,
    mapped: Callable[[str], str] = str,
) -> CellResult:
    """`left_out` bytes are missing from `logs`. `mapped` is applied to all texts. Raises ForgedFrame."""
    notes = [valid_text(note, mapped) for note in result.notes[:_MOST_NOTES]]
    if interrupted:
        notes.append(f"The code was interrupted after {limits.seconds:g} seconds.")
    if left_out:
        notes.append(
            f"The output was cut to {format_size(limits.logs)}: {left_out:,} bytes were left out in the middle."
        )
    changed, dropped = _kept(result.changed, limits.kept)
    if dropped:
        notes.append(
            f"Only files of {format_size(limits.kept)} in total are kept of a call;"
            f" not kept: {', '.join(dropped[:20])}."
        )
    # What a path had before is no more, even if what it has now is dropped.
    removed = tuple(sorted(path for path in (*result.removed, *dropped) if is_valid(path)))
    value = None if result.value is None else valid_text(result.value, mapped)
    error = None if result.error is None else valid_text(result.error, mapped)
    return CellResult(valid_text(logs, mapped), value, error, images, changed, removed, tuple(notes))


def _kept(reported: list[tuple[str, int]], most: int) -> tuple[tuple[ChangedFile, ...], list[str]]:
    kept, dropped, total = [], [], 0
    for path, size in reported:
        if not is_valid(path) or size < 0:
            raise ForgedFrame
        if total + size > most:
            dropped.append(path)
        else:
            total += size
            kept.append(ChangedFile(path, size))
    return tuple(kept), dropped


def valid_text(text: str, mapped: Callable[[str], str]) -> str:
    """The text as valid Unicode. `mapped` is applied to the text before."""
    return mapped(text).encode(errors="backslashreplace").decode()


def decoded(payload: bytes, kind: type[T]) -> T:
    """Raises ForgedFrame."""
    try:
        return msgspec.json.decode(payload, type=kind)
    except msgspec.DecodeError:  # it is a ValueError, which would blame the caller
        raise ForgedFrame from None


def check_path(path: str) -> None:
    """Raises ValueError."""
    if not is_valid(path):
        raise ValueError(f"{path!r} is no valid path of a file in {DATA}.")


def reason_of(status: int | None) -> str:
    """Why a process ended with this exit status, as the end of a sentence."""
    if status is None or status == -signal.SIGKILL:
        return "was killed, perhaps because the machine is short of memory"
    if status == -signal.SIGSYS:
        return "made a system call of another architecture"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"crashed ({signal.Signals(-status).name})"
    return f"ended its own process (status {status})"
