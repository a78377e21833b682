"""Requests to a session pool that failed."""

from __future__ import annotations


class Denied(Exception):
    """This identity may not use the pool, or has no token. The message is the end of a sentence."""


class PoolFull(Exception):
    """No session could be allocated. The request reached none. The message is the end of a sentence."""


class Unanswered(Exception):
    """No answer, or none about the request: it may have been executed. `retry_after` is in seconds."""

    def __init__(self, reason: str, retry_after: float = 0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class RequestRefused(Exception):
    """The request was refused, with this status and code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}".strip())
        self.status, self.code = status, code
