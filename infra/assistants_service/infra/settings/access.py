"""Settings of the address of the API, and of those who may call it."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from assistants_service.core import names
from assistants_service.infra.settings.urls import SafeUrl, matching, origin_of

HostName = Annotated[str, matching(r"[A-Za-z0-9._-]+\Z", "a host name without a scheme and a port")]


class AccessSettings(BaseModel):
    """Where the API listens, and who may call it."""

    host: str = Field("127.0.0.1", description="address to listen on; any address other than loopback requires keys")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="port to listen on; 0 picks a free port")
    api_keys: Annotated[dict[str, SecretStr], NoDecode] = Field(
        default_factory=dict,
        description=(
            "API keys as project:key,project:key,...; they are valid in addition to the keys made by `assistants keys`"
        ),
    )
    entra_tenant: Annotated[str, matching(r"[0-9a-fA-F-]{36}\Z", "the tenant's ID, a GUID")] | None = Field(
        None, description="ID of the Microsoft Entra ID tenant whose access tokens are accepted in addition to keys"
    )
    entra_audience: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="accepted audiences of access tokens, comma-separated: api://CLIENT_ID, CLIENT_ID"
    )
    entra_roles: dict[str, str] = Field(
        default_factory=dict,
        examples=['{"Writer": "PROJECT"}'],
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
    allowed_hosts: Annotated[tuple[HostName, ...], NoDecode] = Field(
        (),
        description=(
            "host names, comma-separated and without port, by which a service without keys may be called;"
            " localhost and loopback addresses are always allowed"
        ),
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origins whose browser pages may call the API, comma-separated; * for all"
    )

    @field_validator("api_keys", mode="before")
    @classmethod
    def _keys(cls, value: object) -> object:
        """`project:key,...` by key, as authentication looks them up."""
        if not isinstance(value, str):
            return value
        pairs = [pair.strip().partition(":") for pair in value.split(",") if pair.strip()]
        if any(not project or not key for project, _, key in pairs):
            raise ValueError("expected project:key; separate several by commas")
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

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin not in ("*", "null") and origin != (meant := origin_of(origin)):
                write = f"write {meant}" if meant else "expected https://HOST or https://HOST:PORT, or * for all"
                raise ValueError(f"no browser sends the origin {origin!r}: {write}")
        return origins

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
