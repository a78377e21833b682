"""The OpenAI Assistants API, self-hosted.

The repository keeps the parts of this package in four folders, `core`, `app`, `worker` and `infra`; a wheel combines
them.
"""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import extend_path
from typing import Any, Final, TypeVar

__path__[:] = extend_path(__path__, __name__)  # the other folders, in a checkout

F = TypeVar("F", bound=Callable[..., Any])
ACTION: Final = "__assistants_action__"


def action(function: F) -> F:
    """Mark a function, plain or async, as an action: the service calls it when a model asks for it. ACTIONS names its
    module. A plain function runs in a thread."""
    setattr(function, ACTION, True)
    return function
