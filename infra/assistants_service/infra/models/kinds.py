"""The kinds of model providers. Each is one object in KINDS, and no other code depends on a provider's kind.

A kind in a file of its own derives from ProviderKind (provider_kind.py) or OpenAIKind (openai_kind.py). Importing the
openai SDK takes more than a second, so adapters that need it are imported when a provider is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from assistants_service.core.ports.models import ModelInfo
from assistants_service.infra.models.offline import OfflineModel
from assistants_service.infra.models.openai_kind import OpenAIKind
from assistants_service.infra.models.provider_kind import Model, OpenProvider, Provider, ProviderKind

if TYPE_CHECKING:
    from assistants_service.infra.models.upstream import Upstream


class Offline(ProviderKind):
    """The built-in model."""

    remote = embeds = False
    notice = (
        "the offline model answers for model names without a provider."
        " It is for tests: it repeats messages and calls functions"
    )

    def open(self, name: str, provider: Provider, *, timeout: float, max_retries: int) -> OpenProvider:
        return _BuiltIn(name)


class _BuiltIn(OpenProvider):
    def __init__(self, name: str) -> None:
        self.model, self._name = OfflineModel(), name

    async def list(self) -> Sequence[ModelInfo]:
        return [ModelInfo("offline", 0, self._name)]

    async def close(self) -> None:
        pass


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
