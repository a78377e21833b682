"""The clients' environments: each is made once, however many tests want it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import envs


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    python = tmp_path / "langchain" / "bin" / "python"
    all_want_it = threading.Barrier(3, timeout=30)

    def run(*command: str) -> None:
        made.append(command[1])
        time.sleep(0.05)  # so that the others would find it half made
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()

    def want(_: int) -> Path:
        all_want_it.wait()
        return envs.python("langchain")

    monkeypatch.setattr(envs, "ENVS", tmp_path)
    monkeypatch.setattr(envs, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(envs, "_run", run)
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(want, range(3))) == [python] * 3
    assert made == ["venv", "pip"]
