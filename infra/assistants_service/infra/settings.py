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
        description=(
            "where data is stored: sqlite:///PATH, sqlite://:memory:, an Azure Storage connection string,"
            " UseDevelopmentStorage=true (Azurite), or https://ACCOUNT.blob.core.windows.net (managed identity)"
        ),
    )
    storage_wait: Annotated[float, Field(ge=0)] = Field(
        60, description="seconds to wait at start for a store that is not responding"
    )
    host: str = Field("127.0.0.1", description="address to listen on; any address other than loopback requires keys")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="port to listen on; 0 picks a free port")
    api_keys: Annotated[dict[str, SecretStr], NoDecode] = Field(
        default_factory=dict,
        description=(
            "API keys as project:key,project:key,...; they are valid in addition to the keys made by `assistants keys`"
        ),
    )
    entra_tenant: Annotated[str, Field(pattern=r"^[0-9a-fA-F-]{36}$")] | None = Field(
        None, description="ID of the Microsoft Entra ID tenant whose access tokens are accepted in addition to keys"
    )
    entra_audience: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="accepted audiences of access tokens, comma-separated: api://CLIENT_ID, CLIENT_ID"
    )
    entra_roles: dict[str, str] = Field(
        default_factory=dict,
        description=(
            'the project and access that each app role grants, as JSON: {"Writer": "PROJECT", "Reader": "PROJECT:read"}'
        ),
    )
    entra_issuer: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description=(
            "accepted issuers of access tokens, comma-separated; default: those of ENTRA_TENANT in the public cloud"
        ),
    )
    entra_jwks: SafeUrl | None = Field(
        None, description="URL of the issuer's signing keys; default: that of ENTRA_TENANT in the public cloud"
    )
    project_requests_per_minute: Annotated[int, Field(ge=0)] = Field(
        0, description="requests per minute that each API process accepts from one project; 0: no limit"
    )
    project_active_runs: Annotated[int, Field(ge=0)] = Field(
        0, description="active runs that each API process allows one project; 0: no limit"
    )
    project_stored_bytes: Annotated[int, Field(ge=0)] = Field(
        0, description="bytes of threads, files and vector stores that one project may store; 0: no limit"
    )
    max_connections: Annotated[int, Field(ge=1)] = Field(
        5000, description="maximum number of open connections to one API process"
    )
    keep_alive_timeout: Annotated[float, Field(gt=0)] = Field(
        75,
        description=(
            "seconds after which an idle connection, or one whose request headers are incomplete, is closed; a"
            " proxy in front should close idle connections sooner"
        ),
    )
    allowed_hosts: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")], ...], NoDecode] = Field(
        (),
        description=(
            "host names, comma-separated and without port, by which a service without keys may be called;"
            " localhost and loopback addresses are always allowed"
        ),
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origins whose browser pages may call the API, comma-separated; * for all"
    )
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
    embedding_model: str = Field(
        "offline",
        description=(
            "model that creates the embeddings of vector stores, such as text-embedding-3-small or ollama/bge-m3;"
            " offline: the built-in one. Files embedded by another model are found by keywords only"
        ),
    )
    embedding_dimensions: Annotated[int, Field(ge=1)] | None = Field(
        None, description="dimensions of the embeddings, for models that can shorten them"
    )
    embedding_input: dict[Literal["query", "passage"], InputSettings] = Field(
        default_factory=dict,
        description=(
            'what to add to queries and passages for the embedding model, as JSON: {"query": {"prefix": "query:'
            ' "}, "passage": {"fields": {"input_type": "passage"}}}; defaults are built in for E5, BGE,'
            " nomic-embed-text and other families"
        ),
    )
    embedding_weight: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description=(
            "weight of embeddings in a search score, 0 to 1; keywords have the rest. Default: 0.4, or 0.8 for"
            " models such as E5, whose cosines are close to each other"
        ),
    )
    search_memory_mb: Annotated[int, Field(ge=16)] = Field(
        512, description="MiB of memory that one process uses to cache the indexes of recently searched vector stores"
    )
    extraction_processes: Annotated[int, Field(ge=1)] = Field(
        2, description="files from which one worker extracts text at once"
    )
    extraction_memory_mb: Annotated[int, Field(ge=64)] = Field(
        1024, description="MiB of memory that extracting text from one file may use; enforced on Linux only"
    )
    extraction_timeout: Annotated[float, Field(gt=0)] = Field(
        60, description="seconds that extracting text from one file may take"
    )
    code_interpreter: Literal["auto", "local", "off"] = Field(
        "auto",
        description=(
            "where the worker executes Python of code_interpreter: local (confined processes of this machine, Linux"
            " only) or off; auto: local if a self-test at start shows that this machine can confine them, otherwise off"
        ),
    )
    code_interpreter_processes: Annotated[int, Field(ge=1)] = Field(
        4, description="Python interpreters that one worker keeps at once, one per thread that uses code_interpreter"
    )
    code_interpreter_memory_mb: Annotated[int, Field(ge=256)] = Field(
        2048, description="MiB of memory that one Python interpreter may use"
    )
    code_interpreter_timeout: Annotated[float, Field(gt=0)] = Field(
        60, description="seconds that one call of code_interpreter may take"
    )
    code_interpreter_keep_days: Annotated[int, Field(ge=0, le=3650)] = Field(
        0,
        description=(
            "days that files which code_interpreter created for users are kept after their thread is deleted; 0: they"
            " are deleted with it"
        ),
    )
    actions: str | None = Field(None, description="Python module whose @action functions the worker executes")
    action_timeout: Annotated[float, Field(gt=0)] = Field(60, description="seconds that one call of an action may take")
    action_threads: Annotated[int, Field(ge=4)] = Field(
        512, description="maximum number of threads for actions in one worker, including those that hang"
    )
    max_tool_rounds: Annotated[int, Field(ge=1)] = Field(
        100, description="rounds of tool calls after which a run fails if the model still calls tools"
    )
    tool_history_tokens: Annotated[int, Field(ge=0)] = Field(
        8_000,
        description=(
            "tokens of a prompt that may be used for tool calls and outputs of earlier runs of the thread; 0: none"
        ),
    )
    run_expires_after: Annotated[int, Field(ge=1, le=86_400)] = Field(
        600, description="seconds after which a run expires"
    )
    poll_after_ms: Annotated[int, Field(ge=1)] = Field(
        100, description="milliseconds that polling clients are asked to wait"
    )
    stream_flush_ms: Annotated[int, Field(ge=1)] = Field(
        50, description="milliseconds between writes of deltas to a stream"
    )
    event_log_rollover: Annotated[int, Field(ge=2, le=40_000)] = Field(
        ROLLOVER_AFTER,
        description=(
            "minimum number of commits after which the event log of a thread or a vector store is restarted from"
            " a snapshot"
        ),
    )
    file_max_mb: Annotated[int, Field(ge=1)] = Field(
        512, description="maximum size in MiB of a file uploaded in one request"
    )
    upload_max_mb: Annotated[int, Field(ge=1)] = Field(
        8192, description="maximum size in MiB of a file uploaded in parts through /v1/uploads"
    )
    worker_concurrency: Annotated[int, Field(ge=1)] = Field(
        1000, description="runs that one worker works on at once; projects that want more take turns"
    )
    worker_visibility_timeout: Annotated[float, Field(ge=1, le=600)] = Field(
        45, description="seconds after which another worker takes over the runs of a worker that died"
    )
    shutdown_grace: Annotated[float, Field(ge=0)] = Field(
        25, description="seconds that active runs may take to finish after SIGTERM"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="minimum level of the log on stderr"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="text: log lines for people; json: one JSON object per line"
    )
    applicationinsights_connection_string: SecretStr | None = Field(
        None, description="Application Insights resource that receives traces and metrics"
    )
    otel_exporter_otlp_endpoint: Url | None = Field(
        None,
        description=(
            "URL that receives traces and metrics by OTLP over HTTP; other OTEL_* variables of the OpenTelemetry"
            " SDK apply too"
        ),
    )
    otel_service_name: str = Field("assistants", description="name of this process in traces and metrics")
    otel_instrumentation_genai_capture_message_content: bool = Field(
        False, description="whether traces contain prompts, answers and tool outputs"
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
