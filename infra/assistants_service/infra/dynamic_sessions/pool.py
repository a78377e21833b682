"""Requests to a pool of code interpreter sessions: API version 2025-10-02-preview, as in
specification/app/data-plane/DynamicSessions of github.com/Azure/azure-rest-api-specs.

Azure starts a session for any identifier that it does not know, also for one whose session has ended meanwhile. So a
request may reach an empty session, and the caller has to notice.

Every request may be sent again: uploads replace the same file, and `supervisor` answers the same call from memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, Final, TypeVar

import msgspec
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, FormData

from assistants_service.infra.dynamic_sessions.failures import Denied, PoolFull, RequestRefused, Unanswered
from assistants_service.infra.dynamic_sessions.token import Token

API_VERSION: Final = "2025-10-02-preview"  # an unknown one is answered with 401 and an empty body
OUTPUT: Final = 64 * 1024  # characters of output to return; the default is 4,096
PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 4.0)  # seconds before further attempts, with jitter
PATIENCE: Final = 12.0  # seconds after the first failure in which further attempts begin
_CONNECT, _SHORT, _SILENT, _TRANSFER = 5.0, 10.0, 30.0, 120.0  # seconds: to connect, to manage, without a byte, a file
_NO_SESSION: Final = {"SessionWithIdentifierNotFound", "SessionNotFound"}  # with 400, as users report
_MOST_ANSWERED: Final = 1024**2  # bytes of an answer that is not a file
_CHUNK: Final = 256 * 1024
# 429 with this text: every session of the pool is in use. The documentation has 404 for that
# (learn.microsoft.com/azure/container-apps/session-pool), users report 429.
_ALLOCATING: Final = re.compile(b"allocating pod", re.IGNORECASE)
_UNDECIDED: Final = {408, 429}

T = TypeVar("T")
RequestArguments = Mapping[str, Any]  # arguments of a request that carry its body


class SessionOutput(msgspec.Struct, frozen=True):
    stdout: str | None = None
    stderr: str | None = None


class SessionExecution(msgspec.Struct, frozen=True):
    """`status` is Succeeded, Failed, ... Whatever the code did, the answer has status 200."""

    status: str = ""
    result: SessionOutput | None = None


class SessionPool:
    """`endpoint` is the pool's management endpoint. Opens connections when they are needed."""

    def __init__(self, endpoint: str, token: Token) -> None:
        self._endpoint, self._token = endpoint.rstrip("/"), token
        self._http: ClientSession | None = None

    async def execute(self, identifier: str, code: str, seconds: int, patience: float = PATIENCE) -> SessionExecution:
        """Execute code in a session, for up to `seconds`, at most 220. Raises Denied, PoolFull, RequestRefused and
        Unanswered."""
        body = {
            "codeInputType": "Inline",
            "executionType": "Synchronous",
            "code": code,
            "timeoutInSeconds": seconds,
            "outputStreamsMaxLength": OUTPUT,
        }
        timeout = ClientTimeout(total=seconds + _SILENT, sock_connect=_CONNECT)
        return await self._answer(
            "POST", "executions", identifier, lambda: {"json": body}, timeout, _execution, patience
        )

    async def upload(self, identifier: str, name: str, file: BinaryIO) -> None:
        """Store a file in /mnt/data. Raises Denied, PoolFull, RequestRefused (413 for a file of more than 128 MB), and
        Unanswered."""

        def content() -> RequestArguments:
            copy = os.fdopen(os.dup(file.fileno()), "rb")  # which the request closes
            copy.seek(0)
            form = FormData()
            form.add_field("file", copy, filename=name, content_type="application/octet-stream")
            return {"data": form}

        timeout = ClientTimeout(total=_TRANSFER, sock_connect=_CONNECT)
        await self._answer("POST", "files", identifier, content, timeout, len)

    async def download(self, identifier: str, name: str) -> AsyncIterator[bytes]:
        """The bytes of a file in /mnt/data, which must not change meanwhile: after a failure, it is requested again,
        and what had arrived is skipped. Raises Denied, RequestRefused (404: there is no such file), and Unanswered."""
        received = 0
        for pause in (*PAUSES[:2], None):
            try:
                async for piece in self._file(identifier, name, received):
                    received += len(piece)
                    yield piece
                return
            except Unanswered:
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    async def check(self, identifier: str) -> None:
        """Ask for a session that does not exist, which starts none. Raises Denied, RequestRefused and Unanswered."""
        await self._expecting_none("GET", identifier)

    async def delete(self, identifier: str) -> None:
        """End a session, if there is one. Raises Denied, RequestRefused and Unanswered."""
        await self._expecting_none("DELETE", identifier)

    async def close(self) -> None:
        if self._http:
            await self._http.close()
        await self._token.close()

    # -- requests --------------------------------------------------------------------------------------------------

    async def _expecting_none(self, method: str, identifier: str) -> None:
        timeout = ClientTimeout(total=_SHORT, sock_connect=_CONNECT)
        try:
            await self._answer(method, "session", identifier, lambda: {}, timeout, len)
        except RequestRefused as refused:
            unknown_pool = refused.status == 404 and "Pool" in refused.code
            if refused.code not in _NO_SESSION and (refused.status != 404 or unknown_pool):
                raise

    async def _file(self, identifier: str, name: str, skipped: int) -> AsyncIterator[bytes]:
        timeout = ClientTimeout(sock_connect=_CONNECT, sock_read=_SILENT)
        async with self._response("GET", f"files/{name}/content", identifier, {}, timeout) as response:
            await _raise_for(response)
            async for piece in response.content.iter_chunked(_CHUNK):
                left, skipped = piece[skipped:], max(0, skipped - len(piece))
                if left:
                    yield left

    async def _answer(
        self,
        method: str,
        path: str,
        identifier: str,
        content: Callable[[], RequestArguments],
        timeout: ClientTimeout,
        read: Callable[[bytes], T],
        patience: float = PATIENCE,
    ) -> T:
        """What `read` makes of the body of an answer with status 2xx, after as many attempts as `patience` allows."""
        loop, end = asyncio.get_running_loop(), 0.0
        for pause in (*PAUSES, None):
            try:
                return read(await self._sent(method, path, identifier, content, timeout))
            except Unanswered as failure:
                end = end or loop.time() + patience
                if pause is None or loop.time() + failure.retry_after > end:
                    raise
                wait = max(failure.retry_after, pause * random.uniform(0.5, 1.0))  # noqa: S311
            await asyncio.sleep(wait)
        raise AssertionError

    async def _sent(
        self, method: str, path: str, identifier: str, content: Callable[[], RequestArguments], timeout: ClientTimeout
    ) -> bytes:
        for renewed in (False, True):
            try:
                async with self._response(method, path, identifier, content(), timeout) as response:
                    await _raise_for(response)
                    return await _body(response)
            except Denied as denied:
                if renewed or denied.args[0] != UNAUTHORIZED:
                    raise
            await self._token.renew()  # it may have been revoked
        raise AssertionError

    @asynccontextmanager
    async def _response(
        self, method: str, path: str, identifier: str, content: RequestArguments, timeout: ClientTimeout
    ) -> AsyncIterator[ClientResponse]:
        """Raises Denied, and Unanswered for all that goes wrong with the connection."""
        self._http = self._http or ClientSession(
            cookie_jar=DummyCookieJar(), auto_decompress=False, trust_env=True, headers={"Accept-Encoding": "identity"}
        )
        headers = {"Authorization": f"Bearer {await self._token()}"}
        query = {"api-version": API_VERSION, "identifier": identifier}
        try:
            async with self._http.request(
                method,
                f"{self._endpoint}/{path}",
                params=query,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                **content,
            ) as response:
                yield response
        except (ClientError, TimeoutError, OSError) as error:
            raise Unanswered(f"it could not be reached ({type(error).__name__})") from error


UNAUTHORIZED: Final = "it refused the access token (401)"


async def _raise_for(response: ClientResponse) -> None:
    status = response.status
    if 200 <= status < 300:
        return
    body = await _body(response)
    code = _code(body)
    if status == 401:
        raise Denied(UNAUTHORIZED)
    if status == 403:
        raise Denied("this identity lacks the role Azure ContainerApps Session Executor on it (403)")
    if (status == 404 and response.method == "POST") or (status == 429 and _ALLOCATING.search(body)):
        raise PoolFull(f"it answered {status} {code}".rstrip())
    if status in _UNDECIDED or status >= 500:
        raise Unanswered(f"it answered {status} {code}".rstrip(), _seconds(response.headers.get("Retry-After", "")))
    raise RequestRefused(status, code)


def _execution(body: bytes) -> SessionExecution:
    try:
        return msgspec.json.decode(body, type=SessionExecution)
    except msgspec.DecodeError:
        raise Unanswered("it sent an answer that cannot be read") from None


async def _body(response: ClientResponse) -> bytes:
    parts = bytearray()
    async for piece in response.content.iter_chunked(_CHUNK):
        parts += piece
        if len(parts) > _MOST_ANSWERED:
            raise Unanswered("it sent an answer that is too long")
    return bytes(parts)


def _code(body: bytes) -> str:
    """The code of an error, if it is one; never its text, which may quote the request."""
    try:
        code = json.loads(body)["error"]["code"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return code if isinstance(code, str) and re.fullmatch(r"\w{1,80}", code) else ""


def _seconds(retry_after: str) -> float:
    return min(float(retry_after), 3600.0) if re.fullmatch(r"\d{1,6}", retry_after.strip()) else 0.0
