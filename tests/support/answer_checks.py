"""P7, P8, and that every answer was true: the store's log says in which order things happened, and each answer must be
what the log said at some instant between question and answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from commit_history import Moment, Past
from simulated_clients import Exchange
from simulated_service import World


class Page(msgspec.Struct):
    data: list[msgspec.Raw]


class Identified(msgspec.Struct):
    id: str


_page, _identified = msgspec.json.Decoder(Page), msgspec.json.Decoder(Identified)


def p7_and_p8(world: World) -> None:
    keys: dict[tuple[str, str], set[str]] = {}  # the requests that came with an Idempotency-Key
    for each in world.exchanges:
        if each.key:
            keys.setdefault((each.project, each.key), set()).add(each.mark)
    for each in world.exchanges:
        assert each.status in (0, 200, 304, 503) or each.refused, f"P8: {each} was answered with {each.status}"
        if each.status == 503:
            troubles = [at for at, to in world.troubles if at <= each.until and to >= each.since]
            assert troubles, f"P8: {each} was answered with 503, but nothing was wrong"
        if each.status >= 400:
            assert set(each.answer["error"]) == {"message", "type", "param", "code"}, f"P8: {each.raw!r}"
        if each.wrong:
            assert not each.ok, f"P7, P8: {each} was answered with {each.raw!r}"
        if each.refused and each.answer["error"]["code"] == "idempotency_key_reused":
            assert len(keys[each.project, each.key or ""]) > 1, f"P8: {each} was refused: {each.raw!r}"


def the_answers_are_true(world: World, past: Past, exchanges: Sequence[Exchange]) -> None:
    first = {each.mark: each.since for each in reversed(world.exchanges)}  # when a request was sent first, by its mark
    for each in exchanges:
        if each.wrong or (each.status not in (200, 304) and not each.refused):
            continue
        # A request that was sent again may get the answer that it missed.
        versions = past.during(first[each.mark] if each.key else each.since, each.until)
        if each.refused:
            refused_for_a_reason(past, each, versions)
        elif each.heard is None and each.what in TRUE:
            assert TRUE[each.what](past, each, versions), f"{each} was answered with {each.raw!r}"
        world.counts["checked: answers"] += 1
    documents_go_forward(world, past, exchanges)


# --- what was answered ----------------------------------------------------------------------------------------------


def _as_it_was(past: Past, each: Exchange, versions: range) -> bool:
    return each.raw in past.bodies_during(_identified.decode(each.raw).id, versions)


def _all_of_it(of: Callable[[Moment, Exchange], tuple[str, ...]]) -> Callable[[Past, Exchange, range], bool]:
    def true(past: Past, each: Exchange, versions: range) -> bool:
        bodies = [bytes(raw) for raw in _page.decode(each.raw).data]
        ids = tuple(_identified.decode(body).id for body in bodies)
        return any(
            of(past.moments[version], each) == ids
            and all(body == past.body_at(key, version) for key, body in zip(ids, bodies, strict=True))
            for version in versions
        )

    return true


TRUE: dict[str, Callable[[Past, Exchange, range], bool]] = {
    **dict.fromkeys(
        ("create thread", "create message", "create run", "create thread and run", "submit outputs", "cancel run"),
        _as_it_was,
    ),
    "modify": _as_it_was,
    "delete message": lambda past, each, versions: each.ids[1] not in past.moments[versions[-1]].messages,
    "delete thread": lambda past, each, versions: past.moments[versions[-1]].deleted,
    "list messages": _all_of_it(lambda moment, _: moment.messages),
    "list runs": _all_of_it(lambda moment, _: tuple(moment.runs)),
    "list steps": _all_of_it(lambda moment, each: moment.steps.get(each.ids[1], ())),
}


def documents_go_forward(world: World, past: Past, exchanges: Sequence[Exchange]) -> None:
    """A document may lag behind its log, but shows nothing else than what the log said once, and never goes back; and
    while nothing is wrong it does not lag behind what was acknowledged."""
    shown: dict[str, list[tuple[Exchange, int, int]]] = {}
    for each in (each for each in exchanges if each.what == "get" and each.ok):
        bodies, newest = past.bodies[each.ids[-1]], past.during(each.since, each.until)[-1]
        places = [place for place, (version, body) in enumerate(bodies) if body == each.raw and version <= newest]
        assert places, f"{each} was answered with {each.raw!r}"
        for other, earliest, _ in shown.setdefault(each.ids[-1], []):
            assert other.until > each.since or earliest <= places[-1], f"{each} went back to {each.raw!r}"
        shown[each.ids[-1]].append((each, places[0], places[-1]))
        if not any(at <= each.until for at, _ in world.troubles):
            told = {version for e in exchanges if e.until <= each.since and e.ok for version in past.marks[e.mark]}
            assert each.raw in past.bodies_during(each.ids[-1], range(max(told, default=1), newest + 1)), (
                f"{each} is late"
            )


# --- what was refused -----------------------------------------------------------------------------------------------

Reason = Callable[[Moment, "re.Match[str]", Exchange], Any]
REASONS: dict[str, Reason] = {
    r"No thread found with id": lambda now, _, __: not now.there or now.deleted,
    r"No message found with id '(\w+)'": lambda now, found, _: found[1] not in now.messages,
    r"No run found with id '(\w+)'": lambda now, found, _: found[1] not in now.runs,
    r"No run step found with id '(\w+)'": lambda now, found, each: found[1] not in now.steps.get(each.ids[1], ()),
    r"Thread \w+ already has an active run (\w+)\.": lambda now, found, _: now.active == found[1],
    r"Can't add messages to \w+ while a run (\w+) is active\.": lambda now, found, _: now.active == found[1],
    r"Cannot cancel run with status '(\w+)'": lambda now, found, each: now.runs.get(each.ids[1]) == found[1],
    # An overdue run has expired, whether that was written down or not.
    r'Runs in status "(\w+)" do not accept tool outputs': lambda now, found, each: (
        now.runs.get(each.ids[1]) == found[1] or (found[1] == "expired" and now.runs.get(each.ids[1]))
    ),
    r"Expected tool outputs for call_ids": lambda now, _, each: now.runs.get(each.ids[1]) == "requires_action",
    r"Message (\w+) is still in progress": lambda now, found, _: found[1] == now.in_progress,
    r"This Idempotency-Key was already used": lambda *_: True,
}


def refused_for_a_reason(past: Past, each: Exchange, versions: range) -> None:
    message = each.answer["error"]["message"]
    for pattern, holds in REASONS.items():
        if found := re.match(pattern, message):
            reasons = [version for version in versions if holds(past.moments[version], found, each)]
            assert reasons, f"{each} was refused, but not for a reason: {message}"
            return
    raise AssertionError(f"{each} was refused: {message}")
