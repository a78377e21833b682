"""CODE_INTERPRETER: what a process of the service does with it, and whom it tells."""

from __future__ import annotations

import asyncio
import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from assistants_service.api.main import health as health_of
from assistants_service.composition import api_of, searcher_of, stores_of, threads_of, worker_of
from assistants_service.infra.configuration import ConfigurationError
from assistants_service.infra.dynamic_sessions.sandbox import DynamicSessions
from assistants_service.infra.sandbox import landlock, self_test
from assistants_service.infra.settings.settings import Settings
from assistants_service.infra.wiring import reader_weakness, sandbox_of
from assistants_service.parts import Parts, open_parts
from assistants_service.serving import check_sandbox
from inprocess_service import in_process
from scripted_sandbox import FakeSandbox
from service_process import get, service


def health(url: str) -> dict[str, object]:
    return json.loads(get(f"{url}/health")[1])


def test_a_service_that_can_confine_python_says_so(tmp_path: Path) -> None:
    with service(f"sqlite:///{tmp_path}/a.db", CODE_INTERPRETER="local") as process:
        assert health(process.url) == {"status": "ok", "code_interpreter": {"status": "on"}}
    assert not [line for line in process.log if "code_interpreter" in line]


def test_a_service_that_executes_no_code_says_why(tmp_path: Path) -> None:
    with service(f"sqlite:///{tmp_path}/a.db") as process:
        off = {"status": "off", "reason": "CODE_INTERPRETER is off."}
        assert health(process.url) == {"status": "ok", "code_interpreter": off}


async def test_a_process_without_a_sandbox_says_nothing_of_it() -> None:
    async with in_process() as running:
        assert (await running.api.send("GET", "/health")).body == {"status": "ok"}


async def test_a_machine_that_cannot_do_what_is_demanded_does_not_start() -> None:
    parts = Parts(
        Settings(code_interpreter="local"), *[None] * 7, sandbox=FakeSandbox(off="This system has no Landlock.")
    )
    with pytest.raises(ConfigurationError, match="impossible here: This system has no Landlock"):
        await check_sandbox(parts)
    await check_sandbox(replace(parts, settings=Settings(code_interpreter="auto")))


async def test_a_sandbox_that_fails_its_self_test_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "_ATTACKS", self_test._ATTACKS.replace("attacks = {", "attacks = {'x': int, ", 1))
    sandbox = sandbox_of(Settings())
    assert await sandbox.unavailable_reason() == (
        "An interpreter was able to do what it must not do, or unable to work: ['x']."
    )
    await sandbox.close()


ADDRESS = "https://westus2.dynamicsessions.io/subscriptions/S/resourceGroups/R/sessionPools/pool"


async def test_sessions_of_azure_need_the_address_of_a_pool() -> None:
    sandbox = sandbox_of(Settings(code_interpreter="azure", code_interpreter_pool=ADDRESS))
    assert isinstance(sandbox, DynamicSessions)
    await sandbox.close()


@pytest.mark.parametrize(("given", "wrong"), [
    ({"code_interpreter": "azure"}, "CODE_INTERPRETER is azure, and CODE_INTERPRETER_POOL is not set: set it to"),
    ({"code_interpreter_pool": ADDRESS}, "CODE_INTERPRETER_POOL is set, and CODE_INTERPRETER is auto: set CODE_INT"),
    ({"code_interpreter_pool": ADDRESS, "code_interpreter": "local"}, "and CODE_INTERPRETER is local"),
    *(
        ({"code_interpreter": "azure", "code_interpreter_pool": address}, "POOL is not valid: expected an address")
        for address in ("pool", "http://a.dynamicsessions.io/", "https://", f"{ADDRESS}?x", f"{ADDRESS}#x", "https://[")
    ),
    (
        {"code_interpreter": "azure", "code_interpreter_pool": ADDRESS, "code_interpreter_timeout": 200},
        "CODE_INTERPRETER_TIMEOUT is too long: with CODE_INTERPRETER=azure, a call may take 183 s at most.",
    ),
])  # fmt: skip
def test_settings_of_azure_that_cannot_work_are_refused(given: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        sandbox_of(Settings(**given))
    assert wrong in str(refused.value)


async def test_a_pool_may_be_named_while_the_tool_is_off() -> None:
    sandbox = sandbox_of(Settings(code_interpreter="off", code_interpreter_pool=ADDRESS))
    assert await sandbox.unavailable_reason() == "CODE_INTERPRETER is off."


async def test_a_machine_that_confines_the_reading_of_files_less_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused() -> int:
        raise OSError(errno.EOPNOTSUPP, "Landlock: Operation not supported")

    assert reader_weakness() == ""
    monkeypatch.setattr(landlock, "version", refused)
    reason = "Files are read by a process that could open other files. Landlock: Operation not supported."
    assert reader_weakness() == reason
    async with open_parts(Settings(storage=f"sqlite:///{tmp_path}/a.db"), asyncio.Event()) as parts:
        threads, stores = threads_of(parts), stores_of(parts)
        worker_of(parts, threads, stores, searcher_of(parts, stores), hosted=True)
        assert reason in caplog.messages
        for worker, told in ((True, {"status": "limited", "reason": reason}), (False, None)):
            app = api_of(parts, threads, stores, searcher_of(parts, stores), asyncio.Event(), worker=worker)
            answer = await health_of(make_mocked_request("GET", "/health", app=app))
            assert json.loads(answer.body).get("file_reader") == told
