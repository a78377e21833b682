"""The ids that a task's log lines show; never content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar

Facts = Callable[[], Mapping[str, str]]
_NOTHING: Mapping[str, str] = {}
_facts: ContextVar[Facts | None] = ContextVar("facts", default=None)


def bind(facts: Facts) -> None:
    """Adds facts to log lines of this task and of those that it starts, from here on. `facts` is called only when a
    line is logged."""
    _facts.set(facts)


def current() -> Mapping[str, str]:
    """request_id, project, thread_id, run_id: those that are known here."""
    facts = _facts.get()
    return facts() if facts else _NOTHING
