"""A person at /docs: in Chromium, with Swagger UI's buttons, against the real service and its offline model.

DOCS_URL may name a service that runs (with the offline model, and without API keys).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

WAIT = 20_000  # milliseconds


@pytest.fixture
def page(browser: Browser, service: str) -> Iterator[Page]:
    """A page on which nothing may go wrong unseen: a script's error, a policy's refusal, a request to elsewhere."""
    trouble: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 1600})
    page.set_default_timeout(WAIT)
    page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: trouble.append(request.url) if _elsewhere(request.url, service) else None)
    yield page
    page.close()
    assert not trouble


def _elsewhere(url: str, service: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme not in ("data", "blob") and parts.netloc != urlsplit(service).netloc


def test_a_person_creates_an_assistant_and_watches_a_run(page: Page, service: str) -> None:
    page.goto(f"{service}/")
    expect(page.locator(".info .title")).to_contain_text("Assistants Service")

    assistant = _body(_try_out(page, "Assistants", "createAssistant"))
    assert assistant["id"].startswith("asst_")

    body = {"assistant_id": assistant["id"], "thread": {"messages": [{"role": "user", "content": "Hello!"}]}}
    run = _body(_try_out(page, "Runs", "createThreadAndRun", body=body))
    assert run["object"] == "thread.run"

    ids = {"thread_id": run["thread_id"], "run_id": run["id"]}
    events = _text(_try_out(page, "Runs", "streamRunEvents", ids))
    assert "event: thread.run.completed" in events
    assert events.rstrip().endswith("data: [DONE]")

    messages = _body(_try_out(page, "Messages", "listMessages", {"thread_id": run["thread_id"]}))
    assert [message["role"] for message in messages["data"]] == ["assistant", "user"]


def test_a_person_uploads_a_file_and_downloads_it(page: Page, service: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("some notes")
    page.goto(f"{service}/docs")
    file = _body(_try_out(page, "Files", "createFile", file=tmp_path / "notes.txt"))
    assert (file["filename"], file["bytes"], file["purpose"], file["expires_at"]) == (
        "notes.txt",
        10,
        "assistants",
        None,
    )
    response = _try_out(page, "Files", "downloadFile", {"file_id": file["id"]})
    with page.expect_download() as download:
        response.get_by_role("link", name="Download file").click()
    assert download.value.path().read_text() == "some notes"
    assert download.value.suggested_filename == "notes.txt"


def test_a_link_to_an_operation_opens_it(page: Page, service: str) -> None:
    page.goto(f"{service}/docs#/Runs/streamRunEvents")
    expect(page.locator("#operations-Runs-streamRunEvents .opblock-body")).to_be_visible()


def test_a_key_is_sent_once_it_was_given(page: Page, service: str) -> None:
    page.goto(f"{service}/docs")
    page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": []}))
    page.locator(".auth-wrapper .authorize").click()
    page.locator(".modal-ux input").fill("sk-test")
    page.locator(".modal-ux .auth-btn-wrapper .authorize").click()
    page.locator(".modal-ux .btn-done").click()
    with page.expect_request("**/v1/models") as request:
        _try_out(page, "Models", "listModels")
    assert request.value.headers["authorization"] == "Bearer sk-test"


def _try_out(
    page: Page,
    tag: str,
    operation: str,
    parameters: dict[str, str] | None = None,
    body: dict[str, Any] | None = None,
    file: Path | None = None,
) -> Locator:
    """Send an operation's form, and return the response, which is a 200. The default body is the document's example."""
    block = page.locator(f"#operations-{tag}-{operation}")
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    for name, value in (parameters or {}).items():
        block.locator(f'tr[data-param-name="{name}"] input').fill(value)
    if body is not None:
        block.locator("textarea.body-param__text").fill(json.dumps(body))
    if file is not None:
        block.locator("input[type=file]").set_input_files(file)
    block.get_by_role("button", name="Execute").click()
    response = block.locator(".live-responses-table tbody tr.response").first
    expect(response.locator(".response-col_status")).to_have_text("200", timeout=WAIT)
    return response


def _text(response: Locator) -> str:
    return response.locator(".highlight-code code").first.inner_text()


def _body(response: Locator) -> dict[str, Any]:
    return json.loads(_text(response))
