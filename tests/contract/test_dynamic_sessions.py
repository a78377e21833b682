"""Sessions of Azure when something goes wrong: answers that are lost, full pools, containers that are replaced, tokens
that expire. The pool is a faithful imitation over HTTP; its sessions execute what is sent to them."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from assistants_service.core.ports.sandbox import InterpreterLost, SandboxBusy, SandboxUnavailable
from assistants_service.infra.dynamic_sessions import interpreter, programs, token
from assistants_service.infra.dynamic_sessions import pool as requests
from assistants_service.infra.dynamic_sessions import sandbox as sandboxes
from assistants_service.infra.dynamic_sessions.failures import Denied
from assistants_service.infra.dynamic_sessions.interpreter import SessionInterpreter
from assistants_service.infra.dynamic_sessions.pool import SessionPool as Client
from assistants_service.infra.dynamic_sessions.sandbox import DynamicSessions
from assistants_service.infra.sandbox.limits import InterpreterLimits
from fake_session_pool import Fault, SessionPool, Token, opened, session_pool
from identity_provider import issuing
from inprocess_service import calls, in_process, says
from multipart_forms import download, upload
from scripted_sandbox import CODE, python

pytestmark = pytest.mark.asyncio(loop_scope="module")
Lasting = tuple[SessionPool, SessionInterpreter]
NAME = "a name that the caller chose"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "PAUSES", (0.0, 0.0, 0.0))


@pytest_asyncio.fixture(loop_scope="module")
async def fake() -> AsyncIterator[SessionPool]:
    async with session_pool() as pool:
        yield pool


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting() -> AsyncIterator[Lasting]:
    """A session that outlives its test, and its pool."""
    async with session_pool() as pool, started(pool) as session:
        yield pool, session


@contextlib.asynccontextmanager
async def started(fake: SessionPool, **limits: float) -> AsyncIterator[SessionInterpreter]:
    async with opened(fake, **limits) as sandbox:
        yield await sandbox.start(NAME)


async def parts(*given: bytes) -> AsyncIterator[bytes]:
    for each in given:
        yield each


def operations(fake: SessionPool) -> list[str]:
    return [operation for operation, _ in fake.requests]


async def test_the_whole_service_uses_sessions(fake: SessionPool) -> None:
    """A file goes in, another one comes out; then the container is lost, and the next call has the files again."""
    write = "print(open('/mnt/data/in.txt').read())\nopen('/mnt/data/out.txt', 'w').write('42')"
    script = (
        calls(python(write)),
        calls(python("import os\nos._exit(1)", "call_2")),
        calls(python("open('/mnt/data/out.txt').read(), open('/mnt/data/in.txt').read()", "call_3")),
        says("[It](sandbox:/mnt/data/out.txt)"),
    )
    async with opened(fake) as sandbox, in_process(*script, sandbox=sandbox) as service:
        file = await upload(service.api, b"hello", "in.txt")
        tools = {"tools": [CODE], "tool_resources": {"code_interpreter": {"file_ids": [file["id"]]}}}
        run = await service.finished(assistant=await service.assistant(**tools))
        assert run["status"] == "completed"
        heard = [turn.text for turn in service.prompts[-1].turns if turn.role == "tool"]
        assert heard[0].startswith("hello\n2\n")
        assert "ended its own process (status 1)" in heard[1]
        assert heard[2].endswith("('42', 'hello')")
        (message,) = (await service.api.get(f"/threads/{run['thread_id']}/messages?limit=1"))["data"]
        (cited,) = message["content"][0]["text"]["annotations"]
        assert (await download(service.api, cited["file_path"]["file_id"])).raw == b"42"
    assert fake.sessions == {}


# -- answers that are lost ---------------------------------------------------------------------------------------------


UNANSWERED = {"before": True}, {"after": True}, {"status": 503}, {"status": 500}, {"status": 408}


async def test_a_call_whose_answer_is_lost_is_executed_once(lasting: Lasting) -> None:
    fake, session = lasting
    await session.run("n = 0")
    for number, fault in enumerate(UNANSWERED, 1):
        fake.faults.append(Fault("execute", **fault))
        result = await session.run("n += 1\nprint(n)\nopen('file', 'w').write(str(n))\nn")
        assert (result.logs, [each.path for each in result.changed]) == (f"{number}\n", ["file"])
        assert b"".join([piece async for piece in session.read("file")]) == str(number).encode()
        assert fake.faults == []


async def test_a_start_whose_answer_is_lost_starts_one_process(fake: SessionPool) -> None:
    fake.faults.append(Fault("execute", after=True))
    async with started(fake) as session:
        assert (await session.run("1 + 1")).value == "2"
        assert len(fake.sessions) == 1


async def test_a_pool_that_goes_on_without_an_answer_loses_the_interpreter(fake: SessionPool) -> None:
    async with started(fake) as session:
        fake.faults += [Fault("execute", before=True)] * 4
        with pytest.raises(InterpreterLost, match="could not be reached"):
            await session.run("1")
        assert not session.alive
        with pytest.raises(InterpreterLost, match="closed"):
            await session.run("1")
    assert fake.sessions == {}


async def test_a_slow_answer_is_waited_for(lasting: Lasting) -> None:
    fake, session = lasting
    fake.faults.append(Fault("execute", slow=0.3))
    assert (await session.run("1")).value == "1"


async def test_a_pool_that_returns_little_output_returns_all_of_a_call(fake: SessionPool) -> None:
    fake.longest_output = 4096
    async with started(fake) as session:
        result = await session.run("import os\nprint(os.urandom(20_000).hex())\nos.urandom(5_000).hex()")
        assert len(result.logs) == 40_001
        assert len(result.value or "") == 10_002
        assert (await session.run("import os\nos.listdir('/mnt/data')")).value == "[]"


async def test_an_answer_that_does_not_end_is_not_read_to_its_end(fake: SessionPool) -> None:
    async with started(fake) as session:
        fake.faults += [Fault("execute", body=bytes(2 << 20))] * 4
        with pytest.raises(InterpreterLost, match="too long"):
            await session.run("1")


async def test_an_answer_that_cannot_be_read_is_asked_for_again(
    lasting: Lasting,
) -> None:
    fake, session = lasting
    for body in (b"", b"[]", b'{"status": 1}', b'{"result": {"stdout": 7}}', b"\xff"):
        fake.faults.append(Fault("execute", body=body))
        assert (await session.run("1")).value == "1"


async def test_uploads_and_downloads_are_repeated(lasting: Lasting) -> None:
    fake, session = lasting
    data = bytes(range(256)) * 8192
    fake.faults += [Fault("upload", before=True), Fault("upload", after=True), Fault("upload", status=502)]
    await session.write("in", parts(data[:5], data[5:]))
    result = await session.run("open('out', 'wb').write(open('in', 'rb').read())")
    assert result.value == str(len(data))
    fake.faults += [Fault("download", before=True), Fault("download", status=500)]
    assert b"".join([piece async for piece in session.read("out")]) == data


# -- sessions that are gone --------------------------------------------------------------------------------------------


async def test_a_session_that_was_replaced_loses_the_interpreter_and_executes_nothing(fake: SessionPool) -> None:
    async with started(fake) as session:
        await session.run("x = 1")
        fake.faults.append(Fault("execute", replaced=True))
        with pytest.raises(InterpreterLost, match="replaced by an empty one"):
            await session.run("open('/mnt/data/executed', 'w')")
        assert [each for each in fake.codes if "executed" in each] == fake.codes[-1:]
        await session.close()
    assert fake.sessions == {}  # nor does the empty one live on


async def test_a_session_that_has_another_supervisor_executes_nothing(fake: SessionPool) -> None:
    async with started(fake) as session:
        await fake.replace(session._identifier)
        other = SessionInterpreter(session._pool, session._identifier, InterpreterLimits())
        await other.begin(())
        with pytest.raises(InterpreterLost, match="replaced by an empty one"):
            await session.run("x = 1")


async def test_files_that_were_given_to_a_session_that_was_replaced_are_no_files_of_the_new_one(
    fake: SessionPool,
) -> None:
    async with started(fake) as session:
        fake.faults.append(Fault("upload", replaced=True))
        await session.write("in", parts(b"x"))
        with pytest.raises(InterpreterLost, match="replaced"):
            await session.run("1")


async def test_a_session_that_was_replaced_before_its_files_are_read(fake: SessionPool) -> None:
    async with started(fake) as session:
        await session.run("open('file', 'w').write('x')")
        fake.faults.append(Fault("download", replaced=True))
        with pytest.raises(InterpreterLost):
            await anext(session.read("file"))
    assert fake.sessions == {}


async def test_a_kernel_that_dies_loses_the_interpreter(fake: SessionPool) -> None:
    async with started(fake) as session:
        with pytest.raises(InterpreterLost, match=r"restarted|killed"):
            await session.run("import os\nos.kill(os.getppid(), 9)\nimport time\ntime.sleep(10)")
    assert fake.sessions == {}


async def test_between_calls_the_processes_that_a_cell_has_started_do_nothing(
    lasting: Lasting,
) -> None:
    _, session = lasting
    pid = (await session.run("import subprocess\np = subprocess.Popen(['sleep', '60'])\np.pid")).value
    async with asyncio.timeout(10):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            await asyncio.sleep(0.01)
    assert (await session.run("p.terminate(), p.wait()")).value == "(None, -15)"


async def test_an_execution_that_takes_longer_than_the_pool_allows_loses_the_interpreter(fake: SessionPool) -> None:
    async with started(fake) as session:
        late = b'{"status": "Failed", "result": {"stderr": "Request timed out waiting for code execution to complete"}}'
        fake.faults.append(Fault("execute", body=late))
        with pytest.raises(InterpreterLost, match="did not end in time"):
            await session.run("1")


async def test_an_execution_that_the_pool_aborts_is_sent_again(lasting: Lasting) -> None:
    fake, session = lasting
    aborted = b'{"status": "Failed", "result": {"stdout": "", "stderr": "Execution aborted"}}'
    fake.faults.append(Fault("execute", body=aborted))
    assert (await session.run("1")).value == "1"


# -- full pools, throttling --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 429])
async def test_a_full_pool_is_busy(fake: SessionPool, status: int) -> None:
    fake.most, fake.full_status = 1, status
    async with opened(fake) as sandbox:
        first = await sandbox.start("one")
        with pytest.raises(SandboxBusy):
            await sandbox.start("two")
        await first.close()
        assert (await (await sandbox.start("two")).run("2")).value == "2"


async def test_no_more_sessions_than_allowed(fake: SessionPool) -> None:
    async with opened(fake, interpreters=1) as sandbox:
        first = await sandbox.start("one")
        sent = len(fake.requests)
        with pytest.raises(SandboxBusy):
            await sandbox.start("two")
        assert len(fake.requests) == sent
        await first.close()
        await sandbox.start("two")


async def test_a_throttled_request_waits_as_long_as_it_is_told(lasting: Lasting) -> None:
    fake, session = lasting
    fake.faults.append(Fault("execute", status=429, headers={"Retry-After": "1"}))
    began = time.monotonic()
    assert (await session.run("1")).value == "1"
    assert time.monotonic() - began >= 1


async def test_a_pool_that_throttles_for_long_is_busy(fake: SessionPool) -> None:
    fake.faults.append(Fault("execute", status=429, headers={"Retry-After": "3600"}))
    async with opened(fake) as sandbox:
        with pytest.raises(SandboxBusy):
            await sandbox.start(NAME)
        assert (await (await sandbox.start(NAME)).run("1")).value == "1"


async def test_what_is_too_large_for_the_pool_is_refused_and_the_session_lives_on(fake: SessionPool) -> None:
    fake.largest_upload = 1000
    async with started(fake, file=500) as session:
        with pytest.raises(ValueError, match="large cannot be stored: File too large"):
            await session.write("large", parts(bytes(600)))
        assert "upload" not in operations(fake)
        assert (await session.run("1")).value == "1"
    async with started(fake) as session:
        with pytest.raises(ValueError, match="413"):
            await session.write("large", parts(bytes(2000)))
        assert (await session.run("import os\nos.listdir('/mnt/data')")).value == "[]"


# -- access ------------------------------------------------------------------------------------------------------------


async def test_a_token_that_is_refused_is_renewed(fake: SessionPool) -> None:
    given = Token()
    async with opened(fake, given) as sandbox:
        session = await sandbox.start(NAME)
        fake.tokens = {"token-2"}
        assert (await session.run("1")).value == "1"
        assert given.number == 2
    assert given.closed


async def test_a_managed_identity_signs_in_and_again_after_a_refusal(
    fake: SessionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with issuing() as issuer:
        for name, value in issuer.environment.items():
            monkeypatch.setenv(name, value)
        given = token.EntraToken()
        client = Client(fake.endpoint, given)
        fake.tokens = {await given()}
        await client.check("identifier")
        assert issuer.asked == ["https://dynamicsessions.io"]
        fake.tokens = set()
        with pytest.raises(Denied, match="401"):
            await client.check("identifier")
        assert issuer.asked == ["https://dynamicsessions.io"] * 2
        await client.close()


async def test_an_identity_without_a_token_is_a_reason(fake: SessionPool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"IDENTITY_ENDPOINT": f"{fake.endpoint}/no-identity", "IDENTITY_HEADER": "x"}.items():
        monkeypatch.setenv(name, value)
    sandbox = DynamicSessions(Client(fake.endpoint, token.EntraToken()), InterpreterLimits(), ())
    reason = await sandbox.unavailable_reason()
    assert reason.startswith("The session pool cannot be used: there is no access token for it: ")
    assert "\n" not in reason
    await sandbox.close()


async def test_a_token_that_does_not_come_is_waited_for_a_little(
    fake: SessionPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(token, "LONGEST_WAIT", 0.01)
    monkeypatch.setattr(token, "get_bearer_token_provider", lambda *_: asyncio.Event().wait)
    sandbox = DynamicSessions(Client(fake.endpoint, token.EntraToken()), InterpreterLimits(), ())
    assert await sandbox.unavailable_reason() == ""
    assert "its access token did not come in time" in caplog.text
    async with asyncio.timeout(10):
        with pytest.raises(SandboxBusy):
            await sandbox.start(NAME)
    assert fake.requests == []
    await sandbox.close()


@pytest.mark.parametrize(("faults", "reason"), [
    ([Fault("session", status=403)], "this identity lacks the role Azure ContainerApps Session Executor on it (403)"),
    ([Fault("session", status=401)] * 2, "it refused the access token (401)"),
    ([Fault("session", status=404, code="SessionPoolNotFound")], "404 SessionPoolNotFound"),
])  # fmt: skip
async def test_a_pool_that_cannot_be_used_is_a_reason_until_it_can(
    fake: SessionPool, faults: list[Fault], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.faults += faults
    async with opened(fake) as sandbox:
        expected = f"The session pool cannot be used: {reason}."
        assert await sandbox.unavailable_reason() == expected
        assert await sandbox.unavailable_reason() == expected
        with pytest.raises(SandboxUnavailable, match="cannot be used"):
            await sandbox.start(NAME)
        assert operations(fake) == ["session"] * len(faults)  # asked once
        monkeypatch.setattr(sandbox, "_believed_until", 0)
        assert await sandbox.unavailable_reason() == expected  # at once: health checks do not wait for a pool
        await sandbox._checking
        assert await sandbox.unavailable_reason() == ""
        await sandbox.start(NAME)


async def test_a_right_that_is_withdrawn_is_told(fake: SessionPool, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(fake) as sandbox:
        assert await sandbox.unavailable_reason() == ""
        fake.faults.append(Fault("execute", status=403))
        with pytest.raises(SandboxUnavailable, match="Session Executor"):
            await sandbox.start(NAME)
        assert "Session Executor" in await sandbox.unavailable_reason()
        assert "Session Executor" in caplog.text


async def test_a_pool_that_does_not_respond_turns_nothing_off(caplog: pytest.LogCaptureFixture) -> None:
    sandbox = DynamicSessions(Client("http://127.0.0.1:9/pool", Token()), InterpreterLimits(), ())
    assert await sandbox.unavailable_reason() == ""
    assert "does not respond" in caplog.text
    with pytest.raises(SandboxBusy):
        await sandbox.start(NAME)
    await sandbox.close()


async def test_the_identifier_of_a_session_cannot_be_guessed(fake: SessionPool) -> None:
    """Neither from what the caller named, nor from an earlier identifier for the same name."""
    async with opened(fake) as sandbox:
        for _ in range(2):
            await (await sandbox.start("thread_abc123")).close()
        sent = {identifier for _, identifier in fake.requests}
    assert all(len(identifier) == 64 and "thread" not in identifier for identifier in sent)
    assert not any("thread_abc123" in code for code in fake.codes)
    assert len(sent) == 3  # a check, and two sessions


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_a_call_that_is_cancelled_ends_its_session(fake: SessionPool) -> None:
    async with started(fake) as session:
        running = asyncio.create_task(session.run("import time\ntime.sleep(60)"))
        while len(fake.codes) < 2:
            await asyncio.sleep(0.01)
        running.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not session.alive
        await session.close()
        assert time.monotonic() - began < 3
    assert fake.sessions == {}


async def test_a_session_is_ended_even_if_the_first_requests_fail(fake: SessionPool) -> None:
    async with opened(fake) as sandbox:
        session = await sandbox.start(NAME)
        fake.faults += [Fault("delete", before=True), Fault("delete", status=503)]
        await session.close()
        await session.close()
        assert operations(fake).count("delete") == 3
    assert fake.sessions == {}


async def test_closing_does_not_wait_for_a_pool_that_does_not_respond(
    fake: SessionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter, "ENDING", 0.1)
    monkeypatch.setattr(sandboxes, "LAST_REQUESTS", 0.1)
    sandbox = DynamicSessions(Client(fake.endpoint, Token()), InterpreterLimits(), ())
    session = await sandbox.start(NAME)
    fake.faults.append(Fault("delete", slow=5))
    began = time.monotonic()
    await session.close()
    await sandbox.close()
    assert time.monotonic() - began < 4


# -- cells that forge --------------------------------------------------------------------------------------------------

FRAMES = (
    "import os\nfor fd in (10, 11):\n    try:\n        os.write(fd, b'x' * 100)\n    except OSError:\n        pass\n"
)
FORGERIES = {
    "a frame that is none": FRAMES,
    "a closed channel": "import os\nos.closerange(3, 30)",
    "a report in the place of the supervisor's": (
        "import os, sys\nfor fd in os.listdir('/proc/%d/fd' % os.getppid()):\n    try:\n"
        "        with open('/proc/%d/fd/%s' % (os.getppid(), fd), 'w') as file:\n            file.write('}{')\n"
        "    except OSError:\n        pass\n" + FRAMES
    ),
}


@pytest.mark.parametrize("code", FORGERIES.values(), ids=FORGERIES)
async def test_what_a_cell_forges_loses_its_interpreter(fake: SessionPool, code: str) -> None:
    async with started(fake) as session:
        async with asyncio.timeout(20):
            with pytest.raises(InterpreterLost):
                await session.run(code)
        assert not session.alive


@pytest.mark.parametrize("bytes_more", [1, -1])
async def test_a_file_of_another_size_than_reported_loses_its_interpreter(fake: SessionPool, bytes_more: int) -> None:
    async with started(fake) as session:
        await session.run("open('file', 'w').write('12345')")
        (left,) = fake.sessions[session._identifier].folder.glob("*-file-0")
        left.write_bytes(bytes(5 + bytes_more))
        received = 0
        with pytest.raises(InterpreterLost, match="cannot be read"):
            async for piece in session.read("file"):
                received += len(piece)
        assert received <= 5


async def test_what_is_sent_is_python_of_older_versions_too() -> None:
    """Azure does not say which version of Python its sessions have. This sees the syntax, not what libraries lack."""
    for source in programs._sources().values():
        ast.parse(source, feature_version=(3, 10))


async def test_what_each_start_sends_is_small() -> None:
    assert len(programs.begin({"call": "c"})) < 30_000
