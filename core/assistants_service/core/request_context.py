"""The context of a request, passed with every write from the handler to the command."""

from __future__ import annotations

from dataclasses import dataclass

from assistants_service.core.ids import Ids


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request of a client. `now` is Unix time, `ids` makes ids for new objects, and `trace` is the traceparent of
    the request ("" if traces are not recorded)."""

    project: str
    now: float
    ids: Ids
    trace: str = ""
