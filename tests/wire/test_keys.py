"""API keys that the command makes: kept as hashes, in effect within a minute everywhere, and cheap to ask for."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from assistants_service.api.authentication import AGAIN, STALE
from assistants_service.api.main import ROUTES
from assistants_service.command import manage_keys, parser
from assistants_service.core import names
from assistants_service.core.keys import Keys
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.infra.configuration import ConfigurationError, read_settings
from inprocess_service import InProcess, ManualClock, in_process
from service_process import COMMAND, service, wait_until


@pytest.fixture
async def closed() -> AsyncIterator[InProcess]:
    """A service that others can reach, with a clock in the test's hands."""
    async with in_process(clock=ManualClock(), host="0.0.0.0") as service:
        yield service


def keys_of(service: InProcess) -> Keys:
    return Keys(service.storage, service.parts.clock, service.parts.ids)


async def status(service: InProcess, key: str | None, method: str = "GET", path: str = "/v1/assistants") -> int:
    return (await service.client(key).send(method, path)).status


# --- made, used, revoked --------------------------------------------------------------------------------------------


async def test_a_key_is_for_its_project(closed: InProcess) -> None:
    texts = [(await keys_of(closed).create(project, "full"))[0] for project in ("one", "one", "two")]
    mine, colleague, stranger = (closed.client(text) for text in texts)
    made = await mine.post("/assistants", {"model": "gpt-4o"})
    assert await colleague.get(f"/assistants/{made['id']}") == made
    await stranger.refused("GET", f"/assistants/{made['id']}", status=404)
    assert await status(closed, texts[0][:-1] + "!") == await status(closed, None) == 401


async def test_the_store_holds_the_hash_and_not_the_key(closed: InProcess) -> None:
    text, key = await keys_of(closed).create("one", "full")
    stored = await closed.storage.get(names.KEYS, key.id)
    assert stored is not None
    assert hashlib.sha256(text.encode()).hexdigest() in stored.body.decode()
    assert text[3:-4] not in stored.body.decode()
    assert re.fullmatch(r"sk-[\w-]{43}", text)  # 256 bits


async def test_a_new_key_counts_within_seconds_wherever_the_service_is(closed: InProcess) -> None:
    assert await status(closed, "sk-unknown") == 401
    text, _ = await keys_of(closed).create("one", "full")
    closed.advance(AGAIN)
    assert await status(closed, text) == 200


@pytest.mark.parametrize("between", [0, 1, 11, 20], ids=lambda seconds: f"a request each {seconds} s")
async def test_a_revoked_key_is_refused_within_a_minute(closed: InProcess, between: int) -> None:
    text, key = await keys_of(closed).create("one", "full")
    assert await status(closed, text) == 200
    await keys_of(closed).revoke(key.id)
    for _ in range(int(STALE / between) if between else 0):
        closed.advance(between)
        await status(closed, text)
    closed.advance(0 if between else STALE)
    assert await status(closed, text) == 401


async def test_to_revoke_again_or_in_vain_changes_nothing(closed: InProcess) -> None:
    keys = keys_of(closed)
    _, key = await keys.create("one", "full")
    first = await keys.revoke(key.id)
    closed.advance(1000)
    assert await keys.revoke(key.id) == first == (await keys.list_all())[0]
    for unknown in ("key_unknown", "", "../keys", key.id + "x"):
        assert await keys.revoke(unknown) is None


async def test_keys_are_listed_however_many_there_are(closed: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assistants_service.core.keys.PAGE", 3)
    for count in range(7):
        assert len(await keys_of(closed).list_all()) == count
        await keys_of(closed).create(f"project-{count}", "full")
    assert [key.project for key in await keys_of(closed).list_all()] == [f"project-{count}" for count in range(7)]


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b'{"id":"key_0","scope":"of a later version"}'])
async def test_what_cannot_be_read_is_no_key_and_locks_no_caller_out(closed: InProcess, body: bytes) -> None:
    await closed.storage.create(names.KEYS, "key_0", body)
    text, _ = await keys_of(closed).create("one", "full")
    assert await status(closed, text) == 200
    assert len(await keys_of(closed).list_all()) == 1


@pytest.mark.parametrize("project", ["", "a/b", "a\\b", ".", "..", "-a", "a b", "a\n", "ü", "x" * 64])
async def test_a_project_has_a_name_that_is_safe_on_every_engine(closed: InProcess, project: str) -> None:
    with pytest.raises(ValueError, match="is not a valid project name"):
        await keys_of(closed).create(project, "full")
    if project:
        with pytest.raises(ConfigurationError, match=r"^API_KEYS is not valid: .* is not a valid project name"):
            read_settings({"api_keys": f"{project}:key"})


# --- scopes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["/v1", "/openai"])
async def test_a_read_only_key_changes_nothing_by_any_operation(closed: InProcess, prefix: str) -> None:
    text, _ = await keys_of(closed).create("one", "read")
    for route in ROUTES:
        path = re.sub(r"\{.*?\}", "x", route.path.replace("/v1", prefix, 1))
        answer = await closed.client(text).send(route.method, path)
        assert (answer.status == 403) == (route.method != "GET"), (route, answer.raw)
        if answer.status == 403:
            assert "this key is read-only" in answer.error["message"]
            assert answer.error["code"] == ("missing_scope" if prefix == "/v1" else "403")
    assert await status(closed, text) == 200


# --- what it costs, and what fails ----------------------------------------------------------------------------------


@pytest.fixture
def reads(closed: InProcess, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each look at the stored keys."""
    return watched(closed, monkeypatch, closed.storage.page)


def watched(service: InProcess, monkeypatch: pytest.MonkeyPatch, page: Callable[..., Awaitable[Any]]) -> list[str]:
    seen: list[str] = []

    async def look(container: str, *args: Any, **options: Any) -> Any:
        if container == names.KEYS:
            seen.append(container)
            await asyncio.sleep(0)
        return await page(container, *args, **options)

    monkeypatch.setattr(service.storage, "page", look)
    return seen


async def test_a_known_key_costs_a_look_at_the_store_each_twenty_seconds(closed: InProcess, reads: list[str]) -> None:
    text, _ = await keys_of(closed).create("one", "full")
    for _ in range(60):
        assert {await status(closed, text) for _ in range(3)} == {200}
        closed.advance(1)
    assert len(reads) == 3


async def test_a_flood_of_unknown_keys_costs_a_look_each_two_seconds(closed: InProcess, reads: list[str]) -> None:
    for _ in range(6):
        assert set(await asyncio.gather(*(status(closed, f"sk-unknown-{n}") for n in range(50)))) == {401}
        closed.advance(AGAIN / 2)
    assert len(reads) == 3


async def test_while_the_store_is_away_known_keys_count_for_a_minute(
    closed: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, _ = await keys_of(closed).create("one", "full")
    assert await status(closed, text, path="/v1/models") == 200

    async def away(*_: Any, **__: Any) -> Any:
        raise StorageUnavailable("away")

    asked = watched(closed, monkeypatch, away)
    closed.advance(STALE - 1)
    assert await status(closed, text, path="/v1/models") == 200
    closed.advance(1)
    answers = await asyncio.gather(*(closed.client(text).send("GET", "/v1/models") for _ in range(20)))
    assert {(answer.status, answer.headers["Retry-After"]) for answer in answers} == {(503, "1")}
    assert len(asked) <= 2


# --- who needs a key ------------------------------------------------------------------------------------------------


async def test_on_this_machine_everybody_gets_in_until_there_is_a_key() -> None:
    async with in_process(clock=ManualClock()) as service:
        assert await status(service, None) == await status(service, "anything") == 200
        text, key = await keys_of(service).create("one", "full")
        service.advance(STALE)
        assert await status(service, text) == 200
        assert await status(service, None) == await status(service, "anything") == 401
        await keys_of(service).revoke(key.id)
        service.advance(STALE)
        assert await status(service, None) == await status(service, text) == 401, "the last key opens no door"


async def test_keys_of_the_settings_and_of_the_store_are_both_good() -> None:
    async with in_process(api_keys="one:key-of-one") as service:
        text, _ = await keys_of(service).create("one", "full")
        made = await service.client("key-of-one").post("/assistants", {"model": "gpt-4o"})
        assert await service.client(text).get(f"/assistants/{made['id']}") == made


# --- the command ----------------------------------------------------------------------------------------------------


async def command(storage: str, *arguments: str) -> None:
    await manage_keys(read_settings({"storage": storage}), parser().parse_args(["keys", *arguments]))


async def test_the_command_makes_lists_and_revokes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = f"sqlite:///{tmp_path}/keys.db"
    await command(storage, "create", "one")
    first, told = capsys.readouterr()
    await command(storage, "create", "two", "--read-only", "--name", "Anna's report")
    second, _ = capsys.readouterr()
    await command(storage, "list")
    listed, _ = capsys.readouterr()
    lines = [line.split() for line in listed.splitlines()]
    assert [line[1:3] + line[4:] for line in lines] == [
        [f"sk-...{first.strip()[-4:]}", "full", "one"],
        [f"sk-...{second.strip()[-4:]}", "read", "two", "Anna's", "report"],
    ]
    assert lines[0][0] in told
    assert told.startswith(f"In the store {tmp_path}/keys.db:\n")
    assert first.strip()[3:-4] not in listed
    await command(storage, "revoke", lines[0][0])
    capsys.readouterr()
    await command(storage, "list", "--project", "one")
    listed, _ = capsys.readouterr()
    assert re.fullmatch(rf"{lines[0][0]} .* one  revoked \d{{4}}-\d\d-\d\d\n", listed)


@pytest.mark.parametrize(
    ("storage", "arguments", "named"),
    [
        ("sqlite://:memory:", ["list"], "STORAGE"),
        ("sqlite:////proc/no/x.db", ["list"], "STORAGE"),
        ("file", ["create", "a/b"], "'a/b' is not a valid project name"),
        ("file", ["create", "one", "--name", "two\nlines"], "single line of at most 100 characters"),
        ("file", ["list"], "there is no file '"),
        ("file", ["revoke", "key_unknown"], "there is no file '"),
    ],
)
async def test_what_the_command_cannot_do_is_told_in_a_line(
    tmp_path: Path, storage: str, arguments: list[str], named: str
) -> None:
    storage = storage.replace("file", f"sqlite:///{tmp_path}/keys.db")
    with pytest.raises(ConfigurationError, match=re.escape(named)) as caught:
        await command(storage, *arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["revoke", "key_unknown"], ["create", "a/b"], ["create", "one", "--name", "two\nlines"]],
    ids=" ".join,
)
async def test_a_store_is_made_only_for_a_key(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        await command(f"sqlite:///{tmp_path}/mistyped.db", *arguments)
    assert list(tmp_path.iterdir()) == []
    await command(f"sqlite:///{tmp_path}/new.db", "create", "one")
    with pytest.raises(ConfigurationError, match=r"'key_unknown'\. Run `assistants keys list`"):
        await command(f"sqlite:///{tmp_path}/new.db", "revoke", "key_unknown")


async def test_a_key_of_a_version_without_names_is_as_good_as_before(closed: InProcess) -> None:
    text, key = await keys_of(closed).create("one", "full", "Anna")
    stored = await closed.storage.get(names.KEYS, key.id)
    assert stored is not None
    old = json.loads(stored.body)
    del old["name"]
    await closed.storage.replace(names.KEYS, key.id, json.dumps(old).encode(), stored.etag)
    assert [each.name for each in await keys_of(closed).list_all()] == [""]
    assert await status(closed, text) == 200


def test_keys_are_made_while_the_service_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real processes on one SQLite file: with its first key the service may listen where others can reach it."""
    storage = f"sqlite:///{tmp_path}/keys.db"
    env = {**os.environ, "STORAGE": storage}
    made = subprocess.run([COMMAND, "keys", "create", "one"], env=env, capture_output=True, text=True, check=True)
    first = made.stdout.strip()
    with service(storage, HOST="0.0.0.0", API_KEYS="") as running:
        url = running.url.replace("0.0.0.0", "127.0.0.1")
        assert (_status(url, first), _status(url, "sk-unknown")) == (200, 401)
        asyncio.run(command(storage, "create", "two"))
        second = capsys.readouterr().out.strip()
        wait_until(lambda: _status(url, second) == 200, timeout=AGAIN + 5)
    logged = "".join(running.log)
    assert first not in logged and second not in logged


def _status(url: str, key: str) -> int:
    request = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request) as response:
            return int(response.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code
