"""Access tokens for session pools."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from azure.core.exceptions import ClientAuthenticationError
from azure.identity.aio import DefaultAzureCredential, get_bearer_token_provider

from assistants_service.infra.azure.identity import new_credential
from assistants_service.infra.dynamic_sessions.failures import Denied, Unanswered

SCOPE: Final = "https://dynamicsessions.io/.default"  # DynamicSessions.json of azure-rest-api-specs, `security`

LONGEST_WAIT: Final = 15.0  # seconds for a token


class Token(Protocol):
    async def __call__(self) -> str:
        """A token that is valid now. Raises Denied and Unanswered."""

    async def renew(self) -> None:
        """The last token was refused: get another one next time."""

    async def close(self) -> None: ...


class EntraToken:
    """Tokens of the identity that `infra.azure.identity` finds. Its credential keeps a token until shortly before it
    expires."""

    def __init__(self) -> None:
        self._credential: DefaultAzureCredential | None = None
        self._provider: Callable[[], Awaitable[str]] | None = None

    async def __call__(self) -> str:
        try:
            if not self._credential or not self._provider:
                self._credential = new_credential()
                self._provider = get_bearer_token_provider(self._credential, SCOPE)
            async with asyncio.timeout(LONGEST_WAIT):
                return await self._provider()
        except TimeoutError as error:
            raise Unanswered("its access token did not come in time") from error
        except (ClientAuthenticationError, ValueError) as error:
            raise Denied(f"there is no access token for it: {str(error).strip().splitlines()[0]}") from error

    async def renew(self) -> None:
        """A credential has no way to forget a token, so it is replaced."""
        await self.close()

    async def close(self) -> None:
        credential, self._credential, self._provider = self._credential, None, None
        if credential:
            await credential.close()
