"""Creates the sandbox that CODE_INTERPRETER=azure selects."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from assistants_service.infra.configuration import ConfigurationError
from assistants_service.infra.dynamic_sessions.interpreter import LONGEST, execution_seconds
from assistants_service.infra.dynamic_sessions.pool import SessionPool
from assistants_service.infra.dynamic_sessions.sandbox import DynamicSessions
from assistants_service.infra.dynamic_sessions.token import EntraToken
from assistants_service.infra.sandbox.limits import InterpreterLimits

_EXAMPLE: Final = "https://REGION.dynamicsessions.io/subscriptions/SUBSCRIPTION/resourceGroups/GROUP/sessionPools/NAME"


def sessions_in(endpoint: str, limits: InterpreterLimits) -> DynamicSessions:
    """Raises ConfigurationError."""
    if not endpoint:
        raise ConfigurationError(
            "CODE_INTERPRETER is azure, and CODE_INTERPRETER_POOL is not set: set it to the management endpoint of a"
            f" session pool, {_EXAMPLE}."
        )
    if not _is_address(endpoint):
        raise ConfigurationError(f"CODE_INTERPRETER_POOL is not valid: expected an address such as {_EXAMPLE}.")
    if (excess := execution_seconds(limits) - LONGEST) > 0:
        raise ConfigurationError(
            f"CODE_INTERPRETER_TIMEOUT is too long: with CODE_INTERPRETER=azure, a call may take"
            f" {limits.seconds - excess:g} s at most."
        )
    return DynamicSessions(SessionPool(endpoint, EntraToken()), limits)


def _is_address(endpoint: str) -> bool:
    try:
        url = urlsplit(endpoint)
        return url.scheme == "https" and bool(url.hostname) and not (url.query or url.fragment or url.username)
    except ValueError:
        return False
