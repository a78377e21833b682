"""P4: several writers on one run's stream. One that is overtaken writes nothing that belongs to its
successor, and closes nothing of that one's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from assistants_service.core import names
from assistants_service.core.ids import Ids
from assistants_service.core.notifier import Notifier
from assistants_service.core.ports.models import Deltas
from assistants_service.core.ports.storage import Conflict
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.threads import delta_events, sse
from assistants_service.core.threads.state import ThreadChange
from assistants_service.core.threads.stream import StreamWriter
from assistants_service.infra.sqlite.store import SqliteStorage
from assistants_service.worker.deltas import DeltaBuffer
from assistants_service.worker.lease import LeaseLost
from assistants_service.worker.partial_reply import PartialReply

RUN = Run(
    id="run_1", created_at=1, assistant_id="asst_1", thread_id="thread_1", model="m", status="in_progress", expires_at=9
)
TRAIL = [ThreadChange(1, "thread.run.created", RUN), ThreadChange(2, "thread.run.in_progress", RUN)]
CANCELLING = ThreadChange(3, "thread.run.cancelling", RUN)
NOTHING: frozenset[str] = frozenset()


class Clock:
    def now(self) -> float:
        return 2.0


IDS = Ids(Clock())


@dataclass
class Paper:
    """The stream of RUN."""

    store: SqliteStorage

    def writer(self) -> StreamWriter:
        return StreamWriter(self.store, Notifier(), "p", "thread_1", "run_1")

    async def worker(self, mine: Any) -> StreamWriter:
        """The writer of a worker that has just claimed the run."""
        writer = self.writer()
        await writer.take_over(RUN, mine=mine, opened=NOTHING, now=2)
        await writer.catch_up(TRAIL)
        await writer.take_over(RUN, mine=mine, opened=NOTHING, now=2)
        return writer

    async def names(self) -> list[str]:
        tail = await self.store.read(names.STREAMS, self.writer().name, None)
        return [name.removeprefix("thread.") for _, _, name, _ in sse.parse(tail.data if tail else b"")]


@pytest.fixture
async def paper() -> AsyncIterator[Paper]:
    store = SqliteStorage(":memory:", Clock())
    await store.open()
    yield Paper(store)
    await store.close()


async def mine() -> set[str]:
    return set()


def opening() -> Iterator[sse.StreamEvent]:
    """A step and a message that begin."""
    step, message = PartialReply(RUN, IDS).open_message(2)
    yield from (*delta_events.opening_step(step), *delta_events.opening_message(message))


async def test_what_was_dropped_with_its_thread_is_not_begun_again(paper: Paper) -> None:
    writer = await paper.worker(mine)
    await paper.store.drop(names.STREAMS, writer.name)
    await writer.catch_up([*TRAIL, CANCELLING])
    assert await paper.names() == []


async def test_a_writer_that_met_another_one_writes_nothing_before_its_look_at_the_log(paper: Paper) -> None:
    first = await paper.worker(mine)
    second = await paper.worker(mine)
    await second.emit(opening())
    await first.catch_up([*TRAIL, CANCELLING])  # it is on the stream, behind what the second one writes
    with pytest.raises(Conflict):
        await first.emit(opening())
    assert await paper.names() == [*BEGUN, *OPEN, "run.cancelling"]


async def test_a_writer_that_is_overtaken_between_its_looks_closes_nothing_of_its_successor(paper: Paper) -> None:
    dead = await paper.worker(mine)
    await dead.emit(opening())

    async def overtaken() -> set[str]:
        if await paper.names() != [*BEGUN, *OPEN]:
            raise LeaseLost
        second = await paper.worker(mine)  # claims the run in this very moment
        await second.emit(opening())
        return set()

    with pytest.raises(LeaseLost):
        await paper.writer().take_over(RUN, mine=overtaken, opened=NOTHING, now=2)
    assert await paper.names() == [*BEGUN, *OPEN, *CLOSED, *OPEN]


async def test_a_writer_that_meets_another_one_while_it_clears_the_stream_clears_it_all_the_same(paper: Paper) -> None:
    dead = await paper.worker(mine)
    await dead.emit(opening())

    async def disturbed() -> set[str]:
        await paper.writer().catch_up([*TRAIL, CANCELLING])
        return set()

    await paper.writer().take_over(RUN, mine=disturbed, opened=NOTHING, now=2)
    assert await paper.names() == [*BEGUN, *OPEN, "run.cancelling", *CLOSED]


async def test_what_a_late_worker_opened_is_closed_before_the_next_step_is_shown(paper: Paper) -> None:
    """It opened it after its successor had cleared the stream, and before that one's step was committed."""
    late = await paper.worker(mine)
    second = await paper.worker(mine)
    await late.emit(opening())
    step, _ = PartialReply(RUN, IDS).open_message(2)
    ended = replace(step, status="failed", failed_at=3)
    steps = [ThreadChange(3, "thread.run.step.created", step), ThreadChange(3, "thread.run.step.failed", ended)]
    await second.catch_up([*TRAIL, *steps])
    assert await paper.names() == [
        *BEGUN,
        *OPEN,
        *CLOSED,
        *("run.step.created", "run.step.in_progress", "run.step.failed"),
    ]


async def test_what_the_log_knows_is_not_torn(paper: Paper) -> None:
    partial = PartialReply(RUN, IDS)
    step, message = partial.open_message(2)
    dead = await paper.worker(mine)
    await dead.emit([*delta_events.opening_step(step), *delta_events.opening_message(message)])

    async def known() -> set[str]:
        return {step.id, message.id}

    await paper.writer().take_over(RUN, mine=known, opened=NOTHING, now=2)
    assert await paper.names() == [*BEGUN, *OPEN]


async def test_a_model_that_is_interrupted_on_its_stream_goes_on_with_its_message(paper: Paper) -> None:
    """By a writer that left the run with its worker."""
    writer = await paper.worker(mine)
    partial = PartialReply(RUN, IDS)
    live = DeltaBuffer(writer, partial, 0.001, Clock().now, mine)
    partial.deltas = Deltas(live.wake)
    running = asyncio.create_task(live.run())
    partial.deltas.text("Once upon ")
    async with asyncio.timeout(30):
        while len(await paper.names()) < len([*BEGUN, *OPEN, DELTA]):
            await asyncio.sleep(0)
    await paper.writer().catch_up([*TRAIL, CANCELLING])
    partial.deltas.text("a time.")
    live.close()
    await running
    assert await paper.names() == [*BEGUN, *OPEN, DELTA, "run.cancelling", DELTA]


BEGUN = ["run.created", "run.in_progress"]
OPEN = ["run.step.created", "run.step.in_progress", "message.created", "message.in_progress"]
CLOSED = ["message.incomplete", "run.step.failed"]
DELTA = "message.delta"
