"""A pool of code interpreter sessions of Azure Container Apps, over HTTP, with planned faults.

It answers as API version 2025-10-02-preview does:

* paths, parameters, bodies: specification/app/data-plane/DynamicSessions of github.com/Azure/azure-rest-api-specs
* characters of names, 128 MB, 220 seconds, sessions that start by themselves:
  learn.microsoft.com/azure/container-apps/sessions-code-interpreter and .../sessions-usage
* a full pool: 404 (.../session-pool), and 429 `Error happened when allocating pod` (as users report)
* an unknown version: 401 without a body; no such session: 400 SessionWithIdentifierNotFound (as users report)
* an execution that takes too long, and those behind it: `Request timed out waiting ...`, `Execution aborted` (likewise)

Each session has a process (fake_kernel.py, or jupyter_kernel.py) and a folder, which is mounted at /mnt/data of that
process if this machine allows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from assistants_service.infra.dynamic_sessions.pool import SessionPool as Client
from assistants_service.infra.dynamic_sessions.sandbox import DynamicSessions
from assistants_service.infra.sandbox import data_folder
from assistants_service.infra.sandbox.limits import InterpreterLimits

VERSION = "2025-10-02-preview"
POOL = "/subscriptions/SUB/resourceGroups/RG/sessionPools/pool"
IDENTIFIER = re.compile(r"[A-Za-z0-9|&^%$#(){}\[\];<>-]{4,128}")
NAME = re.compile(r"[\w\- .@$&=;,#%^()]+")
HERE = Path(__file__).parent
COMMAND = [sys.executable, "-I", "-S", str(HERE / "fake_kernel.py")]
if jupyter := os.environ.get("JUPYTER"):
    COMMAND = [jupyter, str(HERE / "jupyter_kernel.py")]
LONGEST = 220
DEFAULT_OUTPUT = 4096  # characters


class Token:
    """infra.dynamic_sessions.token.Token. `pool.tokens` are those that are accepted."""

    def __init__(self) -> None:
        self.number, self.closed = 1, False

    async def __call__(self) -> str:
        return f"token-{self.number}"

    async def renew(self) -> None:
        self.number += 1

    async def close(self) -> None:
        self.closed = True


@dataclass
class Fault:
    """What becomes of a request: the connection is closed `before` or `after` it takes effect, or it is answered with
    `status`, `code`, `message` and `headers` instead; its session is `replaced` by an empty one first; it is `slow` by
    so many seconds."""

    operation: str  # execute, upload, download, session, delete
    before: bool = False
    after: bool = False
    replaced: bool = False
    status: int = 0
    code: str = ""
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    slow: float = 0
    body: bytes | None = None


class Session:
    """A container: a folder, and a process that has been started in it."""

    def __init__(self, process: asyncio.subprocess.Process, root: Path) -> None:
        self._process, self._root, self._turn = process, root, asyncio.Lock()
        self.folder = root / "data"
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls) -> Session:
        root = Path(tempfile.mkdtemp(prefix="session-"))
        for name in ("data", "tmp"):
            (root / name).mkdir()
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, str(root / "data")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 26,
            env={"PATH": os.environ["PATH"], "TMPDIR": str(root / "tmp"), "LANG": "C.UTF-8"},
            preexec_fn=lambda: data_folder.attach(str(root / "data"), ()),
            start_new_session=True,
        )
        return cls(process, root)

    async def execute(self, code: str, seconds: float) -> dict[str, Any]:
        async with self._turn:
            self._process.stdin.write(json.dumps(code).encode() + b"\n")
            try:
                async with asyncio.timeout(seconds):
                    answer = await self._answers.get()
            except TimeoutError:
                self._process.send_signal(signal.SIGINT)
                await self._answers.get()
                words = f"Request timed out waiting for code execution to complete after {seconds} seconds"
                return {"status": "Failed", "stdout": "", "stderr": words}
        if not answer:
            return {"status": "Failed", "stdout": "", "stderr": "Kernel restarted"}
        return json.loads(answer)

    async def _read(self) -> None:
        while True:
            answer = await self._process.stdout.readline()
            self._answers.put_nowait(answer)
            if not answer:
                return

    async def end(self) -> None:
        """With all that it has started, as when a container ends."""
        if self._process.returncode is None:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            for leader in children.read_text().split() if children.exists() else ():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(leader), signal.SIGKILL)
            self._process.kill()
        await self._reading
        self._process.stdin.close()
        await self._process.wait()
        shutil.rmtree(self._root, ignore_errors=True)


class SessionPool:
    """`sessions` are those that there are; `requests` has the operation and identifier of each request; `faults` are
    consumed in order, each by the next request of its operation. `full_status` is the answer when there are `most`
    sessions."""

    def __init__(self) -> None:
        self.tokens = {"token-1", "token-2"}
        self.most, self.full_status = 10, 429
        self.largest_upload, self.longest_output = 128 * 1000 * 1000, 1 << 31
        self.sessions: dict[str, Session] = {}
        self.requests: list[tuple[str, str]] = []
        self.codes: list[str] = []  # that were executed
        self.faults: list[Fault] = []
        self.endpoint = ""

    async def replace(self, identifier: str) -> None:
        """As when a container dies: the next request finds an empty one."""
        if session := self.sessions.pop(identifier, None):
            await session.end()

    async def close(self) -> None:
        for identifier in list(self.sessions):
            await self.replace(identifier)

    def application(self) -> web.Application:
        application = web.Application(client_max_size=1 << 30)
        for method, path, handler in (
            ("POST", "/executions", self._execute),
            ("POST", "/files", self._upload),
            ("GET", "/files/{name}/content", self._download),
            ("GET", "/session", self._session),
            ("DELETE", "/session", self._delete),
        ):
            application.router.add_route(method, POOL + path, self._checked(handler))
        return application

    def _checked(self, handler: Callable[[web.Request, str], Awaitable[web.StreamResponse]]) -> Any:
        async def checked(request: web.Request) -> web.StreamResponse:
            identifier = request.query["identifier"]
            assert IDENTIFIER.fullmatch(identifier)
            operation = handler.__name__.strip("_")
            self.requests.append((operation, identifier))
            token = request.headers["Authorization"].removeprefix("Bearer ")
            if request.query["api-version"] != VERSION or token not in self.tokens:
                return web.Response(status=401)
            fault = next((each for each in self.faults if each.operation == operation), None)
            if fault is None:
                return await handler(request, identifier)
            self.faults.remove(fault)
            return await self._faulty(fault, request, identifier, handler)

        return checked

    async def _faulty(self, fault: Fault, request: web.Request, identifier: str, handler: Any) -> web.StreamResponse:
        await request.read()
        await asyncio.sleep(fault.slow)
        if fault.replaced:
            await self.replace(identifier)
        if fault.status:
            answer = failed(fault.status, fault.code, fault.message)
            answer.headers.update(fault.headers)
            return answer
        if fault.body is not None:
            return web.Response(body=fault.body)
        answer = None if fault.before else await handler(request, identifier)
        if (fault.before or fault.after) and request.transport:
            request.transport.abort()
        return answer or web.Response()

    async def _allocated(self, identifier: str) -> Session | None:
        if identifier not in self.sessions:
            if len(self.sessions) >= self.most:
                return None
            self.sessions[identifier] = await Session.start()
        return self.sessions[identifier]

    def _full(self, identifier: str) -> web.Response:
        message = f"Error happened when allocating pod for identifier {identifier} in pool pool"
        return failed(self.full_status, "SessionAllocationFailed", message)

    async def _execute(self, request: web.Request, identifier: str) -> web.Response:
        body = await request.json()
        if "properties" in body:
            return failed(400, "SessionPropertiesMissing", "The fields belong to the top.")
        valid = body["codeInputType"] == "Inline" and body["executionType"] == "Synchronous"
        if not valid or not isinstance(body["timeoutInSeconds"], int) or not 0 < body["timeoutInSeconds"] <= LONGEST:
            return failed(400, "SessionRequestValidationFailed", "A field is not valid.")
        session = await self._allocated(identifier)
        if session is None:
            return self._full(identifier)
        self.codes.append(body["code"])
        result = await session.execute(body["code"], body["timeoutInSeconds"])
        most = min(body.get("outputStreamsMaxLength", DEFAULT_OUTPUT), self.longest_output)
        return web.json_response(
            {
                "id": "",
                "identifier": identifier,
                "executionType": "Synchronous",
                "status": result.pop("status"),
                "result": {
                    "stdout": result["stdout"][:most],
                    "stderr": result["stderr"][:most],
                    "executionResult": None,
                    "executionTimeInMilliseconds": 1,
                },
            }
        )

    async def _upload(self, request: web.Request, identifier: str) -> web.Response:
        assert request.content_length is not None
        if request.content_length > self.largest_upload:
            return failed(413, "RequestEntityTooLarge", "")
        form = await request.post()
        file = form["file"]
        assert isinstance(file, web.FileField)
        assert NAME.fullmatch(file.filename)
        session = await self._allocated(identifier)
        if session is None:
            return self._full(identifier)
        content = file.file.read()
        file.file.close()
        (session.folder / file.filename).write_bytes(content)
        return web.json_response({"name": file.filename, "type": "file", "sizeInBytes": len(content), "directory": "."})

    async def _download(self, request: web.Request, identifier: str) -> web.StreamResponse:
        session, name = await self._allocated(identifier), request.match_info["name"]
        assert NAME.fullmatch(name)
        if session is None:
            return self._full(identifier)
        path = session.folder / name
        return web.FileResponse(path) if path.is_file() else failed(404, "FileNotFound", f"{name} does not exist.")

    async def _session(self, request: web.Request, identifier: str) -> web.Response:
        if identifier not in self.sessions:
            return failed(400, "SessionWithIdentifierNotFound", "There is no such session.")
        return web.json_response({"identifier": identifier, "etag": "e"})

    async def _delete(self, request: web.Request, identifier: str) -> web.Response:
        if identifier not in self.sessions:
            return failed(400, "SessionWithIdentifierNotFound", "There is no such session.")
        await self.replace(identifier)
        return web.Response(status=204)


def failed(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)


@contextlib.asynccontextmanager
async def session_pool() -> AsyncIterator[SessionPool]:
    pool = SessionPool()
    runner = web.AppRunner(pool.application(), shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        pool.endpoint = f"http://{host}:{port}{POOL}"
        yield pool
    finally:
        await pool.close()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def opened(fake: SessionPool, token: Token | None = None, **limits: float) -> AsyncIterator[DynamicSessions]:
    """The sandbox that uses this pool."""
    sandbox = DynamicSessions(Client(fake.endpoint, token or Token()), InterpreterLimits(**limits), ())
    try:
        yield sandbox
    finally:
        async with asyncio.timeout(30):
            await sandbox.close()
