"""Callers with an access token of Entra ID: whatever is wrong with a token is 401, roles say what it may do."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import openai
import pytest
from cryptography.hazmat.primitives import serialization

from assistants_service.infra.configuration import ConfigurationError, read_settings
from assistants_service.infra.entra import FRESH, LEEWAY, RECHECK, REFETCH
from assistants_service.infra.wiring import SystemClock, tokens_of
from identity_provider import AUDIENCE, ISSUER, Issuer, issuing
from inprocess_service import Answer, InProcess, ManualClock, in_process

ROLES = {"One.Writer": "one", "One.Reader": "one:read", "Two.Writer": "two:full"}
READ, WRITE = ["One.Reader"], ["One.Writer"]


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing("first") as issuer:
        yield issuer


def settings(issuer: Issuer, **more: Any) -> dict[str, Any]:
    trust = {"entra_issuer": ISSUER, "entra_audience": f"other, {AUDIENCE}", "entra_jwks": f"{issuer.url}/keys"}
    return {**trust, "entra_roles": ROLES, **more}


@pytest.fixture
async def service(issuer: Issuer) -> AsyncIterator[InProcess]:
    async with in_process(clock=ManualClock(time.time()), **settings(issuer)) as service:
        yield service


async def asked(service: InProcess, token: str, method: str = "GET", **headers: str) -> Answer:
    return await service.client(token).send(method, "/v1/assistants", headers=headers)


# --- good tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["openai", "azure"])
async def test_the_sdks_come_in_with_a_token(service: InProcess, issuer: Issuer, dialect: str) -> None:
    async def token() -> str:
        return issuer.token(roles=WRITE)

    url, kind = str(service.url), {"api_version": "2024-05-01-preview", "azure_ad_token_provider": token}
    client = (
        openai.AsyncOpenAI(base_url=f"{url}v1", api_key=token)
        if dialect == "openai"
        else openai.AsyncAzureOpenAI(azure_endpoint=url, **kind)  # type: ignore[call-overload]
    )
    async with client:
        with pytest.warns(DeprecationWarning):
            made = await client.beta.assistants.create(model="gpt-4o")
    assert (await service.client(issuer.token(roles=READ)).get(f"/assistants/{made.id}"))["id"] == made.id


async def test_roles_say_which_project_and_what_may_be_done(service: InProcess, issuer: Issuer) -> None:
    made = await service.client(issuer.token(roles=WRITE)).post("/assistants", {"model": "gpt-4o"})
    reader, stranger = (service.client(issuer.token(roles=roles)) for roles in (READ, ["Two.Writer"]))
    await reader.get(f"/assistants/{made['id']}")
    assert (await reader.refused("POST", "/assistants", {"model": "x"}, status=403))["code"] == "missing_scope"
    await stranger.refused("GET", f"/assistants/{made['id']}", status=404)
    both = service.client(issuer.token(roles=["One.Reader", "One.Writer", "unknown"]))
    await both.delete(f"/assistants/{made['id']}")


async def test_a_token_for_several_projects_needs_to_be_told_which(service: InProcess, issuer: Issuer) -> None:
    token = issuer.token(roles=["One.Reader", "Two.Writer"])
    answer = await asked(service, token)
    assert (answer.status, answer.error["code"]) == (403, "project_needed")
    assert "(one, two)" in answer.error["message"]
    assert (await asked(service, token, **{"OpenAI-Project": "two"})).status == 200
    assert (await asked(service, token, "POST", **{"OpenAI-Project": "one"})).status == 403
    assert (await asked(service, token, **{"OpenAI-Project": "three"})).status == 403


@pytest.mark.parametrize("roles", [None, [], ["unknown"], "One.Writer", [["One.Writer"]], {"One.Writer": 1}])
async def test_without_a_role_no_token_gets_in(service: InProcess, issuer: Issuer, roles: Any) -> None:
    answer = await asked(service, issuer.token(roles=roles))
    assert (answer.status, answer.error["code"]) == (403, "no_role")


async def test_keys_are_as_good_as_ever(issuer: Issuer) -> None:
    async with in_process(**settings(issuer, api_keys="one:a.key.with-dots")) as service:
        assert (await asked(service, "a.key.with-dots")).status == 200
        assert (await asked(service, "sk-unknown")).error["code"] == "invalid_api_key"
        assert (await service.api.send("GET", "/v1/assistants")).status == 401
    assert issuer.fetched == 0


# --- bad tokens -----------------------------------------------------------------------------------------------------

# Times are in seconds from the moment of the request.
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"exp": -LEEWAY - 1}, "Signature has expired"),
    "not yet valid": ({"nbf": LEEWAY + 60}, "The token is not yet valid (nbf)"),
    "issued in the future": ({"iat": LEEWAY + 60}, "The token is not yet valid (iat)"),
    "of another audience": ({"aud": "https://cognitiveservices.azure.com"}, "Audience doesn't match"),
    "of several other audiences": ({"aud": ["a", "b"]}, "Audience doesn't match"),
    "of no audience": ({"aud": None}, 'Token is missing the "aud" claim'),
    "of another issuer": ({"iss": "https://sts.windows.net/another/"}, "Invalid issuer"),
    "of no issuer": ({"iss": None}, 'Token is missing the "iss" claim'),
    "for ever": ({"exp": None}, 'Token is missing the "exp" claim'),
    "of no time": ({"exp": "tomorrow"}, "Expiration Time claim (exp) must be an integer"),
}


def from_now(claims: dict[str, Any]) -> dict[str, Any]:
    now = time.time()
    return {name: now + value if isinstance(value, int | float) else value for name, value in claims.items()}


@pytest.mark.parametrize("name", WRONG)
async def test_a_token_that_is_wrong_is_refused_with_the_reason(service: InProcess, issuer: Issuer, name: str) -> None:
    claims, reason = WRONG[name]
    token = issuer.token(roles=WRITE, **from_now(claims))
    answer = await asked(service, token)
    assert (answer.status, answer.error["code"]) == (401, "invalid_token")
    assert reason in answer.error["message"]
    assert token.split(".")[2] not in answer.raw.decode()


async def test_clocks_may_differ_a_little(service: InProcess, issuer: Issuer) -> None:
    for claims in ({"exp": -LEEWAY / 2}, {"nbf": LEEWAY / 2}):
        assert (await asked(service, issuer.token(roles=WRITE, **from_now(claims)))).status == 200


async def test_only_the_issuers_own_rs256_is_a_signature(service: InProcess, issuer: Issuer) -> None:
    good, headers = issuer.token(roles=WRITE), {"kid": "first"}
    claims = jwt.decode(good, options={"verify_signature": False})
    head, body, signature = good.split(".")
    async with issuing("first") as other:
        foreign = other.token(roles=WRITE)
    public = issuer.keys["first"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    confused = b".".join([_part({"alg": "HS256", "kid": "first"}), body.encode()])
    forged = {
        "none": jwt.encode(claims, None, algorithm="none", headers=headers),
        "None, in capitals": f"{_part({'alg': 'NONE', 'kid': 'first'}).decode()}.{body}.",
        "no signature": f"{head}.{body}.",
        "another body": f"{head}.{_part({**claims, 'roles': ['Two.Writer']}).decode()}.{signature}",
        "another key": foreign,
        "the public key as a secret": (confused + b"." + _part_of(_hmac(pem, confused))).decode(),
        "another algorithm of the same key": jwt.encode(claims, issuer.keys["first"], "RS512", headers=headers),
        "PSS": jwt.encode(claims, issuer.keys["first"], "PS256", headers=headers),
        "a key of its own": jwt.encode(
            claims, issuer.keys["first"], "RS256", {"kid": "x", "jwk": issuer.jwks["keys"][0]}
        ),
        "a key elsewhere": jwt.encode(
            claims, issuer.keys["first"], "RS256", {"kid": "x", "jku": "http://127.0.0.1:1/"}
        ),
        "no key id": jwt.encode(claims, issuer.keys["first"], "RS256"),
    }
    assert (await asked(service, good)).status == 200
    for name, token in forged.items():
        answer = await asked(service, token)
        assert (answer.status, answer.error["code"]) == (401, "invalid_token"), name


@pytest.mark.parametrize(
    "token",
    [b"..", b"a.b.c", b"eyJ.eyJ.x", base64.urlsafe_b64encode(b"[" * 3000) + b".x.x", b"\xff.\xff.x"],
    ids=["dots", "letters", "half", "deep", "bytes"],
)
async def test_what_is_no_token_is_no_fault_of_the_service(service: InProcess, token: bytes) -> None:
    status, body = await service.raw(b"GET /v1/models HTTP/1.1", b"Authorization: Bearer " + token)
    assert (status, body["error"]["code"]) == (401, "invalid_token")


def _part(value: Any) -> bytes:
    return _part_of(json.dumps(value).encode())


def _part_of(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _hmac(secret: bytes, data: bytes) -> bytes:
    return hmac.digest(secret, data, hashlib.sha256)


# --- the issuer's keys ----------------------------------------------------------------------------------------------


async def test_keys_are_fetched_once_and_tokens_checked_once_a_minute(
    service: InProcess, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks, decode = [], jwt.decode
    monkeypatch.setattr(
        "assistants_service.infra.entra.jwt.decode",
        lambda *args, **options: checks.append(1) or decode(*args, **options),
    )
    token = issuer.token(roles=WRITE)
    for _ in range(3):
        assert (await asked(service, token)).status == 200
    assert (issuer.fetched, len(checks)) == (1, 1)
    service.advance(RECHECK)
    assert (await asked(service, token)).status == 200
    assert (issuer.fetched, len(checks)) == (1, 2)


async def test_a_token_is_not_known_beyond_its_time(service: InProcess, issuer: Issuer) -> None:
    begun = service.parts.clock.now()
    token = issuer.token(roles=WRITE, exp=begun - LEEWAY + RECHECK / 2)
    assert (await asked(service, token)).status == 200
    assert len(service.parts.tokens._known) == 1
    service.advance(RECHECK / 2)
    assert list(service.parts.tokens._known) == []


async def test_a_rotated_key_is_fetched_at_once(service: InProcess, issuer: Issuer) -> None:
    assert (await asked(service, issuer.token(roles=WRITE))).status == 200
    service.advance(REFETCH)
    issuer.add_key("second")
    assert (await asked(service, issuer.token(roles=WRITE, kid="second"))).status == 200
    assert (await asked(service, issuer.token(roles=WRITE, kid="first"))).status == 200
    assert issuer.fetched == 2


async def test_a_key_that_the_issuer_took_back_signs_nothing_more(service: InProcess, issuer: Issuer) -> None:
    old = issuer.token(roles=WRITE)
    assert (await asked(service, old)).status == 200
    del issuer.keys["first"]
    issuer.add_key("second")
    service.advance(FRESH)
    assert (await asked(service, old)).status == 401


async def test_a_flood_of_unknown_keys_is_one_fetch_each_half_minute(service: InProcess, issuer: Issuer) -> None:
    async with issuing(*(f"unknown-{n}" for n in range(3))) as other:
        for _ in range(3):
            for kid in other.keys:
                assert (await asked(service, other.token(kid=kid, roles=WRITE))).status == 401
            service.advance(REFETCH)
    assert issuer.fetched == 3


async def test_old_keys_count_while_new_ones_cannot_be_had(service: InProcess, issuer: Issuer) -> None:
    assert (await asked(service, issuer.token(roles=WRITE))).status == 200
    issuer.down = True
    for _ in range(3):
        service.advance(FRESH)
        assert (await asked(service, issuer.token(roles=WRITE))).status == 200
    issuer.add_key("second")
    assert (await asked(service, issuer.token(roles=WRITE))).status == 401
    issuer.down = False
    service.advance(REFETCH)
    assert (await asked(service, issuer.token(roles=WRITE))).status == 200


async def test_as_long_as_there_are_no_keys_callers_are_asked_to_come_again(service: InProcess, issuer: Issuer) -> None:
    issuer.down = True
    for _ in range(3):
        answer = await asked(service, issuer.token(roles=WRITE))
        assert (answer.status, answer.headers["Retry-After"], answer.error["code"]) == (
            503,
            "2",
            "identity_unavailable",
        )
    assert issuer.fetched == 1
    issuer.down = False
    service.advance(2)
    assert (await asked(service, issuer.token(roles=WRITE))).status == 200


# --- settings -------------------------------------------------------------------------------------------------------

TENANT = "ab1f708d-50f6-404c-a006-d71b2ac7a606"


async def test_a_tenant_names_its_issuers_and_keys() -> None:
    given = {"entra_tenant": TENANT, "entra_audience": "api://x", "entra_roles": {"Writer": "one"}}
    tokens: Any = tokens_of(read_settings(given), SystemClock())
    assert set(tokens._trust.issuers) == {
        f"https://login.microsoftonline.com/{TENANT}/v2.0",
        f"https://sts.windows.net/{TENANT}/",
    }
    assert tokens._trust.jwks == f"https://login.microsoftonline.com/{TENANT}/discovery/v2.0/keys"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"entra_tenant": "contoso.com"}, "ENTRA_TENANT is not valid"),
        ({"entra_tenant": TENANT}, "ENTRA_AUDIENCE is not set"),
        ({"entra_tenant": TENANT, "entra_audience": "a"}, "ENTRA_ROLES is not set"),
        ({"entra_issuer": ISSUER, "entra_audience": "a", "entra_roles": {"r": "p"}}, "ENTRA_JWKS is not"),
        ({"entra_jwks": "http://keys.test"}, "ENTRA_JWKS is not valid"),
        (
            {"entra_tenant": TENANT, "entra_audience": "a", "entra_roles": {"r": "p:write"}},
            "ENTRA_ROLES is not valid: r:",
        ),
        ({"entra_tenant": TENANT, "entra_audience": "a", "entra_roles": {"r": "a/b"}}, "ENTRA_ROLES is not valid: r:"),
    ],
)
def test_half_a_setting_is_refused_with_what_to_set(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        tokens_of(read_settings(given), SystemClock())
    assert "\n" not in str(caught.value)
