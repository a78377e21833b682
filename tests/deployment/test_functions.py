"""The worker as an Azure Functions app: what azd deploys, driven as the Functions host does it
(tests/deployment/functions_host.py), over Azurite."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar

import pytest
from openai import AsyncOpenAI

from assistants_service.core import names
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.work_items import AdvanceRun, to_body
from assistants_service.hosted import HostedWorker
from assistants_service.infra.configuration import ConfigurationError
from assistants_service.infra.settings.settings import Settings
from azurite import Azurite
from chaos import talk_and_kill
from functions_host import VISIBILITY_TIMEOUT, Options
from package import package
from real_processes import Reality, Visitor, reality
from scenarios import ask, listen
from scripted_models import ASSISTANT
from service_process import Process
from test_kill import HangsOnce

HERE = Path(__file__).parent
QUEUES = "AzureFunctionsJobHost__extensions__queues__"
TIME = 120.0  # seconds, for what takes five; the host itself would hide an item for 600


class FunctionsHost(Process):
    program: ClassVar[list[str]] = [sys.executable, str(HERE / "functions_host.py")]


class HidesForTwoSeconds(FunctionsHost):
    program: ClassVar[list[str]] = [*FunctionsHost.program, "--visibility-timeout", "2"]


class BeginsLate(FunctionsHost):
    """The host has renewed its hold on an item, and has another receipt, when the item's first function begins."""

    program: ClassVar[list[str]] = [*FunctionsHost.program, "--visibility-timeout", "4", "--late", "2.5"]


Kind = Callable[[str, dict[str, str]], Process]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that azd would send to Azure."""
    folder = tmp_path_factory.mktemp("dist") / "worker"
    package("worker", folder)
    return folder


def hosted(deployed: Path, kind: type[FunctionsHost] = FunctionsHost) -> Kind:
    """The processes of a world: its workers are Functions hosts."""
    return lambda command, env: kind(str(deployed), env) if command == "worker" else Process(command, env)


@contextlib.asynccontextmanager
async def world_of(azurite: Azurite, *names: str, kind: Kind, **options: Any) -> AsyncIterator[Reality]:
    account = azurite.account()
    async with reality(account, *names, kind=kind, WORK=account, **options) as world:
        yield world


# --- what is deployed -----------------------------------------------------------------------------------------------


def test_the_package_and_the_infrastructure_agree(deployed: Path) -> None:
    assert "azure-functions==" in (deployed / "requirements.txt").read_text()
    bicep = (HERE.parents[1] / "bicep" / "worker-functions.bicep").read_text()
    assert re.findall(r"(\w+)__queueServiceUri: ", bicep) == ["WORK"]
    source = (deployed / "function_app.py").read_text()
    assert 'CONNECTION: Final = "WORK"' in source


def test_a_dead_worker_is_noticed_within_a_minute_as_things_are_shipped(deployed: Path) -> None:
    options, settings = Options.read(deployed, {}), Settings()
    assert settings.worker_visibility_timeout + options.polling < 60 < VISIBILITY_TIMEOUT
    assert not options.base64  # the API sends plain text
    # An outage of the store poisons nothing: each failed delivery waits half a minute at most.
    assert options.most_deliveries * options.retry > 8 * 3600


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("STORAGE", "sqlite:///data/assistants.db", "STORAGE is not the Azure Storage account"),
        ("ACTIONS", "nowhere.to.be.found", "ACTIONS names 'nowhere.to.be.found'"),
        ("LOG_FORMAT", "yaml", "LOG_FORMAT is not valid"),
    ],
)
def test_an_app_that_could_do_nothing_takes_no_item(
    setting: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails while it is imported, so that the host has no function to call."""
    monkeypatch.setenv("STORAGE", "UseDevelopmentStorage=true")
    monkeypatch.setenv(setting, value)
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        HostedWorker()


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_runs_of_every_kind_end_as_they_should_for_the_official_sdk(azurite: Azurite, deployed: Path) -> None:
    async with world_of(azurite, "api", "worker", kind=hosted(deployed)) as world:
        url = world.url(random.Random(0))
        async with AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as client:
            runs, message = client.beta.threads.runs, {"role": "user", "content": "Hello"}

            async def plain() -> None:
                run = await client.beta.threads.create_and_run_poll(
                    assistant_id=ASSISTANT.id, thread={"messages": [message]}
                )
                assert run.status == "completed"

            async def tools(model: str) -> None:
                run = await client.beta.threads.create_and_run_poll(
                    assistant_id=ASSISTANT.id, model=model, thread={"messages": [message]}
                )
                assert run.status == "requires_action"
                calls = run.required_action.submit_tool_outputs.tool_calls
                outputs = [{"tool_call_id": call.id, "output": "sunny"} for call in calls]
                run = await runs.submit_tool_outputs_and_poll(
                    run_id=run.id, thread_id=run.thread_id, tool_outputs=outputs
                )
                assert run.status == "completed"

            async def streamed() -> None:
                thread = await client.beta.threads.create(messages=[message])
                async with runs.stream(thread_id=thread.id, assistant_id=ASSISTANT.id) as stream:
                    text = "".join([delta async for delta in stream.text_deltas])
                    assert (await stream.get_final_run()).status == "completed"
                (answer,) = (await client.beta.threads.messages.list(thread.id, limit=1)).data
                assert answer.content[0].text.value == text

            async def cancelled() -> None:
                thread = await client.beta.threads.create(messages=[message])
                run = await runs.create(thread.id, assistant_id=ASSISTANT.id, model="hangs")
                while not world.models.calls["hangs"]:
                    await asyncio.sleep(0.02)
                await runs.cancel(run.id, thread_id=thread.id)
                assert (await runs.poll(run.id, thread_id=thread.id)).status == "cancelled"

            async with asyncio.timeout(TIME), asyncio.TaskGroup() as group:  # all at once, in one process
                for one in (plain(), tools("tools"), tools("mixed"), streamed(), cancelled()):
                    group.create_task(one)
        await world.check()


async def test_no_kill_of_api_or_functions_worker_loses_work(azurite: Azurite, deployed: Path) -> None:
    """P1 to P6. The host hides for two seconds here: one that is killed before its function took an item over, while it
    opens the store, would leave that item for ten minutes."""
    account, kind = azurite.account(), hosted(deployed, HidesForTwoSeconds)
    await talk_and_kill(account, 2, 1, "api", "worker", kind=kind, WORK=account)


@contextlib.asynccontextmanager
async def one_run(
    azurite: Azurite, kind: Kind, *, stream: bool = False, **options: Any
) -> AsyncIterator[tuple[Reality, Visitor, asyncio.Task[None]]]:
    """A client whose run is in the middle of a model call, and its wait for the run's end."""
    async with world_of(azurite, "api", "worker", kind=kind, **options) as world:
        one = world.visitor(1)
        await one.open_thread()
        running = asyncio.create_task(bounded((listen if stream else ask)(one, "slow")))
        try:
            async with asyncio.timeout(TIME):
                while not world.models.calls:
                    await asyncio.sleep(0.02)
            yield world, one, running
        finally:
            running.cancel()
            await asyncio.wait((running,))


async def bounded(work: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(TIME):
        await work


async def test_an_item_whose_host_renewed_its_hold_before_the_function_began_is_delivered_again(
    azurite: Azurite, deployed: Path
) -> None:
    """The function can do nothing with its receipt, and must not return as if the work were done: the host would delete
    the item, and the run would stay queued for ever."""
    again = {f"{QUEUES}visibilityTimeout": "00:00:01"}
    async with one_run(azurite, hosted(deployed, BeginsLate), **again) as (world, _, running):
        await running
        await world.check()
        assert world.models.calls.total() == 1


async def test_a_run_whose_functions_worker_is_killed_is_taken_over_soon(azurite: Azurite, deployed: Path) -> None:
    """After WORKER_VISIBILITY_TIMEOUT and a look at the queue, and not after the ten minutes of the host."""
    settings = {"models": HangsOnce(), "WORKER_VISIBILITY_TIMEOUT": "3"}
    async with one_run(azurite, hosted(deployed), stream=True, **settings) as (world, _, running):
        await world.start("worker two")
        world.processes["worker"].kill()
        async with asyncio.timeout(TIME):
            while world.models.calls.total() == 1:
                await asyncio.sleep(0.02)
        await running
        await world.check()
        assert world.models.calls.total() == 2


async def test_nothing_is_doubled_while_the_host_renews_its_claim_and_a_second_item_comes(
    azurite: Azurite, deployed: Path
) -> None:
    """The run lasts longer than the host hides its item, whose receipt the worker has made void; and a second work item
    comes for it."""
    async with one_run(azurite, hosted(deployed, HidesForTwoSeconds)) as (world, one, running):
        (run,) = one.runs
        item = AdvanceRun(project="default", thread_id=run.thread_id, run_id=run.id, sent_at=time.time())
        await world.store.send(to_body(item))
        await running
        await world.check()
        await world.at_rest()
        assert world.models.calls.total() == 1


async def test_sigterm_lets_the_functions_under_way_finish(azurite: Azurite, deployed: Path) -> None:
    async with one_run(azurite, hosted(deployed)) as (world, one, running):
        assert await asyncio.to_thread(world.processes["worker"].terminate) == 0
        assert (await one.look(one.runs[0])).status == "completed"
        await running
        await world.check()
        assert world.models.calls.total() == 1


# --- poison ---------------------------------------------------------------------------------------------------------


def without_blobs(account: str) -> str:
    """The account, as one whose blobs do not answer."""
    return re.sub(r"(BlobEndpoint=http://127.0.0.1):\d+", r"\1:1", account)


async def test_a_run_whose_item_the_host_gives_up_fails(azurite: Azurite, deployed: Path) -> None:
    """One that the host cannot read, and one whose function raises."""
    few = {f"{QUEUES}maxDequeueCount": "2", f"{QUEUES}visibilityTimeout": "00:00:01"}
    async with world_of(azurite, "api", kind=hosted(deployed)) as world:
        usual, lost = world.settings, []
        for trouble in (
            {f"{QUEUES}messageEncoding": "base64"},
            {"STORAGE": without_blobs(world.storage), "STORAGE_WAIT": "0"},
        ):
            one = world.visitor(1)
            await one.open_thread()
            await one.say()
            lost.append((one, run := await one.run("plain")))
            world.settings = {**usual, **few, **trouble, "AzureWebJobs.poison.Disabled": "true"}
            await world.start("worker")
            async with asyncio.timeout(TIME):
                while not any(run.id in body for body in await given_up(world)):
                    await asyncio.sleep(0.1)
            world.processes["worker"].kill()
            assert (await one.look(run)).status == "queued"

        world.settings = usual
        await world.start("worker")
        async with asyncio.timeout(TIME):
            for one, run in lost:
                ended: Run = await one.until(run)
                assert (ended.status, ended.last_error.code) == ("failed", "server_error")
                assert not world.models.calls[run.model]
                await ask(one, "plain")  # the thread takes the next one
            while await world.queued(names.DEAD_LETTERS) < len(lost):
                await asyncio.sleep(0.1)
        buried = [json.loads(kept) for kept in await world.peeked(names.DEAD_LETTERS)]
        assert {json.loads(kept["item"])["run_id"] for kept in buried} == {run.id for _, run in lost}
        assert {kept["reason"] for kept in buried} == {"given up by its host"}


async def given_up(world: Reality) -> list[str]:
    """What lies in the host's poison queue, which the host makes when it needs it."""
    with contextlib.suppress(StorageUnavailable):
        return await world.peeked(names.POISON)
    return []
