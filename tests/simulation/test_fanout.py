"""Fan-outs: however much there is to ask the store for, a few requests are under way."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from assistants_service.core.fanout import AT_ONCE, fan_out
from assistants_service.core.ports.documents import Document
from assistants_service.core.protocol.threads.requests import CreateMessage
from assistants_service.core.search import segment_cache
from assistants_service.core.threads import events as e
from assistants_service.core.threads.commands import message_from
from assistants_service.infra.azure import documents as azure_documents
from assistants_service.infra.azure.calls import Transport
from assistants_service.infra.azure.store import AzureStorage
from azurite import Azurite
from simulated_clients import Client
from simulated_service import PROJECT, World
from source_paths import FOLDERS
from test_fairness import runs_of
from test_segment_cache import PLENTY, Watched, blob, contents, found
from virtual_time import run

__all__ = ["contents"]

ROOT = Path(__file__).resolve().parents[2]
MANY = 3 * AT_ONCE
T = TypeVar("T")


class UnderWay:
    """How many calls there were, and how many at the same time at most."""

    def __init__(self) -> None:
        self.now = self.most = self.calls = 0

    def __enter__(self) -> None:
        self.calls += 1
        self.now += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        self.now -= 1

    def counting(self, call: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        async def counted(*given: Any, **named: Any) -> T:
            with self:
                for _ in range(3):  # the others of its time begin
                    await asyncio.sleep(0)
                return await call(*given, **named)

        return counted


# --- the one way ------------------------------------------------------------------------------------------------------


async def test_results_are_in_order_and_items_are_made_when_their_turn_has_come() -> None:
    under_way, made = UnderWay(), 0

    def items() -> Iterator[int]:
        nonlocal made
        for number in range(MANY + 1):
            made += 1
            yield number

    async def act(number: int) -> int:
        assert made <= number // 5 * 5 + 5
        await asyncio.sleep(0)
        return -number

    assert await fan_out(under_way.counting(act), items(), 5) == [-number for number in range(MANY + 1)]
    assert under_way.most == 5


async def test_an_error_comes_when_those_beside_it_have_ended_and_ends_it() -> None:
    ended: list[int] = []

    async def act(number: int) -> None:
        if number == 1:
            raise KeyError(number)
        for _ in range(number + 1):
            await asyncio.sleep(0)
        ended.append(number)

    with pytest.raises(KeyError):
        await fan_out(act, range(8), 4)
    assert ended == [0, 2, 3]


async def test_of_several_errors_the_one_of_the_first_item_comes() -> None:
    async def act(number: int) -> None:
        for _ in range(8 - number):
            await asyncio.sleep(0)
        raise KeyError(number)

    with pytest.raises(KeyError, match="0"):
        await fan_out(act, range(8), 4)


async def test_a_call_that_hangs_takes_one_place_and_no_more() -> None:
    ended: list[int] = []
    others = asyncio.Event()

    async def act(number: int) -> int:
        if number == 0:
            await others.wait()
        ended.append(number)
        if len(ended) == 9:
            others.set()
        return number

    async with asyncio.timeout(30):
        assert await fan_out(act, range(10), 4) == list(range(10))
    assert sorted(ended[:9]) == [*range(1, 10)]


async def test_a_cancellation_ends_all_that_are_under_way_and_no_others_begin() -> None:
    begun: list[int] = []
    ended: list[int] = []

    async def act(number: int) -> None:
        begun.append(number)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    task = asyncio.create_task(fan_out(act, range(8), 4))
    while len(begun) < 4:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert begun == ended == [0, 1, 2, 3]


# --- the largest cases ------------------------------------------------------------------------------------------------


class Counting(Transport):
    """Requests that are under way, by what they do."""

    under_way: ClassVar[dict[str, UnderWay]] = {}

    async def send(self, request: Any, **config: Any) -> Any:
        with self.under_way.setdefault(request.method, UnderWay()):
            return await super().send(request, **config)


async def test_azure_is_asked_for_a_few_things_at_a_time(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of documents; the tombstones of a thread, in several looks; the generations of a log."""
    monkeypatch.setattr(Counting, "under_way", {})
    monkeypatch.setattr(azure_documents, "TOMBSTONES_PAGE", 40)
    store = AzureStorage.from_connection_string(azurite.account(), transport=Counting)
    await store.open()
    try:
        documents = [Document("messages", f"p/thread_1/msg_{n:03}", b"", 2, created=True) for n in range(MANY)]
        await fan_out(store.write_if_newer, documents)
        kept = Document("messages", "p/thread_1/msg_01kept", b"{}", 2, created=True)
        await store.write_if_newer(kept)
        deletes = Counting.under_way.setdefault("DELETE", UnderWay())
        await store.remove_tombstones("messages", "p/thread_1/")
        assert (deletes.calls, deletes.most) == (MANY, AT_ONCE)
        left = await store.page("messages", "p/", after=None, limit=100, newest_first=False)
        assert [each.name for each in left] == [kept.name]

        others = [Document("messages", f"p/thread_2/msg_{n:03}", b"{}", 2, created=True) for n in range(MANY)]
        await fan_out(store.write_if_newer, others)
        gets = Counting.under_way["GET"] = UnderWay()
        assert len(await store.page("messages", "p/thread_2/", after=None, limit=100, newest_first=False)) == MANY
        assert gets.calls > MANY
        assert gets.most == AT_ONCE

        mark, _ = await store.start("threads", "p/thread_1.log", b"x")
        for _ in range(AT_ONCE + 4):
            mark = await store.roll_over("threads", "p/thread_1.log", mark)
        deletes = Counting.under_way["DELETE"] = UnderWay()
        await store.drop("threads", "p/thread_1.log")
        assert (deletes.calls, deletes.most) == (AT_ONCE + 5, AT_ONCE)
    finally:
        await store.close()


def test_the_documents_of_a_large_commit_are_written_a_few_at_a_time() -> None:
    async def main() -> None:
        world = World(layout=("api",))
        async with world.running():
            client, (process,) = Client(world), world.processes
            await client.open_thread()
            storage, under_way = process.storage, UnderWay()
            storage.write_if_newer = under_way.counting(storage.write_if_newer)  # type: ignore[method-assign]
            body = CreateMessage(role="user", content="Hello")
            made = [message_from(body, client.thread, f"msg_{number:024}", 1) for number in range(MANY)]
            created = [e.MessageCreated(message=message) for message in made]
            await process.spawn(process.threads.commit(PROJECT, client.thread, lambda state: created))
            assert under_way.calls >= MANY
            assert under_way.most == AT_ONCE

    run(main())


def test_a_worker_that_stops_hands_its_items_back_a_few_at_a_time() -> None:
    async def main() -> None:
        world = World(layout=("api", "worker"), concurrency=60)
        async with world.running():
            await runs_of(world, 60 + MANY)
            await asyncio.sleep(1)
            storage = world.processes[1].storage
            counts = {name: UnderWay() for name in ("send", "delete", "extend")}
            for name, count in counts.items():
                setattr(storage, name, count.counting(getattr(storage, name)))
            await world.processes[1].drain(grace=1)
            assert {name: count.calls for name, count in counts.items()} == {"send": MANY, "delete": MANY, "extend": 60}
            assert max(count.most for count in counts.values()) <= AT_ONCE
            assert len(await world.store.receive(32, visibility_timeout=45)) == 32

    run(main())


async def test_a_search_reads_a_few_segments_and_texts_at_a_time(contents: Watched) -> None:
    named = [f"s{number}" for number in range(50)]
    for name in named:
        await contents.put(name, blob(f"{name}.1", "tide"))
    under_way = UnderWay()
    download = contents.download

    async def counted(*given: Any, **named: Any) -> Any:
        with under_way:
            for _ in range(3):
                await asyncio.sleep(0)
            async for piece in download(*given, **named):
                yield piece

    contents.download = counted  # type: ignore[method-assign]
    opened = segment_cache.SegmentCache(contents, "segments", PLENTY)
    assert len(await found(opened, "s", *named)) == 10
    assert (under_way.calls, under_way.most) == (60, segment_cache.AT_ONCE)


# --- no other way -----------------------------------------------------------------------------------------------------

# Where as many tasks may be made as there are things, by file and function, and what bounds them.
ALLOWED = {
    ("core/assistants_service/core/fanout.py", "fan_out"): "its `at_once`",
    ("core/assistants_service/core/stored_bytes.py", "close"): "waits for counts that were cancelled, one a project",
    (
        "infra/assistants_service/infra/sandbox/fork_servers.py",
        "close",
    ): "waits for servers that end: the current one, and those before it that still have interpreters",
    (
        "infra/assistants_service/infra/dynamic_sessions/sandbox.py",
        "close",
    ): "waits for the ends of live sessions, of which there are no more than a worker may have",
    (
        "worker/assistants_service/worker/main.py",
        "stop",
    ): "waits for tasks that are there; what they ask the store for has a bound in the item handler",
    (
        "worker/assistants_service/worker/ingestion.py",
        "_maintain",
    ): "waits for the files that are in work, Ingestion.at_once",
    ("worker/assistants_service/worker/ingestion.py", "_claim"): "Ingestion.at_once",
    (
        "infra/assistants_service/infra/extraction/pool.py",
        "close",
    ): "waits for processes that end, as many as the pool has",
    (
        "core/assistants_service/core/tools/code_interpreter/interpreters.py",
        "close",
    ): "waits for interpreters that are being closed",
    ("infra/assistants_service/infra/sandbox/local.py", "close"): "the interpreters of a worker, as its setting says",
    ("infra/assistants_service/infra/sandbox/workspace.py", "close"): "waits for folders that are being removed",
    ("infra/assistants_service/infra/sqlite/store.py", "close"): "waits for two chores",
    ("infra/assistants_service/infra/models/providers.py", "list"): "the providers of the settings",
    ("infra/assistants_service/infra/models/providers.py", "close"): "the providers of the settings",
    ("infra/assistants_service/infra/azure/store.py", "_create_missing"): "the containers of core/names.py",
}
SPAWNS = ("create_task", "ensure_future", "run_in_executor", "spawn")
LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def fans(source: str) -> Iterator[str]:
    """The functions that wait for an unknown number of things at once, or make a task in a loop."""

    def visit(node: ast.AST, function: str, looped: bool, awaited: bool = False) -> Iterator[str]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function, looped = node.name, False
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == "gather" and any(isinstance(given, ast.Starred) for given in node.args):
                yield function
            if called in SPAWNS and looped and not awaited:
                yield function
            if called == "map" and any(ast.unparse(given).rpartition(".")[2] in SPAWNS for given in node.args):
                yield function
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function, looped or isinstance(node, LOOPS), isinstance(node, ast.Await))

    return visit(ast.parse(source), "", False)


@pytest.mark.parametrize(
    "body",
    [
        "await asyncio.gather(*(act(each) for each in many))",
        "await asyncio.gather(*map(act, many), return_exceptions=True)",
        "await asyncio.gather(first(), *many)",
        "for each in many: group.create_task(act(each))",
        "await asyncio.wait([asyncio.ensure_future(act(each)) for each in many])",
        "await asyncio.wait([*map(asyncio.create_task, many)])",
    ],
)
def test_a_fan_out_without_a_bound_is_found(body: str) -> None:
    assert list(fans(f"async def f():\n    {body}")) == ["f"]


@pytest.mark.parametrize(
    "body",
    [
        "await asyncio.gather(one(), two())",
        "task = asyncio.create_task(one())",
        "for each in many: await loop.run_in_executor(None, act, each)",
    ],
)
def test_a_known_number_of_tasks_is_no_fan_out(body: str) -> None:
    assert not list(fans(f"async def f():\n    {body}"))


def test_every_fan_out_has_a_bound() -> None:
    """Those that are not by `fan_out` are in the list, with what bounds them."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    found = {(str(path.relative_to(ROOT)), name) for path in files for name in fans(path.read_text())}
    assert found == set(ALLOWED)
