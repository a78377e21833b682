"""What code_interpreter finds and leaves: which files a link names, what is kept when there is no room, what is
restored, and that all of it has a bound."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from assistants_service.core import names
from assistants_service.core.files.service import PATIENCE
from assistants_service.core.ports.models import ToolCall
from assistants_service.core.ports.storage import StorageUnavailable
from assistants_service.core.tools.code_interpreter import executing, keeping, model_texts, restoring
from assistants_service.core.work_items import CleanUpOutputs, PurgeThread, to_body
from inprocess_service import InProcess, ManualClock, calls, in_process, says
from multipart_forms import download, upload
from scripted_sandbox import CODE, FakeSandbox, python
from test_code_interpreter import LINK, coder, coding, contents, last_message, settled, shown, told_last

Json = Any


async def links(service: InProcess, run: Json) -> list[tuple[str, str]]:
    """Of the run's answer: each with the id of its file."""
    message = await last_message(service, run)
    cited = message["content"][-1]["text"]["annotations"]
    assert {each["file_id"] for each in message["attachments"]} == {each["file_path"]["file_id"] for each in cited}
    return [(each["text"].removeprefix(LINK), each["file_path"]["file_id"]) for each in cited]


# --- links ----------------------------------------------------------------------------------------------------------


async def test_a_file_of_the_users_own_is_cited_as_it_is() -> None:
    """The published schema says that `file_path` names a generated file. Clients download whatever it names, and so get
    what the model means: the user's file, of which no call has made another one."""
    answer = says(f"{LINK}mine.csv {LINK}other.csv {LINK}nothing.csv")
    script = calls(python("write('other.csv', 'changed')")), answer
    async with coding(*script) as service:
        mine, other = [await upload(service.api, b"mine", name) for name in ("mine.csv", "other.csv")]
        given = {"code_interpreter": {"file_ids": [mine["id"], other["id"]]}}
        thread, assistant = await service.thread("Go.", tool_resources=given), await coder(service)
        run = await service.finished(thread, assistant)
        (first, second) = await links(service, run)
        assert first == ("mine.csv", mine["id"])
        assert second[0] == "other.csv"
        assert second[1] != other["id"], "a call has written it"
        assert (await download(service.api, mine["id"])).raw == b"mine"
        service.models.script[:] = [says(f"{LINK}{mine['id']} {LINK}mine.csv")]
        run = await service.finished(thread, assistant)
        assert await links(service, run) == [(mine["id"], mine["id"]), ("mine.csv", mine["id"])]
        await service.api.delete(f"/files/{mine['id']}")
        run = await service.finished(thread, assistant)
        assert await links(service, run) == [], "it was deleted"
        without = await service.finished(thread, await service.assistant())
        assert await links(service, without) == [], "the assistant has no such tool"


async def test_a_link_to_a_file_that_its_user_deleted_stays_text() -> None:
    write = calls(python("write('a.csv', 'a'); write('b.csv', 'b')"))
    async with coding(write, says(f"{LINK}a.csv")) as service:
        thread, assistant = await service.thread("Go."), await coder(service)
        ((_, deleted),) = await links(service, await service.finished(thread, assistant))
        await service.api.delete(f"/files/{deleted}")
        service.models.script[:] = [says(f"{LINK}a.csv {LINK}b.csv")]
        ((path, _),) = await links(service, await service.finished(thread, assistant))
        assert path == "b.csv"
        service.models.script[:] = [calls(python("write('a.csv', 'anew')")), says(f"{LINK}a.csv")]
        ((_, again),) = await links(service, await service.finished(thread, assistant))
        assert (await download(service.api, again)).raw == b"anew"


# --- projects -------------------------------------------------------------------------------------------------------


async def test_files_of_another_project_reach_no_interpreter_and_no_answer() -> None:
    sandbox = FakeSandbox()
    async with in_process(says("x"), sandbox=sandbox, api_keys="default:key-of-one,two:key-of-two") as service:
        theirs = await upload(service.client("key-of-two"), b"secret", "theirs.csv")
        service.api = service.client("key-of-one")
        given = {"code_interpreter": {"file_ids": [theirs["id"]]}}
        attached = {"role": "user", "content": "Go.", "attachments": [{"file_id": theirs["id"], "tools": [CODE]}]}
        thread, assistant = await service.thread("Go."), await coder(service)
        for path, body in (
            ("/threads", {"tool_resources": given}),
            (f"/threads/{thread}", {"tool_resources": given}),
            (f"/threads/{thread}/messages", attached),
            ("/assistants", {"model": "gpt-4o", "tools": [CODE], "tool_resources": given}),
            (f"/threads/{thread}/runs", {"assistant_id": assistant, "additional_messages": [attached]}),
        ):
            answer = await service.api.send("POST", f"/v1{path}", body)
            assert answer.status in (400, 404), path
            assert "theirs.csv" not in answer.raw.decode()
        service.models.script[:] = [calls(python("write('a.csv', 'a')")), says(f"{LINK}{theirs['id']} {LINK}a.csv")]
        run = await service.finished(thread, assistant)
        ((path, made),) = await links(service, run)
        assert path == "a.csv"
        assert sandbox.started[0].written == []
        two = service.client("key-of-two")
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            assert (await two.send(method, f"/v1/files/{made}{path}")).status == 404
        assert [file["id"] for file in (await two.get("/files"))["data"]] == [theirs["id"]]


async def test_a_file_id_of_another_project_in_the_log_gives_nothing() -> None:
    """Whatever may have let it in."""
    sandbox = FakeSandbox()
    async with in_process(
        calls(python("1")), says("Done."), sandbox=sandbox, api_keys="default:key-of-one,two:key-of-two"
    ) as service:
        theirs = await upload(service.client("key-of-two"), b"secret", "theirs.csv")
        service.api = service.client("key-of-one")
        with pytest.MonkeyPatch.context() as patch:

            async def passed(*_: Any) -> None: ...

            patch.setattr("assistants_service.core.references.References.check", passed)
            given = {"code_interpreter": {"file_ids": [theirs["id"]]}}
            thread = await service.thread("Go.", tool_resources=given)
        await service.finished(thread, await coder(service))
        assert sandbox.started[0].written == []
        assert told_last(service) == f"1\n[The file {theirs['id']} does not exist any more.]"
        assert "theirs" not in str(service.prompts[0].tools)


# --- no room --------------------------------------------------------------------------------------------------------


async def test_a_project_that_is_full_keeps_no_more_files(caplog: pytest.LogCaptureFixture) -> None:
    sandbox = FakeSandbox()
    clock = ManualClock()
    script = (
        calls(python("write('a.csv', 'old'); write('b.csv', 'b')")),
        calls(python("write('a.csv', 'new'); write('c.csv', 'c'); show(b'image'); print('seen')", "call_2")),
        says(f"{LINK}a.csv {LINK}b.csv {LINK}c.csv"),
    )
    async with coding(*script, sandbox=sandbox, clock=clock, project_stored_bytes=50_000) as service:

        async def before(code: str) -> None:
            if "'new'" in code:
                await service.storage.start(names.THREADS, "default/thread_old.log", b"x" * 50_000)
                stored = service._worker._context.stored  # type: ignore[union-attr]
                assert stored
                await stored._count("default", stored._projects["default"])

        sandbox.before = before
        run = await service.finished(assistant=await coder(service))
        heard = told_last(service)
        assert heard == f"seen\n[{model_texts.FULL}]"
        assert shown((await service.steps(run))[1])["outputs"] == [{"type": "logs", "logs": "seen\n"}]
        assert [path for path, _ in await links(service, run)] == ["b.csv"], "what a.csv was is no more"
        assert len(await contents(service)) == 2
        service.advance(PATIENCE + 1)
        while len(await contents(service)) > 1:
            await asyncio.sleep(0.001)
    assert [r.getMessage() for r in caplog.records if "PROJECT_STORED_BYTES" in r.getMessage()] == [
        f"run {run['id']}: what its code wrote is not kept (PROJECT_STORED_BYTES)"
    ]


async def test_what_code_writes_counts_for_requests_at_once() -> None:
    """API and worker of one process have one count."""
    script = calls(python("write('large.txt', 'x' * 60_000)")), says("Done.")
    async with coding(*script, clock=ManualClock(), project_stored_bytes=50_000) as service:
        await service.finished(assistant=await coder(service))
        await service.api.refused("POST", "/threads", {}, status=429)


async def test_an_old_version_of_a_file_that_cannot_be_kept_does_not_come_back() -> None:
    sandbox = FakeSandbox()
    script = (
        calls(python("write('a.csv', 'old')")),
        calls(python("write('a.csv', 'x' * 50)", "call_2")),
        says(f"{LINK}a.csv"),
        calls(python("sorted(read.__self__.files)")),
        says("None."),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "MOST_KEPT", 40)
        async with coding(*script, sandbox=sandbox) as service:
            thread, assistant = await service.thread("Go."), await coder(service)
            run = await service.finished(thread, assistant)
            assert await links(service, run) == []
            await service.stop_worker()
            service.start_worker()
            await service.finished(thread, assistant)
            assert told_last(service) == f"{model_texts.RESTARTED}\n[]"


async def test_a_file_that_grows_while_it_is_read_fills_no_store() -> None:
    sandbox = FakeSandbox()
    start = sandbox.start

    async def growing(session: str) -> Any:
        interpreter = await start(session)

        async def read(path: str) -> AsyncIterator[bytes]:
            for _ in range(1000):
                yield b"x" * 30

        interpreter.read = read  # type: ignore[method-assign]
        return interpreter

    sandbox.start = growing  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "MOST_KEPT", 100)
        async with coding(calls(python("write('a.csv', 'a')")), says(f"{LINK}a.csv"), sandbox=sandbox) as service:
            run = await service.finished(assistant=await coder(service))
            assert await links(service, run) == []
            assert await contents(service) == []


async def test_images_have_a_bound_together_with_files() -> None:
    code = "[show(b'x' * 30) for _ in range(5)]; write('a', 'x' * 10); write('b', 'y'); None"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "MOST_KEPT", 100)
        async with coding(calls(python(code)), says("Done.")) as service:
            run = await service.finished(assistant=await coder(service))
            assert len(shown((await service.steps(run))[0])["outputs"]) == 3
            assert "Only the first 3 images are shown." in told_last(service)
            assert "/mnt/data/b will be lost" in told_last(service)


async def test_a_thread_has_a_limit_of_files_and_of_their_names() -> None:
    script = (
        calls(python("for n in range(6): write('a' * 40 + str(n), '')")),
        calls(python("for n in range(6): write('b%d' % n, '')", "call_2")),
        calls(python("for n in range(6): remove('a' * 40 + str(n)); write('c%d' % n, '')", "call_3")),
        says(" ".join(f"{LINK}{letter}{n}" for letter in "bc" for n in range(6))),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "MOST_FILES", 8)
        patch.setattr(keeping, "MOST_NAMES", 6 * 41 + 5)
        async with coding(*script) as service:
            run = await service.finished(assistant=await coder(service))
            heard = [turn.text for turn in service.prompts[-1].turns if turn.role == "tool"]
            assert ["will be lost" in each for each in heard] == [False, True, False]
            assert [path for path, _ in await links(service, run)] == ["b0", "b1", *(f"c{n}" for n in range(6))]


async def test_what_thousands_of_files_cannot_be_fits_into_an_answer() -> None:
    """Each refused file has a note."""
    sandbox = FakeSandbox()
    script = calls(python("for n in range(300): write(f'{n}', 'x')")), says("Written."), calls(python("1")), says("1")
    async with coding(*script, sandbox=sandbox) as service:
        thread, assistant = await service.thread("Go."), await coder(service)
        await service.finished(thread, assistant)
        await service.stop_worker()
        service.start_worker()
        start = sandbox.start

        async def refusing(session: str) -> Any:
            interpreter = await start(session)

            async def write(path: str, content: AsyncIterator[bytes]) -> None:
                raise ValueError("y" * 400)

            interpreter.write = write  # type: ignore[method-assign]
            return interpreter

        sandbox.start = refusing  # type: ignore[method-assign]
        await service.finished(thread, assistant)
        heard = told_last(service)
    assert heard.endswith("[and 280 more of these notes]")
    assert len(heard) < model_texts.MOST_NOTES * model_texts.MOST_NOTE + 1000


@pytest.mark.parametrize("arguments", ["{}", '{"code": 1}', '"\\ud83d"', "print('\x00')", "x" * 100_001])
async def test_odd_and_long_code_ends_in_an_answer(arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executing, "MOST_CODE", 100_000)
        async with coding(calls(ToolCall("call_p", "python", arguments)), says("Done.")) as service:
            run = await service.finished(assistant=await coder(service))
            assert run["status"] == "completed"
            if len(arguments) > 100_000:
                assert told_last(service).startswith("Error: the code has 100001 characters, and 100000 are the most.")


async def test_a_hundred_calls_in_one_reply_have_a_step_each() -> None:
    asked = [python(f"n = {place}", f"call_{place}") for place in range(100)]
    async with coding(calls(*asked), says("Done.")) as service:
        run = await service.finished(assistant=await coder(service))
        assert run["status"] == "completed"
        steps = (await service.api.get(f"/threads/{run['thread_id']}/runs/{run['id']}/steps?limit=100"))["data"]
        assert len(steps) == 100
        whole = await service.storage.read(names.THREADS, names.log("default", run["thread_id"]), None)
        assert whole
        first, second = sorted(map(len, whole.data.splitlines()), reverse=True)[:2]
        assert first < 100_000
        assert second < 4_000, "but for the reply, a commit has one call"


# --- restoring --------------------------------------------------------------------------------------------------------


async def test_files_are_read_ahead_and_large_ones_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "SMALL", 100)
    sandbox = FakeSandbox()
    code = "for n in range(40): write(f'{n:02}', 'x' * (n % 3) * 60)"
    script = calls(python(code)), says("Written."), calls(python("sorted(map(len, read.__self__.files.values()))"))
    async with coding(*script, says("Done."), sandbox=sandbox) as service:
        thread, assistant = await service.thread("Go."), await coder(service)
        await service.finished(thread, assistant)
        await service.stop_worker()
        service.start_worker()
        at_once = most = 0
        download = service.storage.download

        async def counted(*given: Any, **options: Any) -> AsyncIterator[bytes]:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0)
            async for piece in download(*given, **options):
                yield piece
            at_once -= 1

        monkeypatch.setattr(service.storage, "download", counted)
        await service.finished(thread, assistant)
        sizes = [n % 3 * 60 for n in range(40)]
        assert told_last(service) == f"{model_texts.RESTARTED}\n{sorted(sizes)}"
        assert sandbox.started[1].written == [f"{n:02}" for n in range(40)]
        assert 10 < most <= restoring.AHEAD


async def test_a_restore_that_fails_half_way_begins_again_in_another_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sandbox, clock = FakeSandbox(), ManualClock()
    script = (
        calls(python("for n in range(40): write(f'{n}', str(n))")),
        says("Written."),
        calls(python("''.join(sorted(read.__self__.files))")),
        says("Done."),
    )
    async with coding(*script, sandbox=sandbox, clock=clock) as service:
        thread, assistant = await service.thread("Go."), await coder(service)
        await service.finished(thread, assistant)
        await service.stop_worker()
        service.start_worker()
        reads, download = 0, service.storage.download

        async def failing(*given: Any, **options: Any) -> AsyncIterator[bytes]:
            nonlocal reads
            reads += 1
            if reads == 36:
                raise StorageUnavailable("for a moment")
            async for piece in download(*given, **options):
                yield piece

        monkeypatch.setattr(service.storage, "download", failing)
        run = await service.start_run(thread, assistant)
        while len(sandbox.started) < 2 or not sandbox.started[1].closed:
            await asyncio.sleep(0.001)
        while (await service.api.get(f"/threads/{thread}/runs/{run['id']}"))["status"] != "completed":
            service.advance(60)
            await asyncio.sleep(0.001)
        assert told_last(service) == f"{model_texts.RESTARTED}\n{''.join(sorted(str(n) for n in range(40)))!r}"
        assert len(sandbox.started) == 3


# --- what is left behind ----------------------------------------------------------------------------------------------


async def documents(service: InProcess) -> list[str]:
    """Of files, with tombstones."""
    return list(await service.storage.list_names(names.FILES, after=None, limit=10))


async def test_a_kept_file_that_is_deleted_after_its_thread_leaves_nothing() -> None:
    clock = ManualClock()
    script = calls(python("write('a.csv', 'a')")), says(f"{LINK}a.csv")
    async with coding(*script, clock=clock, code_interpreter_keep_days=2) as service:
        run = await service.finished(assistant=await coder(service))
        ((_, file_id),) = await links(service, run)
        await service.api.delete(f"/threads/{run['thread_id']}")
        for _ in range(2):  # the purge, and the one of tombstones
            await settled(service)
            service.advance(3600)
        await settled(service)
        assert len(await documents(service)) == 1
        await service.api.delete(f"/files/{file_id}")
        await settled(service)
        assert (await contents(service), len(await documents(service))) == ([], 1), "a tombstone"
        for _ in range(3):
            service.advance(24 * 3600)
            await settled(service)
        assert await documents(service) == []


async def test_a_clean_up_that_comes_early_waits() -> None:
    """The commit of the call may still come."""
    clock = ManualClock()
    async with coding(says("Hello."), clock=clock) as service:
        thread = await service.thread("Go.")
        await service.storage.stage(names.CONTENTS, "default/file-new", "whole", _bytes(b"x"))
        item = CleanUpOutputs(project="default", sent_at=clock.now(), thread_id=thread, file_ids=("file-new",))
        await service.storage.send(to_body(item))
        service.notifier.notify("work")
        await settled(service)
        assert len(await contents(service)) == 1
        service.advance(PATIENCE + 1)
        await settled(service)
        assert await contents(service) == []


async def test_the_last_purge_of_a_thread_writes_no_tombstone_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its item may be delivered twice. Once the log is gone, nothing would find such a tombstone."""
    clock = ManualClock()
    async with coding(calls(python("write('a.csv', 'a')")), says(f"{LINK}a.csv"), clock=clock) as service:
        run = await service.finished(assistant=await coder(service))
        await service.api.delete(f"/threads/{run['thread_id']}")
        await settled(service)
        written, write = list[str](), service.storage.write_if_newer

        async def noted(document: Any) -> None:
            written.append(document.container)
            await write(document)

        monkeypatch.setattr(service.storage, "write_if_newer", noted)
        service.advance(3600)
        item = PurgeThread(project="default", thread_id=run["thread_id"], sent_at=0, tombstones=True)
        await service.storage.send(to_body(item))
        service.notifier.notify("work")
        await settled(service)
        assert await documents(service) == []
        assert names.FILES not in written


async def _bytes(data: bytes) -> AsyncIterator[bytes]:
    yield data


def test_all_that_one_call_can_store_fits_into_a_commit() -> None:
    """Paths of quotes take twice their bytes, and logs of NUL six times."""
    path = json.dumps('"' * 255)
    files = keeping.MOST_NAMES // 255 * (len(path) + 80) + keeping.MOST_FILES * 80
    removed = keeping.MOST_NAMES // 255 * (len(path) + 1)
    told = (
        6 * (model_texts.MOST_LOGS + model_texts.MAX_MODEL_OUTPUT) + model_texts.MOST_NOTES * model_texts.MOST_NOTE * 4
    )
    assert files + removed + told < 4 * 1024 * 1024 - 64 * 1024
