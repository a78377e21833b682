"""The promises of docs/reliability.md, as checks of what is left in a store, and of what clients were told. Each says
what it found amiss. Simulated and real processes are held against the same ones: a `world` is either."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from answer_checks import p7_and_p8, the_answers_are_true
from assistants_service.core import names
from assistants_service.core.log.events import to_block
from assistants_service.core.ports.storage import Storage
from assistants_service.core.protocol.runs.resources import Run
from assistants_service.core.threads import events as e
from assistants_service.core.threads.projection import documents
from assistants_service.core.threads.sse import ENDINGS
from assistants_service.core.threads.state import ThreadChange
from commit_history import Past, said, whole
from simulated_clients import Exchange
from simulated_service import PROJECT, Block, World
from stream_checks import p4_in_a_stream, p4_what_clients_heard

if TYPE_CHECKING:
    from real_processes import Reality

GRACE = 60  # seconds after a run's expiry by which it must have ended
SKEW = 10  # seconds by which two clocks differ at most
Pasts = dict[str, Past]  # by project/thread


def past_of(world: World, thread_id: str, project: str = PROJECT) -> Past:
    return Past(thread_id, world.threads[names.document(project, thread_id)])


async def past_in(store: Storage, thread_id: str, project: str = PROJECT) -> Past:
    """As the store has it, over all generations, each commit at the time that it bears; empty if there is no log."""
    commits = e.from_lines(await whole_log(store, thread_id, project))
    return Past(thread_id, [Block(commit.at, to_block(commit)) for commit in commits])


async def whole_log(store: Storage, thread_id: str, project: str) -> bytes:
    log = names.log(project, thread_id)
    tail = await store.read(names.THREADS, log, None)
    older = range(tail.mark.generation if tail else 0)
    pieces = [*[await store.read(names.THREADS, f"{log}.{old}", None) for old in older], tail]
    return b"".join(piece.data for piece in pieces if piece)


async def check(world: World) -> None:
    """Every promise, for every thread and every client. Call it when the world is at rest."""
    assert not world.errors, world.errors
    assert not world.queued("work-buried")
    world.counts["checked: histories"] += 1
    pasts = {name: Past(name.rpartition("/")[2], blocks) for name, blocks in world.threads.items()}
    await keeps_its_promises(world, pasts, world.exchanges)
    asked = {run_state.run.model for past in pasts.values() for run_state in past.state.runs}
    assert world.models.calls.keys() <= asked, "P6: the model was called for no run"
    p7_and_p8(world)
    for name, exchanges in by_thread(world.exchanges).items():
        if name in pasts:
            the_answers_are_true(world, pasts[name], exchanges)
    for name, past in pasts.items():
        count(world.counts, past)
        if not past.deleted:
            await the_log_is_whole(world, name.partition("/")[0], past)


async def keeps_its_promises(world: World | Reality, pasts: Pasts, exchanges: Sequence[Exchange]) -> None:
    """What needs no more than the threads' logs, the store, the model and what clients were told."""
    p1_and_p3_what_was_asked_is_there_once(exchanges, pasts)
    p3_a_key_stands_for_one_thing(exchanges, pasts)
    p6_the_model_was_not_called_too_often(world, pasts)
    about = by_thread(exchanges)
    for name, past in pasts.items():
        project = name.partition("/")[0]
        p2_every_run_has_ended_once_and_in_time(world, past)
        p3_the_model_said_what_is_there(world, past)
        p5_one_active_run_at_most(past)
        p4_what_clients_heard(world, project, past, about.pop(name, []))
        if past.deleted:
            await nothing_is_left(world, past.thread_id, project)
        else:
            await documents_show_what_the_log_says(world, project, past)
            for run_state in past.state.runs:
                await p4_in_a_stream(world, project, past, run_state)
    for name, about_it in about.items():
        assert not [each for each in about_it if each.ok and "/thread_" in name], f"P1: {name} was acknowledged"


def by_thread(exchanges: Sequence[Exchange]) -> defaultdict[str, list[Exchange]]:
    """By project/thread."""
    found: defaultdict[str, list[Exchange]] = defaultdict(list)
    for exchange in exchanges:
        found[names.document(exchange.project, exchange.thread)].append(exchange)
    return found


def count(counts: Counter[str], past: Past) -> None:
    counts.update(f"runs: {run_state.run.status}" for run_state in past.state.runs)
    counts["happened: take-overs of a run"] += past.claims.total()
    counts["happened: told in the making"] += sum(1 for _ in past.events(e.StepBegun))
    counts["happened: threads deleted"] += past.deleted
    counts["happened: commits"] += len(past.commits)


# --- P1, P3 ---------------------------------------------------------------------------------------------------------


def p1_and_p3_what_was_asked_is_there_once(exchanges: Sequence[Exchange], pasts: Pasts) -> None:
    """An acknowledged request has left its mark in time, each sending one at most, a refused one none."""
    left: defaultdict[str, list[float]] = defaultdict(list)
    for past in pasts.values():
        for mark, versions in past.marks.items():
            left[mark] += [past.at(version) for version in versions]
    sendings: defaultdict[str, list[Exchange]] = defaultdict(list)
    for exchange in exchanges:
        sendings[exchange.mark].append(exchange)
    for mark, times in left.items():
        assert mark in sendings, f"P3: no client asked for what bears {mark}"
        began = min(each.since for each in sendings[mark])
        assert all(began <= at for at in times), f"P3: {mark} was there before it was asked for"
        may_be = [each for each in sendings[mark] if not each.refused and not invited_to_repeat(each)]
        assert len(times) <= len(may_be), f"P3: {mark} is there {len(times)} times: {sendings[mark][0]}"
    for mark, sent in sendings.items():
        for each in sent:
            if each.ok and each.what in LEAVES_A_MARK:
                assert any(at <= each.until for at in left[mark]), f"P1: {each} was acknowledged"


def p3_a_key_stands_for_one_thing(exchanges: Sequence[Exchange], pasts: Pasts) -> None:
    """Of all requests with one Idempotency-Key one has left its mark at most, and all get the same answer."""
    keyed: defaultdict[tuple[str, str], list[Exchange]] = defaultdict(list)
    for each in exchanges:
        if each.key:
            keyed[each.project, each.key].append(each)
    for same in keyed.values():
        marks = {each.mark for each in same}
        times = sum(len(past.marks[mark]) for past in pasts.values() for mark in marks)
        assert times <= 1, f"P3: {same[0]} was done {times} times, by {marks}"
        answered = [each for each in same if each.ok and each.heard is None]
        for then in answered[1:]:
            assert then.raw == answered[0].raw, f"P3: {then} got another answer: {then.raw!r}"


LEAVES_A_MARK = {"create thread", "create message", "create run", "create thread and run", "submit outputs", "modify"}


def invited_to_repeat(exchange: Exchange) -> bool:
    """By an answer on which the SDKs create a thing anew, without a key: then it is not there yet."""
    creates = exchange.what.startswith("create") and not exchange.key
    return creates and exchange.status == 503 and exchange.may_be_repeated


def p3_the_model_said_what_is_there(world: World | Reality, past: Past) -> None:
    """Every message of a run is one whole answer of its model, and no answer is there twice. Only the last one of a run
    that was cut off may be the beginning of one."""
    answers = []
    for _, event in past.events(e.MessageCompleted | e.MessageIncomplete):
        why, run = event.message.incomplete_details, past.state.runs[event.message.run_id or ""].run
        if why and why.reason.startswith("run_"):
            assert why.reason == f"run_{run.status}", f"P3: {event.message.id} says {why.reason} of {run.id}"
            text = said(event.message)
            assert text in world.models.begun[run.model], f"P3: the model did not begin with '{text}'"
        else:
            answers.append(event.message)
    texts = [said(message) for message in answers]
    assert len(set(texts)) == len(texts), "P3: an answer is there twice"
    written = Counter(message.run_id for message in answers)
    for message, text in zip(answers, texts, strict=True):
        run_state = past.state.runs[message.run_id or ""]
        assert text in world.models.said[run_state.run.model], f"P3: the model never said '{text}'"
        assert written[run_state.id] <= past.turns[run_state.id], "P3: one message a turn"
        assert message.id in run_state.known, "P3: a message without its step"


# --- P2, P5, P6 -----------------------------------------------------------------------------------------------------


def p2_every_run_has_ended_once_and_in_time(world: World | Reality, past: Past) -> None:
    ends: defaultdict[str, list[int]] = defaultdict(list)
    for change in past.changes:
        if isinstance(change.object, Run) and change.name in ENDINGS:
            ends[change.object.id].append(change.version)
    created = [event.run for _, event in past.events(e.RunCreated)]
    assert not past.in_progress, f"P2: {past.in_progress} is in the making for ever"
    for run in created:
        status = past.state.runs[run.id].run.status
        if past.deleted and not ends[run.id]:
            continue
        assert past.state.runs[run.id].in_progress is None, f"P2: {run.id} is {status}, and its step in progress"
        assert len(ends[run.id]) == 1, f"P2: {run.id} ended {len(ends[run.id])} times, and is {status}"
        ended = past.at(ends[run.id][0])
        due = (run.expires_at or 0) - world.epoch
        # A worker must be running and the store must answer: the grace begins anew when they do again.
        calm = max((until for since, until in world.troubles if since <= ended), default=0.0)
        late = ended - max(due, calm)
        assert late <= GRACE + SKEW, f"P2: {run.id} ended {late} s late"
        assert status != "expired" or ended >= due - SKEW, f"P2: {run.id} expired {due - ended} s early"


def p5_one_active_run_at_most(past: Past) -> None:
    assert past.most_active <= 1, "P5"


def p6_the_model_was_not_called_too_often(world: World | Reality, pasts: Pasts) -> None:
    allowed: Counter[str] = Counter()
    for past in pasts.values():
        for run_state in past.state.runs:
            # A run that did not come to its own end was in the middle of a turn that left nothing.
            unfinished = run_state.run.status != "completed"
            allowed[run_state.run.model] += past.turns[run_state.id] + past.claims[run_state.id] + unfinished
    for model, most in allowed.items():
        calls = world.models.calls[model]
        assert calls <= most, f"P6: {calls} calls of {model}, {most} allowed"


# --- what is stored -------------------------------------------------------------------------------------------------


async def the_log_is_whole(world: World, project: str, past: Past) -> None:
    """Every commit that the store took is there, over all generations; who has the thread in memory has it right."""
    tail = await world.store.read(names.THREADS, names.log(project, past.thread_id), None)
    assert tail, "P1: the log is gone"
    blocks = world.threads[names.document(project, past.thread_id)]
    assert await whole_log(world.store, past.thread_id, project) == b"".join(block.data for block in blocks)
    world.counts["happened: roll-overs"] += tail.mark.generation
    for process in world.processes:
        view = process.threads._views.get((project, past.thread_id))
        if view and view.mark and view.state.version == past.state.version:
            assert whole(view.state) == whole(past.state), f"{process.name} has another thread in mind than the log"


async def documents_show_what_the_log_says(world: World | Reality, project: str, past: Past) -> None:
    state = past.state
    assert state.thread is not None
    steps = [step for run_state in state.runs for step in run_state.steps]
    things = [state.thread, *state.messages, *(run_state.run for run_state in state.runs), *steps]
    wanted = {
        (each.container, each.name): each.body
        for each in documents(project, [ThreadChange(state.version, "", thing) for thing in things])
    }
    there = await all_documents(world, past.thread_id, project)
    gone = {name for name in there if name not in wanted}
    assert not gone, f"documents of what is no more: {gone}"
    for (container, name), body in wanted.items():
        shown = there.get((container, name))
        if shown is None:  # as a client gets it: what was never written is written now
            shown = (await (await world.api()).threads.fetch(container, project, *name.split("/")[1:])).body
        world.counts["checked: documents"] += 1
        assert shown == body, f"{container} {name} shows {shown!r} and not {body!r}"


async def all_documents(world: World | Reality, thread_id: str, project: str = PROJECT) -> dict[tuple[str, str], bytes]:
    """Without tombstones."""
    prefix = names.document(project, thread_id)
    return {
        (container, stored.name): stored.body
        for container in (names.THREADS, names.MESSAGES, names.RUNS, names.STEPS)
        for stored in await world.store.page(container, prefix, after=None, limit=1000, newest_first=False)
        if not stored.name.startswith(f"{prefix}.")  # on Azure the log lies beside its thread's document
    }


async def nothing_is_left(world: World | Reality, thread_id: str, project: str = PROJECT) -> None:
    """Of a deleted thread, tombstones included; but for what the store executed after the purge, though it was sent
    before."""
    prefix = f"{names.document(project, thread_id)}."
    snapshots = await world.store.page(names.SNAPSHOTS, prefix, after=None, limit=100, newest_first=False)
    there = [*await world.documents(), *await world.logs(), *((names.SNAPSHOTS, each.name) for each in snapshots)]
    left = [each for each in there if thread_id in each[1] and each[1] not in world.overtaken]
    assert not left, f"left of a deleted thread: {left}"
