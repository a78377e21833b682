"""What the supervisor of a session answers. A cell can forge all of it, so everything is limited and checked."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Final

import msgspec

from assistants_service.infra.sandbox.frames import ForgedFrame
from assistants_service.infra.sandbox.results import decoded

GONE: Final = "gone"
MOST_REPORTED: Final = 24 * 1024**2  # bytes


class Report(msgspec.Struct, frozen=True):
    """What became of a call, as `remote.supervisor` tells it: `state` is ready, done, gone, timeout, ended (with the
    exit `status` of the process), aborted or forged. With `done`: `result` is the JSON of `infra.sandbox.child`,
    `left_out` the bytes missing from `logs`, `images` their sizes, `files` the paths of the changed files that can be
    read, and `misplaced` the uploaded ones that could not be put in place, with the reason."""

    state: str
    result: str = ""
    logs: str = ""
    left_out: int = 0
    images: tuple[int, ...] = ()
    interrupted: bool = False
    files: tuple[str, ...] = ()
    misplaced: tuple[tuple[str, str], ...] = ()
    status: int | None = None


def printed(output: str, call: str) -> str:
    """What was printed of a call's report: the report itself, packed; `@` and the name of the file that has it; or
    GONE. Raises ForgedFrame if there is nothing of the kind."""
    _, begin, rest = output.rpartition(f"<{call}>")
    packed, end, _ = rest.partition(f"</{call}>")
    if begin and (end or packed.strip() == GONE):
        return packed.strip()
    raise ForgedFrame


def unpacked(packed: str) -> Report:
    """Raises ForgedFrame."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(packed, validate=True), MOST_REPORTED)
    except (binascii.Error, zlib.error, ValueError):
        raise ForgedFrame from None
    if unpacker.unconsumed_tail:
        raise ForgedFrame
    return decoded(data, Report)
