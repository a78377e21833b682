"""What the folds of a thread's events have in common: their type, and the names that events have on the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from assistants_service.core.threads import events as e
from assistants_service.core.threads.state import ThreadObject, ThreadState

ThreadEffects = list[tuple[str, ThreadObject]]
ThreadHandler = Callable[[ThreadState, Any, int], ThreadEffects]  # of one type of event; the time in seconds


def name_of(event: e.ThreadEvent) -> str:
    return str(event.__struct_config__.tag)


def status_of(event: e.ThreadEvent) -> str:
    return name_of(event).rpartition(".")[2]
