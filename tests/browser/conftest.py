"""The service and Chromium. The service is started here, or DOCS_URL names one that runs; CHROMIUM names another
browser than the one in the path."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

HERE = Path(__file__).resolve().parent
START = 30  # seconds, on a busy machine
NAMES = "--host-resolver-rules=MAP *.example 127.0.0.1"  # sites of others, which are this machine, too


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """These tests need Chromium and Playwright, so they run only when they are named: `pytest tests/browser`."""
    named = any(Path(argument.split("::")[0]).resolve().is_relative_to(HERE) for argument in config.args)
    return None if named else True


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if url := os.environ.get("DOCS_URL"):
        yield url.rstrip("/")
        return
    url, log = f"http://127.0.0.1:{_free_port()}", tmp_path_factory.mktemp("service") / "log"
    command = [Path(sys.executable).with_name("assistants"), "serve", "--port", url.rsplit(":", 1)[1]]
    unset = {"API_KEYS", "OPENAI_API_KEY", "OPENAI_BASE_URL"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment | {"STORAGE": "sqlite://:memory:"}, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        _await_health(url, process, log)
        yield url
    finally:
        process.terminate()
        process.wait(START)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _await_health(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the service does not answer:\n{log.read_text()}") from error
        time.sleep(0.1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"),
            args=["--no-sandbox", "--disable-dev-shm-usage", NAMES],  # CI is root in a container
        )
        yield browser
        browser.close()
