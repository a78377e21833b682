"""docs/operations.md: its commands for SQLite, tried on a service that runs, and its arithmetic."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import urllib.error
import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from service import Process, service, wait_until

MANUAL = (Path(__file__).resolve().parent.parent / "docs" / "operations.md").read_text()
SCRIPTS = dict(re.findall(r"<!-- (\w+) -->\n```sh\n(.*?)```\n", MANUAL, re.DOTALL))
OPERATIONS = re.findall(r"^\| ([\w ]+) \| (\d+) \|[^|]*\| (?:\$([\d.]+) )?\| \$([\d.]+) \|$", MANUAL, re.MULTILINE)

needs_sqlite = pytest.mark.skipif(not shutil.which("sqlite3"), reason="needs the command sqlite3")


def said(script: str, folder: Path) -> str:
    done = subprocess.run(["sh", "-eu", "-c", SCRIPTS[script]], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def serving(folder: Path) -> AbstractContextManager[Process]:
    return service(f"sqlite:///{folder}/data/assistants.db", API_KEYS="")


def ask(process: Process, path: str, body: Any = None) -> Any:
    headers = {"OpenAI-Beta": "assistants=v2", "Content-Type": "application/json"}
    data = json.dumps(body).encode() if body is not None else None
    with urllib.request.urlopen(urllib.request.Request(f"{process.url}/v1/{path}", data, headers)) as response:
        return json.load(response)


@needs_sqlite
def test_a_backup_of_the_running_service_is_restored(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        assistant = ask(process, "assistants", {"model": "offline"})
        said_before = {"messages": [{"role": "user", "content": "before"}]}
        run = ask(process, "threads/runs", {"assistant_id": assistant["id"], "thread": said_before})
        said("backup", tmp_path)
        after = ask(process, "threads", {"messages": []})
    said("restore", tmp_path)
    with serving(tmp_path) as process:
        path = f"threads/{run['thread_id']}"
        wait_until(lambda: ask(process, f"{path}/runs/{run['id']}")["status"] == "completed")
        assert len(ask(process, f"{path}/messages")["data"]) == 2
        with pytest.raises(urllib.error.HTTPError, match="404"):
            ask(process, f"threads/{after['id']}")


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
