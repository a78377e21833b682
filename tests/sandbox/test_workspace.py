"""The folders of interpreters: what cells made in them is removed, and so is what a killed worker left."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from assistants_service.infra.sandbox.workspace import Workspace, remove_tree


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def nested(root: Path, depth: int) -> None:
    """Far beyond what a path may be long."""
    place = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("n" * 200, 0o700, dir_fd=place)
        inner = os.open("n" * 200, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=place))
    os.close(place)


def test_whatever_is_in_a_folder_is_removed(temporary: Path) -> None:
    root = temporary / "root"
    (root / "data").mkdir(parents=True)
    nested(root / "data", 60)
    (root / "data" / "closed" / "inner").mkdir(parents=True)
    (root / "data" / "closed").chmod(0)
    os.mkfifo(root / "data" / "fifo")
    (root / "data" / "link").symlink_to(temporary / "kept")
    (root / "data" / "links").symlink_to(temporary)
    os.close(os.open(os.fsencode(root) + b"/data/\xff\n", os.O_CREAT))
    (temporary / "kept").touch()
    remove_tree(root)
    assert [*temporary.iterdir()] == [temporary / "kept"]


async def test_what_a_killed_worker_left_is_removed_and_what_a_living_one_has_is_not(temporary: Path) -> None:
    program = (
        "import sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from assistants_service.infra.sandbox.workspace import Workspace\n"
        "print(Workspace().folder(), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(temporary)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        left = Path(worker.stdout.readline().strip())
        living = Workspace()
        assert left.is_dir()
        worker.kill()
    other = Workspace()
    assert not left.parent.exists()
    assert living.root.is_dir()
    await living.close()
    await other.close()
    assert [*temporary.iterdir()] == []
