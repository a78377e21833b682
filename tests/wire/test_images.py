"""Images of messages that are files: what the model gets of them."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from assistants_service.core.ports.models import Image, Turn
from assistants_service.core.protocol.threads.resources import ImageFile, ImageFilePart, Message, Thread
from assistants_service.core.threads import events as e
from assistants_service.worker import images
from inprocess_service import InProcess, calls, in_process, says
from multipart_forms import file_form, send_form
from test_wire_tools import PARIS, WEATHER

Json = Any
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
WEBP = b"RIFF\x06\x00\x00\x00WEBPVP8 "


async def file(service: InProcess, data: bytes, name: str = "x.png", purpose: str = "vision") -> str:
    return str((await send_form(service.api, "/files", file_form(data, name, purpose=purpose))).body["id"])


def picture(file_id: str, **fields: str) -> Json:
    return {"type": "image_file", "image_file": {"file_id": file_id, **fields}}


async def thread(service: InProcess, *parts: Json) -> str:
    return str((await service.api.post("/threads", {"messages": [{"role": "user", "content": list(parts)}]}))["id"])


async def logged(service: InProcess, project: str, file_id: str) -> str:
    """A thread whose log has a message with this image, which no request brings there."""
    image = ImageFilePart(image_file=ImageFile(file_id=file_id))
    message = Message(id="msg_1", created_at=1, thread_id="thread_1", role="user", content=(image,))
    events = [e.ThreadCreated(thread=Thread(id="thread_1", created_at=1)), e.MessageCreated(message=message)]
    await service.threads.start(project, "thread_1", events)
    return "thread_1"


def data_url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("data", "kind"),
    [(PNG, "png"), (b"\xff\xd8\xff\xe0", "jpeg"), (b"GIF89a", "gif"), (b"GIF87a", "gif"), (WEBP, "webp")],
)
@pytest.mark.parametrize("purpose", ["vision", "assistants"])
async def test_an_image_reaches_the_model_as_data(data: bytes, kind: str, purpose: str) -> None:
    """By its content: the name says something else."""
    async with in_process() as service:
        file_id = await file(service, data, "picture.txt", purpose)
        url = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}
        text = {"type": "text", "text": "What is this?"}
        run = await service.finished(await thread(service, text, picture(file_id, detail="high"), url))
        (turn,) = service.prompts[0].turns
    assert run["status"] == "completed"
    assert turn.text == "What is this?"
    assert turn.images == ((data_url(kind, data), "high"), ("https://x.test/a.png", "auto"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<svg/>", "it is not PNG, JPEG, GIF or WebP"),
        (PNG + b"x" * 100, "it has 114 bytes; the limit is 64"),
        (None, "the file does not exist"),
    ],
)
async def test_an_image_that_cannot_be_used_fails_the_run_that_was_to_look_at_it(
    data: bytes | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "LARGEST", 64)
    async with in_process() as service:
        file_id = await file(service, data or PNG)
        talk = await thread(service, picture(file_id))
        if data is None:
            await service.api.delete(f"/files/{file_id}")
        run = await service.finished(talk)
        assert service.prompts == []
    assert run["status"] == "failed"
    assert run["last_error"] == {"code": "invalid_prompt", "message": f"The image {file_id} cannot be used: {reason}."}


@pytest.mark.parametrize("file_id", ["../other/file-1", "file-1/../../x", "a\nb"])
async def test_what_is_no_id_is_no_way_into_the_store(file_id: str) -> None:
    """Neither by a request, nor from a log that has it."""
    async with in_process() as service:
        asked, get = [], service.storage.get

        async def noting(container: str, name: str) -> Any:
            asked.append(name)
            return await get(container, name)

        service.storage.get = noting  # type: ignore[method-assign]
        body = {"messages": [{"role": "user", "content": [picture(file_id)]}]}
        assert (await service.api.send("POST", "/v1/threads", body)).status in (400, 404)
        run = await service.finished(await logged(service, "default", file_id))
    assert (run["status"], run["last_error"]["code"]) == ("failed", "invalid_prompt")
    assert not any(file_id in name for name in asked)


async def test_another_projects_image_is_unknown() -> None:
    async with in_process(api_keys="a:ka,b:kb") as service:
        mine, theirs = service.client("ka"), service.client("kb")
        file_id = (await send_form(theirs, "/files", file_form(PNG, "x.png", purpose="vision"))).body["id"]
        assistant = (await mine.post("/assistants", {"model": "gpt-4o"}))["id"]
        body = {"assistant_id": assistant, "thread": {"messages": [{"role": "user", "content": [picture(file_id)]}]}}
        error = await mine.refused("POST", "/threads/runs", body, status=404)
        assert error["message"] == f"No such File object: {file_id}"
        talk = await logged(service, "a", file_id)
        await service.until(
            await mine.post(f"/threads/{talk}/runs", {"assistant_id": assistant}), "failed", project="a"
        )


async def test_an_image_that_is_gone_since_it_was_talked_about_leaves_a_note() -> None:
    async with in_process() as service:
        file_id = await file(service, PNG)
        talk = await thread(service, {"type": "text", "text": "What is this?"}, picture(file_id))
        assistant = await service.assistant()
        await service.finished(talk, assistant)
        await service.api.delete(f"/files/{file_id}")
        await service.api.post(f"/threads/{talk}/messages", {"role": "user", "content": "And now?"})
        run = await service.finished(talk, assistant)
        turn = service.prompts[1].turns[0]
    assert run["status"] == "completed"
    assert turn.images == ()
    note = f"[The image {file_id} is not shown: the file does not exist.]"
    assert turn.text == f"What is this?\n{note}"


@pytest.mark.parametrize("url", ["https://x.test/a.png", "data:image/png;base64,AAAA", None])
async def test_an_image_of_an_assistant_s_message_is_named(url: str | None) -> None:
    """It is never an empty turn: many servers refuse these."""
    async with in_process() as service:
        file_id = await file(service, PNG)
        image = {"type": "image_url", "image_url": {"url": url}} if url else picture(file_id)
        messages = [{"role": "assistant", "content": [image]}, {"role": "user", "content": "Again?"}]
        run = await service.finished((await service.api.post("/threads", {"messages": messages}))["id"])
        turn = service.prompts[0].turns[0]
    assert run["status"] == "completed"
    assert turn == Turn("assistant", f"[image {(url or file_id).partition(',')[0]}]")


async def test_texts_and_images_keep_their_order() -> None:
    """What is gone since it was talked about as well: its note stands in its place."""
    async with in_process() as service:
        there, gone = [await file(service, PNG) for _ in range(2)]
        texts = [{"type": "text", "text": text} for text in ("Compare this", "with this", "and this.", "Please.")]
        url = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}
        talk = await thread(service, texts[0], picture(there), texts[1], url, *texts[2:], picture(gone))
        assistant = await service.assistant()
        await service.finished(talk, assistant)
        await service.api.delete(f"/files/{gone}")
        await service.api.post(f"/threads/{talk}/messages", {"role": "user", "content": "And now?"})
        await service.finished(talk, assistant)
        first, later = (prompt.turns[0].content for prompt in service.prompts)
    data, linked = Image(data_url("png", PNG)), Image("https://x.test/a.png")
    assert first == ("Compare this", data, "with this", linked, "and this.\nPlease.", data)
    note = f"[The image {gone} is not shown: the file does not exist.]"
    assert later == ("Compare this", data, "with this", linked, f"and this.\nPlease.\n{note}")


async def test_an_image_is_read_once_for_all_turns_of_a_run() -> None:
    async with in_process(calls(PARIS), says("Done.")) as service:
        reads = counted(service)
        file_id = await file(service, PNG)
        run = await service.finished(await thread(service, picture(file_id)), await service.assistant(tools=[WEATHER]))
        run = await service.answered(run, call_a="sun")
        assert [len(prompt.turns[0].images) for prompt in service.prompts] == [1, 1]
    assert run["status"] == "completed"
    assert len(reads) == 1


def counted(service: InProcess) -> list[str]:
    """The names of the contents that are read from here on."""
    names: list[str] = []
    download = service.storage.download

    def noting(container: str, name: str, **given: Any) -> Any:
        names.append(name)
        return download(container, name, **given)

    service.storage.download = noting  # type: ignore[method-assign]
    return names


async def test_what_is_remembered_of_images_is_bounded() -> None:
    async with in_process() as service:
        kept = images.Images(service_files(service), kept=200)
        for _ in range(3):
            for data in (PNG + b"1" * 50, PNG + b"2" * 50, PNG + b"3" * 50):
                file_id = await file(service, data)
                url = await kept._url("default", file_id)
                assert url == await kept._url("default", file_id) == data_url("png", data)
                assert 0 < sum(map(len, kept._urls.values())) <= 200


def service_files(service: InProcess) -> Any:
    from assistants_service.core.files.service import FileService

    return FileService(service.storage, service.parts.clock, service.notifier)


async def test_of_too_many_images_the_newest_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST", 2 * len(PNG))
    async with in_process() as service:
        ids = [await file(service, PNG) for _ in range(3)]
        talk = await thread(service, picture(ids[0]))
        assistant = await service.assistant()
        await service.finished(talk, assistant)
        for each in ids[1:]:
            await service.api.post(f"/threads/{talk}/messages", {"role": "user", "content": [picture(each)]})
        await service.finished(talk, assistant)
        oldest, _, *newest = service.prompts[1].turns
    assert [len(turn.images) for turn in (oldest, *newest)] == [0, 1, 1]
    assert (
        oldest.text
        == f"[The image {ids[0]} is not shown: together, the images of a prompt have more than {2 * len(PNG)} bytes.]"
    )
