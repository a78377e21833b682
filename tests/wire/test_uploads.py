"""/v1/uploads over HTTP: parts become one file, or nothing."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from assistants_service.core.files.service import PATIENCE
from assistants_service.core.files.uploads import LIFETIME
from inprocess_service import InProcess, ManualClock, in_process
from multipart_forms import TYPE, add_part, download, field, form, send_form
from test_files import kept, rest

Json = Any
BODY = {"filename": "big.bin", "purpose": "assistants", "bytes": 9, "mime_type": "application/octet-stream"}
MIB = 1024 * 1024


@pytest.fixture
async def service() -> AsyncIterator[InProcess]:
    async with in_process(clock=ManualClock(), upload_max_mb=70) as one:
        yield one


async def begun(service: InProcess, *parts: bytes, **fields: Any) -> tuple[str, list[str]]:
    """The path of a new upload for these parts, and the ids of the parts."""
    body = {**BODY, "bytes": sum(map(len, parts)) or 9, **fields}
    upload = await service.api.post("/uploads", body)
    return f"/uploads/{upload['id']}", [await add_part(service.api, upload["id"], part) for part in parts]


async def completed(service: InProcess, path: str, *part_ids: str, **fields: Any) -> Json:
    return await service.api.post(f"{path}/complete", {"part_ids": part_ids, **fields})


async def refused(service: InProcess, path: str, *part_ids: str, **fields: Any) -> Json:
    return await service.api.refused("POST", f"{path}/complete", {"part_ids": part_ids, **fields})


async def test_parts_become_a_file_in_the_order_of_the_completion(service: InProcess) -> None:
    created = await service.api.post("/uploads", BODY)
    assert created == {
        "id": created["id"],
        "object": "upload",
        "bytes": 9,
        "created_at": 1_800_000_000,
        "filename": "big.bin",
        "purpose": "assistants",
        "status": "pending",
        "expires_at": 1_800_003_600,
        "file": None,
    }
    sent = [b"one", b"two", b"six"]
    parts = [await add_part(service.api, created["id"], data) for data in sent]
    assert all(part.startswith("part_") for part in parts)
    service.advance(60)
    upload = await completed(service, f"/uploads/{created['id']}", parts[2], parts[0], parts[1])
    file = upload.pop("file")
    assert {**upload, "file": None} == {**created, "status": "completed"}
    assert (file["filename"], file["purpose"], file["bytes"]) == ("big.bin", "assistants", 9)
    assert (file["created_at"], file["expires_at"], file["status"]) == (1_800_000_060, None, "processed")
    assert await service.api.get(f"/files/{file['id']}") == file
    assert (await service.api.get("/files"))["data"] == [file]
    assert (await download(service.api, file["id"])).raw == b"sixonetwo"


async def test_parts_may_come_at_the_same_time_and_of_any_size(service: InProcess) -> None:
    sent = [bytes([n]) * size for n, size in enumerate((1, MIB, MIB + 1, 3 * MIB - 1, 5))]
    upload = await service.api.post("/uploads", {**BODY, "bytes": sum(map(len, sent))})
    parts = await asyncio.gather(*(add_part(service.api, upload["id"], data) for data in sent))
    whole = b"".join(sent)
    path = f"/uploads/{upload['id']}"
    file = (await completed(service, path, *parts, md5=hashlib.md5(whole).hexdigest().upper()))["file"]
    assert (await download(service.api, file["id"])).raw == whole


async def test_a_file_may_expire(service: InProcess) -> None:
    path, parts = await begun(service, b"x" * 9, expires_after={"anchor": "created_at", "seconds": 7200})
    service.advance(600)
    file = (await completed(service, path, *parts))["file"]
    assert file["expires_at"] == file["created_at"] + 7200
    service.advance(7200)
    await service.api.refused("GET", f"/files/{file['id']}", status=404)
    await rest(service)
    assert kept(service) == []


async def test_the_same_completion_again_has_the_same_answer_and_another_is_refused(service: InProcess) -> None:
    path, parts = await begun(service, b"one", b"two")
    upload = await completed(service, path, *parts)
    assert await completed(service, path, *parts) == upload
    error = await refused(service, path, *parts[::-1])
    assert error["message"] == "Cannot complete an upload with status 'completed'."
    await service.api.delete(f"/files/{upload['file']['id']}")
    await rest(service)
    assert await completed(service, path, *parts) == upload
    assert (await service.api.get("/files"))["data"] == []  # a deleted file does not come back


async def test_of_many_completions_at_once_one_order_counts(service: InProcess) -> None:
    path, parts = await begun(service, b"a", b"b", b"c")
    orders = [*itertools.permutations(parts)] * 3
    bodies = [{"part_ids": order} for order in orders]
    answers = await asyncio.gather(*(service.api.send("POST", f"/v1{path}/complete", body) for body in bodies))
    assert {answer.status for answer in answers} == {200, 400}
    won = [order for order, answer in zip(orders, answers, strict=True) if answer.status == 200]
    assert len(won) == 3 and len(set(won)) == 1
    (file,) = (await service.api.get("/files"))["data"]
    content = "".join("abc"[parts.index(part)] for part in won[0])
    assert (await download(service.api, file["id"])).raw == content.encode()


async def test_of_completion_and_cancellation_at_once_one_happens(service: InProcess) -> None:
    for lead in range(8):
        path, parts = await begun(service, b"a", b"b")

        async def late(verb: str, rounds: int, body: Json, path: str = path) -> int:
            for _ in range(rounds):
                await asyncio.sleep(0)
            return (await service.api.send("POST", f"/v1{path}/{verb}", body)).status

        done = await asyncio.gather(late("complete", lead, {"part_ids": parts}), late("cancel", 8 - lead, {}))
        assert sorted(done) == [200, 400]
    await rest(service)
    files = (await service.api.get("/files"))["data"]
    assert kept(service) == sorted(file["id"] for file in files)


async def test_bytes_that_are_others_than_the_md5_end_the_upload(service: InProcess) -> None:
    path, parts = await begun(service, b"one", b"two")
    error = await refused(service, path, *parts, md5=hashlib.md5(b"twoone").hexdigest())
    assert (error["param"], error["code"]) == ("md5", "invalid_value")
    assert hashlib.md5(b"onetwo").hexdigest() in error["message"]
    error = await refused(service, path, *parts)
    assert error["message"] == "Cannot complete an upload with status 'cancelled'."
    await rest(service)
    assert kept(service) == []
    assert (await service.api.get("/files"))["data"] == []


@pytest.mark.parametrize(
    ("chosen", "param"),
    [([0], "part_ids"), ([0, 1, 1], "part_ids"), ([0, None], "part_ids[1]"), ([], "part_ids")],
)
async def test_parts_that_do_not_add_up_are_refused_and_may_be_named_again(
    service: InProcess, chosen: list[int | None], param: str
) -> None:
    path, parts = await begun(service, b"one", b"two")
    named = ["part_unknown" if place is None else parts[place] for place in chosen]
    assert (await refused(service, path, *named))["param"] == param
    assert (await completed(service, path, *parts))["status"] == "completed"


async def test_the_parts_of_another_upload_are_unknown(service: InProcess) -> None:
    path, _ = await begun(service, b"one")
    _, others = await begun(service, b"two")
    assert (await refused(service, path, *others))["param"] == "part_ids[0]"


async def test_a_part_that_is_not_named_is_dropped(service: InProcess) -> None:
    path, parts = await begun(service, b"one", b"twice", b"twice", bytes=8)
    file = (await completed(service, path, *parts[:2]))["file"]
    storage: Any = service.storage
    assert len(await storage.staged("contents", f"default/{file['id']}")) == 2
    assert (await download(service.api, file["id"])).raw == b"onetwice"


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_a_cancelled_upload_takes_nothing_more(service: InProcess) -> None:
    path, parts = await begun(service, b"one")
    upload = await service.api.post(f"{path}/cancel")
    assert (upload["status"], upload["file"]) == ("cancelled", None)
    assert await service.api.post(f"{path}/cancel") == upload
    await takes_nothing(service, path, parts, "cancelled", cancel=False)
    await rest(service)
    assert kept(service) == []


async def test_an_upload_expires_after_an_hour(service: InProcess) -> None:
    path, parts = await begun(service, b"one")
    service.advance(LIFETIME - 1)
    await rest(service)
    await add_part(service.api, path.rpartition("/")[2], b"two")
    await service.stop_worker()
    service.advance(1)
    await takes_nothing(service, path, parts, "expired")
    service.start_worker()
    await rest(service)
    await takes_nothing(service, path, parts, "expired")
    assert kept(service) == []
    service.advance(PATIENCE)
    await rest(service)
    await service.api.refused("POST", f"{path}/cancel", status=404)  # forgotten


async def test_a_completed_upload_cannot_be_cancelled(service: InProcess) -> None:
    path, parts = await begun(service, b"one")
    await completed(service, path, *parts)
    await takes_nothing(service, path, parts[::-1] * 2, "completed")


async def takes_nothing(service: InProcess, path: str, parts: list[str], status: str, *, cancel: bool = True) -> None:
    answer = await send_form(service.api, f"{path}/parts", form(field("data", b"more", "blob")))
    assert (answer.status, answer.error["message"]) == (400, f"Cannot add parts to an upload with status '{status}'.")
    error = await refused(service, path, *parts)
    assert error["message"] == f"Cannot complete an upload with status '{status}'."
    if cancel:
        error = await service.api.refused("POST", f"{path}/cancel")
        assert error["message"] == f"Cannot cancel an upload with status '{status}'."


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"bytes": 70 * MIB + 1}, "bytes", "integer_above_max_value"),
        ({"bytes": 0}, "bytes", "integer_below_min_value"),
        ({"bytes": "9"}, "bytes", "invalid_type"),
        ({"bytes": None}, "bytes", "invalid_type"),
        ({"purpose": "world_domination"}, "purpose", "invalid_value"),
        ({"filename": ".."}, "filename", "invalid_value"),
        ({"filename": "a\nb"}, "filename", "invalid_value"),
        ({"mime_type": ""}, "mime_type", "string_below_min_length"),
        ({"expires_after": {"anchor": "created_at"}}, "expires_after.seconds", "missing_required_parameter"),
        ({"model": "x"}, "model", "unknown_parameter"),
    ],
)
async def test_a_wrong_upload_is_refused(service: InProcess, change: Json, param: str, code: str) -> None:
    error = await service.api.refused("POST", "/uploads", {**BODY, **change})
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"md5": "abc"}, "md5", "invalid_value"),
        ({"md5": "g" * 32}, "md5", "invalid_value"),
        ({"part_ids": None}, "part_ids", "invalid_type"),
        ({"part_ids": [1]}, "part_ids[0]", "invalid_type"),
        ({"part_ids": ["part_1"] * 10_001}, "part_ids", "array_above_max_length"),
        ({"order": []}, "order", "unknown_parameter"),
    ],
)
async def test_a_wrong_completion_is_refused(service: InProcess, change: Json, param: str, code: str) -> None:
    path, parts = await begun(service, b"one")
    error = await service.api.refused("POST", f"{path}/complete", {"part_ids": parts, **change})
    assert (error["param"], error["code"]) == (param, code)


async def test_an_unknown_upload_is_told_before_its_body_is_read(service: InProcess) -> None:
    for path, body in (("parts", b"x"), ("complete", b'{"part_ids": ["a"]}'), ("cancel", b"")):
        for unknown in ("upload_unknown", "%2e%2e%2f", "x" * 200):
            answer = await service.api.send("POST", f"/v1/uploads/{unknown}/{path}", data=body)
            assert (answer.status, answer.error["param"]) == (404, "id"), (unknown, path, answer.raw)


async def test_wrong_parts_are_refused(service: InProcess) -> None:
    path, _ = await begun(service, b"one")
    for data, param in (
        (form(field("data", b"", "blob")), "data"),
        (form(), "data"),
        (form(field("file", b"x", "blob")), "file"),
        (form(field("data", b"x"), field("data", b"x")), "data"),
        (b"x", None),
    ):
        answer = await send_form(service.api, f"{path}/parts", data)
        assert (answer.status, answer.error["param"]) == (400, param), answer.raw


@pytest.mark.parametrize("announced", [True, False])
async def test_a_part_has_64_mebibytes_at_most_and_an_upload_its_limit(service: InProcess, announced: bool) -> None:
    path, _ = await begun(service, b"one", bytes=70 * MIB)

    async def chunks(size: int) -> AsyncIterator[bytes]:
        head, tail = form(field("data", b"\0", "blob")).split(b"\0")
        yield head
        for start in range(0, size, MIB):
            yield bytes(min(MIB, size - start))
        yield tail

    def sending(size: int) -> Any:
        length = {"Content-Length": str(size + len(form(field("data", b"", "blob"))))} if announced else {}
        return service.api.send("POST", f"/v1{path}/parts", data=chunks(size), headers={**TYPE, **length})

    assert (await sending(64 * MIB + 100_000)).status == 413
    assert kept(service) != []
    assert (await sending(64 * MIB)).status == 200
    assert (await sending(6 * MIB)).status == 200
    answer = await sending(1)
    assert (answer.status, answer.error["param"]) == (400, "data")
    assert "can have at most" in answer.error["message"]


async def test_an_upload_is_created_once_for_a_key(service: InProcess) -> None:
    headers = {"Idempotency-Key": "key"}
    answers = [await service.api.send("POST", "/v1/uploads", BODY, headers=headers) for _ in range(2)]
    assert answers[0].body == answers[1].body
    other = await service.api.send("POST", "/v1/uploads", {**BODY, "bytes": 8}, headers=headers)
    assert other.error["code"] == "idempotency_key_reused"
