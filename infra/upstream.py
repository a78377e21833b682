"""Calls to a model provider through the openai SDK: its transport and its retries, without its response classes.

Building pydantic objects costs 4 ms of CPU a call, so requests go out as bytes and replies come back as plain JSON.
Importing this module imports the SDK, which takes more than a second: do it where nobody waits (see providers).
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import httpx2
import msgspec
import openai
from openai import AsyncOpenAI, AsyncStream

from core.ports import ContextExceeded, ModelError
from infra import overflow

logger = logging.getLogger(__name__)

_JSON: Any = {"headers": {"Content-Type": "application/json"}}

_RATE_CODES = {"rate_limit_exceeded", "insufficient_quota", "too_many_requests", "429"}
_PROMPT_CODES = {"content_filter", "invalid_prompt", "content_policy_violation", "image_content_policy_violation"}
_KEY = re.compile(r"\bsk-[\w*-]+")
_LONGEST_MESSAGE = 300


class Upstream:
    """One provider. Retries are the SDK's (`max_retries` of the client): connection errors, 408, 409, 429 and 5xx,
    before the first byte of a stream. What still fails is a ModelError."""

    def __init__(self, client: AsyncOpenAI, provider: str) -> None:
        self._client = client
        self._provider = provider

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        content = msgspec.json.encode(body)
        response = await self._client.post(path, cast_to=httpx2.Response, content=content, options=_JSON)
        data: dict[str, Any] = msgspec.json.decode(response.content, type=dict)
        if error := data.get("error"):  # some proxies send an error with status 200
            raise self.failed(error)
        return data

    @asynccontextmanager
    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The data of the server-sent events. Closed with the block, so that a cancel hangs up at once."""
        stream = await self._client.post(
            path,
            cast_to=object,
            content=msgspec.json.encode(body),
            options=_JSON,
            stream=True,
            stream_cls=AsyncStream[object],
        )
        async with stream:
            yield cast(AsyncIterator[dict[str, Any]], stream)

    async def get(self, path: str, *, timeout: float) -> dict[str, Any]:
        """Once, without retries: for what can be left out."""
        options: Any = {"timeout": timeout, "max_retries": 0}
        response = await self._client.get(path, cast_to=httpx2.Response, options=options)
        data: dict[str, Any] = msgspec.json.decode(response.content, type=dict)
        return data

    async def close(self) -> None:
        await self._client.close()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Whatever goes wrong inside, while asking or while reading the answer, becomes a ModelError."""
        try:
            yield
        except ModelError:
            raise
        except TimeoutError as error:  # the caller's own limit
            raise self._failure(
                "server_error", f"The model provider '{self._provider}' did not answer in time."
            ) from error
        except openai.APIConnectionError as error:
            raise self._failure("server_error", self._unreachable(error.__cause__)) from error
        except openai.APIError as error:
            # Not chained: the redacted message says all that the original does.
            raise self.failed(error.body, getattr(error, "status_code", None)) from None
        except Exception as error:
            logger.warning("A call of the model provider '%s' failed", self._provider, exc_info=True)
            unreadable = isinstance(error, LookupError | TypeError | ValueError | AttributeError)
            how = "sent a reply that cannot be read" if unreadable else "could not be called"
            raise self._failure("server_error", f"The model provider '{self._provider}' {how}.") from error

    def failed(self, error: object, status: int | None = None) -> ModelError:
        """For an error object of the wire, from an error response or out of a stream."""
        fields = error if isinstance(error, Mapping) else {"message": error}
        message = fields.get("message")
        if not isinstance(message, str) or not message or message.lstrip().startswith("<"):  # empty, or a proxy's page
            message = f"The model provider '{self._provider}' failed" + (f" with status {status}." if status else ".")
        failure = self._failure(_error_code(status, str(fields.get("code"))), message)
        if overflow.exceeded(fields, message):
            return ContextExceeded("invalid_prompt", failure.message, overflow.window_in(fields, message))
        return failure

    def broken_off(self) -> ModelError:
        return self._failure("server_error", f"The model provider '{self._provider}' broke off its reply.")

    def _unreachable(self, cause: BaseException | None) -> str:
        if isinstance(cause, httpx2.ReadTimeout):
            return f"The model provider '{self._provider}' did not answer in time."
        if isinstance(cause, httpx2.ReadError | httpx2.RemoteProtocolError):
            return f"The model provider '{self._provider}' broke off its reply."
        return f"The model provider '{self._provider}' could not be reached."

    def _failure(self, code: str, message: str) -> ModelError:
        """Messages end up in `last_error`, which clients read: short, and never with a key in it."""
        if key := self._client.api_key:
            message = message.replace(key, "***")
        message = " ".join(_KEY.sub("sk-***", message).split())
        if len(message) > _LONGEST_MESSAGE:
            message = message[: _LONGEST_MESSAGE - 1] + "…"
        return ModelError(code, message)


def _error_code(status: int | None, code: str) -> str:
    if status == 429 or (status is None and code in _RATE_CODES):
        return "rate_limit_exceeded"
    if status in (400, None) and code in _PROMPT_CODES:
        return "invalid_prompt"
    return "server_error"
