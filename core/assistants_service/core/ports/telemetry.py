"""What the domain tells of its work."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    pass


Fact = str | int | float | bool | tuple[str, ...]


class Span(Protocol):
    """Something that takes its time, while it lasts."""

    def tell(self, **facts: Fact) -> None:
        """What became known meanwhile."""


class Telemetry(Protocol):
    """What operators get to see: spans, of which those of one run are one trace, and metrics. In the domain's words;
    the engine knows the names of the standard. Never fails, never waits.

    Ids, names, numbers and kinds of errors are facts; what users, models and tools say is content, told only if
    `content` allows it.
    """

    content: bool

    def span(self, what: str, *, trace: str = "", cause: str = "", **facts: Fact) -> AbstractContextManager[Span]:
        """`what` is request, run, model or tool. It belongs to `trace`, a W3C traceparent, or else to the span around;
        `cause` is what made it happen, if that is of another trace."""

    def trace(self) -> str:
        """The traceparent of the span around, to travel with a work item. Empty if there is none."""

    def count(self, what: str, **facts: Fact) -> None:
        """One more: a run that ended, a delivery of a work item."""

    def measure(self, what: str, value: float, **facts: Fact) -> None:
        """How long a run was queued, in seconds."""


class Silence:
    """Telemetry that is switched off, and a span of it."""

    content = False

    def span(self, what: str, *, trace: str = "", cause: str = "", **facts: Fact) -> Silence:
        return self

    def tell(self, **facts: Fact) -> None: ...

    def trace(self) -> str:
        return ""

    def count(self, what: str, **facts: Fact) -> None: ...

    def measure(self, what: str, value: float, **facts: Fact) -> None: ...

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *_: object) -> None: ...


SILENCE = Silence()
