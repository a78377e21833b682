"""Settings: environment variables, each with a default that works on one machine."""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from assistants_service.core import names
from assistants_service.core.log.repository import ROLLOVER_AFTER
from assistants_service.infra.models.kinds import KINDS

Url = Annotated[str, Field(pattern=r"^https?://.")]
# Tokens of an identity are sent there: never in the clear, but to this machine.
SAFE_URL = r"^(https://.|http://(localhost|127\.0\.0\.1)(:\d+)?(/|$))"
SafeUrl = Annotated[str, Field(pattern=SAFE_URL)]


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


class InputSettings(BaseModel):
    """One entry of EMBEDDING_INPUT."""

    model_config = ConfigDict(extra="forbid")

    prefix: str = ""
    fields: dict[str, JsonValue] = Field(default_factory=dict)


class _Environment(EnvSettingsSource):
    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """JSON in which each key stands once: of two values the last would win, without a word."""
        if NoDecode in field.metadata:
            return value
        return json.loads(value, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ValueError(f"the key {name!r} is given twice")
    return dict(pairs)


class Settings(BaseSettings):
    """The names in upper case are the environment variables."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    storage: str = Field(
        "sqlite:///data/assistants.db",
        description="sqlite:///PATH, sqlite://:memory:, a connection string of Azure Storage,"
        " UseDevelopmentStorage=true (Azurite), or https://ACCOUNT.blob.core.windows.net (identity)",
    )
    storage_wait: Annotated[float, Field(ge=0)] = Field(
        60, description="seconds that a process waits at its start for a store that does not answer"
    )
    host: str = Field("127.0.0.1", description="address to listen on; other than loopback needs keys")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="port to listen on; 0 picks a free one")
    api_keys: Annotated[dict[str, SecretStr], NoDecode] = Field(
        default_factory=dict,
        description="project:key,... ; in addition to those of `assistants keys`",
    )
    entra_tenant: Annotated[str, Field(pattern=r"^[0-9a-fA-F-]{36}$")] | None = Field(
        None, description="id of the tenant of Microsoft Entra ID whose access tokens are taken, beside keys"
    )
    entra_audience: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="whom the tokens must be for, comma-separated: api://CLIENT_ID, CLIENT_ID"
    )
    entra_roles: dict[str, str] = Field(
        default_factory=dict,
        description='what app roles stand for, as JSON: {"Writer": "PROJECT", "Reader": "PROJECT:read"}',
    )
    entra_issuer: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="issuers of the tokens, comma-separated, if not those of ENTRA_TENANT in the public cloud"
    )
    entra_jwks: SafeUrl | None = Field(None, description="address of the issuer's signing keys, likewise")
    project_requests_per_minute: Annotated[int, Field(ge=0)] = Field(
        0, description="requests that a project may send to one API process; 0: no limit"
    )
    project_active_runs: Annotated[int, Field(ge=0)] = Field(
        0, description="runs that a project may have at once by one API process; 0: no limit"
    )
    project_stored_bytes: Annotated[int, Field(ge=0)] = Field(
        0, description="bytes of threads, files and vector stores that a project may keep; 0: no limit"
    )
    max_connections: Annotated[int, Field(ge=1)] = Field(5000, description="connections to the API at once")
    keep_alive_timeout: Annotated[float, Field(gt=0)] = Field(
        75,
        description="seconds that a connection may be idle, and that the head of a request may take; a proxy in front"
        " should close idle connections sooner",
    )
    allowed_hosts: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")], ...], NoDecode] = Field(
        (),
        description="names that a service without keys may be called by, comma-separated, without port; localhost and"
        " loopback addresses always may",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origins whose browser pages may call the API, comma-separated; * for all"
    )
    openai_api_key: SecretStr | None = Field(None, description="key of the provider `openai`")
    openai_base_url: Url | None = Field(None, description="URL of the provider `openai`, if it is a compatible server")
    model_api: Literal["chat", "responses"] = Field("chat", description="API of the providers `openai` and `azure`")
    azure_openai_endpoint: SafeUrl | None = Field(
        None, description="https://NAME.openai.azure.com: makes the provider `azure`, called by the service's identity"
    )
    providers: dict[Annotated[str, AfterValidator(_prefix)], ProviderSettings] = Field(
        default_factory=dict,
        description='further providers as JSON: {"ollama": {"base_url": "http://127.0.0.1:11434/v1"}} makes'
        " `ollama/llama3.2` work; keys: base_url, api_key, identity (true: as AZURE_OPENAI_ENDPOINT), api (chat,"
        " responses), models, max_tokens_field, tool_choice (required: a forced function is the"
        " only one that is offered), window (context window of its models in tokens), windows"
        " (of some of them, by name)",
    )
    default_provider: str | None = Field(
        None, description="provider of model names without one: openai or azure, if configured, else offline"
    )
    offline_model: Literal["on", "off"] = Field(
        "on", description="off: there is no built-in model, and names that no provider answers for are refused"
    )
    model_timeout: Annotated[float, Field(gt=0)] = Field(600, description="seconds for a model call")
    model_retries: Annotated[int, Field(ge=0, le=10)] = Field(
        2, description="retries of a model call after 408, 409, 429, 5xx or a broken connection"
    )
    model_window: Window = Field(
        128_000,
        description="context window, in tokens, of models of which neither PROVIDERS nor their name says it",
    )
    embedding_model: str = Field(
        "offline",
        description="model that makes the vectors of vector stores, such as text-embedding-3-small or ollama/bge-m3;"
        " offline: built in. What another one made is found by its words alone",
    )
    embedding_dimensions: Annotated[int, Field(ge=1)] | None = Field(
        None, description="length of these vectors, of models that can shorten them"
    )
    embedding_input: dict[Literal["query", "passage"], InputSettings] = Field(
        default_factory=dict,
        description='what the model wants to be told of each, as JSON: {"query": {"prefix": "query: "}, "passage":'
        ' {"fields": {"input_type": "passage"}}}; default: as E5, BGE, nomic-embed-text and other families want it',
    )
    embedding_weight: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="share of the vectors in a score, the rest is of the words; default: 0.4, or 0.8 for models such as"
        " E5, whose cosines are close to each other",
    )
    search_memory_mb: Annotated[int, Field(ge=16)] = Field(
        512, description="MiB that the indexes of the vector stores may take that one process searched last"
    )
    extraction_processes: Annotated[int, Field(ge=1)] = Field(2, description="files that one worker reads at once")
    extraction_memory_mb: Annotated[int, Field(ge=64)] = Field(
        1024, description="MiB of memory that reading one file may take; only Linux heeds it"
    )
    extraction_timeout: Annotated[float, Field(gt=0)] = Field(60, description="seconds that reading one file may take")
    actions: str | None = Field(None, description="module whose @action functions the worker executes")
    action_timeout: Annotated[float, Field(gt=0)] = Field(60, description="seconds for one call of an action")
    action_threads: Annotated[int, Field(ge=4)] = Field(
        512, description="threads of actions in one worker, those included that hang"
    )
    max_tool_rounds: Annotated[int, Field(ge=1)] = Field(
        100, description="rounds of tool calls after which a run fails whose model still calls tools"
    )
    tool_history_tokens: Annotated[int, Field(ge=0)] = Field(
        8_000,
        description="tokens of a prompt that tool calls and outputs of earlier runs of the thread may have; 0: none",
    )
    run_expires_after: Annotated[int, Field(ge=1, le=86_400)] = Field(600, description="lifetime of a run in seconds")
    poll_after_ms: Annotated[int, Field(ge=1)] = Field(100, description="how long polling clients are asked to wait")
    stream_flush_ms: Annotated[int, Field(ge=1)] = Field(50, description="how often deltas are written to a stream")
    event_log_rollover: Annotated[int, Field(ge=2, le=40_000)] = Field(
        ROLLOVER_AFTER,
        description="commits after which the event log of a thread or a vector store begins anew from a snapshot, at"
        " the earliest",
    )
    file_max_mb: Annotated[int, Field(ge=1)] = Field(512, description="MiB of a file that is sent by one request")
    upload_max_mb: Annotated[int, Field(ge=1)] = Field(
        8192, description="MiB of a file that is sent in parts, by way of /v1/uploads"
    )
    worker_concurrency: Annotated[int, Field(ge=1)] = Field(
        1000, description="runs in flight in one worker; the projects that want more take turns"
    )
    worker_visibility_timeout: Annotated[float, Field(ge=1, le=600)] = Field(
        45, description="seconds after which the runs of a worker that died are taken over"
    )
    shutdown_grace: Annotated[float, Field(ge=0)] = Field(
        25, description="seconds that SIGTERM gives to runs in flight"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged to stderr")
    log_format: Literal["text", "json"] = Field("text", description="how: lines for people, or a JSON object a line")
    applicationinsights_connection_string: SecretStr | None = Field(
        None, description="Application Insights to send traces and metrics to"
    )
    otel_exporter_otlp_endpoint: Url | None = Field(
        None,
        description="where to send traces and metrics by OTLP over HTTP; other OTEL_* variables of OpenTelemetry's SDK"
        " hold too",
    )
    otel_service_name: str = Field("assistants", description="name of this process in traces and metrics")
    otel_instrumentation_genai_capture_message_content: bool = Field(
        False, description="whether traces hold prompts, answers and outputs of tools"
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Environment(settings_cls)

    @field_validator("api_keys", mode="before")
    @classmethod
    def _keys(cls, value: object) -> object:
        """`project:key,...` by key, as authentication looks them up."""
        if not isinstance(value, str):
            return value
        pairs = [pair.strip().partition(":") for pair in value.split(",") if pair.strip()]
        if any(not project or not key for project, _, key in pairs):
            raise ValueError("expected project:key,project:key,...")
        for project, _, _ in pairs:
            if not names.PROJECT.fullmatch(project):
                raise ValueError(f"{project!r} is not a valid project name: {names.PROJECT_RULE}")
        if len({key for _, _, key in pairs}) < len(pairs):
            raise ValueError("the same key is given twice")
        return {f"{place}:{project}": SecretStr(key) for place, (project, _, key) in enumerate(pairs)}

    @field_validator("allowed_hosts", "cors_origins", "entra_audience", "entra_issuer", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def keys(self) -> dict[str, str]:
        """Project by key."""
        return {key.get_secret_value(): name.partition(":")[2] for name, key in self.api_keys.items()}

    @property
    def exposed(self) -> bool:
        """Whether others than this machine can reach the API."""
        return not _loopback(self.host)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
