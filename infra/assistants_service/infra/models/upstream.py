"""Calls to a model provider through the openai SDK: its transport and its retries, without its response classes.

Building pydantic objects costs 4 ms of CPU time per call, so requests are sent as bytes and responses parsed as plain
JSON. Importing this module imports the SDK, which takes more than a second: do it where nothing waits (see providers).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
import msgspec
import openai
from openai import AsyncOpenAI, AsyncStream

from assistants_service.core.ports.models import BrokenOff, ContextExceeded, ModelError, Refused
from assistants_service.infra.models import answers, failures
from assistants_service.infra.models import context_overflow as overflow
from assistants_service.infra.models.reply_builder import ReplyBuilder, TooMuch, TooSilent, clean

logger = logging.getLogger(__name__)

_JSON: Any = {"headers": {"Content-Type": "application/json", "Accept-Encoding": "identity"}}
_KEY = re.compile(r"\bsk-[\w*-]+")
_SHORTEST_KEY = 8  # characters
_CONTROLS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LONGEST_MESSAGE = 300
_LONGEST_TEXT = 1_000  # bytes of an answer in plain text
_NO_TEXT = ("<", "{", "[", '"')  # HTML, XML, and JSON
_LAST_BYTES = 1.0  # seconds, for a server that keeps its stream open after [DONE]
_UNREADABLE = (LookupError, TypeError, ValueError, AttributeError)


class Upstream:
    """One provider. The SDK retries (`max_retries` of the client) connection errors, 408, 409, 429 and 5xx, before the
    first byte of a stream. Remaining failures are ModelErrors; a stream that ends too early is BrokenOff."""

    def __init__(self, client: AsyncOpenAI, provider: str) -> None:
        self._client = client
        self._provider = provider

    @property
    def provider(self) -> str:
        return self._provider

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Raises the SDK's errors and a ModelError: see `errors`."""
        content = msgspec.json.encode(body)
        response = await self._client.post(path, cast_to=httpx2.Response, content=content, options=_JSON)
        return self._object(response.content)

    @asynccontextmanager
    async def stream(
        self, path: str, body: Mapping[str, Any], builder: ReplyBuilder
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The data of the server-sent events, which the caller reads into `builder`. Closed at the end of the block, so
        that a cancellation disconnects at once."""
        stream = await self._client.post(
            path,
            cast_to=object,
            content=msgspec.json.encode(body),
            options=_JSON,
            stream=True,
            stream_cls=AsyncStream[object],
        )
        async with stream:
            yield self._objects(stream.response, builder)

    async def _objects(self, response: httpx2.Response, builder: ReplyBuilder) -> AsyncIterator[dict[str, Any]]:
        pieces = response.aiter_bytes()
        async for data in answers.events(pieces):
            if data is answers.DONE:
                builder.done = True
                continue
            yield self._object(data)
            builder.event(len(data))  # the caller has read it
        # Nothing follows [DONE]; reading to the end of the body makes the connection reusable.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_BYTES):
                await anext(pieces, None)

    def _object(self, data: bytes) -> dict[str, Any]:
        """An error may have status 200, or be inside a stream. Raises ModelError; ValueError if it is not an object."""
        try:
            found = answers.decode(data)
        except ValueError:
            raise self._unreadable(data) from None
        if isinstance(found, list) and found and isinstance(found[0], dict):
            found = found[0]
        if isinstance(found, dict) and not failures.is_error(found):
            return found
        if isinstance(found, dict) or failures.words(found):
            raise self.failed(found)
        raise ValueError("no object")

    def _unreadable(self, data: bytes) -> Exception:
        """Plain text in place of an answer is probably the server's explanation; JSON that is cut off is not."""
        text = data[:_LONGEST_TEXT].decode(errors="replace").strip()
        if not text or text.startswith(_NO_TEXT):
            return ValueError("no JSON")
        message = f"The model provider '{self._provider}' sent a reply that cannot be read: {text}"
        return self._annotated(ModelError("server_error", self._short(message)), None, "plain text instead of JSON")

    async def get(self, path: str, *, timeout: float) -> dict[str, Any]:
        """One attempt, without retries: for optional information."""
        options: Any = {"timeout": timeout, "max_retries": 0}
        response = await self._client.get(path, cast_to=httpx2.Response, options=options)
        return self._object(response.content)

    async def close(self) -> None:
        await self._client.close()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns all errors of the request and of reading the response into ModelErrors."""
        try:
            yield
        except ModelError:
            raise
        except TimeoutError as error:  # the caller's own limit
            raise self.failure(f"The model provider '{self._provider}' did not respond in time.") from error
        except openai.APIConnectionError as error:
            raise self.failure(self._unreachable(error.__cause__)) from error
        except openai.APIStatusError as error:
            # Not chained: the redacted message contains all that the original does.
            raise self._answered(error) from None
        except TooSilent as error:
            raise self.failure(
                f"The model provider '{self._provider}' sent thoughts or empty events without coming to an answer."
            ) from error
        except (answers.TooLong, TooMuch) as error:
            raise self.failure(f"The model provider '{self._provider}' sent an answer that is too long.") from error
        except httpx2.TransportError as error:
            raise self._broken(self._unreachable(error)) from error
        except Exception as error:
            # Without the traceback, whose last line may quote the answer.
            kind = type(error).__name__
            logger.warning("a call of the model provider '%s' failed: %s", self._provider, kind)
            unreadable = isinstance(error, (*_UNREADABLE, answers.Compressed))
            how = "sent a reply that cannot be read" if unreadable else "could not be called"
            raise self.failure(f"The model provider '{self._provider}' {how}.") from error

    def _answered(self, error: openai.APIStatusError) -> ModelError:
        if target := error.response.extensions.get(answers.REDIRECTED):
            there = httpx2.URL(error.response.request.url).join(target)
            origin = f"{there.scheme}://{there.host}" + (f":{there.port}" if there.port else "")
            return self.failure(
                f"The model provider '{self._provider}' redirects to another origin, {origin}, which is not followed:"
                " set base_url to where it is.",
                error.status_code,
            )
        return self.failed(_body(error), error.status_code)

    def failed(self, error: object, status: int | None = None) -> ModelError:
        """The failure for an error of the provider, in an error response, in an object or in a stream."""
        message = failures.words(error)
        if not message:
            message = self._unexplained(status, failures.reason_of(error))
        code, found = failures.code_of(status, error), list(failures.objects(error))
        reason = failures.reason_of(error) or "an error without a code"
        if any(overflow.exceeds_window(fields, message) for fields in found or [{}]):
            windows = (overflow.window_in(fields, message) for fields in found or [{}])
            window = next((each for each in windows if each), None)
            return self._annotated(ContextExceeded("invalid_prompt", self._short(message), window), status, reason)
        refused = Refused(code, self._short(message))
        refused.error_text = failures.text_of(error)
        return self._annotated(refused, status, reason)

    def _unexplained(self, status: int | None, codes: str) -> str:
        how = f" with status {status}" if status else ""
        return f"The model provider '{self._provider}' failed{how}" + (f": {codes}" if codes else ".")

    def ended(self, reason: str, error: object) -> ModelError:
        """The failure for a reply that the provider ended as one; `error` is its explanation, if any."""
        text = failures.words(error)
        message = f"The model provider '{self._provider}' ended its reply with '{reason[:100]}'"
        return self._annotated(
            ModelError("server_error", self._short(f"{message}: {text}" if text else f"{message}.")), None, reason[:100]
        )

    def broken_off(self) -> ModelError:
        return self._broken(f"The model provider '{self._provider}' broke off its reply.")

    def _broken(self, message: str) -> ModelError:
        return self._annotated(BrokenOff("server_error", message), None, message)

    def failure(self, message: str, status: int | None = None) -> ModelError:
        """A failure with a text of the service, which may be logged."""
        return self._annotated(ModelError("server_error", self._short(message)), status, message)

    def _annotated(self, error: ModelError, status: int | None, reason: str) -> ModelError:
        error.provider, error.status = self._provider, status
        error.reason = " ".join(_printable(reason).split())
        return error

    def _unreachable(self, cause: BaseException | None) -> str:
        if isinstance(cause, httpx2.ReadTimeout):
            return f"The model provider '{self._provider}' did not respond in time."
        if isinstance(cause, httpx2.ReadError | httpx2.RemoteProtocolError):
            return f"The model provider '{self._provider}' broke off its reply."
        return f"The model provider '{self._provider}' could not be reached."

    def _short(self, message: str) -> str:
        """Messages end up in `last_error`, which clients read: short, storable, and without keys."""
        message = " ".join(_KEY.sub("sk-***", _without(self._client.api_key, _printable(message))).split())
        return message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 1] + "…"


def _printable(text: str) -> str:
    """The text without control characters: they could change what a terminal or a log viewer shows."""
    return _CONTROLS.sub("", clean(text))


def _without(key: str, message: str) -> str:
    """A short key (`x`, `none`, a password) is redacted only where it stands alone, because it may be part of many
    words. It is not left: it may be a secret nevertheless, and a word too little is better than a key too much."""
    if len(key) >= _SHORTEST_KEY:
        return message.replace(key, "***")
    return re.sub(rf"(?<![\w-]){re.escape(key)}(?![\w-])", "***", message) if key else message


def _body(error: openai.APIStatusError) -> object:
    """The whole body. The SDK keeps only what is in `error`, which may be just the name of the status."""
    try:
        return answers.decode(error.response.content)
    except (ValueError, RuntimeError):  # not JSON, nested too deeply, or not read
        return error.body
