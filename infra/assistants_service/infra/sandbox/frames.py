"""Frames between a worker and an interpreter: a length, the request's nonce, a kind, and as many bytes.

Whatever a cell writes to the pipe is no answer, but by chance of one in 2**128; and a cell that searches its process
for the nonce, and forges an answer, lies about itself alone. The worker takes no more frames and bytes than an answer
may have."""

from __future__ import annotations

import struct
from typing import Final

HEADER: Final = struct.Struct(">I16sc")
NO_NONCE: Final = bytes(16)  # of READY, before there was a request

# Requests. EXECUTE: the code. WRITE: a path, then frames of DATA, then END, or DROP. READ: a path.
EXECUTE, WRITE, READ = b"x", b"w", b"r"
DATA, END, DROP = b"d", b"e", b"c"
# Answers. READY, once. IMAGE: a PNG; RESULT: JSON, the end of EXECUTE. DATA and END: of READ; END: of WRITE.
# REFUSED: why a file cannot be read or written.
READY, IMAGE, RESULT, REFUSED = b"!", b"i", b"j", b"n"

CHUNK: Final = 256 * 1024  # bytes of a frame of DATA at most


def pack(nonce: bytes, kind: bytes, payload: bytes = b"") -> bytes:
    return HEADER.pack(len(payload), nonce, kind) + payload
