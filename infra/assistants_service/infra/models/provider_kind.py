"""What a kind of model provider implements, and the settings of a provider. The kinds are in kinds.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pydantic import SecretStr

from assistants_service.core.ports.models import Deltas, ModelInfo, Prompt, Reply

if TYPE_CHECKING:
    from assistants_service.infra.models.upstream import Upstream


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


class OpenProvider(ABC):
    """An open provider. `upstream` is its server, if it has one, for requests other than conversations."""

    model: Model
    upstream: Upstream | None = None

    @abstractmethod
    async def list(self) -> Sequence[ModelInfo]:
        """The provider's models, by their own names; none, and a warning in the log, if it does not respond."""

    @abstractmethod
    async def close(self) -> None: ...


class ProviderKind(ABC):
    """`remote`: whether its providers are servers, so that each needs a URL. `embeds`: whether they may have an
    embeddings endpoint. `notice` tells operators who use this kind without having chosen it what that means."""

    remote = True
    embeds = True
    notice = ""

    @abstractmethod
    def open(self, name: str, provider: Provider, *, timeout: float, max_retries: int) -> OpenProvider:
        """Prepares the provider. May block for seconds; `timeout` is in seconds."""
