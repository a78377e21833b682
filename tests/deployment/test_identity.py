"""The service's own identity: storage and models by tokens, over https, as on App Service; no key is anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import jwt
import pytest
from yarl import URL

from assistants_service.infra.azure.identity import new_credential
from assistants_service.infra.azure.store import AzureStorage
from assistants_service.infra.configuration import ConfigurationError, read_settings
from azurite import Azurite
from identity_provider import Issuer, issuing
from inprocess_service import Api
from scripted_upstreams import Upstream, chunk, events, serving
from service_process import COMMAND, Process

STORAGE, MODELS = "https://storage.azure.com", "https://cognitiveservices.azure.com"


@pytest.fixture(scope="module")
def secure() -> Iterator[Azurite]:
    server = Azurite(secure=True)
    yield server
    server.stop()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as issuer:
        yield issuer


def environment(secure: Azurite, issuer: Issuer, **settings: str) -> dict[str, str]:
    trust = {"SSL_CERT_FILE": str(secure.certificate)}
    return {"STORAGE": secure.account_of_identity(), **trust, **issuer.environment, **settings}


async def test_a_run_by_identity_alone(secure: Azurite, issuer: Issuer) -> None:
    """API and worker apart, storage and model by the managed identity."""
    async with serving() as model:
        model.script = [events(chunk("stop", content="By identity."))]
        endpoint = model.url.removesuffix("/v1")
        env = environment(secure, issuer, AZURE_OPENAI_ENDPOINT=endpoint, LOG_LEVEL="debug")
        async with processes("worker", "api", env=env) as (worker, api):
            said = await asked(api.url)
    assert said == "By identity."
    assert set(issuer.asked) == {STORAGE, MODELS}
    sent = tokens_at(model)
    assert {claims["aud"] for claims in sent.values()} == {MODELS}
    assert {path for path, *_ in model.requests} == {"/openai/v1/chat/completions"}
    logged = "".join(worker.log + api.log)
    assert not [secret for secret in (issuer.secret, *sent) if secret in logged]


async def asked(url: str) -> str:
    """What the model says, by way of a run."""
    async with aiohttp.ClientSession() as session:
        api = Api(session, URL(url))
        assistant = (await api.post("/assistants", {"model": "gpt-4o"}))["id"]
        thread = {"messages": [{"role": "user", "content": "Hello"}]}
        path = "/threads/runs"
        async with api.stream("POST", path, {"assistant_id": assistant, "thread": thread, "stream": True}) as stream:
            message = await stream.until("thread.message.completed")
    return str(message.data["content"][0]["text"]["value"])


def tokens_at(model: Upstream) -> dict[str, Any]:
    """What those tokens claim that the model was asked with."""
    tokens = {headers["Authorization"].removeprefix("Bearer ") for *_, headers in model.requests}
    return {token: jwt.decode(token, options={"verify_signature": False}) for token in tokens}


@contextlib.asynccontextmanager
async def processes(*commands: str, env: dict[str, str]) -> AsyncIterator[list[Process]]:
    """Started in threads, as the identity's endpoint is on this event loop."""
    running: list[Process] = []
    try:
        for command in commands:
            running.append(await asyncio.to_thread(Process, command, env))
        yield running
    finally:
        for process in running:
            process.kill()


# --- what goes wrong ------------------------------------------------------------------------------------------------


async def test_a_token_that_is_refused_ends_the_start_with_one_line(secure: Azurite, issuer: Issuer) -> None:
    async with issuing() as away:
        issuer.claims, away.down = {"aud": MODELS}, True
        starts = [asyncio.to_thread(_start, environment(secure, each)) for each in (issuer, away)]
        foreign, none = await asyncio.gather(*starts)
    assert foreign.stderr == (
        "assistants: Azure Storage refuses the request: 403 AuthenticationFailed. Check STORAGE.\n"
    )
    assert none.stderr.startswith("assistants: Azure Storage cannot be reached with this identity: ")
    assert none.stderr.count("\n") == 1
    assert (foreign.returncode, none.returncode) == (2, 2)


def _start(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PORT": "0", "STORAGE_WAIT": "0", **env}
    return subprocess.run([COMMAND, "serve"], env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "text",
    [
        "BlobEndpoint=http://127.0.0.1:1/a;QueueEndpoint=http://127.0.0.1:2/a",
        "BlobEndpoint=https://a.blob.core.windows.net",
        "AccountName=a",
    ],
    ids=["in the clear", "one endpoint", "no endpoint"],
)
def test_without_a_key_an_account_needs_both_endpoints_by_https(text: str) -> None:
    with pytest.raises(ValueError, match="contains no key"):
        AzureStorage.from_connection_string(text)


# --- whose identity -------------------------------------------------------------------------------------------------

PRODUCTION = ["EnvironmentCredential", "WorkloadIdentityCredential", "ManagedIdentityCredential"]


@pytest.mark.parametrize(
    ("choice", "credentials"),
    [
        (None, PRODUCTION),
        ("prod", PRODUCTION),
        ("ManagedIdentityCredential", ["ManagedIdentityCredential"]),
        ("AzureCliCredential", ["AzureCliCredential"]),
    ],
)
async def test_the_identity_is_one_of_production_unless_the_developer_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, choice: str | None, credentials: list[str]
) -> None:
    if choice is None:
        monkeypatch.delenv("AZURE_TOKEN_CREDENTIALS", raising=False)
    else:
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", choice)
    for name in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.setenv(name, name.lower())
    async with new_credential() as credential:
        assert [type(each).__name__ for each in credential.credentials] == credentials


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"azure_openai_endpoint": "http://acme.test"}, "AZURE_OPENAI_ENDPOINT"),
        ({"providers": {"a": {"base_url": "http://acme.test", "identity": True}}}, "needs a base_url with https"),
        ({"providers": {"a": {"base_url": "http://localhost.acme.test", "identity": True}}}, "needs a base_url"),
        ({"providers": {"a": {"identity": True}}}, "base_url is missing"),
        ({"providers": {"a": {"base_url": "https://a", "identity": True, "api_key": "k"}}}, "not both"),
    ],
)
def test_tokens_are_never_sent_in_the_clear(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        read_settings(settings)
