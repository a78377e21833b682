"""The base class of those kinds of model providers that are called through the openai SDK.

Importing the SDK takes more than a second, so it is imported when a provider is opened, as is azure-identity.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pydantic import SecretStr

from assistants_service.core.ports.models import ModelError, ModelInfo
from assistants_service.infra.models.provider_kind import Model, OpenProvider, Provider, ProviderKind

if TYPE_CHECKING:
    from assistants_service.infra.azure.identity import ModelToken
    from assistants_service.infra.models.upstream import Upstream

logger = logging.getLogger(__name__)

LIST_TIMEOUT: Final = 3.0  # seconds, for a provider that does not respond
CONNECT_TIMEOUT: Final = 5.0  # seconds, the SDK's default
NO_KEY: Final = "not-needed"  # local servers need none, but the SDK requires one, and would send OPENAI_API_KEY to them


class OpenAIKind(ProviderKind):
    """Servers that are called through the openai SDK."""

    @abstractmethod
    def model(self, upstream: Upstream, provider: Provider) -> Model: ...

    def open(self, name: str, provider: Provider, *, timeout: float, max_retries: int) -> OpenProvider:
        import openai

        from assistants_service.infra.models.answers import limit
        from assistants_service.infra.models.upstream import Upstream

        token = None
        if provider.identity:
            from assistants_service.infra.azure.identity import ModelToken

            token = ModelToken()
        key = token or provider.api_key
        client = openai.AsyncOpenAI(
            base_url=provider.base_url,
            api_key=(key.get_secret_value() if isinstance(key, SecretStr) else key) or NO_KEY,
            timeout=openai.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
            max_retries=max_retries,
            # Half the CPU time of the default client.
            http_client=openai.DefaultAioHttpClient(event_hooks={"response": [limit]}),
        )
        upstream = Upstream(client, name)
        return _Server(name, self.model(upstream, provider), upstream, token)


class _Server(OpenProvider):
    def __init__(self, name: str, model: Model, upstream: Upstream, token: ModelToken | None) -> None:
        self.model, self.upstream, self._name, self._server, self._token = model, upstream, name, upstream, token

    async def list(self) -> Sequence[ModelInfo]:
        try:
            with self._server.errors():
                async with asyncio.timeout(LIST_TIMEOUT):
                    return [*_infos(await self._server.get("/models", timeout=LIST_TIMEOUT), self._name)]
        except ModelError as error:
            logger.warning("cannot list the models of provider '%s': %s", self._name, error.message)
            return []

    async def close(self) -> None:
        await self._server.close()
        if self._token:
            await self._token.close()


def _infos(data: Mapping[str, Any], provider: str) -> Iterable[ModelInfo]:
    for entry in data.get("data") or ():
        yield ModelInfo(str(entry["id"]), int(entry.get("created") or 0), str(entry.get("owned_by") or provider))
