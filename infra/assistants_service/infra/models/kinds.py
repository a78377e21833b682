"""Kinds of model providers: how models are called and listed. Each is one object in KINDS, and no other code depends on
a provider's kind.

Importing the openai SDK takes more than a second, so a kind imports it, and azure-identity, when a provider is opened.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from pydantic import SecretStr

from assistants_service.core.ports.models import Deltas, ModelError, ModelInfo, Prompt, Reply
from assistants_service.infra.models.offline import OfflineModel

if TYPE_CHECKING:
    from assistants_service.infra.azure.identity import ModelToken
    from assistants_service.infra.models.upstream import Upstream

logger = logging.getLogger(__name__)

LIST_TIMEOUT: Final = 3.0  # seconds, for a provider that does not respond
CONNECT_TIMEOUT: Final = 5.0  # seconds, the SDK's default
NO_KEY: Final = "not-needed"  # local servers need none, but the SDK requires one, and would send OPENAI_API_KEY to them


@dataclass(frozen=True, slots=True)
class Provider:
    """`api` is the name of its kind. `base_url` None: OpenAI's, or OPENAI_BASE_URL. `api_key` may be a function that
    returns a token; `identity` requests tokens of the service's managed identity on Azure. `models` is a fixed list for
    `GET /models`, for servers that list none or too many. `window` is the context window of its models in tokens,
    `windows` those of single models by name."""

    api: str = "chat"
    base_url: str | None = None
    api_key: SecretStr | Callable[[], Awaitable[str]] | None = None
    identity: bool = False
    models: tuple[str, ...] = ()
    max_tokens_field: str = "max_completion_tokens"
    tool_choice: str = "object"
    window: int | None = None
    windows: Mapping[str, int] = field(default_factory=dict)


class Model(Protocol):
    """A provider's adapter, called by the router."""

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply: ...


class Opened(ABC):
    """An open provider. `upstream` is its server, if it has one, for requests other than conversations."""

    model: Model
    upstream: Upstream | None = None

    @abstractmethod
    async def list(self) -> Sequence[ModelInfo]:
        """Its models, by their own names; none, and a warning in the log, if it does not respond."""

    @abstractmethod
    async def close(self) -> None: ...


class ProviderKind(ABC):
    """`embeds`: whether its servers may have an embeddings endpoint. `notice` tells operators who use this kind without
    having chosen it what that means."""

    embeds = True
    notice = ""

    @abstractmethod
    def open(self, name: str, provider: Provider, *, timeout: float, max_retries: int) -> Opened:
        """Prepares the provider. May block for seconds; `timeout` is in seconds."""


class Offline(ProviderKind):
    """The built-in model."""

    embeds = False
    notice = (
        "the offline model answers for model names without a provider."
        " It is for tests: it repeats messages and calls functions"
    )

    def open(self, name: str, provider: Provider, *, timeout: float, max_retries: int) -> Opened:
        return _BuiltIn(name)


class _BuiltIn(Opened):
    def __init__(self, name: str) -> None:
        self.model, self._name = OfflineModel(), name

    async def list(self) -> Sequence[ModelInfo]:
        return [ModelInfo("offline", 0, self._name)]

    async def close(self) -> None:
        pass


class OpenAIKind(ProviderKind):
    """Servers that are called through the openai SDK."""

    @abstractmethod
    def model(self, upstream: Upstream, provider: Provider) -> Model: ...

    def open(self, name: str, provider: Provider, *, timeout: float, max_retries: int) -> Opened:
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


class _Server(Opened):
    def __init__(self, name: str, model: Model, upstream: Upstream, token: ModelToken | None) -> None:
        self.model, self.upstream, self._name, self._server, self._token = model, upstream, name, upstream, token

    async def list(self) -> Sequence[ModelInfo]:
        try:
            with self._server.errors():
                async with asyncio.timeout(LIST_TIMEOUT):
                    return [*_infos(await self._server.get("/models", timeout=LIST_TIMEOUT), self._name)]
        except ModelError as error:
            logger.warning("Cannot list the models of provider '%s': %s", self._name, error.message)
            return []

    async def close(self) -> None:
        await self._server.close()
        if self._token:
            await self._token.close()


class Chat(OpenAIKind):
    """The Chat Completions API, which most servers support."""

    def model(self, upstream: Upstream, provider: Provider) -> Model:
        from assistants_service.infra.models.chat import ChatModel

        return ChatModel(upstream, max_tokens_field=provider.max_tokens_field, forced=provider.tool_choice)


class Responses(OpenAIKind):
    """OpenAI's Responses."""

    def model(self, upstream: Upstream, provider: Provider) -> Model:
        from assistants_service.infra.models.responses import ResponsesModel

        return ResponsesModel(upstream, forced=provider.tool_choice)


KINDS: Final[Mapping[str, ProviderKind]] = {"chat": Chat(), "responses": Responses(), "offline": Offline()}


def _infos(data: Mapping[str, Any], provider: str) -> Iterable[ModelInfo]:
    for entry in data.get("data") or ():
        yield ModelInfo(str(entry["id"]), int(entry.get("created") or 0), str(entry.get("owned_by") or provider))
