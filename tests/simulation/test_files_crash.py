"""Files and uploads while processes die and the store fails, at every storage call of every scenario: a file that was
acknowledged is there, whole; and of everything else, nothing is left once the work items have come."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from assistants_service.core import names
from assistants_service.core.errors import ApiError
from assistants_service.core.files.service import PATIENCE, decode_file
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.protocol.files.requests import CompleteUpload, CreateFile, CreateUpload, ExpiresAfterBody
from assistants_service.core.protocol.files.resources import File
from assistants_service.infra.sqlite import contents
from faults import How, Plan
from simulated_clients import Unanswered
from simulated_service import PROJECT, Process, World
from virtual_time import VirtualLoop, run

Json = Any
Scenario = Callable[["Owner"], Awaitable[None]]
THOROUGH = "SWEEP" in os.environ  # every call in every layout
HOUR = 3600.0
BYTES = b"The quick brown fox jumps over the lazy dog."


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a file has several."""
    monkeypatch.setattr(contents, "CHUNK", 16)


async def slowly(data: bytes, *, breaks: bool = False) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 10):
        await asyncio.sleep(0.01)
        yield data[start : start + 10]
    if breaks:
        raise ConnectionResetError


@dataclass
class Owner:
    """Knows what it was told of its files. With `retries` it asks again after a silence. It asks below HTTP: its bytes
    come in pieces, while the service dies."""

    world: World
    retries: int = 0
    told: dict[str, bytes] = field(default_factory=dict)  # content of files that were acknowledged
    gone: set[str] = field(default_factory=set)  # of which it was told that they are deleted

    async def ask(self, request: Callable[[Process], Any]) -> Any:
        """Raises Unanswered, or the ApiError of a refusal."""
        for _ in range(self.retries):
            with contextlib.suppress(Unanswered):
                return await self._once(request)
            await asyncio.sleep(0.5)
        return await self._once(request)

    async def _once(self, request: Callable[[Process], Any]) -> Any:
        process = await self.world.api()
        task = process.spawn(request(process))
        await asyncio.wait((task,))
        if not process.alive:
            raise Unanswered
        try:
            return task.result()
        except StorageUnavailable:
            raise Unanswered from None

    async def create(self, *, breaks: bool = False, expires_after: int | None = None) -> str:
        expiry = ExpiresAfterBody(anchor="created_at", seconds=expires_after) if expires_after else None
        body = CreateFile(filename="fox", purpose="assistants", expires_after=expiry)

        async def create(process: Process) -> File:
            files, context = process.services.files, process.request
            async with files.receive(context, slowly(BYTES, breaks=breaks)) as received:
                return await files.create(context, received.file_id, body, received)

        return await self.acknowledged(await self.ask(create), BYTES)

    async def acknowledged(self, file: File, content: bytes) -> str:
        """It is there from now on, and not later only."""
        self.told[file.id] = content
        assert await self.world.store.get(names.FILES, names.document(PROJECT, file.id))
        return file.id

    async def delete(self, file_id: str) -> None:
        del self.told[file_id]
        try:
            await self.ask(lambda process: process.services.files.delete(process.request, file_id))
        except ApiError:
            assert self.retries, "a deletion is refused only if it came before"
        self.gone.add(file_id)

    async def begin(self, size: int = 2 * len(BYTES), *, expires_after: float | None = None) -> str:
        expiry = ExpiresAfterBody(anchor="created_at", seconds=int(expires_after)) if expires_after else None
        body = CreateUpload(
            filename="foxes", purpose="assistants", bytes=size, mime_type="text/plain", expires_after=expiry
        )

        async def create(process: Process) -> str:
            return (await process.services.uploads.create(process.request, process.services.ids.new("upload"), body)).id

        return str(await self.ask(create))

    async def add(self, upload_id: str, data: bytes = BYTES) -> str:
        async def add(process: Process) -> str:
            uploads = process.services.uploads
            held, context = await uploads.pending(PROJECT, upload_id), process.request
            return (await uploads.add_part(context, held, slowly(data))).id

        return str(await self.ask(add))

    async def complete(self, upload_id: str, *part_ids: str, md5: str | None = None) -> str:
        body = CompleteUpload(part_ids=list(part_ids), md5=md5)
        upload = await self.ask(lambda process: process.services.uploads.complete(process.request, upload_id, body))
        assert upload.status == "completed"
        return await self.acknowledged(upload.file, BYTES * 2)

    async def cancel(self, upload_id: str) -> None:
        await self.ask(lambda process: process.services.uploads.cancel(process.request, upload_id))


# --- what owners do ---------------------------------------------------------------------------------------------------


async def create(owner: Owner) -> None:
    await owner.create()


async def go_away(owner: Owner) -> None:
    with pytest.raises(ConnectionResetError):
        await owner.create(breaks=True)


async def create_and_delete(owner: Owner) -> None:
    await owner.delete(await owner.create())


async def create_expiring(owner: Owner) -> None:
    file_id = await owner.create(expires_after=int(HOUR))
    del owner.told[file_id]
    owner.gone.add(file_id)


async def upload(owner: Owner) -> None:
    upload_id = await owner.begin()
    first, second = await owner.add(upload_id), await owner.add(upload_id)
    await owner.add(upload_id, b"never named")
    await owner.complete(upload_id, second, first, md5=hashlib.md5(BYTES * 2).hexdigest())


async def upload_and_delete(owner: Owner) -> None:
    upload_id = await owner.begin()
    file_id = await owner.complete(upload_id, await owner.add(upload_id), await owner.add(upload_id))
    await owner.delete(file_id)


async def upload_other_bytes(owner: Owner) -> None:
    upload_id = await owner.begin()
    parts = [await owner.add(upload_id) for _ in range(2)]
    with pytest.raises(ApiError):
        await owner.complete(upload_id, *parts, md5="0" * 32)
    assert not owner.told


async def upload_and_cancel(owner: Owner) -> None:
    upload_id = await owner.begin()
    await owner.add(upload_id)
    await owner.cancel(upload_id)


async def upload_and_forget(owner: Owner) -> None:
    await owner.add(await owner.begin())


async def complete_twice_at_once(owner: Owner) -> None:
    upload_id = await owner.begin()
    parts = [await owner.add(upload_id) for _ in range(2)]
    orders = [parts, parts, parts[::-1]]
    done = await asyncio.gather(*(owner.complete(upload_id, *order) for order in orders), return_exceptions=True)
    assert len({one for one in done if isinstance(one, str)}) <= 1
    _expected(done)


async def complete_and_cancel_at_once(owner: Owner) -> None:
    upload_id = await owner.begin()
    parts = [await owner.add(upload_id) for _ in range(2)]
    done = await asyncio.gather(
        owner.complete(upload_id, *parts), owner.cancel(upload_id), owner.add(upload_id), return_exceptions=True
    )
    assert isinstance(done[0], Exception) or isinstance(done[1], Exception), "of both, one at most"
    _expected(done)


async def add_while_it_is_completed(owner: Owner) -> None:
    upload_id = await owner.begin()
    parts = [await owner.add(upload_id) for _ in range(2)]
    late = asyncio.create_task(owner.add(upload_id))
    await asyncio.sleep(0.02)
    done = await asyncio.gather(owner.complete(upload_id, *parts), late, return_exceptions=True)
    _expected(done)


async def delete_while_a_part_comes(owner: Owner) -> None:
    upload_id = await owner.begin()
    parts = [await owner.add(upload_id) for _ in range(2)]
    late = asyncio.create_task(owner.add(upload_id))
    await asyncio.sleep(0.02)
    done: list[Any] = [None]
    try:
        await owner.delete(await owner.complete(upload_id, *parts))
    except (ApiError, Unanswered) as error:
        done = [error]
    _expected([*done, *await asyncio.gather(late, return_exceptions=True)])


def _expected(results: list[Any]) -> None:
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, ApiError | Unanswered):
            raise result
    if any(isinstance(result, Unanswered) for result in results):
        raise Unanswered


SCENARIOS = [
    create,
    go_away,
    create_and_delete,
    create_expiring,
    upload,
    upload_and_delete,
    upload_other_bytes,
    upload_and_cancel,
    upload_and_forget,
    complete_twice_at_once,
    complete_and_cancel_at_once,
    add_while_it_is_completed,
    delete_while_a_part_comes,
]


# --- the sweep --------------------------------------------------------------------------------------------------------


async def play(scenario: Scenario, plan: Plan, *, retries: int = 0, **options: Any) -> World:
    world = World(plan=plan, **options)
    async with world.running():
        owner = Owner(world, retries)
        try:
            await scenario(owner)
        except (Unanswered, ApiError):
            assert plan.hits
        except ConnectionResetError:
            assert scenario is go_away
        plan.end()
        await days_pass(world)
        await check(world, owner)
    return world


async def days_pass(world: World) -> None:
    """Until no work item waits any more: the wait itself costs nothing."""
    begun = world.clock.now()
    while world.queued():
        assert world.clock.now() < begun + 3 * PATIENCE, "an item that never comes to an end"
        await asyncio.sleep(1)
        (due,) = world.store._sql.execute("SELECT min(visible_at) FROM queue WHERE name='work'").fetchone()
        skip((due or 0) - world.clock.now())


def skip(seconds: float) -> None:
    """Let time pass at once."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.now += max(0.0, seconds)


async def check(world: World, owner: Owner) -> None:
    store = world.store
    rows = await store.page(names.FILES, f"{PROJECT}/", after=None, limit=100, newest_first=True)
    files = {file.id: file for file in map(decode_file, (row.body for row in rows))}
    for file_id, content in owner.told.items():
        assert file_id in files, "an acknowledged file is lost"
        assert await read(world, file_id) == content
    assert not files.keys() & owner.gone, "a file came back"
    for file in files.values():
        assert len(await read(world, file.id)) == file.bytes, "a file without its content"
    whole = {names.document(PROJECT, file_id) for file_id in files}
    for table in ("contents", "chunks"):
        there = {name for (name,) in store._sql.execute(f"SELECT DISTINCT name FROM {table}")}
        assert there == whole, f"{table} of no file: {there - whole}"
    for name, parts in store._sql.execute("SELECT name, parts FROM contents"):
        named = {part_id for part_id, _ in json.loads(parts)}
        assert {part.id for part in await store.staged(names.CONTENTS, name)} == named, "a part that was not named"
    assert not await store.page(names.UPLOADS, "", after=None, limit=1, newest_first=True), "an upload is kept for ever"
    assert world.queued("work-buried") == 0
    assert not world.errors, world.errors


async def read(world: World, file_id: str) -> bytes:
    name = names.document(PROJECT, file_id)
    return b"".join([piece async for piece in world.store.download(names.CONTENTS, name)])


@pytest.mark.parametrize("how", How, ids=lambda how: how.name.lower())
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_whatever_storage_call_fails_files_are_whole_or_gone(scenario: Scenario, how: How) -> None:
    layouts: list[dict[str, Any]] = [{}, {"layout": ("api", "worker"), "retries": 2}]
    for options in layouts:
        points = run(play(scenario, Plan(), **options)).plan.points(how)
        for number in points if THOROUGH else points[len(options) :: 6]:
            plan = Plan.at(number, how)
            try:
                run(play(scenario, plan, **options))
            except BaseException as error:
                error.add_note(f"{scenario.__name__}, {options}: {plan.hits}")
                raise


def test_a_crash_in_the_middle_of_a_file_leaves_bytes_until_the_work_item_comes_and_no_file_ever() -> None:
    async def main() -> None:
        plan = Plan(lambda number, name: How.CRASH_BEFORE if (number, name) == (5, "stage a chunk") else None)
        world = World(plan=plan, layout=("api",))
        async with world.running():
            with pytest.raises(Unanswered):
                await Owner(world).create()
            assert plan.hits
            assert world.store._sql.execute("SELECT count(*) FROM chunks").fetchone()[0] > 0
            assert not await world.store.page(names.FILES, "", after=None, limit=1, newest_first=True)
            skip(PATIENCE)
            world.layout = ("worker",)
            world.start()
            await asyncio.sleep(3)
            assert world.store._sql.execute("SELECT count(*) FROM chunks").fetchone()[0] == 0
            assert world.queued() == 0

    run(main())


def test_a_file_of_an_upload_that_was_deleted_does_not_come_back() -> None:
    """Its publisher died before it noted that there was one."""

    async def main() -> None:
        plan = Plan(lambda _, name: How.CRASH_AFTER if name == "create" and uploaded else None)
        uploaded: list[str] = []
        world = World(plan=plan, layout=("api", "worker"))
        async with world.running():
            owner = Owner(world)
            upload_id = await owner.begin()
            uploaded += [await owner.add(upload_id) for _ in range(2)]
            with pytest.raises(Unanswered):
                await owner.complete(upload_id, *uploaded)
            plan.end()
            (row,) = await world.store.page(names.FILES, f"{PROJECT}/", after=None, limit=2, newest_first=True)
            file_id = decode_file(row.body).id
            owner.told[file_id] = BYTES * 2
            await owner.delete(file_id)
            await days_pass(world)
            await check(world, owner)

    run(main())


def test_a_completion_that_is_sent_again_brings_no_deleted_file_back_whose_bytes_are_still_there() -> None:
    async def main() -> None:
        world = World(layout=("api",))
        async with world.running():
            owner = Owner(world)
            upload_id = await owner.begin()
            parts = [await owner.add(upload_id) for _ in range(2)]
            file_id = await owner.complete(upload_id, *parts)
            await owner.delete(file_id)
            assert await read(world, file_id)
            again = CompleteUpload(part_ids=parts)
            await owner.ask(lambda process: process.services.uploads.complete(process.request, upload_id, again))
            assert not await world.store.get(names.FILES, names.document(PROJECT, file_id))

    run(main())


def test_no_item_is_sent_with_a_delay_below_zero() -> None:
    """A file of an upload that has expired when its publication is made up for."""

    async def main() -> None:
        plan = Plan(lambda _, name: How.CRASH_AFTER if name == "replace" else None)
        world = World(plan=plan, layout=("api",))
        async with world.running():
            owner = Owner(world)
            upload_id = await owner.begin(expires_after=HOUR)
            parts = [await owner.add(upload_id) for _ in range(2)]
            with pytest.raises(Unanswered):
                await owner.complete(upload_id, *parts)
            plan.end()
            delays: list[float] = []
            undisturbed = world.store.send

            async def send(body: bytes, *, delay: float = 0) -> None:
                delays.append(delay)
                await undisturbed(body, delay=delay)

            world.store.send = send  # type: ignore[method-assign]
            skip(HOUR + 10)
            world.layout = ("worker",)
            world.start()
            await days_pass(world)
            assert delays and min(delays) >= 0
            await check(world, owner)

    run(main())


def test_an_item_of_a_deletion_that_never_came_leaves_the_file_alone() -> None:
    """The process died between the item and the document."""

    async def main() -> None:
        plan = Plan(lambda number, name: How.CRASH_BEFORE if name == "remove" else None)
        world = World(plan=plan, layout=("api",))
        async with world.running():
            owner = Owner(world)
            file_id = await owner.create()
            with pytest.raises(Unanswered):
                await owner.delete(file_id)
            plan.end()
            world.layout = ("worker",)
            world.start()
            await days_pass(world)
            assert await read(world, file_id) == BYTES
            assert await world.store.get(names.FILES, names.document(PROJECT, file_id))

    run(main())
