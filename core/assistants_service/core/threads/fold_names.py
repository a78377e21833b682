"""What the folds of a thread's events have in common: their type, and the names that events have on the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from assistants_service.core.threads import events as e
from assistants_service.core.threads.state import Resource, ThreadState

Named = list[tuple[str, Resource]]
Handler = Callable[[ThreadState, Any, int], Named]  # of one type of event; the time in seconds


def name_of(event: e.Event) -> str:
    return str(event.__struct_config__.tag)


def status_of(event: e.Event) -> str:
    return name_of(event).rpartition(".")[2]
