"""What clients do, one function each. A client that gets no answer stops there, unless it retries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from assistants_service.core.protocol.runs.resources import TERMINAL
from simulated_clients import Client

Scenario = Callable[[Client], Awaitable[None]]


async def ask(client: Client, script: str) -> None:
    await client.say()
    run = await client.run(script)
    now = await client.until(run, "requires_action")
    while now.status not in TERMINAL:
        await client.submit(run)
        now = await client.until(run, "requires_action", beyond=now)


async def listen(client: Client, script: str) -> None:
    await client.say()
    run = await client.run(script, stream=True)
    while await client.follow(run) == "thread.run.requires_action":
        await client.submit(run, stream=True)


async def plain(client: Client) -> None:
    await ask(client, "plain")


async def tool(client: Client) -> None:
    await ask(client, "tool")


async def parallel_tools(client: Client) -> None:
    """Two calls at once."""
    await ask(client, "tools")


async def rounds_of_tools(client: Client) -> None:
    """Two calls, one after the other."""
    await ask(client, "rounds")


async def own_actions(client: Client) -> None:
    await ask(client, "own")


async def mixed_round(client: Client) -> None:
    await ask(client, "mixed")


async def model_fails(client: Client) -> None:
    await ask(client, "fails")


async def streamed(client: Client) -> None:
    await listen(client, "plain")


async def streamed_parallel_tools(client: Client) -> None:
    await listen(client, "tools")


async def streamed_text_and_tools(client: Client) -> None:
    await listen(client, "says")


async def streamed_mixed_round(client: Client) -> None:
    await listen(client, "mixed")


async def streamed_search(client: Client) -> None:
    """A round of a search and a call of the client's; the answer is cited."""
    await listen(client, "search")


async def streamed_failure(client: Client) -> None:
    await listen(client, "fails")


async def streamed_from_submit_on(client: Client) -> None:
    await client.say()
    run = await client.run("tools")
    if (await client.until(run, "requires_action")).status == "requires_action":
        await client.submit(run, stream=True)
        await client.until(run, "completed")


async def thread_and_run(client: Client) -> None:
    run = await client.run_in_new_thread("plain", stream=True)
    await client.follow(run)


async def cancel_queued(client: Client) -> None:
    """The worker begins after this."""
    await client.say()
    run = await client.run("plain", stream=True)
    await client.cancel(run)
    await client.follow(run)


async def cancel_in_progress(client: Client) -> None:
    await client.say()
    run = await client.run("slow")
    await asyncio.sleep(1)
    await client.cancel(run)
    await client.until(run)


async def look_at_what_is_in_the_making(client: Client) -> None:
    await client.say()
    run = await client.run("slow")
    at = f"/threads/{client.thread}"
    for _ in range(4):  # before the log is told of it, and after
        await asyncio.sleep(0.6)
        await client.ask("list messages", "GET", f"{at}/messages?order=asc&limit=100")
        await client.ask("list steps", "GET", f"{at}/runs/{run.id}/steps?order=asc&limit=100")
    await client.until(run)


async def cancel_streamed(client: Client) -> None:
    await client.say()
    run = await client.run("slow", stream=True)
    await asyncio.sleep(1)
    await client.cancel(run)
    await client.follow(run)


async def cancel_waiting(client: Client) -> None:
    await client.say()
    run = await client.run("tools", stream=True)
    await client.until(run, "requires_action")
    await client.cancel(run)
    await client.until(run)


async def expire_waiting(client: Client) -> None:
    await client.say()
    run = await client.run("tools", stream=True)
    await client.until(run, "requires_action")
    await client.until(run, "expired")


async def expire_in_progress(client: Client) -> None:
    await client.say()
    run = await client.run("hangs", stream=True)
    await client.follow(run)


async def settle_an_expired_run(client: Client) -> None:
    """The next message comes just when a run expires."""
    await client.say()
    run = await client.run("tools", stream=True)
    await client.until(run, "requires_action")
    await asyncio.sleep((run.expires_at or 0) - client.world.clock.now() + 0.001)
    await ask(client, "plain")


async def settle_a_run_in_progress(client: Client) -> None:
    """The next message comes just when a run expires on which a worker still works."""
    await client.say()
    run = await client.run("hangs", stream=True)
    await asyncio.sleep((run.expires_at or 0) - client.world.clock.now() + 0.001)
    await client.say()
    await client.follow(run)


async def expire_before_a_take_over(client: Client) -> None:
    """The worker that takes over from a dead one comes too late: all that is left to do is to end the run."""
    await ask(client, "own")


async def replace_an_expired_run(client: Client) -> None:
    """The next run comes just when the run before expires: one commit ends the one and begins the other."""
    await client.say()
    run = await client.run("tools", stream=True)
    await client.until(run, "requires_action")
    await asyncio.sleep((run.expires_at or 0) - client.world.clock.now() + 0.001)
    await client.until(await client.run("plain", stream=True))


async def delete_during_a_run(client: Client) -> None:
    await client.say()
    await client.run("slow", stream=True)
    await asyncio.sleep(1)
    await client.delete()


async def delete_while_waiting(client: Client) -> None:
    await client.say()
    run = await client.run("tools")
    await client.until(run, "requires_action")
    await client.delete()


async def changes_during_a_run(client: Client) -> None:
    """Metadata of everything, and a deletion, while a run goes on."""
    await client.say()
    await client.say()
    run = await client.run("own")
    first, second = client.messages
    await client.modify()
    await client.modify(first)
    await client.delete_message(second)
    await client.modify(run.id)
    await client.until(run)


async def rolled_over(client: Client) -> None:
    """Runs of several kinds, one after the other, and a change to what lies generations back."""
    for script in ("plain", "own"):
        await ask(client, script)
    for script in ("tools", "plain", "says"):
        await listen(client, script)
    await client.delete_message(client.messages[0])
    await ask(client, "plain")


async def rolled_over_and_deleted(client: Client) -> None:
    await ask(client, "plain")
    await listen(client, "plain")
    await client.delete()


SCENARIOS: dict[str, Scenario] = {
    each.__name__: each
    for each in (
        plain,
        tool,
        parallel_tools,
        rounds_of_tools,
        own_actions,
        mixed_round,
        model_fails,
        streamed,
        streamed_parallel_tools,
        streamed_text_and_tools,
        streamed_mixed_round,
        streamed_search,
        streamed_failure,
        streamed_from_submit_on,
        thread_and_run,
        cancel_queued,
        cancel_in_progress,
        look_at_what_is_in_the_making,
        cancel_streamed,
        cancel_waiting,
        expire_waiting,
        expire_in_progress,
        settle_an_expired_run,
        settle_a_run_in_progress,
        expire_before_a_take_over,
        replace_an_expired_run,
        delete_during_a_run,
        delete_while_waiting,
        changes_during_a_run,
        rolled_over,
        rolled_over_and_deleted,
    )
}
# What a scenario's world is like, where it matters.
WORLDS: dict[str, dict[str, Any]] = {
    "cancel_queued": {"worker_from": 1.0},
    "settle_a_run_in_progress": {"lifetime": 15},
    "expire_before_a_take_over": {"lifetime": 15},
    "rolled_over": {"rollover_after": 3},
    "rolled_over_and_deleted": {"rollover_after": 2},
}
