"""Validates access tokens of Microsoft Entra ID (or another OpenID Connect issuer): signature, audience, expiry and
roles.

Only RS256 is accepted, so no token chooses how it is checked. The issuer's keys are fetched from one configured
address, never from one that a token names.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar
from cachetools import TLRUCache

from assistants_service.core.errors import ApiError
from assistants_service.core.keys import Caller, Scope, digest

log = logging.getLogger(__name__)

ALGORITHM: Final = "RS256"  # used by Entra ID
LEEWAY: Final = 60.0  # seconds that clocks may differ
RECHECK: Final = 60.0  # seconds for which a validated token is cached
KNOWN_TOKENS: Final = 10_000
FRESH: Final = 3600.0  # seconds after which the issuer's keys are fetched again
REFETCH: Final = 30.0  # seconds between fetches for unknown keys, or after a failed one
RETRY: Final = 2.0  # the same, while there are no keys at all
TIMEOUT: Final = 5.0  # seconds for a fetch


@dataclass(frozen=True, slots=True)
class Trust:
    """The trusted `issuers`, who sign with the keys at the address `jwks`, the accepted `audiences`, and what each role
    grants."""

    issuers: tuple[str, ...]
    audiences: tuple[str, ...]
    jwks: str
    roles: Mapping[str, Caller]


class SigningKeys:
    """The issuer's public keys by id. Old ones stay valid while no newer ones can be fetched."""

    def __init__(self, url: str, now: Callable[[], float]) -> None:
        self._url, self._now = url, now
        self._keys: dict[str, jwt.PyJWK] = {}
        self._tried_at, self._fresh = float("-inf"), False
        self._fetching = asyncio.Lock()
        self._session: ClientSession | None = None

    async def find(self, kid: str) -> jwt.PyJWK | None:
        """Raises the 503 if the issuer's keys could never be fetched."""
        known = kid in self._keys
        pause = RETRY if not self._keys else FRESH if known and self._fresh else REFETCH
        # A token with a known key does not wait while another key is fetched.
        if self._due(pause) and not (known and self._fetching.locked()):
            async with self._fetching:
                if self._due(pause):
                    await self._fetch()
        if not self._keys:
            raise _unavailable()
        return self._keys.get(kid)

    def _due(self, pause: float) -> bool:
        return not 0 <= self._now() - self._tried_at < pause

    async def _fetch(self) -> None:
        self._tried_at, self._fresh = self._now(), False
        try:
            async with self._open().get(self._url, allow_redirects=False, raise_for_status=True) as response:
                found = await response.json(content_type=None)
            keys = jwt.PyJWKSet.from_dict(found).keys
        except (ClientError, TimeoutError, ValueError, AttributeError, jwt.PyJWTError) as error:
            log.warning("cannot fetch the keys of the identity provider at %s: %s", self._url, error or type(error))
            return
        signs = (key for key in keys if key.algorithm_name == ALGORITHM and key.public_key_use in (None, "sig"))
        usable = {key.key_id: key for key in signs if key.key_id}
        if usable:
            self._keys, self._fresh = usable, True

    def _open(self) -> ClientSession:
        if self._session is None:
            timeout = ClientTimeout(total=TIMEOUT)
            self._session = ClientSession(timeout=timeout, cookie_jar=DummyCookieJar(), trust_env=True)
        return self._session

    async def close(self) -> None:
        if self._session:
            await self._session.close()


@dataclass(frozen=True, slots=True)
class Known:
    """What a validated token grants, and when it expires."""

    scopes: Mapping[str, Scope]
    expires: float

    def until(self, now: float) -> float:
        return min(now + RECHECK, self.expires)


class EntraTokens:
    """api.authentication.Tokens. `now` is Unix time."""

    def __init__(self, trust: Trust, now: Callable[[], float]) -> None:
        self._trust, self._now = trust, now
        self._keys = SigningKeys(trust.jwks, now)
        self._known: TLRUCache[bytes, Known] = TLRUCache(KNOWN_TOKENS, lambda _, known, now: known.until(now), now)

    async def scopes(self, token: str) -> Mapping[str, Scope]:
        """What the token's roles grant, by project; recently validated tokens are cached."""
        hashed = digest(token)
        if known := self._known.get(hashed):
            return known.scopes
        claims = await self._checked(token)
        self._known[hashed] = known = Known(self._scopes(claims), int(claims["exp"]) + LEEWAY)
        return known.scopes

    async def _checked(self, token: str) -> dict[str, Any]:
        """The claims of a valid token. Raises the 401 for any other."""
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") != ALGORITHM:
                raise jwt.InvalidAlgorithmError("The specified alg value is not allowed")
            key = await self._keys.find(str(header.get("kid")))
            if key is None:
                raise jwt.InvalidSignatureError("It is not signed by a key of the issuer")
            return jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                issuer=self._trust.issuers,
                audience=self._trust.audiences,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.PyJWTError, UnicodeError) as error:
            message = f"Incorrect access token provided: {str(error)[:100]}."
            raise ApiError(message, status=401, code="invalid_token") from None

    def _scopes(self, claims: Mapping[str, Any]) -> Mapping[str, Scope]:
        scopes: dict[str, Scope] = {}
        roles = claims.get("roles")
        for role in roles if isinstance(roles, list) else ():
            grant = self._trust.roles.get(str(role))
            if grant and scopes.get(grant.project) != "full":
                scopes[grant.project] = grant.scope
        return scopes

    async def close(self) -> None:
        await self._keys.close()


def _unavailable() -> ApiError:
    return ApiError(
        "The identity provider is not responding, so your access token cannot be verified. Please retry your request.",
        status=503,
        kind="server_error",
        code="identity_unavailable",
        headers={"Retry-After": "2"},
    )
