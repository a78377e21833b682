"""The store does not answer for half a minute: requests are refused and told when to come back, nothing is lost, the
store is not flooded, and the service recovers by itself.

STORM=30 makes the storm over real HTTP last 30 s instead of a few.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError, ServiceRequestError
from yarl import URL

from assistants_service.core.ports.storage import StorageUnavailable, Unsent
from assistants_service.infra.azure.breaker import FAILURES, LONGEST_PAUSE, PATIENCE, Breaker
from assistants_service.infra.azure.calls import Resting, call, write
from assistants_service.infra.sqlite import connection
from azurite import Azurite
from faults import Call, How, Plan
from inprocess_service import Gate, InProcess, filled, in_process, path_of, says
from multipart_forms import field, file_form, form, send_form
from promise_checks import check
from scenarios import SCENARIOS
from simulated_clients import Client
from simulated_service import World
from test_projects import operations, used_project, with_ids
from virtual_time import run

BEGIN, END = 5.0, 35.0  # seconds of virtual time
SECONDS = float(os.environ.get("STORM", "4"))
AT_MOST = 15  # requests to an open breaker's service in 30 s: pauses of 0.25 s, 0.5, 1, 2, and then 2.5 at least


# --- in virtual time, whatever the engine ---------------------------------------------------------------------------


class Storm(Plan):
    """Refuses every call for 30 s. `during` counts them by process."""

    def __init__(self) -> None:
        super().__init__()
        self.during: Counter[str] = Counter()
        self.troubles.append((BEGIN, END))

    def next(self, call: Call) -> How | None:
        if not BEGIN <= asyncio.get_running_loop().time() < END:
            return None
        self.during[call.process] += 1
        return How.REFUSED


PLAYED = ("plain", "tool", "own_actions", "streamed", "streamed_parallel_tools", "thread_and_run", "cancel_in_progress")
PATIENT = 500  # times that a client asks again, each half second


@pytest.mark.parametrize(
    ("layout", "apart"),
    [(("api+worker",), False), (("api", "worker"), False), (("api", "worker", "worker"), True)],
    ids=["SQLite", "SQLite, apart", "Azure"],
)
def test_a_storm_of_30_seconds_loses_nothing(layout: tuple[str, ...], apart: bool) -> None:
    """Clients come before, during and after it, and ask until they are answered."""

    async def main() -> None:
        storm = Storm()
        world = World(plan=storm, layout=layout, apart=apart)
        async with world.running():
            clients = [Client(world, PATIENT) for _ in range(5 * len(PLAYED))]
            await asyncio.gather(*(play(client, number) for number, client in enumerate(clients)))
            await world.at_rest()
            assert asyncio.get_running_loop().time() < END + 90
            await check(world)
            for client in clients:
                assert {run_state.run.status for run_state in (await runs_of(world, client))} <= {
                    "completed",
                    "cancelled",
                }
        # A worker looks for work twice a second; an API asks once for each request, and once a second for each stream.
        for process, calls in storm.during.items():
            limit = 2 * len(clients) if "api" in process else 3
            assert calls / (END - BEGIN) < limit, f"{process} asked {calls} times"

    run(main())


async def play(client: Client, number: int) -> None:
    await asyncio.sleep(number)
    if PLAYED[number % len(PLAYED)] != "thread_and_run":
        await client.open_thread()
    await SCENARIOS[PLAYED[number % len(PLAYED)]](client)


async def runs_of(world: World, client: Client) -> list[Any]:
    return list((await (await world.api()).threads.read("default", client.thread)).runs)


# --- the breaker ----------------------------------------------------------------------------------------------------


class Service:
    """A service of Azure's in virtual time, with a breaker before it as the engine has one."""

    def __init__(self) -> None:
        self.breaker = Breaker(asyncio.get_running_loop().time)
        self.asked: list[float] = []  # when
        self.down = False

    async def ask(self) -> str:
        if not self.breaker.admits():
            raise Resting("it rests")
        self.asked.append(asyncio.get_running_loop().time())
        down = self.down
        await asyncio.sleep(0.01)
        if down:
            self.breaker.record_failure()
            error = HttpResponseError("busy")
            error.status_code = 503
            raise error
        self.breaker.record_success()
        return "yes"


def test_however_many_ask_a_store_that_does_not_answer_is_asked_seldom() -> None:
    async def main() -> None:
        service, now = Service(), asyncio.get_running_loop().time
        outcomes: list[tuple[float, bool]] = []

        async def caller() -> None:
            while now() < 60:
                with contextlib.suppress(StorageUnavailable):
                    await call(service.ask)
                    outcomes.append((now(), True))
                await asyncio.sleep(0.5)

        callers = [asyncio.create_task(caller()) for _ in range(200)]
        await asyncio.sleep(10.1)
        service.down = True
        await asyncio.sleep(30)
        service.down = False
        await asyncio.gather(*callers)
        asked = [at for at in service.asked if 10.1 <= at < 40.1]
        first = [at for at in asked if at < 10.1 + PATIENCE + 0.5]
        assert len(first) <= 200 * 6, "while it may be over soon: each call, its three retries, and some of the next"
        assert len(asked) - len(first) <= AT_MOST, "then one at a time"
        back = min(at for at, _ in outcomes if at > 40.1)
        assert back < 40.1 + LONGEST_PAUSE + 1, "it recovers by itself"
        assert len([at for at in service.asked if at > 50]) > 200 * 15, "all are served again"

    run(main())


def test_failures_now_and_then_do_not_open_the_breaker() -> None:
    async def main() -> None:
        service = Service()
        for _ in range(100):
            service.down = True
            for _ in range(FAILURES - 1):
                await asyncio.sleep(PATIENCE)
                with pytest.raises(HttpResponseError):
                    await service.ask()
            service.down = False
            assert await service.ask() == "yes"

    run(main())


def test_a_short_storm_is_borne_without_a_failure() -> None:
    """A second, as when Azure moves a partition to another server."""

    async def main() -> None:
        service = Service()
        service.down = True
        asyncio.get_running_loop().call_later(0.6, setattr, service, "down", False)
        assert set(await asyncio.gather(*(call(service.ask) for _ in range(50)))) == {"yes"}

    run(main())


async def test_what_was_sent_before_the_breaker_opened_may_have_been_done() -> None:
    """A client must look before it asks again: at a write, or at the question whether it was done."""

    def answers(*errors: AzureError) -> Callable[[], Awaitable[None]]:
        left = list(errors)

        async def send() -> None:
            raise left.pop(0)

        return send

    silent, resting = ServiceRequestError("silence"), Resting("it rests")
    refused = ResourceExistsError("there is one")
    refused.status_code = 412
    with pytest.raises(Unsent):
        await call(answers(resting))
    writes = {
        "the write": write(answers(silent, resting), answers()),
        "the question": write(answers(silent, refused), lambda: call(answers(resting))),
    }
    for what, writing in writes.items():
        with pytest.raises(StorageUnavailable) as raised:
            await writing
        assert not isinstance(raised.value, Unsent), what


# --- every operation, and SQLite ------------------------------------------------------------------------------------


FORMS = {
    ("POST", "/files"): file_form(b"hello"),
    ("POST", "/uploads/{upload_id}/parts"): form(field("data", b"hello", "blob")),
}


async def test_every_operation_tells_its_client_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the change of a thread that may have been stored: its client must look before it asks again."""

    async def away(*_: object, **__: object) -> None:
        raise StorageUnavailable("a storm")

    async with in_process(api_keys="one:key") as service:
        api = service.client("key")
        ids = await used_project(service, api, "one")
        await service.stop_worker()
        with monkeypatch.context() as storm:
            for verb in ("get", "create", "replace", "remove", "page", "start", "append", "read", "send"):
                storm.setattr(service.storage, verb, away)
            for method, path, body in operations():
                if path.startswith("/models"):
                    continue  # the store has no part in it
                where = f"/v1{filled(path.partition('?')[0], ids)}"
                if sent := FORMS.get((method, path.partition("?")[0])):
                    answer = await send_form(api, where.removeprefix("/v1"), sent)
                else:
                    answer = await api.send(method, where, with_ids(body, ids))
                assert answer.status == 503, (method, path, answer.raw)
                if answer.error["code"] == "storage_undecided":
                    assert (method, answer.headers["x-should-retry"]) == ("POST", "false")
                else:
                    assert (answer.error["code"], answer.headers["Retry-After"]) == ("storage_unavailable", "1")
        assert await api.get(f"/threads/{ids['thread_id']}")


MESSAGE = {"role": "user", "content": "Are you there?"}


async def test_a_locked_sqlite_file_is_a_503_and_one_at_a_time_tries_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BUSY_TIMEOUT", 0.5)
    async with in_process(storage=f"sqlite:///{tmp_path}/a.db", worker=False) as service:
        before, thread = service.storage.retries["busy"], await service.thread("Hi")
        with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            asked = (service.api.send("POST", "/v1/assistants", {"model": "m"}) for _ in range(50))
            answers = await asyncio.gather(*asked)
            answers += [
                await service.api.send("POST", f"/v1/threads/{thread}/messages", {"role": "user", "content": "?"})
            ]
            assert {(answer.status, answer.headers["Retry-After"]) for answer in answers} == {(503, "1")}
            assert {answer.error["code"] for answer in answers} == {"storage_unavailable"}, "nothing has happened"
            assert await service.said(thread) == ["Hi"], "reading goes on"
            other.execute("ROLLBACK")
        assert service.storage.retries["busy"] - before <= 0.5 / connection.BUSY_PAUSE + 50
        assert await service.assistant()


# --- over real HTTP -------------------------------------------------------------------------------------------------


class Gateway:
    """Stands before Azurite's blobs and queues. In a storm it answers 503, as Azure does when it is busy."""

    def __init__(self, session: aiohttp.ClientSession, ports: dict[str, int]) -> None:
        self._session, self._ports = session, ports
        self.storm = False
        self.refused: Counter[str] = Counter()  # by service and process

    def service(self, name: str) -> web.Application:
        async def handle(request: web.Request) -> web.Response:
            if self.storm:
                self.refused[name] += 1
                return web.Response(status=503, headers={"x-ms-error-code": "ServerBusy"})
            url = URL(f"http://127.0.0.1:{self._ports[name]}{request.raw_path}", encoded=True)
            # As it came: what is added would not be what was signed.
            sent: dict[str, Any] = {
                "data": await request.read() or None,
                "skip_auto_headers": ("Content-Type", "Accept"),
            }
            async with self._session.request(request.method, url, headers=request.headers, **sent) as answer:
                kept = {k: v for k, v in answer.headers.items() if k.lower() not in ("transfer-encoding", "connection")}
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)

        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", handle)
        return app


@contextlib.asynccontextmanager
async def gateway(azurite: Azurite) -> AsyncIterator[tuple[Gateway, str]]:
    """And the connection string of a fresh account behind it."""
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        one, account = Gateway(session, azurite.ports), azurite.account()
        for name in ("blob", "queue"):
            server = await stack.enter_async_context(TestServer(one.service(name)))
            account = account.replace(f":{azurite.ports[name]}/", f":{server.port}/")
        yield one, account


async def test_a_storm_over_http_is_a_503_in_the_envelope_and_passes(azurite: Azurite) -> None:
    """On Azure's path, with a run in the middle of a model call and a reader of its stream."""
    gate = Gate()
    hidden = {"worker_visibility_timeout": SECONDS + 6}  # what the storm cuts off comes back then
    async with (
        gateway(azurite) as (azure, account),
        in_process(says("Hel", gate, "lo."), storage=account, **hidden) as service,
    ):
        assistant, thread, other = await service.assistant(), await service.thread("Hi"), await service.thread("Hey")
        run = await service.start_run(thread, assistant)
        async with service.api.stream("GET", f"{path_of(run)}/events") as stream:
            await gate.reached.wait()
            azure.storm = True
            refusals = await storm(service, thread, other, SECONDS)
            gate.open()  # the model answers while it cannot be stored
            for name, asked in azure.refused.items():
                # While it may be over soon, all that ask and their retries; then one after each pause.
                assert asked <= 10 * 8 + AT_MOST, f"{refusals} refusals, and the {name} service was asked {asked} times"
            azure.storm = False
            assert (await stream.until("thread.run.completed")).data["id"] == run["id"]
        assert (await service.said(thread), await service.said(other)) == (["Hi", "Hello."], ["Hey"])
        assert (await service.finished(thread, assistant))["status"] == "completed"


async def storm(service: InProcess, thread: str, other: str, seconds: float) -> int:
    """Seven clients ask without a rest for as long as the storm takes. How many refusals they got."""
    loop = asyncio.get_running_loop()
    end, took, codes = loop.time() + seconds, [], Counter[str]()

    async def client(method: str, path: str, body: Any = None) -> None:
        while (begun := loop.time()) < end:
            answer = await service.api.send(method, path, body)
            code = answer.error["code"]
            told = answer.headers.get("x-should-retry" if code == "storage_undecided" else "Retry-After")
            assert (answer.status, told) == (503, "false" if code == "storage_undecided" else "1"), answer.raw
            codes[code] += 1
            took.append(loop.time() - begun)

    at = f"/v1/threads/{thread}"
    await asyncio.gather(
        *(client("GET", path) for path in (at, f"{at}/messages", f"{at}/runs", "/v1/assistants", "/health/ready")),
        client("POST", "/v1/assistants", {"model": "m"}),
        client("POST", f"/v1/threads/{other}/messages", MESSAGE),
    )
    # A message that was sent may have arrived; what is not even sent for a while did not.
    assert set(codes) == {"storage_unavailable", "storage_undecided"}
    assert codes["storage_undecided"] <= 3
    assert sorted(took)[len(took) // 2] < 0.2, "most refusals come at once"
    assert len(took) > 10 * seconds
    return len(took)
