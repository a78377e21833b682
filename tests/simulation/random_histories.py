"""Random histories of a whole service, each told by its seed: several programs do whatever comes to their minds, while
processes die, stores fail, clocks jump and the queue plays tricks. At last all comes to rest, and the promises are
checked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from assistants_service.core.protocol.runs.resources import TERMINAL, Run
from assistants_service.core.threads.decide import DEADLY
from code_programs import DAY, Coder, code_counts_once, executions
from commit_history import Past
from faults import Mischief, Plan
from http_transports import Cut
from promise_checks import check
from random_faults import Weather
from scripted_models import ASSISTANT
from simulated_clients import Client, Ear, Exchange, Refused, Unanswered, names_in_path
from simulated_service import KEYS, PROJECT, World
from test_stores_crash import Owner
from vector_store_programs import SharedNotes, StoreProgram, p9_stores_are_whole, take_one_more
from virtual_time import run

T = TypeVar("T")

LAYOUTS = (
    ("api", "worker", "worker", "worker"),
    ("api", "api", "worker", "worker", "worker"),
    ("api+worker", "worker", "worker"),
    ("api+worker", "api+worker", "worker"),
    ("api", "functions", "functions", "worker"),
)
SCRIPTS = {
    "plain": 5,
    "tool": 2,
    "tools": 3,
    "rounds": 1,
    "own": 2,
    "mixed": 2,
    "says": 2,
    "slow": 1,
    "fails": 1,
    "cut": 1,
    "hangs": 0.3,
}
CODING = 0.1  # of the histories have code_interpreter
TOMBSTONES = 240.0  # seconds that they stay: longer than any call takes, be it stalled by a process that stands still
SETTLING = 40.0  # seconds after the last fault, by which a process has tried everything again


def play(seed: int, show: Callable[[str], None] | None = None, *, coding: bool | None = None) -> World:
    """The history of this seed. `coding`: whether models call code_interpreter; the seed decides if it is not given.
    Raises AssertionError for a promise that was broken."""
    coder = random.Random(f"code {seed}")
    codes = coder.random() < CODING
    return run(_play(seed, show, coder if (codes if coding is None else coding) else None))


async def _play(seed: int, show: Callable[[str], None] | None, coder: random.Random | None) -> World:
    """Code has dice of its own: a history without it is as it was before there was any."""
    chance = random.Random(f"history {seed}")
    mischief = Mischief(chance, latency=chance.choice((0.002, 0.01, 0.05)))
    weather = Weather(chance)
    plan = Plan(weather.choose, stall=chance.choice((3.0, 30.0)))
    world = World(
        plan,
        layout=chance.choice(LAYOUTS),
        apart=chance.random() < 0.7,
        rollover_after=chance.choice((2, 4, 8, 10_000, 10_000, 10_000)),
        lifetime=chance.choice((15, 40, 75)),
        tombstones=TOMBSTONES,
        concurrency=chance.choice((1, 3, 1000, 1000)),
        waiting=chance.choice((0, 2, 2000)),
        mischief=mischief,
        losing=weather.losing,
        tardy=weather.tardy,
        reading=chance.choice((0.1, 2.0)),
        seed=seed,
        show=show,
    )
    mischief.counts = world.counts
    weather.set_up(mischief)
    if coder:
        world.interpreters, world.kept = coder.choice((1, 2, 4)), coder.choice((0.0, 0.0, 3 * DAY))
        world.executions = executions(world, coder)
    async with world.running():
        books = {key: Book() for key in KEYS}
        shared = SharedNotes(Owner(world))
        coding = Coder(coder, shared.owner) if coder else None
        programs = _programs(world, chance, books, shared, coding)
        trouble = asyncio.create_task(weather.storm(world))
        await asyncio.gather(*(program.live() for program in programs))
        trouble.cancel()
        plan.end()
        mischief.end()
        for process in world.processes:
            process.storage.cut_until = 0.0
        await world.at_rest()
        await asyncio.sleep(SETTLING)
        await _check_promises(world, books, shared, coding)
        world.counts["happened: storage calls"] += len(plan.calls)
        world.counts["happened: virtual seconds"] += int(asyncio.get_running_loop().time())
    return world


def _programs(
    world: World, chance: random.Random, books: dict[str, Book], shared: SharedNotes, coding: Coder | None
) -> list[Program | StoreProgram]:
    with_stores = chance.choice((0, 0, 1, 2))
    stores = [StoreProgram.of(world, chance, shared, number) for number in range(with_stores)]
    others = range(chance.randint(2, 4) - with_stores)
    return [*stores, *(Program.of(world, chance, books, number, coding) for number in others)]


async def _check_promises(world: World, books: dict[str, Book], shared: SharedNotes, coding: Coder | None) -> None:
    """When nothing fails any more."""
    await epilogue(world, books, ("adds",) * 3 if coding else ("plain",))
    await world.at_rest()
    await check(world)
    no_run_was_given_up(world)
    await p9_stores_are_whole(world, shared)
    await take_one_more(world, shared)
    if coding:
        await code_counts_once(world, coding)


def no_run_was_given_up(world: World) -> None:
    """None has killed its workers; those that die by chance, and the items that come again, are too few in a row."""
    for name, blocks in world.threads.items():
        for run_state in Past(name.rpartition("/")[2], blocks).state.runs:
            assert run_state.run.last_error != DEADLY, f"P2: {run_state.id} was taken for one that kills workers"


async def epilogue(world: World, books: dict[str, Book], scripts: Sequence[str]) -> None:
    """Whatever happened, every thread takes a message and a run, and the process that serves it knows what happened.
    Runs with code go on to another worker, and back."""
    for key, book in books.items():
        client = Client(world, key=key, name="epilogue")
        for page in book.pages.values():
            client.thread = page.thread
            with contextlib.suppress(Refused):  # deleted
                for _ in range(2):
                    await client.ask("list messages", "GET", f"/threads/{page.thread}/messages?order=asc&limit=100")
                for script in scripts:
                    await client.say()
                    ended = await client.until(await client.run(script))
                    assert ended.status == "completed", f"P2: the last run is {ended.status}"


# --- what programs do -----------------------------------------------------------------------------------------------


@dataclass
class Notes:
    """What the programs of a project know of a thread."""

    thread: str
    messages: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    steps: list[tuple[str, str]] = field(default_factory=list)
    gone: bool = False


@dataclass(frozen=True)
class Keyed:
    """A request that was sent with an Idempotency-Key."""

    what: str
    path: str
    body: Any
    mark: str
    key: str


class Nothing(Exception):
    """There is nothing to do it to."""


@dataclass
class Book:
    """What the programs of a project share."""

    pages: dict[str, Notes] = field(default_factory=dict)
    keyed: list[Keyed] = field(default_factory=list)

    def page(self, thread: str) -> Notes:
        return self.pages.setdefault(thread, Notes(thread))


@dataclass
class Program(Client):
    """Does one thing after the other, on threads that others use too."""

    chance: random.Random = None  # type: ignore[assignment]
    book: Book = field(default_factory=Book)
    others: Book = field(default_factory=Book)  # of another project
    haste: float = 1.0  # seconds between two requests, at the mean
    coding: Coder | None = None

    @classmethod
    def of(
        cls, world: World, chance: random.Random, books: dict[str, Book], number: int, coding: Coder | None
    ) -> Program:
        key = "other-key" if number == 2 and chance.random() < 0.4 else "key"
        other = next(book for name, book in books.items() if name != key)
        return cls(
            world,
            retries=chance.choice((0, 2)),
            name=f"program {number}",
            key=key,
            stubborn=chance.random() < 0.3,
            patience=chance.choice((4.0, 20.0, 100.0)),
            chance=chance,
            book=books[key],
            others=other,
            haste=chance.choice((0.05, 0.5, 2.0)),
            coding=coding,
        )

    async def live(self) -> None:
        deeds = list(DEEDS)
        for _ in range(self.chance.randint(3, 7)):
            deed = self.chance.choices(deeds, [DEEDS[each] for each in deeds])[0]
            page = self._some_page()
            if page is None:
                deed = Program.open if self.chance.random() < 0.5 else Program.open_with_run
            await self._pause()
            with contextlib.suppress(Unanswered, Refused, Nothing):
                await deed(self, page)
            if self.coding:
                with contextlib.suppress(Unanswered, Refused):
                    await self.coding.look_at_outputs(self)

    def _some_page(self) -> Notes | None:
        pages = [page for page in self.book.pages.values() if not page.gone or self.chance.random() < 0.1]
        return self.chance.choice(pages) if pages else None

    def _one_of(self, things: Sequence[T]) -> T:
        if not things:
            raise Nothing
        return self.chance.choice(things)

    async def _pause(self) -> None:
        await asyncio.sleep(self.chance.expovariate(1 / self.haste))

    def _key(self) -> str | None:
        return self.world.new_mark() if self.chance.random() < 0.3 else None

    async def _create(self, what: str, path: str, body: Any, mark: str) -> Exchange:
        key = self._key()
        if not key:
            return await self.ask(what, "POST", path, body, mark=mark)
        # Whatever becomes of it, a client may send it again.
        self.book.keyed.append(Keyed(what, path, body, mark, key))
        return await self.ask(what, "POST", path, body, mark=mark, key=key)

    def _messages(self, mark: str, most: int) -> list[Any]:
        return [{"role": "user", "content": f"Hello {mark}"} for _ in range(self.chance.randint(0, most))]

    # -- deeds -----------------------------------------------------------------------------------------------------

    async def open(self, _: Notes | None) -> None:
        mark = self.world.new_mark()
        body = {"metadata": {"mark": mark}, "messages": self._messages(mark, 2), **await self._given()}
        self.book.page((await self._create("create thread", "/threads", body, mark)).answer["id"])

    async def open_with_run(self, _: Notes | None) -> None:
        mark = self.world.new_mark()
        body = {**self._run_body(mark), "thread": {"messages": self._messages(mark, 1)}}
        await self._begin(await self._create("create thread and run", "/threads/runs", body, mark))

    async def speak(self, page: Notes) -> None:
        mark = self.world.new_mark()
        body = {"role": "user", "content": f"Hello {mark}"}
        answer = (await self._create("create message", f"/threads/{page.thread}/messages", body, mark)).answer
        page.messages.append(answer["id"])

    async def converse(self, page: Notes) -> None:
        if self.chance.random() < 0.5:
            await self.speak(page)
        mark = self.world.new_mark()
        body = {**self._run_body(mark), "additional_messages": self._messages(mark, 1)}
        await self._begin(await self._create("create run", f"/threads/{page.thread}/runs", body, mark))

    def _run_body(self, mark: str) -> Any:
        script = self.chance.choices(list(SCRIPTS), list(SCRIPTS.values()))[0]
        stream = self.chance.random() < 0.5
        script = self.coding.script(script) if self.coding else script
        return {"assistant_id": ASSISTANT.id, "model": f"{script}/{mark}", "stream": stream}

    async def _given(self) -> Any:
        """Files for code, of a new thread."""
        return await self.coding.resources() if self.coding and self.project == PROJECT else {}

    async def _begin(self, created: Exchange) -> None:
        run = created.run
        self.book.page(run.thread_id).runs.append(run)
        if created.heard is not None:
            self.ear(run).listen(created)
        await self._accompany(run, streamed=created.heard is not None)

    async def _accompany(self, run: Run, *, streamed: bool) -> None:
        """Until it ends, or the program loses interest."""
        while True:
            now = await self._hear_out(self.ear(run)) if streamed else await self._poll(run)
            if now is None or now.required_action is None:
                return
            await self._pause()
            interest = self.chance.random()
            if interest < 0.1:
                return
            if interest < 0.2:
                await self.cancel(now)
            else:
                calls = now.required_action.submit_tool_outputs.tool_calls
                asked = [call.id for call in calls] if interest < 0.9 else ["call_of_nobody"]
                streamed = await self._submit(run, asked)

    async def _submit(self, run: Run, asked: list[str]) -> bool:
        """Whether the run goes on as a stream."""
        mark, stream = self.world.new_mark(), self.chance.random() < 0.5
        body = {"tool_outputs": [{"tool_call_id": call, "output": f"sunny {mark}"} for call in asked], "stream": stream}
        at = names_in_path(run.thread_id, run.id)
        try:
            exchange = await self.ask("submit outputs", "POST", f"{at}/submit_tool_outputs", body, mark=mark)
        except Refused:
            return False
        if stream:
            self.ear(run).listen(exchange)
        return stream

    async def _poll(self, run: Run) -> Run | None:
        for _ in range(12):
            await self._pause()
            with contextlib.suppress(Unanswered):
                run = (await self._get(run.thread_id, run.id)).run
                if run.required_action or run.status in TERMINAL:
                    return run
        return None

    async def _hear_out(self, ear: Ear) -> Run | None:
        """The run at its next pause; None if it ended, or the program did not wait for it."""
        leaving = self.chance.choice((0.0, 0.1))
        try:
            async with asyncio.timeout(self.chance.choice((2.0, 10.0))):
                while not ear.over:
                    if ear.pauses > ear.minded:
                        ear.minded = ear.pauses
                        return msgspec.json.decode(ear.pause, type=Run)
                    try:
                        if ear.exchange is None:
                            await self.watch(ear)
                            self.world.counts["happened: streams gone on with"] += 1
                        await ear.hear()
                    except (Cut, Unanswered):
                        ear.close()
                        await asyncio.sleep(0.2)
                    if self.chance.random() < leaving:
                        ear.close()
        except TimeoutError:
            pass
        finally:
            ear.close()
        return None

    async def watch_some(self, page: Notes) -> None:
        run = self._one_of(page.runs)
        await self._hear_out(self.ear(run))

    async def cancel_some(self, page: Notes) -> None:
        await self.cancel(self._one_of(page.runs[-2:]))

    async def modify_some(self, page: Notes) -> None:
        ids = self.chance.choice([(), *((each,) for each in page.messages), *((run.id,) for run in page.runs)])
        self.thread = page.thread
        await self.modify(*ids)

    async def delete_some(self, page: Notes) -> None:
        self.thread = page.thread
        await self.delete_message(self._one_of(page.messages))

    async def delete_all(self, page: Notes) -> None:
        self.thread, page.gone = page.thread, True
        await self.delete()

    async def look_around(self, page: Notes) -> None:
        at = f"/threads/{page.thread}"
        listed = await self.ask("list messages", "GET", f"{at}/messages?order=asc&limit=100")
        page.messages += [each["id"] for each in listed.answer["data"] if each["id"] not in page.messages]
        await self.ask("list runs", "GET", f"{at}/runs?order=asc&limit=100")
        for each in page.runs[-2:]:
            steps = await self.ask("list steps", "GET", f"{at}/runs/{each.id}/steps?order=asc&limit=100")
            page.steps += [(each.id, step["id"]) for step in steps.answer["data"]]

    async def get_some(self, page: Notes) -> None:
        things = [(), *((each,) for each in page.messages), *((run.id,) for run in page.runs), *page.steps]
        for ids in self.chance.sample(things, min(3, len(things))):
            with contextlib.suppress(Refused):
                await self._get(page.thread, *ids)

    async def _get(self, thread: str, *ids: str) -> Exchange:
        return await self.ask("get", "GET", names_in_path(thread, *ids))

    async def repeat(self, _: Notes) -> None:
        """A request with an Idempotency-Key, or another one with that key."""
        each = self._one_of(self.book.keyed)
        mark = each.mark if self.chance.random() < 0.7 else self.world.new_mark()
        body = json.loads(json.dumps(each.body).replace(each.mark, mark))
        again = await self.ask(each.what, "POST", each.path, body, mark=mark, key=each.key)
        if again.connection:
            again.connection.close()

    async def blunder(self, page: Notes) -> None:
        """Something that must be refused: what never was, what is another project's, what makes no sense."""
        theirs = list(self.others.pages.values())
        at = f"/threads/{self.chance.choice(theirs).thread if theirs else 'thread_of_nobody'}"
        method, path, body = self.chance.choice(
            [
                ("GET", at, None),
                ("GET", f"{at}/messages", None),
                ("POST", f"{at}/messages", {"role": "user", "content": "Hello nobody"}),
                ("POST", f"{at}/runs", {"assistant_id": ASSISTANT.id}),
                ("DELETE", at, None),
                ("POST", f"/threads/{page.thread}/messages", {"role": "nobody", "content": "Hello nobody"}),
                ("POST", f"/threads/{page.thread}/runs/run_of_nobody/cancel", None),
            ]
        )
        await self.ask("blunder", method, path, body, wrong=True)


DEEDS: dict[Callable[[Program, Any], Any], float] = {
    Program.converse: 6,
    Program.speak: 2,
    Program.open: 1,
    Program.open_with_run: 1.5,
    Program.watch_some: 1,
    Program.cancel_some: 1,
    Program.modify_some: 2,
    Program.delete_some: 0.7,
    Program.delete_all: 0.5,
    Program.look_around: 1.5,
    Program.get_some: 1.5,
    Program.repeat: 1,
    Program.blunder: 0.7,
}
