"""An identity provider of the tests' own: its keys, tokens signed by them, and the endpoint by which App Service gives
tokens to a program with a managed identity."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import rsa

TENANT = "ab1f708d-50f6-404c-a006-d71b2ac7a606"
ISSUER = f"https://sts.windows.net/{TENANT}/"
AUDIENCE = "api://assistants"
Json = Any


@dataclass
class Issuer:
    """`keys` are those that it publishes, by id. `url` is where; `fetched` counts how often they were fetched. While
    `down`, it answers 503. `asked` are the resources for which the managed identity wanted a token."""

    keys: dict[str, rsa.RSAPrivateKey] = field(default_factory=dict)
    url: str = ""
    down: bool = False
    fetched: int = 0
    secret: str = "the-header-of-the-identity-endpoint"
    asked: list[str] = field(default_factory=list)
    claims: Json = field(default_factory=dict)  # of the managed identity's tokens, in place of the right ones

    def add_key(self, kid: str) -> None:
        self.keys[kid] = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def token(self, *, kid: str = "", **claims: Json) -> str:
        """Signed by this key, or by the newest; a claim of None is left out."""
        kid = kid or list(self.keys)[-1]
        now = int(time.time())
        right = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "nbf": now - 10, "exp": now + 3600, "sub": "somebody"}
        given = {name: value for name, value in (right | claims).items() if value is not None}
        return jwt.encode(given, self.keys[kid], algorithm="RS256", headers={"kid": kid})

    @property
    def jwks(self) -> Json:
        return {"keys": [_public(kid, key) for kid, key in self.keys.items()]}

    @property
    def environment(self) -> dict[str, str]:
        """What tells a program on App Service where its identity is."""
        return {"IDENTITY_ENDPOINT": f"{self.url}/msi/token", "IDENTITY_HEADER": self.secret}

    async def handle_keys(self, _: web.Request) -> web.Response:
        self.fetched += 1
        return web.Response(status=503) if self.down else web.json_response(self.jwks)

    async def handle_identity(self, request: web.Request) -> web.Response:
        if request.headers.get("X-IDENTITY-HEADER") != self.secret or self.down:
            return web.json_response({"statusCode": 400, "message": "No managed identity here."}, status=400)
        resource = request.query["resource"]
        self.asked.append(resource)
        token = self.token(**{"aud": resource, **self.claims})
        expires = jwt.decode(token, options={"verify_signature": False})["exp"]
        answer = {"access_token": token, "expires_on": str(expires), "resource": resource, "token_type": "Bearer"}
        return web.json_response(answer)


def _public(kid: str, key: rsa.RSAPrivateKey) -> Json:
    return {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"}


@contextlib.asynccontextmanager
async def issuing(*kids: str) -> AsyncIterator[Issuer]:
    """A running provider that has keys of these ids."""
    issuer = Issuer()
    for kid in kids or ("key-1",):
        issuer.add_key(kid)
    app = web.Application()
    app.router.add_get("/keys", issuer.handle_keys)
    app.router.add_get("/msi/token", issuer.handle_identity)
    async with TestServer(app) as server:
        issuer.url = str(server.make_url("/")).rstrip("/")
        yield issuer
