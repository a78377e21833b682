"""Unchanged clients against the service over HTTP: on SQLite in one process, and on Azurite with API and worker apart.

Each client runs in a process and an environment of its own (parties.py) and plays what its program holds; each scenario
is a test here. Only what is selected is started, and all of that at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from parties import NPM, PARTIES, STORES, Played, api_keys, node, ready, run
from scripted import scripted_model
from service_process import Process, service

AT_ONCE = 3  # clients
PLAYS = [
    pytest.param(store, party.name, way, name, id=f"{party.name}-{way}-{name}-{store}")
    for party in PARTIES.values()
    for store, ways in party.played.items()
    for way in ways
    for name in party.scenarios
]


@pytest.fixture(scope="module")
def services(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    """The service over each store that a selected test wants."""
    with ExitStack() as stack:
        env = {
            "OPENAI_BASE_URL": stack.enter_context(scripted_model()),
            "OPENAI_API_KEY": "sk-scripted",
            "API_KEYS": api_keys(),
            "CODE_INTERPRETER": "local",
        }
        found = {}
        for store in {item.callspec.params["store"] for item in _selected(request)}:
            separate = store == "azurite"
            storage = (
                request.getfixturevalue("azurite").account()
                if separate
                else f"sqlite:///{tmp_path_factory.mktemp('clients')}/clients.db"
            )
            found[store] = stack.enter_context(service(storage, separate=separate, **env))
        yield found


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, services: dict[str, Process]
) -> Iterator[dict[tuple[str, str], Future[Played]]]:
    """By store and client: what came of all that it plays."""
    wanted: dict[tuple[str, str], set[str]] = {}
    for item in _selected(request):
        params = item.callspec.params
        if "party" in params:
            names = wanted.setdefault((params["store"], params["party"]), set())
            names.update({params["name"]} if "name" in params else ())
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            (store, party): pool.submit(PARTIES[party].play, services[store].url, store, names)
            for (store, party), names in wanted.items()
        }


def _selected(request: pytest.FixtureRequest) -> list[Any]:
    return [item for item in request.session.items if getattr(item, "module", None) is request.module]


@pytest.mark.parametrize(("store", "party", "way", "name"), PLAYS)
def test_client(
    services: dict[str, Process],
    played: dict[tuple[str, str], Future[Played]],
    store: str,
    party: str,
    way: str,
    name: str,
) -> None:
    came = played[store, party].result()
    assert (way, name) in came.outcomes, f"It was not played. {came.complaint}"
    if error := came.outcomes[way, name]:
        pytest.fail(f"{error}\nThe service logged:\n{''.join(services[store].log[-20:])}", pytrace=False)


@pytest.mark.parametrize(
    ("store", "party"), [(store, party.name) for party in PARTIES.values() for store in party.played]
)
def test_a_client_ends_well_and_complains_of_nothing(
    played: dict[tuple[str, str], Future[Played]], store: str, party: str
) -> None:
    """Such as of a warning, or of what it could not clean up."""
    if complaint := played[store, party].result().complaint:
        pytest.fail(f"{party} on {store}: {complaint}", pytrace=False)


@pytest.mark.parametrize("store", STORES)
def test_example_that_polls(services: dict[str, Process], store: str) -> None:
    lines = _example("assistants", services[store].url)
    assert lines[0].startswith("assistant asst_")
    assert lines[1].startswith("thread thread_")
    assert lines[2] == "run completed"
    answer, question = (json.loads(line) for line in lines[3:])
    assert (question["role"], question["content"][0]["text"]["value"]) == ("user", "What is x in `5x + 2 = 17`?")
    assert answer["role"] == "assistant"
    said = answer["content"][0]["text"]["value"]
    assert said == "You help people with mathematics.\n\nCall the user Jane. | What is x in `5x + 2 = 17`?"


@pytest.mark.parametrize("store", STORES)
def test_example_that_streams(services: dict[str, Process], store: str) -> None:
    lines = _example("assistant-stream", services[store].url)
    assert lines[:2] == ["connect", "event thread.run.created"]
    assert lines[-3:] == ["event thread.run.completed", "run completed", "result completed"]
    (*_, last) = (line for line in lines if line.startswith("text "))
    assert json.loads(last[5:]) == "You help people with mathematics. | What is x in `5x + 2 = 17`?"
    assert len({line for line in lines if line.startswith("message ")}) == 1


@pytest.mark.parametrize("store", STORES)
def test_example_that_reads_raw_events(services: dict[str, Process], store: str) -> None:
    lines = _example("assistant-stream-raw", services[store].url)
    assert lines == ["You help people with mathematics.", "", "Call the user Jane. | What is x in `5x + 2 = 17`?"]


def _example(name: str, url: str) -> list[str]:
    done = run([*ready(node), str(NPM / "examples" / f"{name}.mjs")], url, key="npm-7.55.0")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()
