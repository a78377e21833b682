"""A page of another site, in a browser on the machine where a service runs without keys: whatever it sends is refused,
and it reads nothing, also if the site's name resolves to this machine meanwhile."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Response

Json = Any
SITES = ["evil.example", "localhost", "127.0.0.1"]  # the latter two are other programs' pages, on another port
PAGE = b"<!doctype html><title>page</title><body>"


class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[int]:
    """The port of a site that has a page."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    yield page
    page.close()


# What a page can have a browser send without asking the service first.
UNASKED = {
    "text": "fetch(url + '/v1/vector_stores', {method: 'POST', mode: 'no-cors', body: '{}'})",
    "nothing said": "fetch(url + '/v1/vector_stores', {method: 'POST', mode: 'no-cors', body: new Blob(['{}'])})",
    "a beacon": "navigator.sendBeacon(url + '/v1/vector_stores', '{}')",
    "no body": "fetch(url + '/v1/vector_stores', {method: 'POST', mode: 'no-cors'})",
    "a form": """{
        const form = document.createElement('form');
        Object.assign(form, {method: 'POST', action: url + '/v1/vector_stores', enctype: 'text/plain'});
        form.innerHTML = `<input name='{"name":"' value='"}'>`;
        document.body.append(form);
        form.submit();
    }""",
    "a file": """{
        const data = new FormData();
        data.append('purpose', 'assistants');
        data.append('file', new Blob(['x']), 'x.txt');
        fetch(url + '/v1/files', {method: 'POST', mode: 'no-cors', body: data});
    }""",
    "a link": "location.href = url + '/v1/files'",
}


@pytest.mark.parametrize("host", SITES)
@pytest.mark.parametrize("way", UNASKED)
def test_what_a_foreign_page_sends_is_refused(page: Page, service: str, site: int, host: str, way: str) -> None:
    page.goto(f"http://{host}:{site}/")
    with page.expect_response(lambda response: _path(response).startswith("/v1/")) as response:
        page.evaluate(f"url => {{ {UNASKED[way]} }}", service)
    assert response.value.status == 403
    assert _kept(service) == []


def test_a_foreign_page_may_not_ask_for_more(page: Page, service: str, site: int) -> None:
    """JSON, headers of its own, DELETE: the browser asks first, and is refused."""
    page.goto(f"http://evil.example:{site}/")
    for options in (
        "{method: 'POST', headers: {'Content-Type': 'application/json'}, body: '{}'}",
        "{headers: {'OpenAI-Beta': 'assistants=v2'}}",
        "{method: 'DELETE'}",
    ):
        asked = f"url => fetch(url + '/v1/vector_stores', {options}).then(() => 'read', error => error.name)"
        assert page.evaluate(asked, service) == "TypeError"
    assert _kept(service) == []


def test_a_name_that_was_rebound_reads_nothing(page: Page, service: str) -> None:
    """The page is of the same origin as the service by now; only the name tells."""
    page.goto(f"http://rebound.example:{urlsplit(service).port}/docs")
    for options in ("{}", "{method: 'POST', headers: {'Content-Type': 'application/json'}, body: '{}'}"):
        answer = page.evaluate(
            f"fetch('/v1/vector_stores', {options}).then(async a => [a.status, (await a.json()).error.code])"
        )
        assert answer == [403, "not_local"]
    assert _kept(service) == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "assistants.localhost"])
def test_its_own_page_works_by_each_of_its_names(page: Page, service: str, host: str) -> None:
    page.goto(f"http://{host}:{urlsplit(service).port}/docs")
    post = "{method: 'POST', headers: {'Content-Type': 'application/json', 'OpenAI-Beta': 'assistants=v2'}, body: '{}'}"
    assert page.evaluate(f"fetch('/v1/threads', {post}).then(a => a.status)") == 200
    assert page.evaluate("fetch('/v1/vector_stores').then(a => a.status)") == 200


def _path(response: Response) -> str:
    return urlsplit(response.url).path


def _kept(service: str) -> list[Json]:
    """What the pages want to make."""
    found = []
    for kind in ("vector_stores", "files"):
        with urllib.request.urlopen(f"{service}/v1/{kind}", timeout=10) as response:
            found += json.load(response)["data"]
    return found
