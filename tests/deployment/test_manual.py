"""docs/operations.md: its commands, tried on a service that runs, and its arithmetic."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from azurite import Azurite
from service_process import COMMAND, Process, service, wait_until

MANUAL = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
SCRIPTS = dict(re.findall(r"<!-- (\w+) -->\n```sh\n(.*?)```\n", MANUAL, re.DOTALL))
OPERATIONS = re.findall(r"^\| ([\w ]+) \| (\d+) \|[^|]*\| (?:\$([\d.]+) )?\| \$([\d.]+) \|$", MANUAL, re.MULTILINE)

DIARY = b"Monday was quiet. On Tuesday Filip ate a cake, and nobody else had any. It rained on Sunday."
needs_sqlite = pytest.mark.skipif(not shutil.which("sqlite3"), reason="needs the command sqlite3")


def said(script: str, folder: Path, **env: str) -> str:
    command = ["sh", "-eu", "-c", SCRIPTS.get(script, script)]
    environment = {**os.environ, **env}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def serving(folder: Path, **env: str) -> AbstractContextManager[Process]:
    return service(f"sqlite:///{folder}/data/assistants.db", API_KEYS="", **env)


@contextlib.contextmanager
def silent_provider() -> Iterator[str]:
    """The URL of a provider that takes requests and never answers one. Where its name is not configured, the offline
    model answers in its place."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def ask(process: Process, path: str, body: Any = None, method: str | None = None) -> Any:
    headers = {"OpenAI-Beta": "assistants=v2", "Content-Type": "application/json"}
    data = json.dumps(body).encode() if body is not None else None
    url = f"{process.url}/v1/{path}"
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method)) as response:
        return json.load(response)


def start_run(process: Process, model: str) -> str:
    """Its path."""
    assistant = ask(process, "assistants", {"model": model})
    thread = {"messages": [{"role": "user", "content": "before"}]}
    run = ask(process, "threads/runs", {"assistant_id": assistant["id"], "thread": thread})
    return f"threads/{run['thread_id']}/runs/{run['id']}"


def status_of(process: Process, run: str) -> str:
    return str(ask(process, run)["status"])


def sdk(process: Process) -> OpenAI:
    return OpenAI(base_url=f"{process.url}/v1", api_key="unused", max_retries=0)


class Data:
    """What a backup must bring back: an assistant that searches a file, its thread, an upload, and a key."""

    def __init__(self, client: OpenAI) -> None:
        self.store = client.vector_stores.create(name="Diary").id
        files = client.vector_stores.files
        self.file = files.upload_and_poll(vector_store_id=self.store, file=("diary.txt", DIARY)).id
        # A second one, so that the segments are merged, and the store's log is rolled over.
        files.upload_and_poll(vector_store_id=self.store, file=("other.txt", b"Nothing happened in March."))
        resources: Any = {"file_search": {"vector_store_ids": [self.store]}}
        tools: Any = [{"type": "file_search"}]
        self.assistant = client.beta.assistants.create(model="offline", tools=tools, tool_resources=resources).id
        self.upload = client.uploads.create(
            filename="part.txt", purpose="assistants", bytes=4, mime_type="text/plain"
        ).id
        self.part = client.uploads.parts.create(self.upload, data=b"part").id
        self.thread = client.beta.threads.create(messages=[{"role": "user", "content": "Who ate a cake?"}]).id
        self.run = self.search(client)

    def search(self, client: OpenAI) -> str:
        run = client.beta.threads.runs.create_and_poll(thread_id=self.thread, assistant_id=self.assistant)
        assert run.status == "completed", run.last_error
        (answer,) = client.beta.threads.messages.list(self.thread, run_id=run.id)
        content: Any = answer.content[0]
        assert "Filip ate a cake" in content.text.value
        assert [each.file_citation.file_id for each in content.text.annotations] == [self.file]
        return run.id

    def check(self, client: OpenAI, *, parts: bool) -> None:
        """All is there, and goes on. `parts`: so do uploads that were not completed."""
        assert client.files.content(self.file).read() == DIARY
        assert [store.id for store in client.vector_stores.list()] == [self.store]
        assert client.vector_stores.retrieve(self.store).file_counts.completed == 2
        assert client.vector_stores.files.retrieve(self.file, vector_store_id=self.store).status == "completed"
        assert [each.id for each in client.beta.assistants.list()] == [self.assistant]
        assert client.beta.threads.runs.retrieve(self.run, thread_id=self.thread).status == "completed"
        before = client.beta.threads.messages.list(self.thread).data
        assert [message.role for message in before] == ["assistant", "user"]
        assert client.beta.threads.messages.retrieve(before[0].id, thread_id=self.thread) == before[0]
        client.beta.threads.messages.create(self.thread, role="user", content="Who ate a cake?")
        self.search(client)
        if parts:
            completed = client.uploads.complete(self.upload, part_ids=[self.part])
            assert completed.file
            assert client.files.content(completed.file.id).read() == b"part"
        else:
            with pytest.raises(BadRequestError, match="No part found"):
                client.uploads.complete(self.upload, part_ids=[self.part])
        # A deleted file leaves the stores that hold it, which are found by notes that were restored, too.
        client.files.delete(self.file)
        wait_until(lambda: client.vector_stores.retrieve(self.store).file_counts.total == 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_copy_of_an_azure_account_is_restored(azurite: Azurite, tmp_path: Path) -> None:
    accounts = {"ACCOUNT": azurite.account(), "BACKUP": azurite.account()}
    command = tmp_path / "azcopy"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).parent / "azcopy.py"} "$@"\n')
    command.chmod(0o755)
    with silent_provider() as url, contextlib.ExitStack() as stack:
        settings = {"API_KEYS": "", "EVENT_LOG_ROLLOVER": "2"}
        providers = json.dumps({"silent": {"base_url": url, "api_key": "unused"}})
        process = stack.enter_context(service(accounts["ACCOUNT"], PROVIDERS=providers, **settings))
        client = stack.enter_context(sdk(process))
        data = Data(client)
        claimed = start_run(process, "silent/gpt-5.4")
        wait_until(lambda: status_of(process, claimed) == "in_progress")
    said("copy", tmp_path, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **accounts)
    resume = SCRIPTS["resume"].replace("https://ACCOUNT.blob.core.windows.net", '"$BACKUP"')
    told = said(resume.replace("assistants resume", f"{COMMAND} resume"), tmp_path, BACKUP=accounts["BACKUP"])
    assert "1 run" in told
    with service(accounts["BACKUP"], **settings) as process, sdk(process) as client:
        wait_until(lambda: status_of(process, claimed) == "completed")
        ask(process, f"assistants/{ask(process, claimed)['assistant_id']}", method="DELETE")
        told = said(f'STORAGE="$BACKUP" {COMMAND} reindex --all', tmp_path, BACKUP=accounts["BACKUP"])
        assert "2 of 2 files are done, 1 of 1 vector stores." in told
        data.check(client, parts=False)


@needs_sqlite
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_backup_of_the_running_service_is_restored(tmp_path: Path) -> None:
    """Its runs go on once WORKER_VISIBILITY_TIMEOUT are over, also one that a worker was in the middle of."""
    with silent_provider() as url, contextlib.ExitStack() as stack:
        providers = json.dumps({"silent": {"base_url": url, "api_key": "unused"}})
        process = stack.enter_context(serving(tmp_path, PROVIDERS=providers, WORKER_VISIBILITY_TIMEOUT="2"))
        client = stack.enter_context(sdk(process))
        data = Data(client)
        claimed = start_run(process, "silent/gpt-5.4")
        wait_until(lambda: status_of(process, claimed) == "in_progress")
        created = start_run(process, "offline")
        said("backup", tmp_path)
        after = ask(process, "threads", {"messages": []})
    said("restore", tmp_path)
    with serving(tmp_path) as process, sdk(process) as client:
        for run in (claimed, created):
            wait_until(lambda run=run: status_of(process, run) == "completed")
            assert len(ask(process, f"{run.partition('/runs')[0]}/messages")["data"]) == 2
            ask(process, f"assistants/{ask(process, run)['assistant_id']}", method="DELETE")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            ask(process, f"threads/{after['id']}")
        data.check(client, parts=True)


@needs_sqlite
def test_poison_is_shown_and_put_back(tmp_path: Path) -> None:
    def shown() -> list[tuple[int, str]]:
        lines = (line.partition("|") for line in said("poison", tmp_path).splitlines())
        return [(int(number), json.loads(body)["item"]) for number, _, body in lines]

    with serving(tmp_path):
        db = sqlite3.connect(tmp_path / "data" / "assistants.db", isolation_level=None)
        db.execute("INSERT INTO queue(name, body, visible_at) VALUES('work', ?, 0)", (b"no work item",))
        db.close()
        wait_until(shown)
        ((first, item),) = shown()
        assert item == "no work item"
        said("requeue", tmp_path)
        # It is as bad as before, so it comes back: as a new one, since the worker had it again.
        wait_until(lambda: [each for each in shown() if each[0] > first])
        assert [item for _, item in shown()] == ["no work item"]


def test_the_costs_add_up() -> None:
    *rows, total = OPERATIONS
    for _, number, price, thousand in rows:
        assert float(thousand) == pytest.approx(int(number) * 1000 * float(price) / 10_000)
    assert (total[0], int(total[1])) == ("all", sum(int(row[1]) for row in rows))
    assert float(total[3]) == pytest.approx(sum(float(row[3]) for row in rows))
