"""/v1/files over HTTP: what goes in comes out, and what is wrong is refused by name."""

from __future__ import annotations

import asyncio
import encodings
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from assistants_service.core import names
from assistants_service.core.files.service import BATCH_LIFETIME, MARGIN, PATIENCE
from assistants_service.core.ports.storage import StorageUnavailable
from inprocess_service import InProcess, ManualClock, in_process
from multipart_forms import BOUNDARY, TYPE, download, field, file_form, form, send_form, upload

Json = Any
DAY = 24 * 3600
NAMES = ("purpose", "expires_after[anchor]", "expires_after[seconds]")


@pytest.fixture
async def service() -> AsyncIterator[InProcess]:
    async with in_process(clock=ManualClock(), file_max_mb=8) as one:
        yield one


def kept(service: InProcess) -> list[str]:
    """The files of which any byte is in the store."""
    storage: Any = service.storage
    rows = storage._sql.execute("SELECT name FROM chunks UNION SELECT name FROM contents")
    return sorted(name.partition("/")[2] for (name,) in rows)


async def rest(service: InProcess) -> None:
    """Until the worker has nothing to do that is due by now."""
    storage: Any = service.storage
    due = "SELECT count(*) FROM queue WHERE visible_at<=? OR count>0"
    while storage._sql.execute(due, (service.parts.clock.now(),)).fetchone()[0]:
        service.notifier.notify("work")
        await asyncio.sleep(0.001)


# --- what goes in comes out -------------------------------------------------------------------------------------------


async def test_a_file_is_created_found_and_deleted(service: InProcess) -> None:
    made = await upload(service.api, b"some notes", "notes.txt")
    assert made == {
        "object": "file",
        "id": made["id"],
        "purpose": "assistants",
        "filename": "notes.txt",
        "bytes": 10,
        "created_at": 1_800_000_000,
        "expires_at": None,
        "status": "processed",
        "status_details": None,
    }
    assert made["id"].startswith("file-")
    path = f"/files/{made['id']}"
    assert await service.api.get(path) == made
    assert await service.api.delete(path) == {"object": "file", "id": made["id"], "deleted": True}
    for answer in [await service.api.send(method, f"/v1{path}") for method in ("GET", "DELETE")]:
        assert (answer.status, answer.error["param"]) == (404, "id")
        assert answer.body["detail"] == {"message": f"No such File object: {made['id']}", "code": None}
    await service.api.refused("GET", f"{path}/content", status=404)
    await rest(service)
    assert kept(service) == []


CONTENTS = {
    "every byte": bytes(range(256)) * 9,
    "one byte": b"\n",
    "line ends": b"\r\n" * 40_000,
    "a boundary, almost": f"\r\n--{BOUNDARY[:-1]}\r\n--".encode() * 5000,
    "the end of a chunk": random.Random(1).randbytes(1024 * 1024),
    "beyond a chunk": random.Random(2).randbytes(3 * 1024 * 1024 + 1),
}


@pytest.mark.parametrize("name", CONTENTS)
async def test_a_download_has_the_bytes_of_the_upload(service: InProcess, name: str) -> None:
    content = CONTENTS[name]
    made = await upload(service.api, content)
    assert made["bytes"] == len(content)
    answer = await download(service.api, made["id"])
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(content)))
    assert answer.raw == content


async def test_fields_may_come_after_the_file_and_bytes_one_by_one(service: InProcess) -> None:
    late = {"purpose": "user_data", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    data = form(field("file", b"first", "a.txt"), *(field(name, value) for name, value in late.items()))

    async def one_by_one() -> AsyncIterator[bytes]:
        for byte in data:
            yield bytes([byte])

    answer = await send_form(service.api, "/files", one_by_one())
    assert (answer.status, answer.body["purpose"], answer.body["bytes"]) == (200, "user_data", 5)
    assert answer.body["expires_at"] == answer.body["created_at"] + 3600
    assert (await download(service.api, answer.body["id"])).raw == b"first"


async def test_a_range_of_a_file_can_be_downloaded(service: InProcess) -> None:
    content = random.Random(3).randbytes(2_500_000)
    file_id = (await upload(service.api, content))["id"]
    for asked, found in {
        "bytes=0-0": slice(0, 1),
        "bytes=1048570-1048580": slice(1048570, 1048581),
        "bytes=2000000-": slice(2_000_000, None),
        "bytes=-5": slice(-5, None),
        "bytes=9-99999999": slice(9, None),
    }.items():
        answer = await download(service.api, file_id, Range=asked)
        assert (answer.status, answer.raw) == (206, content[found]), asked
        start, stop, _ = found.indices(len(content))
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(content)}"
    for whole in ("bytes=0-1,5-6", "lines=1-2", "bytes=-", "bytes=5-1", "bytes=x"):
        answer = await download(service.api, file_id, Range=whole)
        assert (answer.status, answer.raw) == (200, content), whole
    answer = await download(service.api, file_id, Range="bytes=2500000-")
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */2500000")
    head = await service.api.send("HEAD", f"/v1/files/{file_id}/content")
    assert (head.status, head.headers["Content-Length"], head.raw) == (200, "2500000", b"")


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("notes.txt", "notes.txt"),
        ("Grüße 日本語.pdf", "Grüße 日本語.pdf"),
        ("../../etc/passwd", "passwd"),
        (r"C:\Users\me\cv.docx", "cv.docx"),
        ("<script>alert(1)</script>.html", "script>.html"),
        ("a;b=c,d'e.txt", "a;b=c,d'e.txt"),
        ("%22quoted%22.txt", '"quoted".txt'),
        ("Bildschirmfoto 9.41\u202fUhr.png", "Bildschirmfoto 9.41\u202fUhr.png"),
        ("x" * 255, "x" * 255),
    ],
)
async def test_a_name_is_kept_and_a_download_is_no_page(service: InProcess, sent: str, shown: str) -> None:
    made = await upload(service.api, b"<script>alert(1)</script>", sent)
    assert made["filename"] == shown
    headers = (await download(service.api, made["id"])).headers
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    disposition = headers["Content-Disposition"]
    assert disposition.isascii() and disposition.startswith('attachment; filename="')
    assert disposition.count('"') == 2


# --- lists ------------------------------------------------------------------------------------------------------------


async def test_files_are_listed_newest_first_in_pages_and_by_purpose(service: InProcess) -> None:
    purposes = ("assistants", "vision", "user_data")
    made = [await upload(service.api, b"x", f"{n}.txt", purpose=purposes[n % 3]) for n in range(7)]
    ids = [file["id"] for file in made]
    page = await service.api.get("/files")
    assert page == {
        "object": "list",
        "data": made[::-1],
        "first_id": ids[6],
        "last_id": ids[0],
        "has_more": False,
    }
    seen, query = [], "/files?limit=3&order=asc"
    while (page := await service.api.get(query))["data"]:
        seen += [file["id"] for file in page["data"]]
        assert page["has_more"] is (len(seen) < 7)
        query = f"/files?limit=3&order=asc&after={page['last_id']}"
    assert seen == ids
    page = await service.api.get("/files?purpose=vision&limit=1")
    assert ([file["id"] for file in page["data"]], page["has_more"]) == ([ids[4]], True)
    page = await service.api.get(f"/files?purpose=vision&after={ids[4]}")
    assert ([file["id"] for file in page["data"]], page["has_more"]) == ([ids[1]], False)
    empty = await service.api.get("/files?purpose=evals")
    assert (empty["data"], empty["first_id"], empty["last_id"], empty["has_more"]) == ([], None, None, False)


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [("limit=0", 400, "limit"), ("limit=10001", 400, "limit"), ("order=up", 400, "order"), ("after=%20", 404, "id")],
)
async def test_a_list_that_cannot_be_is_refused(service: InProcess, query: str, status: int, param: str) -> None:
    assert (await service.api.refused("GET", f"/files?{query}", status=status))["param"] == param
    assert (await service.api.get("/files?limit=10000"))["data"] == []


# --- names ------------------------------------------------------------------------------------------------------------

CHINESE = "新建文本文档.txt"
PERCENT = "%E6%96%B0%E5%BB%BA%E6%96%87%E6%9C%AC%E6%96%87%E6%A1%A3.txt"
MIME = "=?utf-8?B?5paw5bu65paH5pys5paH5qGjLnR4dA==?="

# What clients send behind `Content-Disposition: form-data; name=file; `, and the name that they mean. Seen with curl
# 7.88, requests 2.34, httpx2 2.16, aiohttp 3.14 and undici of Node.js 20; .NET: https://github.com/dotnet/core/issues/782
# and https://github.com/PowerShell/PowerShell/issues/19456; urllib3: https://github.com/psf/requests/issues/4652;
# ISO-8859-1: https://github.com/OctoPrint/OctoPrint/issues/1483. Text around encoded words: RFC 2047, section 6.2.
SENT = {
    ".NET": (f"""filename="{MIME}"; filename*=utf-8''{PERCENT}""", CHINESE),
    ".NET, ASCII": ("filename=notes.txt; filename*=utf-8''notes.txt", "notes.txt"),
    "PowerShell": (
        'filename="=?utf-8?B?S3XMiG5kaWd1bmdfTXVzdGVybWFubl9NYXguVFRBXzIwMjNfMDFfMzAucGRm?="; '
        "filename*=utf-8''Ku%CC%88ndigung_Mustermann_Max.TTA_2023_01_30.pdf",
        "Ku\u0308ndigung_Mustermann_Max.TTA_2023_01_30.pdf",
    ),
    ".NET without FileNameStar": (f'filename="{MIME}"', CHINESE),
    "base64 with slashes": ('filename="=?utf-8?B?w7/Dv8O/Lm1k?="', "ÿÿÿ.md"),
    "RFC 2047, Q": ('filename="=?ISO-8859-1?Q?na=EFve_one.txt?="', "naïve one.txt"),
    "RFC 2047, two words": ('filename="=?UTF-8?Q?=C3=A9?= =?UTF-8?B?w7wudHh0?="', "éü.txt"),
    "RFC 2047, one character in two words": ('filename="=?UTF-8?Q?=C3?= =?UTF-8?Q?=A9.txt?="', "é.txt"),
    "RFC 2047, text around": ('filename="a=?UTF-8?Q?=C3=A9?=b =?UTF-8?Q?=C3=A9?= c.txt"', "aéb é c.txt"),
    "RFC 2047, a kind of its own": ('filename="=?utf-8?B?5paw5bu6?=.txt"', "新建.txt"),
    "RFC 2047, characters around": (f'filename="{CHINESE} =?utf-8?B?5paw5bu6?="', f"{CHINESE} 新建"),
    "curl on Windows, ISO-8859-1": ('filename="Gr\udcfc\udcdfe.txt"', "Grüße.txt"),
    "Windows-1252": ('filename="5 \udc80.txt"', "5 €.txt"),
    "UTF-8 with bytes that are spaces in ISO-8859-1": ('filename=" à"', " à"),
    "urllib3 1.24": (f"filename*=utf-8''{PERCENT}", CHINESE),
    "npm urllib": (f"""filename="{CHINESE}"; filename*=UTF-8''{PERCENT}""", CHINESE),
    "a fallback in ASCII": (f"""filename="____.txt"; filename*=utf-8''{PERCENT}""", CHINESE),
    "the other order": (f"""filename*=utf-8''{PERCENT}; filename="____.txt\"""", CHINESE),
    "quoted": (f"""filename*="UTF-8''{PERCENT}\"""", CHINESE),
    "ISO-8859-1": ("FileName*=iso-8859-1'de'Gr%FC%DFe.txt", "Grüße.txt"),
    "RFC 2231, continued": ("filename*0*=utf-8''Gr%C3%BC; filename*1*=%C3%9Fe.txt", "Grüße.txt"),
    "curl, requests, httpx, undici, axios": (f'filename="{CHINESE}"', CHINESE),
    "curl, requests, undici: quotes": ('filename="a%22b;c.txt"', 'a"b;c.txt'),
    "aiohttp, unquoted": ('filename="a\\"b;c.txt"', 'a"b;c.txt'),
    "a percent sign": ('filename="50% off.txt"', "50% off.txt"),
    "aiohttp: as every server takes it": ('filename="Gr%C3%BC%C3%9Fe.txt"', "Gr%C3%BC%C3%9Fe.txt"),
    "a path": ("""filename="x.txt"; filename*=utf-8''..%2F..%5Cetc%2Fpasswd""", "passwd"),
    "a parameter within a name": ("""filename="a; filename*=utf-8''b.txt\"""", "a; filename*=utf-8''b.txt"),
    "no such charset": ("""filename="x.txt"; filename*=klingon''%A4""", "x.txt"),
    "not in its charset": ("""filename="x.txt"; filename*=utf-8''%A4""", "x.txt"),
    "given twice": ("filename*=UTF-8''a.txt; filename*=UTF-8''b.txt", "b.txt"),
    "nothing encoded": ("""filename*=UTF-8''; filename="x.txt\"""", "x.txt"),
    "not encoded": ("filename*=UTF-8''naïve.txt", "naïve.txt"),
    "not encoded, ISO-8859-1": ("filename*=ISO-8859-1''na\udcefve.txt", "naïve.txt"),
    "RFC 2231, quoted": ("""filename*0="abc"; filename*1="def.txt\"""", "abcdef.txt"),
    "RFC 2231, mixed": ("""filename*0*=utf-8'de'Gr%C3%BC; filename*1="%C3 a.txt\"""", "Grü%C3 a.txt"),
    "RFC 2231, without its first piece": ("""filename*1="def.txt"; filename="x.txt\"""", "x.txt"),
    "RFC 2231, a language": ('filename="=?utf-8*de?Q?Gr=C3=BC=C3=9Fe.txt?="', "Grüße.txt"),
    "no charset": ("""filename*=b.txt; filename="x.txt\"""", "x.txt"),
    "no encoded word": ('filename="=?what?.txt"', "=?what?.txt"),
    "an unknown charset": ('filename="=?klingon?B?eA==?=.txt"', "=?klingon?B?eA==?=.txt"),
    "a broken word": ('filename="=?utf-8?B?e?=.txt"', "=?utf-8?B?e?=.txt"),
}


def named(sent: str, name: str = "file") -> bytes:
    """The field of a file whose Content-Disposition ends like this."""
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name={name}; {sent}\r\n\r\n"
    return head.encode(errors="surrogateescape") + b"content\r\n"


@pytest.mark.parametrize(("sent", "name"), SENT.values(), ids=SENT)
async def test_a_file_has_the_name_that_its_client_means(service: InProcess, sent: str, name: str) -> None:
    answer = await send_form(service.api, "/files", form(field("purpose", "assistants"), named(sent)))
    assert answer.status == 200, answer.raw
    assert answer.body["filename"] == name


@pytest.mark.parametrize("name", ["a%00b", "a%0D%0Ab", "a%2F..", "%78" * 256])
async def test_an_encoded_name_is_checked_as_any_other(service: InProcess, name: str) -> None:
    sent = named(f"filename=a.txt; filename*=utf-8''{name}")
    answer = await send_form(service.api, "/files", form(field("purpose", "assistants"), sent))
    assert (answer.status, answer.error["param"]) == (400, "filename")


async def test_a_field_whose_name_is_no_utf_8_is_unknown(service: InProcess) -> None:
    sent = field("purpose", "assistants"), b'--%s\r\nContent-Disposition: form-data; name="\xfc"\r\n\r\nx\r\n'
    answer = await send_form(service.api, "/files", form(sent[0], sent[1] % BOUNDARY.encode()))
    assert (answer.status, answer.error["message"]) == (400, "Unknown parameter: 'ü'.")


async def test_unknown_charsets_are_not_kept_in_memory(service: InProcess) -> None:
    for sent in ("filename=a.txt; filename*=klingon-1''%A4", 'filename="=?klingon-2?B?eA==?="'):
        await send_form(service.api, "/files", form(field("purpose", "assistants"), named(sent)))
    assert not [name for name in encodings._cache if "klingon" in name]


async def test_a_part_of_an_upload_may_be_named_in_any_way(service: InProcess) -> None:
    wanted = {"filename": "a.txt", "purpose": "assistants", "bytes": 7, "mime_type": "text/plain"}
    path = f"/uploads/{(await service.api.post('/uploads', wanted))['id']}/parts"
    for sent, _ in SENT.values():
        answer = await send_form(service.api, path, form(named(sent, "data")))
        assert answer.status == 200, answer.raw


# --- refusals ---------------------------------------------------------------------------------------------------------

GOOD = field("purpose", "assistants")
FILE = field("file", b"content", "a.txt")
REFUSED: dict[str, tuple[bytes, str | None, str | None]] = {  # the form, and param and code of the error
    "no file": (form(GOOD), "file", "missing_required_parameter"),
    "an empty form": (form(), "file", "missing_required_parameter"),
    "no purpose": (form(FILE), "purpose", "missing_required_parameter"),
    "an empty purpose": (form(field("purpose", ""), FILE), "purpose", "missing_required_parameter"),
    "an empty file": (form(GOOD, field("file", b"", "a.txt")), "file", None),
    "a file without a name": (form(GOOD, field("file", b"content")), "filename", "missing_required_parameter"),
    "a file with an empty name": (form(GOOD, field("file", b"content", "")), "filename", "invalid_value"),
    "a name that is a folder": (form(GOOD, field("file", b"content", "a/..")), "filename", "invalid_value"),
    "a name with a line end": (form(GOOD, field("file", b"content", "a%0D%0Ab")), "filename", "invalid_value"),
    "a name with a zero": (form(GOOD, field("file", b"content", "a\0b")), "filename", "invalid_value"),
    "a long name": (form(GOOD, field("file", b"content", "x" * 256)), "filename", "string_above_max_length"),
    "two files": (form(GOOD, FILE, FILE), "file", "invalid_value"),
    "two purposes": (form(GOOD, GOOD, FILE), "purpose", "invalid_value"),
    "an unknown field": (form(GOOD, field("model", "x"), FILE), "model", "unknown_parameter"),
    "an unknown field behind the file": (form(GOOD, FILE, field("model", "x")), "model", "unknown_parameter"),
    "a purpose of the service's own": (form(field("purpose", "assistants_output"), FILE), "purpose", None),
    "a long purpose": (form(field("purpose", "x" * 5000), FILE), "purpose", "string_above_max_length"),
    "a purpose that is no text": (form(field("purpose", b"\xff\xfe"), FILE), "purpose", None),
    "an expiry without seconds": (
        form(GOOD, field(NAMES[1], "created_at"), FILE),
        "expires_after.seconds",
        "missing_required_parameter",
    ),
    "an expiry from elsewhere": (
        form(GOOD, field(NAMES[1], "last_active_at"), field(NAMES[2], "3600"), FILE),
        "expires_after.anchor",
        "invalid_value",
    ),
    "an expiry that is no number": (
        form(GOOD, field(NAMES[1], "created_at"), field(NAMES[2], "an hour"), FILE),
        "expires_after.seconds",
        "invalid_type",
    ),
    "an expiry that is too soon": (
        form(GOOD, field(NAMES[1], "created_at"), field(NAMES[2], "3599"), FILE),
        "expires_after.seconds",
        "integer_below_min_value",
    ),
    "an expiry that is too late": (
        form(GOOD, field(NAMES[1], "created_at"), field(NAMES[2], "2592001"), FILE),
        "expires_after.seconds",
        "integer_above_max_value",
    ),
    "no form": (b"content", None, None),
    "nothing": (b"", None, None),
    "a form that breaks off": (form(GOOD, FILE)[:-6], None, None),
    "a form that breaks off in the file": (form(GOOD, FILE)[:-40], None, None),
    "a field without a name": (form(GOOD, FILE).replace(b' name="file";', b""), "", "unknown_parameter"),
    "a head without an end": (f"--{BOUNDARY}\r\n".encode() + b"x" * 9000, None, None),
    "many heads": (f"--{BOUNDARY}\r\n".encode() + b"X-A: b\r\n" * 99 + form(GOOD, FILE), None, None),
    "a head that is no text": (form(GOOD, FILE).replace(b"Content-Disposition", b"Content\xff"), None, None),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_wrong_form_is_refused_and_leaves_nothing(service: InProcess, name: str) -> None:
    data, param, code = REFUSED[name]
    answer = await send_form(service.api, "/files", data)
    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, param, code), answer.raw
    assert (await service.api.get("/files"))["data"] == []
    assert kept(service) == []


@pytest.mark.parametrize(
    "kind", ["application/json", "multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed", "", "x"]
)
async def test_a_body_that_is_no_form_is_refused(service: InProcess, kind: str) -> None:
    answer = await service.api.send("POST", "/v1/files", data=form(GOOD, FILE), headers={"Content-Type": kind})
    assert answer.status == 400
    assert "multipart/form-data" in answer.error["message"]


@pytest.mark.parametrize("announced", [True, False])
async def test_a_file_that_is_too_large_is_refused(service: InProcess, announced: bool) -> None:
    limit = 8 * 1024 * 1024
    data = file_form(b"x" * (limit + (100_000 if announced else 1)))

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1_000_000):
            yield data[start : start + 1_000_000]

    answer = await send_form(service.api, "/files", data if announced else chunks())
    assert (answer.status, answer.error["param"]) == (413, "file")
    assert str(limit) in answer.error["message"]
    assert kept(service) == []
    assert (await upload(service.api, b"x" * limit))["bytes"] == limit


async def test_a_wrong_purpose_is_refused_before_the_file_comes(service: InProcess) -> None:
    data = form(field("purpose", "world_domination"), field("file", b"x" * 5_000_000, "a.txt"))
    reader, writer = await asyncio.open_connection(service.url.host, service.url.port)
    writer.write(head_of(len(data)) + data[:500])
    assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
    storage: Any = service.storage
    assert storage._sql.execute("SELECT count(*) FROM queue").fetchone()[0] == 0
    writer.close()


def head_of(length: int) -> bytes:
    head = f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: {TYPE['Content-Type']}\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode()


async def test_a_client_that_goes_away_leaves_nothing(service: InProcess) -> None:
    data = file_form(b"x" * 3_000_000)
    reader, writer = await asyncio.open_connection(service.url.host, service.url.port)
    writer.write(head_of(len(data)) + data[:2_000_000])
    while not kept(service):
        await asyncio.sleep(0.001)
    writer.close()
    while kept(service):
        await asyncio.sleep(0.001)
    assert (await service.api.get("/files"))["data"] == []
    assert await reader.read() == b""


async def test_a_file_that_takes_a_day_to_come_is_refused(service: InProcess) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield file_form(b"x" * 2_000_000)[:-5]
        while not kept(service):
            await asyncio.sleep(0.001)
        service.advance(PATIENCE)
        await rest(service)
        assert kept(service) == []
        yield file_form(b"x")[-5:]

    assert (await send_form(service.api, "/files", chunks())).status == 408
    assert kept(service) == []


# --- expiry -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [3600, 30 * DAY])
async def test_an_expired_file_is_unknown_at_once_and_removed_soon(service: InProcess, seconds: int) -> None:
    expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(seconds)}
    file = await upload(service.api, b"not for long", **expiry)
    other = await upload(service.api, b"for ever")
    assert file["expires_at"] == file["created_at"] + seconds
    for _ in range(seconds // 1800 - 1):
        service.advance(1800)
        await rest(service)
    service.advance(1799)
    assert (await service.api.get(f"/files/{file['id']}")) == file
    await service.stop_worker()
    service.advance(1)
    await service.api.refused("GET", f"/files/{file['id']}", status=404)
    await service.api.refused("GET", f"/files/{file['id']}/content", status=404)
    await service.api.refused("DELETE", f"/files/{file['id']}", status=404)
    assert (await service.api.get("/files?limit=1"))["data"] == [other]
    assert kept(service) == sorted([file["id"], other["id"]])
    service.start_worker()
    await rest(service)
    assert kept(service) == [other["id"]]
    assert await service.storage.get(names.FILES, names.document("default", file["id"])) is None


async def test_a_file_of_a_batch_expires_after_a_month(service: InProcess) -> None:
    file = await upload(service.api, b"{}", purpose="batch")
    assert file["expires_at"] == file["created_at"] + BATCH_LIFETIME


# --- the store fails --------------------------------------------------------------------------------------------------


async def test_a_download_that_breaks_off_is_no_whole_answer(
    service: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = (await upload(service.api, b"x" * 3_000_000))["id"]
    whole = service.storage.download

    async def breaking(*place: str, **where: Any) -> AsyncIterator[bytes]:
        async for piece in whole(*place, **where):
            yield piece
            raise StorageUnavailable("gone")

    monkeypatch.setattr(service.storage, "download", breaking)
    reader, writer = await asyncio.open_connection(service.url.host, service.url.port)
    writer.write(f"GET /v1/files/{file_id}/content HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    answer = await reader.read()
    assert b"Content-Length: 3000000\r\n" in answer
    assert 1_000_000 < len(answer) < 3_000_000
    writer.close()


# --- Idempotency-Key --------------------------------------------------------------------------------------------------


async def keyed(service: InProcess, content: bytes, key: str = "key", **fields: str) -> tuple[int, Json]:
    answer = await send_form(service.api, "/files", file_form(content, **fields), **{"Idempotency-Key": key})
    return answer.status, answer.body


async def test_the_same_file_again_is_the_same_file(service: InProcess) -> None:
    first = await keyed(service, b"once")
    assert first[0] == 200
    assert await keyed(service, b"once") == first
    assert (await keyed(service, b"once", "another"))[1]["id"] != first[1]["id"]
    assert len((await service.api.get("/files"))["data"]) == 2
    assert len(kept(service)) == 2


async def test_other_bytes_or_another_purpose_with_the_key_are_refused(service: InProcess) -> None:
    _, first = await keyed(service, b"once")
    for content, fields in ((b"twice", {}), (b"once", {"purpose": "vision"})):
        status, answer = await keyed(service, content, **fields)
        assert (status, answer["error"]["code"]) == (400, "idempotency_key_reused")
    assert kept(service) == [first["id"]]


async def test_of_twenty_files_at_once_one_counts(service: InProcess) -> None:
    answers = await asyncio.gather(*(keyed(service, b"once") for _ in range(20)))
    assert {status for status, _ in answers} == {200}
    (file_id,) = {answer["id"] for _, answer in answers}
    assert kept(service) == [file_id]


async def died(*_: Any) -> None:
    raise RuntimeError("the process died")


async def test_a_file_whose_answer_was_never_kept_is_found(service: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (
        "assistants_service.core.files.service.FileService.publish",
        "assistants_service.api.idempotency.Reserved.keep",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, died)
            assert (await keyed(service, b"once", place))[0] == 500
        status, answer = await keyed(service, b"once", place)
        assert status == 200
        assert (await download(service.api, answer["id"])).raw == b"once"
        assert await keyed(service, b"once", place) == (200, answer)


async def test_a_key_whose_file_was_deleted_makes_none_without_bytes(
    service: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request died before its answer was kept."""
    with monkeypatch.context() as patch:
        patch.setattr("assistants_service.api.idempotency.Reserved.keep", died)
        assert (await keyed(service, b"once"))[0] == 500
    (file,) = (await service.api.get("/files"))["data"]
    await service.api.delete(f"/files/{file['id']}")
    await rest(service)
    assert (await keyed(service, b"once"))[0] == 400
    assert (await service.api.get("/files"))["data"] == kept(service) == []


async def test_a_key_whose_request_died_a_day_ago_makes_no_file_of_bytes_that_are_removed_now(
    service: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is younger than they: it was reserved when all had come."""
    with monkeypatch.context() as patch:
        patch.setattr("assistants_service.core.files.service.FileService.publish", died)
        assert (await keyed(service, b"once"))[0] == 500
    service.advance(PATIENCE - MARGIN + 1)
    assert (await keyed(service, b"once"))[0] == 400
    service.advance(MARGIN)
    await rest(service)
    assert (await service.api.get("/files"))["data"] == kept(service) == []
