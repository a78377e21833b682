"""Object ids: prefix, then 24 lower-case letters and digits that sort by creation (time first, then randomness)."""

from __future__ import annotations

import random
import re
import string

from assistants_service.core.ports.clock import Clock

DIGITS = string.digits + string.ascii_lowercase
TIME_DIGITS = 11  # base 36 microseconds: enough until the year 6000
RANDOM_DIGITS = 13  # 67 bits

SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")  # what may become part of a name in the store


def _base36(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 36)
        digits = DIGITS[digit] + digits
    return digits


def made_at(object_id: str) -> float:
    """When an id was made, in Unix time."""
    return int(object_id[-TIME_DIGITS - RANDOM_DIGITS : -RANDOM_DIGITS], 36) / 1_000_000


def id_of(prefix: str, rest: str) -> str:
    """The id of these two parts; `prefix` as core/resources.py has it."""
    return f"{prefix}{'-' if prefix == 'file' else '_'}{rest}"


class Ids:
    """Makes ids that sort by creation within this process, even if the clock is set back."""

    def __init__(self, clock: Clock, source: random.Random | None = None) -> None:
        self._clock, self._random, self._last = clock, source or random.SystemRandom(), 0

    def new(self, prefix: str) -> str:
        """A new id such as `thread_0fj2k...` or `file-0fj2k...`; `prefix` without the separator."""
        self._last = max(self._last + 1, int(self._clock.now() * 1_000_000))
        noise = self._random.getrandbits(67)
        return id_of(prefix, _base36(self._last, TIME_DIGITS) + _base36(noise, RANDOM_DIGITS))

    def nonce(self) -> str:
        """A short random string that makes a commit unique."""
        return f"{self._random.getrandbits(48):012x}"
