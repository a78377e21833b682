"""Frames between a worker and an interpreter: a length, the request's nonce, a kind, and a payload of that length.

What a cell writes to the pipe passes as an answer only with a probability of one in 2**128. A cell can find the nonce
in the memory of its process and forge an answer, but only an answer about itself. The worker limits the frames and
bytes that it accepts for each answer."""

from __future__ import annotations

import struct
from typing import Final

HEADER: Final = struct.Struct(">I16sc")
NO_NONCE: Final = bytes(16)  # of READY, which no request precedes

# Requests. EXECUTE has the code; WRITE a path, then DATA frames follow, then END or DROP; READ has a path.
# PLACED has the files that were put into the folder in another way (JSON: inode, time of the last change in ns, and
# size, by path), and gets no answer.
EXECUTE, WRITE, READ, PLACED = b"x", b"w", b"r", b"p"
DATA, END, DROP = b"d", b"e", b"c"
# Answers. READY: once, at the start. To EXECUTE: IMAGE (a PNG) any number of times, then RESULT (JSON). To READ: DATA,
# then END. To WRITE: END. REFUSED has the reason why a file cannot be read or written.
READY, IMAGE, RESULT, REFUSED = b"!", b"i", b"j", b"n"

CHUNK: Final = 256 * 1024  # maximum bytes of a DATA frame


class ForgedFrame(Exception):
    """Bytes that only a cell can have written."""


def pack(nonce: bytes, kind: bytes, payload: bytes = b"") -> bytes:
    return HEADER.pack(len(payload), nonce, kind) + payload
