"""A service without keys is for programs of its own machine. What a browser sends for a page of another site is
refused; tests/browser/test_foreign_page.py asks a real one what it sends."""

from __future__ import annotations

from typing import Any

import pytest

from assistants_service.api.authentication import STALE
from assistants_service.core.keys import Keys
from inprocess_service import Answer, InProcess, ManualClock, in_process
from multipart_forms import TYPE, file_form

Json = Any
FOREIGN = "https://evil.example"


async def asked(service: InProcess, path: str = "/v1/assistants", method: str = "GET", **headers: str | None) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await service.api.send(method, path, headers=named)


def refused(answer: Answer) -> bool:
    if answer.status == 403:
        error = answer.body["error"]
        assert "no keys" in error["message"]
    return answer.status == 403


# --- names ----------------------------------------------------------------------------------------------------------

LOCAL = [
    "localhost",
    "LOCALHOST:8000",
    "localhost.",
    "api.localhost:80",
    "127.0.0.1:8000",
    "127.1.2.3",
    "[::1]:8000",
    "[::1]",
]
OTHER = [
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "notlocalhost",
    "127.0.0.1.evil.example",
    "192.168.0.7:8000",
    "0.0.0.0:8000",
    "[::]",
    "[::2]:8000",
    "[::1",
    "localhost@evil.example",
    "localhost:8000:evil",
    "127.1",
    "",
]


@pytest.mark.parametrize("host", LOCAL)
async def test_a_name_of_this_machine_is_taken(host: str) -> None:
    async with in_process() as service:
        assert (await asked(service, Host=host)).status == 200


@pytest.mark.parametrize("path", ["/v1/assistants", "/v1/models", "/openai/assistants?api-version=2024-05-01-preview"])
async def test_another_name_is_refused(path: str) -> None:
    """A site's that resolves to this machine since its page was loaded, say."""
    async with in_process() as service:
        for host in OTHER:
            assert refused(await asked(service, path, Host=host)), host


async def test_a_name_of_the_settings_is_taken() -> None:
    async with in_process(allowed_hosts="assistants, API.example") as service:
        for host in ("assistants:8000", "api.example", "localhost"):
            assert (await asked(service, Host=host)).status == 200
        assert refused(await asked(service, Host="other.example"))


async def test_where_there_are_keys_a_name_and_an_origin_do_not_matter() -> None:
    async with in_process(api_keys="one:key") as service:
        answer = await asked(service, Authorization="Bearer key", Host="evil.example", Origin=FOREIGN)
        assert answer.status == 200


async def test_with_the_first_key_only_keys_count() -> None:
    async with in_process(clock=ManualClock()) as service:
        assert refused(await asked(service, Host="evil.example"))
        key, _ = await Keys(service.storage, service.parts.clock, service.parts.ids).create("default", "full")
        service.advance(STALE)
        assert (await asked(service, Host="evil.example")).status == 401
        assert (await asked(service, Host="evil.example", Authorization=f"Bearer {key}")).status == 200


async def test_what_tells_nothing_is_open_to_probes_by_any_name() -> None:
    async with in_process() as service:
        for path in ("/health", "/health/live", "/health/ready", "/docs", "/openapi.json"):
            assert (await asked(service, path, Host="10.0.0.7:8000")).status == 200


# --- pages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": FOREIGN},
        {"Origin": "null"},  # a file, or a frame in a sandbox
        {"Origin": "http://localhost:3000"},  # what another program of this machine serves
        {"Origin": ""},
        {"Origin": "https"},
        {"Origin": "https", "X_Forwarded_Proto": "https"},
        {"Origin": "evil"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "same", "Sec_Fetch_Site": "cross-site"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
async def test_a_page_of_another_site_is_refused(method: str, headers: dict[str, str]) -> None:
    async with in_process() as service:
        own = f"http://{service.url.host}:{service.url.port}"
        schemes = {"same": own, "https": own.replace("http:", "https:"), "evil": own.replace("http:", "evil:")}
        sent = {name: schemes.get(value, value) if name == "Origin" else value for name, value in headers.items()}
        assert refused(await asked(service, "/v1/threads", method, **sent))
        assert await service.storage.page("threads", "", after=None, limit=1, newest_first=False) == []


async def test_its_own_page_is_served() -> None:
    """The docs page; and what a person types into the address line."""
    async with in_process() as service:
        own = f"http://{service.url.host}:{service.url.port}"
        sent: list[dict[str, str]] = [
            {"Origin": own, "Sec_Fetch_Site": "same-origin"},
            {"Sec_Fetch_Site": "same-origin"},
            {"Sec_Fetch_Site": "none"},
        ]
        for headers in sent:
            assert (await asked(service, **headers)).status == 200


async def test_a_page_that_the_settings_name_is_served() -> None:
    async with in_process(cors_origins=FOREIGN) as service:
        assert (await asked(service, Origin=FOREIGN, Sec_Fetch_Site="cross-site")).status == 200
        assert refused(await asked(service, Origin=FOREIGN, Host="evil.example"))
        assert refused(await asked(service, Origin="https://other.example"))


# --- what a page can send unasked is no JSON ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "text/plain; x=application/json", "application/x-www-form-urlencoded", "multipart/form-data", ""],
)
async def test_a_body_must_say_that_it_is_json(kind: str) -> None:
    async with in_process() as service:
        answer = await service.api.send("POST", "/v1/threads", data=b"{}", headers={"Content-Type": kind})
        assert (answer.status, answer.error["code"]) == (400, "unsupported_content_type")
        assert f"'{kind}'" in answer.error["message"]


async def test_json_may_name_its_charset_and_no_body_needs_no_type() -> None:
    async with in_process() as service:
        for kind in ("application/json; charset=utf-8", "Application/JSON"):
            answer = await service.api.send("POST", "/v1/threads", data=b"{}", headers={"Content-Type": kind})
            assert answer.status == 200
        assert (await service.api.send("POST", "/v1/threads", headers={"Content-Type": None})).status == 200


CANCELS = ["/v1/threads/thread_1/runs/run_1/cancel", "/v1/uploads/upload_1/cancel"]
CANCELS.append("/v1/vector_stores/vs_1/file_batches/vsfb_1/cancel")


@pytest.mark.parametrize("path", CANCELS)
async def test_a_body_that_is_not_needed_must_say_that_it_is_json(path: str) -> None:
    async with in_process() as service:
        for kind, data, status in (
            ("text/plain", b"x", 400),
            ("", b"{}", 400),
            ("application/json", b"{}", 404),
            ("text/plain", b"", 404),
            (None, None, 404),
        ):
            answer = await service.api.send("POST", path, data=data, headers={"Content-Type": kind})
            assert answer.status == status, (kind, answer.raw)


async def test_a_form_is_taken_where_files_are() -> None:
    async with in_process() as service:
        answer = await service.api.send("POST", "/v1/files", data=file_form(b"x"), headers=TYPE)
        assert answer.status == 200
