"""The telemetry port."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    pass


Fact = str | int | float | bool | tuple[str, ...]


class Span(Protocol):
    """An operation with a duration."""

    def record(self, **facts: Fact) -> None:
        """Add facts that became known during the operation."""


class Telemetry(Protocol):
    """What operators see: spans, those of one run in one trace, and metrics. It uses the domain's terms; the engine
    maps them to the standard's names. Never fails, never waits.

    Ids, names, numbers and kinds of errors are facts; what users, models and tools say is content, and recorded only if
    `content` allows it.
    """

    content: bool

    def span(self, what: str, *, trace: str = "", cause: str = "", **facts: Fact) -> AbstractContextManager[Span]:
        """`what` is request, run, model or tool. The span belongs to `trace`, a W3C traceparent, or else to the current
        span; `cause` links the span that caused it, if that is in another trace."""

    def trace(self) -> str:
        """The traceparent of the current span, to pass on with a work item. Empty if there is none."""

    def count(self, what: str, **facts: Fact) -> None:
        """Count one event: a run that ended, a delivery of a work item."""

    def measure(self, what: str, value: float, **facts: Fact) -> None:
        """Record a value: how long a run was queued, in seconds."""


class Silence:
    """Disabled telemetry, and its span."""

    content = False

    def span(self, what: str, *, trace: str = "", cause: str = "", **facts: Fact) -> Silence:
        return self

    def record(self, **facts: Fact) -> None: ...

    def trace(self) -> str:
        return ""

    def count(self, what: str, **facts: Fact) -> None: ...

    def measure(self, what: str, value: float, **facts: Fact) -> None: ...

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *_: object) -> None: ...


SILENCE = Silence()
