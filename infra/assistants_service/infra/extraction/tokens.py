"""Tokens of cl100k_base, the encoding of OpenAI's embedding models.

tiktoken downloads its tables on first use, which a service without a network cannot do. So the table is part of this
package: https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken, compressed (MIT, as tiktoken).
"""

from __future__ import annotations

import base64
import functools
import gzip
from pathlib import Path

import numpy as np
import tiktoken
from numpy.typing import NDArray

_TABLE = Path(__file__).with_name("cl100k_base.tiktoken.gz")
# As in tiktoken_ext.openai_public.
_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


@functools.cache
def _tables() -> tuple[tiktoken.Encoding, NDArray[np.uint8]]:
    """The encoding, and the length in bytes of each token. The first call takes half a second of CPU time."""
    lines = (line.split() for line in gzip.decompress(_TABLE.read_bytes()).splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    lengths = np.zeros(len(ranks), np.uint8)
    lengths[list(ranks.values())] = [len(token) for token in ranks]
    return tiktoken.Encoding("cl100k_base", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={}), lengths


def encoding() -> tiktoken.Encoding:
    return _tables()[0]


def token_bounds(text: str) -> memoryview[int]:
    """Where each token starts in the text, in code points, and where the text ends: the input of core.chunking."""
    encoding, lengths = _tables()
    tokens = encoding.encode_to_numpy(text, disallowed_special=())
    data = np.frombuffer(text.encode(), np.uint8)
    starts = (data & 0xC0) != 0x80  # the first byte of each code point
    begun = np.concatenate(([0], np.cumsum(starts, dtype=np.uint32)))  # code points before a byte, or split by it
    places = np.concatenate(([0], np.cumsum(lengths[tokens], dtype=np.uint32)))
    torn = np.concatenate((~starts, [False]))[places]
    return (begun[places] - torn).astype(np.uint32).data
