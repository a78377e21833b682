"""Settings of model providers."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from assistants_service.infra.models.kinds import KINDS
from assistants_service.infra.settings.urls import SAFE_URL, SafeUrl, Url

Window = Annotated[int, Field(ge=1000)]


def _known_kind(name: str) -> str:
    if name not in KINDS:
        raise ValueError(f"expected one of {', '.join(KINDS)}")
    return name


class ProviderSettings(BaseModel):
    """One entry of PROVIDERS."""

    model_config = ConfigDict(extra="forbid")

    base_url: Url | None = None
    api_key: SecretStr | None = None
    identity: bool = False
    api: Annotated[str, AfterValidator(_known_kind)] = "chat"
    models: tuple[str, ...] = ()
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    tool_choice: Literal["object", "required"] = "object"
    window: Window | None = None
    windows: dict[str, Window] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _safe(self) -> ProviderSettings:
        if self.base_url is None and KINDS[self.api].remote:  # OpenAI would be sent a key that is not for it
            raise ValueError("base_url is missing; that of OpenAI is https://api.openai.com/v1")
        if self.identity and self.api_key:
            raise ValueError("set either api_key or identity, not both")
        if self.identity and not re.match(SAFE_URL, self.base_url or ""):
            raise ValueError("identity needs a base_url with https://")
        return self


def _prefix(name: str) -> str:
    """`name/model`: the first slash ends the name."""
    if not name or "/" in name:
        raise ValueError("a provider's name must not be empty or contain a slash")
    return name


class ModelSettings(BaseModel):
    """Providers of models, and calls to them."""

    openai_api_key: SecretStr | None = Field(None, description="key of the provider `openai`")
    openai_base_url: Url | None = Field(None, description="URL of the provider `openai`, for a compatible server")
    model_api: Literal["chat", "responses"] = Field(
        "chat", description="API used for the providers `openai` and `azure`: chat (Chat Completions) or responses"
    )
    azure_openai_endpoint: SafeUrl | None = Field(
        None,
        description=(
            "https://NAME.openai.azure.com: adds the provider `azure`, authenticated by the service's managed identity"
        ),
    )
    providers: dict[Annotated[str, AfterValidator(_prefix)], ProviderSettings] = Field(
        default_factory=dict,
        examples=['{"ollama": {"base_url": "http://127.0.0.1:11434/v1"}}'],
        description=(
            'further providers as JSON: {"ollama": {"base_url": "http://127.0.0.1:11434/v1"}} makes'
            " `ollama/llama3.2` work; keys: base_url, api_key, identity (true: authenticate as for"
            " AZURE_OPENAI_ENDPOINT), api (chat, responses), models, max_tokens_field, tool_choice (required: to"
            " force a function, offer only that one), window (context window of its models in tokens), windows"
            " (the same for single models, by name)"
        ),
    )
    default_provider: str | None = Field(
        None,
        description=(
            "provider of model names without a provider prefix; default: openai or azure if configured, else offline"
        ),
    )
    offline_model: Literal["on", "off"] = Field(
        "on", description="off: there is no built-in model, and model names without a provider are refused"
    )
    model_timeout: Annotated[float, Field(gt=0)] = Field(600, description="seconds that a model call may take")
    model_retries: Annotated[int, Field(ge=0, le=10)] = Field(
        2, description="retries of a model call after status 408, 409, 429 or 5xx, or a broken connection"
    )
    model_window: Window = Field(
        128_000,
        description="context window, in tokens, of models for which neither PROVIDERS nor the model name gives one",
    )
