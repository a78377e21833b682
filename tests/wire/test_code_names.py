"""The names of the user's files in /mnt/data: no file takes the name of another one, in any process, and the model is
told what is there."""

from __future__ import annotations

from typing import Any

import pytest

from assistants_service.core.tools.code_interpreter import keeping, model_texts
from inprocess_service import InProcess, calls, says
from multipart_forms import upload
from scripted_sandbox import CODE, FakeSandbox, python
from test_code_files import links
from test_code_interpreter import LINK, coder, coding, told_last

Json = Any


async def attach(service: InProcess, thread: str, *named: tuple[str, bytes]) -> list[str]:
    """Returns the ids of the new files."""
    ids = [(await upload(service.api, data, name))["id"] for name, data in named]
    for start in range(0, len(ids), 10):
        attachments = [{"file_id": file_id, "tools": [CODE]} for file_id in ids[start : start + 10]]
        message = {"role": "user", "content": "Here.", "attachments": attachments}
        await service.api.post(f"/threads/{thread}/messages", message)
    return ids


async def restart(service: InProcess) -> None:
    await service.stop_worker()
    service.start_worker()


def listed(service: InProcess) -> list[str]:
    """What the model is told of the user's files."""
    (function,) = service.prompts[-1].tools
    return [line.removeprefix("- /mnt/data/") for line in str(function.description).splitlines() if "- /mnt" in line]


@pytest.mark.parametrize("written", ["report.csv", "report.csv/part"])
async def test_a_file_that_is_attached_later_is_not_hidden_by_one_that_code_has_written(written: str) -> None:
    script = calls(python(f"write({written!r}, 'old')")), says("Written.")
    async with coding(*script) as service:
        thread, assistant = await service.thread("Go."), await coder(service)
        await service.finished(thread, assistant)
        (new,) = await attach(service, thread, ("report.csv", b"new"))
        both = f"read({written!r}), read('report_2.csv'), read({new!r})"
        answer = says(f"{LINK}report_2.csv {LINK}{written}")
        service.models.script[:] = [calls(python(both)), answer]
        run = await service.finished(thread, assistant)
        assert listed(service) == ["report_2.csv (uploaded as report.csv)"]
        assert told_last(service) == "('old', 'new', 'new')"
        (first, second) = await links(service, run)
        assert first == ("report_2.csv", new)
        assert second[0] == written
        assert second[1] != new
        await restart(service)
        service.models.script[:] = [calls(python(f"write('report.csv_', ''); {both}")), says("Read.")]
        await service.finished(thread, assistant)
        assert "('old', 'new', 'new')" in told_last(service)
        assert listed(service) == ["report_2.csv (uploaded as report.csv)"], "though a call has changed it since"


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("é" * 200 + ".csv", "é" * 125 + ".csv", "é" * 124 + "_2.csv"),
        ("a" + "é" * 127, "a" + "é" * 127, "a" + "é" * 126 + "_2"),
        ("😀" * 60 + ".tar.gz", "😀" * 60 + ".tar.gz", "😀" * 60 + ".tar_2.gz"),
        ("a." + "é" * 200, "a." + "é" * 126, "a." + "é" * 125 + "_2"),
        ("." + "é" * 200, "." + "é" * 127, "." + "é" * 126 + "_2"),
    ],
)
async def test_a_name_that_no_file_system_takes_is_cut(name: str, first: str, second: str) -> None:
    """File systems count bytes, uploads characters."""
    async with coding(calls(python(f"read({first!r}), read({second!r})")), says("Read.")) as service:
        thread, assistant = await service.thread("Go."), await coder(service)
        await attach(service, thread, (name, b"1"), (name, b"2"))
        await service.finished(thread, assistant)
        assert told_last(service) == "('1', '2')"
        assert [each.split(" (uploaded as ")[0] for each in listed(service)] == [first, second]
        assert max(len(each.encode()) for each in (first, second)) <= 255


async def test_a_file_of_the_users_that_code_has_changed_is_the_changed_one() -> None:
    script = calls(python("write('a.csv', read('a.csv') + '!')")), says("Changed.")
    async with coding(*script) as service:
        thread, assistant = await service.thread("Go."), await coder(service)
        (file_id,) = await attach(service, thread, ("a.csv", b"a"))
        await service.finished(thread, assistant)
        for _ in range(2):
            service.models.script[:] = [calls(python(f"read('a.csv'), read({file_id!r})")), says("Read.")]
            await service.finished(thread, assistant)
            assert "('a!', 'a')" in told_last(service)
            assert listed(service) == ["a.csv"]
            await restart(service)


async def test_a_file_keeps_its_name_whatever_becomes_of_the_others() -> None:
    """The oldest of more than 20 is none of the thread's any more; another one is deleted."""
    read = "read('data.csv'), read('data_2.csv'), read('data_3.csv')"
    async with coding(calls(python(read)), says("Read.")) as service:
        thread, assistant = await service.thread("Go."), await coder(service)
        months = await attach(service, thread, *(("data.csv", month) for month in (b"January", b"February", b"March")))
        await service.finished(thread, assistant)
        assert told_last(service) == "('January', 'February', 'March')"
        await service.api.delete(f"/files/{months[1]}")
        await attach(service, thread, *((f"{n}.txt", b"x") for n in range(17)), ("data.csv", b"April"))
        await restart(service)
        read = "read('data_3.csv'), read('data_4.csv')"
        script = calls(python(read)), calls(python("read('data.csv')", "call_2")), says("Read.")
        service.models.script[:] = script
        await service.finished(thread, assistant)
        restarted = service.prompts[-2].turns[-1].text
        assert "('March', 'April')" in restarted
        assert "[Not among the user's files any more, and so not there: /mnt/data/data.csv.]" in restarted
        assert f"[The file {months[1]} does not exist any more.]" in restarted
        assert "KeyError" in told_last(service), "it is no other file"
        assert [name for name in listed(service) if name.startswith("data")] == [
            "data_3.csv (uploaded as data.csv)",
            "data_4.csv (uploaded as data.csv)",
        ]


async def test_a_file_of_the_users_that_code_has_removed_does_not_come_back() -> None:
    """Nor does it if code has changed it before."""
    script = (
        calls(python("remove('a'); write('b', 'changed')")),
        calls(python("remove('b')", "call_2")),
        says("Removed."),
    )
    sandbox = FakeSandbox()
    async with coding(*script, sandbox=sandbox) as service:
        thread, assistant = await service.thread("Go."), await coder(service)
        a, b, _ = await attach(service, thread, ("a", b"A"), ("b", b"B"), ("c", b"C"))
        await service.finished(thread, assistant)
        await restart(service)
        answer = says(f"{LINK}a {LINK}b {LINK}c {LINK}{a}")
        service.models.script[:] = [calls(python("'a', 'b', 'c'")), answer]
        run = await service.finished(thread, assistant)
        assert {*sandbox.started[1].written} & {"a", "b", "c", a, b} == {"c", a, b}
        assert listed(service) == ["c"]
        assert [path for path, _ in await links(service, run)] == ["c", a]
        (again,) = await attach(service, thread, ("a", b"again"))
        service.models.script[:] = [calls(python("read('a_2')")), says("Read.")]
        await service.finished(thread, assistant)
        assert told_last(service) == "'again'"
        service.models.script[:] = [calls(python("write('a', 'anew')")), says(f"{LINK}a_2")]
        run = await service.finished(thread, assistant)
        assert await links(service, run) == [("a_2", again)]
        assert listed(service) == ["a", "c", "a_2 (uploaded as a)"], "what was removed has been written anew"
        await restart(service)
        service.models.script[:] = [calls(python("read('a'), read('a_2')")), says("Read.")]
        await service.finished(thread, assistant)
        assert "('anew', 'again')" in told_last(service)


async def test_a_file_of_the_users_that_code_has_changed_and_that_is_not_kept_is_gone() -> None:
    """As the model is told: neither a link nor a new interpreter has what the file was before."""
    sandbox = FakeSandbox()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "MOST_KEPT", 40)
        async with coding(calls(python("write('b', 'x' * 50)")), says(f"{LINK}b"), sandbox=sandbox) as service:
            thread, assistant = await service.thread("Go."), await coder(service)
            (b,) = await attach(service, thread, ("b", b"before"))
            run = await service.finished(thread, assistant)
            assert "/mnt/data/b will be lost" in told_last(service)
            assert await links(service, run) == []
            await restart(service)
            service.models.script[:] = [calls(python("1")), says(f"{LINK}b {LINK}{b}")]
            run = await service.finished(thread, assistant)
            assert sandbox.started[1].written == [b]
            assert await links(service, run) == [(b, b)]


async def test_the_model_hears_of_a_file_that_cannot_be_read() -> None:
    """Such as one without permissions."""
    sandbox = FakeSandbox()
    start = sandbox.start

    async def closed(session: str) -> Any:
        interpreter = await start(session)
        read = interpreter.read

        def refusing(path: str) -> Any:
            if path == "closed":
                raise ValueError("it cannot be opened")
            return read(path)

        interpreter.read = refusing  # type: ignore[method-assign]
        return interpreter

    sandbox.start = closed  # type: ignore[method-assign]
    script = calls(python("write('closed', 'x'); write('open', 'y')")), says(f"{LINK}closed {LINK}open")
    async with coding(*script, sandbox=sandbox) as service:
        run = await service.finished(assistant=await coder(service))
        assert [path for path, _ in await links(service, run)] == ["open"]
        assert told_last(service).endswith("[/mnt/data/closed could not be read, and will be lost.]")
        assert model_texts.NOTHING not in told_last(service)


async def test_a_file_that_does_not_fit_has_one_note() -> None:
    """Though it would have two names."""
    sandbox = FakeSandbox()
    start = sandbox.start

    async def small(session: str) -> Any:
        interpreter = await start(session)

        async def refusing(path: str, content: Any) -> None:
            raise ValueError(f"{path} cannot be stored: File too large. A file may have 100 MiB.")

        interpreter.write = refusing  # type: ignore[method-assign]
        return interpreter

    sandbox.start = small  # type: ignore[method-assign]
    async with coding(calls(python("1")), says("Sorry."), sandbox=sandbox) as service:
        thread, assistant = await service.thread("Go."), await coder(service)
        (large,) = await attach(service, thread, ("large.bin", b"x"))
        await service.finished(thread, assistant)
        assert told_last(service) == (
            f"1\n[There is no /mnt/data/{large} or /mnt/data/large.bin: {large} cannot be stored: File too large."
            " A file may have 100 MiB.]"
        )
