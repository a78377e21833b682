"""What a project's runs take while another project fills the service: with hundreds of runs that wait for slots, with
hundreds of files of a vector store. Beside what they take alone, in the same processes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable

from driver import Client, Load, load, timed
from search_quality import upload
from stand import AZURITE, SQLITE, Figure, Stand, at_most

MANY = {SQLITE: 1_000, AZURITE: 500}  # runs, and files
SLOTS = 2  # runs that the worker has in flight: fewer than would keep up with the requests
MODEL_MS = 97
# Times what a run takes alone, at most. Azurite is one Node process, which both projects share besides.
MOST = {SQLITE: 3.0, AZURITE: 5.0}
RUNS, ENOUGH = 60, 10  # of the quiet project: measured each time, and at least before the other project's work is done
LONGEST = 30.0  # seconds of each measurement
POLL = 0.02  # seconds
KEYS = {"loud": "key-of-the-loud-project", "quiet": "key-of-the-quiet-project"}
WORDS = "A line of a file that is read, cut into chunks, embedded and indexed. " * 20
Going = Callable[[], Awaitable[bool]]


async def neighbours(stand: Stand, engine: str) -> AsyncIterator[Figure]:
    keys = ",".join(f"{project}:{key}" for project, key in KEYS.items())
    settings = {"API_KEYS": keys, "WORKER_CONCURRENCY": str(SLOTS)}
    many = MANY[engine]
    for what, fill in (("runs", waiting_runs), ("files", waiting_files)):
        async with stand.service(engine, key=KEYS["loud"], **settings) as one:
            loud, quiet = one.client, one.client.another(KEYS["quiet"])
            await stand.model.set(MODEL_MS)
            async for _ in stand.turns(1):
                alone = await latencies(quiet, always)
                going = await fill(loud, many)
                beside = await latencies(quiet, going)
                ended = not await going()
            if ended and len(beside.times) < ENOUGH:
                raise RuntimeError(f"the {what} were done after {len(beside.times)} runs of the other project")
            name = f"a run beside {many:,} {what} of another project"
            yield Figure(engine, f"{name}: p50", beside.p50, "ms", alone.p50)
            yield Figure(engine, f"{name}: p95", beside.p95, "ms", alone.p95)
            yield Figure(engine, f"{name}, to alone", beside.p50 / alone.p50, "x", 1, at_most(MOST[engine]))
        stand.stop_azurite()


async def latencies(client: Client, going: Going) -> Load:
    """Of one run after another, the model's time included, as long as the other project's work lasts."""
    found, end = Load(), time.monotonic() + LONGEST
    while len(found.times) < RUNS and time.monotonic() < end and await going():
        thread = await client.asking()
        found.times.append(await timed(client.complete(thread, POLL)))
    return found


async def always() -> bool:
    return True


async def waiting_runs(client: Client, many: int) -> Going:
    """Ask for them all. The last one is still queued as long as others wait."""
    last = {}

    async def start() -> float:
        last.update(await client.start(await client.asking()))
        return 0

    await load(32, many, start)

    async def going() -> bool:
        run = await client.call("GET", f"/threads/{last['thread_id']}/runs/{last['id']}")
        return str(run["status"]) == "queued"

    return going


async def waiting_files(client: Client, many: int) -> Going:
    texts = [f"{number}. {WORDS}" for number in range(many)]
    files = await upload(client, texts)
    store = (await client.call("POST", "/vector_stores", {}))["id"]
    for some in (files[: many // 2], files[many // 2 :]):  # a batch has 500 at most
        await client.call("POST", f"/vector_stores/{store}/file_batches", {"file_ids": some})

    async def going() -> bool:
        return bool((await client.call("GET", f"/vector_stores/{store}"))["file_counts"]["in_progress"])

    return going
