"""What a request says of its body: that it is packed, that it waits to be asked, how long it is. None of it is believed
before it holds, and nothing is left of a body that lied."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
import zlib
from typing import Any

import pytest
from aiohttp.http_parser import DeflateBuffer

from inprocess_service import InProcess, in_process
from multipart_forms import TYPE, field, file_form, form, send_form
from test_connections import LIVE, answered, connected, refusal, served
from test_files import kept

Json = Any
BOMB = gzip.compress(b" " * (64 * 1024 * 1024))
CREATE = (
    b"POST /v1/threads HTTP/1.1\r\nHost: localhost\r\nOpenAI-Beta: assistants=v2\r\nContent-Type: application/json\r\n"
)
UPLOAD = (
    b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"OpenAI-Beta: assistants=v2\r\n"
)
KEY = b"Authorization: Bearer key\r\n"


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what the server unpacked."""
    sizes: list[int] = []

    def unpack(_: Any, chunk: bytes, *__: int) -> bool:
        sizes.append(len(chunk))
        return False

    monkeypatch.setattr(DeflateBuffer, "feed_data", unpack)
    return sizes


def packed(coding: str) -> bytes:
    return zlib.compress(b"{}") if coding == "deflate" else gzip.compress(b"{}")


@pytest.mark.parametrize("coding", ["gzip", "GZip", "deflate", "br", "zstd", "x-lzma", "gzip, identity", "gzip, gzip"])
async def test_a_packed_body_is_refused(coding: str) -> None:
    async with in_process() as service:
        answer = await service.api.send(
            "POST", "/v1/threads", data=packed(coding), headers={"Content-Encoding": coding}
        )
    assert (answer.status, answer.headers["Accept-Encoding"]) == (415, "identity")
    assert answer.error == {
        "message": f"Unsupported content encoding: '{coding}'. Send the body without 'Content-Encoding', uncompressed.",
        "type": "invalid_request_error",
        "param": "Content-Encoding",
        "code": "unsupported_content_encoding",
    }


async def test_a_body_that_says_that_it_is_not_packed_is_taken() -> None:
    async with in_process() as service:
        for coding in ("identity", ""):
            answer = await service.api.send("POST", "/v1/threads", {}, headers={"Content-Encoding": coding})
            assert answer.status == 200


FRAMINGS = {
    "length": b"Content-Length: %d\r\n\r\n" % len(BOMB) + BOMB,
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BOMB) + BOMB + b"\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize(("key", "status"), [(b"", 401), (KEY, 415)])
async def test_a_bomb_is_not_unpacked_with_or_without_a_key(
    framing: str, key: bytes, status: int, unpacked: list[int]
) -> None:
    """Its first bytes come with the head, before anything of the service runs."""
    async with served(api_keys="p:key") as (_, port):
        got, _ = await answered(
            port, CREATE + key + b"Content-Encoding: gzip\r\nConnection: close\r\n" + FRAMINGS[framing]
        )
    assert (got, unpacked) == (status, [])


async def test_a_packed_form_is_refused_and_leaves_nothing(unpacked: list[int]) -> None:
    data = gzip.compress(file_form(b" " * 1_000_000))
    async with in_process() as service:
        answer = await send_form(service.api, "/files", data, **{"Content-Encoding": "gzip"})
        assert (answer.status, unpacked, kept(service)) == (415, [], [])


# --- clients that wait to be asked ----------------------------------------------------------------------------------


async def test_a_client_that_waits_is_asked_for_its_body() -> None:
    async with served() as (_, port), connected(port) as (reader, writer), asyncio.timeout(30):
        writer.write(CREATE + b"Expect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (CREATE, 401),
        (CREATE + KEY + b"Content-Encoding: gzip\r\n", 415),
        (CREATE.replace(b"threads", b"nothing") + KEY, 404),
        (CREATE.replace(b"POST", b"PUT") + KEY, 405),
        (CREATE.replace(b"application/json", b"text/plain") + KEY, 400),
        (CREATE + KEY + b"Content-Length: 5000000\r\n", 413),
        (UPLOAD + KEY + b"Content-Length: 600000000\r\n", 413),
        (UPLOAD.replace(b"multipart/form-data", b"text/plain") + KEY + b"Content-Length: 9\r\n", 400),
        (UPLOAD.replace(b"files", b"uploads/upload_1/parts") + KEY, 404),
        (CREATE.replace(b"threads", b"threads/thread_1/messages").replace(b"json", b"xml") + KEY, 400),
    ],
)
async def test_a_client_that_is_refused_is_not_asked_and_its_connection_ends(lines: bytes, status: int) -> None:
    """What came next on it could be the body, or another request."""
    async with served(api_keys="p:key") as (_, port), asyncio.timeout(30):
        length = b"" if b"Content-Length" in lines else b"Content-Length: 2\r\n"
        raw = await _all_of(port, lines + length + b"Expect: 100-continue\r\n\r\n")
    got, _ = refusal(raw)
    assert got == status and b"100 Continue" not in raw and b"connection: close" in raw.lower()


async def _all_of(port: int, data: bytes) -> bytes:
    async with connected(port) as (reader, writer):
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: "))
        return head + await reader.readexactly(int(length.split()[1]))


async def test_a_form_that_waits_is_asked_for() -> None:
    data = file_form(b"x")
    async with served() as (_, port), connected(port) as (reader, writer), asyncio.timeout(30):
        writer.write(file_head(len(data)).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(data)
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"x-lzma, chunked"])
async def test_a_body_packed_for_its_transfer_is_refused(coding: bytes) -> None:
    async with served() as (_, port), asyncio.timeout(30):
        lines = CREATE + b"Transfer-Encoding: " + coding + b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        status, error = refusal(await _all_of(port, lines))
    assert (status, error["param"], error["type"]) == (501, "Transfer-Encoding", "invalid_request_error")
    assert "'chunked'" in error["message"]


async def test_another_expectation_is_refused_in_the_envelope() -> None:
    async with served() as (_, port), asyncio.timeout(30):
        status, error = refusal(await _all_of(port, CREATE + b"Expect: foo\r\nContent-Length: 2\r\n\r\n"))
    assert (status, error["param"], error["type"]) == (417, "Expect", "invalid_request_error")
    assert "'foo'" in error["message"] and "100-continue" in error["message"]


@pytest.mark.parametrize(("path", "status"), [(b"/v1/nothing", 404), (b"/v1/assistants/a/b/c", 404), (b"/health", 405)])
async def test_where_nothing_is_an_expectation_does_not_matter(path: bytes, status: int) -> None:
    async with served() as (_, port), asyncio.timeout(30):
        lines = CREATE.replace(b"/v1/threads", path) + b"Expect: foo\r\nContent-Length: 2\r\n\r\n"
        got, error = refusal(await _all_of(port, lines))
    assert (got, error["type"]) == (status, "invalid_request_error")


# --- bodies that lie of their size ----------------------------------------------------------------------------------


def file_head(length: int) -> bytes:
    head = f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: {TYPE['Content-Type']}\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode()


async def test_a_form_that_is_shorter_than_its_head_says_makes_no_file() -> None:
    """The form is whole; the body is not, since its client goes away."""
    data = file_form(b"x" * 2_000_000)
    async with served() as (service, port), asyncio.timeout(10):
        async with connected(port) as (_, writer):
            writer.write(file_head(len(data) + 1) + data)
            while not kept(service):
                await asyncio.sleep(0.001)
        while kept(service):
            await asyncio.sleep(0.001)
        assert (await service.api.get("/files"))["data"] == []


@pytest.mark.parametrize("announced", [True, False])
async def test_a_form_that_goes_on_after_its_end_makes_no_file(announced: bool) -> None:
    """With what it has no room for: beyond its largest file, a form has 64 KiB."""
    data = file_form(b"x" * 1_000_000) + b"y" * (8 * 1024 * 1024)

    async def chunks() -> Any:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    async with in_process(file_max_mb=8) as service:
        answer = await send_form(service.api, "/files", data if announced else chunks())
        assert (answer.status, kept(service)) == (413, [])
        assert (await service.api.get("/files"))["data"] == []


UPLOAD = {"filename": "f", "purpose": "assistants", "bytes": 2_000_000, "mime_type": "text/plain"}


async def _uploading(service: InProcess) -> str:
    return str((await service.api.post("/uploads", UPLOAD))["id"])


async def test_a_part_that_breaks_off_leaves_nothing() -> None:
    async with in_process() as service:
        path = f"/uploads/{await _uploading(service)}/parts"
        data = form(field("data", b"x" * 2_000_000, "blob"))
        assert (await send_form(service.api, path, data[:-5])).status == 400
        assert kept(service) == []


async def test_a_part_with_more_bytes_than_its_upload_was_created_for_leaves_nothing() -> None:
    async with in_process() as service:
        path = f"/uploads/{await _uploading(service)}/parts"
        answer = await send_form(service.api, path, form(field("data", b"x" * 2_000_001, "blob")))
        assert (answer.status, answer.error["param"]) == (413, "data")
        assert kept(service) == []


# --- bodies that break off ------------------------------------------------------------------------------------------


def chunked(path: str, data: bytes, kind: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nOpenAI-Beta: assistants=v2\r\nContent-Type: {kind}\r\n"
    return f"{head}Transfer-Encoding: chunked\r\n\r\n{len(data):x}\r\n".encode() + data + b"\r\n"


SPOILED = {"size": b"zz\r\n", "end": b"1\r\nxyz", "trailer": b"0\r\n:\r\n\r\n", "sign": b"-1\r\n\r\n"}


def bodies(upload: str) -> dict[str, tuple[str, bytes, str]]:
    return {
        "json": ("/v1/assistants", b'{"model": "offline"}', "application/json"),
        "half": ("/v1/assistants", b'{"model"', "application/json"),
        "azure": ("/openai/assistants?api-version=2024-05-01-preview", b'{"model": "offline"}', "application/json"),
        "form": ("/v1/files", file_form(b"y" * 3000), TYPE["Content-Type"]),
        "half form": ("/v1/files", file_form(b"y" * 3000)[:1500], TYPE["Content-Type"]),
        "large form": ("/v1/files", file_form(b"y" * 300_000), TYPE["Content-Type"]),
        "part": (f"/v1/uploads/{upload}/parts", form(field("data", b"y" * 3000, "blob")), TYPE["Content-Type"]),
        "no path": ("/v1/nothing", b"{}", "application/json"),
    }


async def pieces_of(port: int, *pieces: bytes) -> bytes:
    """The answer to what comes in these pieces, until the connection is closed."""
    raw = bytearray()

    async def read(reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionResetError):  # by a piece that came after the end
            while some := await reader.read(65_536):
                raw.extend(some)

    async with connected(port) as (reader, writer):
        reading = asyncio.create_task(read(reader))
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.02)  # most of them arrive one by one; none of them matters
        await reading
    return bytes(raw)


@pytest.mark.parametrize("spoiled", SPOILED.values(), ids=SPOILED)
async def test_a_body_that_is_spoiled_in_any_piece_is_refused_at_once(
    spoiled: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """In the segment of its head, in that of its last chunk, or in a later one; no second answer comes, and nothing is
    made of what came before."""
    async with served() as (service, port), asyncio.timeout(10):
        requests = [chunked(*each) for each in bodies(await _uploading(service)).values()]
        before = [*kept(service)]
        split = [
            pieces
            for good in requests
            for pieces in ((good, spoiled), (good + spoiled,), (good, spoiled[:1], spoiled[1:]), (good, spoiled, LIVE))
        ]
        for pieces, raw in zip(split, await asyncio.gather(*(pieces_of(port, *each) for each in split)), strict=True):
            status, error = refusal(raw)
            expected = (400, 404) if b"/nothing" in pieces[0] else (400,)
            assert status in expected and error["type"] == "invalid_request_error", (pieces[0][:80], raw)
            assert raw.count(b"HTTP/1.") == 1
        assert kept(service) == before
        assert [(await service.api.get(f"/{kind}"))["data"] for kind in ("files", "assistants")] == [[], []]
    assert not [each for each in caplog.records if each.levelname in ("WARNING", "ERROR")]


async def test_what_waits_before_a_spoiled_body_is_answered() -> None:
    async with served() as (_, port), asyncio.timeout(10):
        raw = await pieces_of(port, LIVE + LIVE + chunked("/v1/assistants", b"{", "application/json"), b"zz\r\n")
    assert re.findall(rb"HTTP/1.. (\d+)", raw) == [b"200", b"200", b"400"]


@pytest.mark.parametrize("what", ["json", "form", "part"])
async def test_a_client_that_hangs_up_in_its_body_is_one_line_of_the_log(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with served() as (service, port), asyncio.timeout(10):
        path, data, kind = bodies(await _uploading(service))[what]
        async with connected(port) as (_, writer):
            writer.write(chunked(path, data, kind))
            await asyncio.sleep(0.05)  # its handler reads
        while not hung_up(caplog):
            await asyncio.sleep(0.001)
    assert len(hung_up(caplog)) == 1
    assert not [each for each in caplog.records if each.exc_info or each.levelname in ("WARNING", "ERROR")]


def hung_up(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if "disconnected" in each.getMessage()]
