"""kill -9 of a worker while it executes code, with real processes: the run ends, the call counts once, its files are
whole, and no process of the dead worker stays."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from coding import coding, executes, says, until

FIRST = "open('/mnt/data/a.txt', 'w').write('a')"
# The worker is killed while this waits, after it has written.
SECOND = """
import os, time
open('/mnt/data/a.txt', 'a').write('b')
print('slow')
while not os.path.exists('/mnt/data/go'):
    time.sleep(0.01)
os.remove('/mnt/data/go')
"""
LINK = "sandbox:/mnt/data/a.txt"


@pytest.mark.skipif(sys.platform != "linux", reason="code is confined on Linux only")
async def test_a_worker_that_is_killed_during_a_call(tmp_path: Path) -> None:
    async with coding(tmp_path, executes("call_1", FIRST), executes("call_2", SECOND), says(LINK)) as world:
        thread, run = await world.begin()
        written = await world.writes("a.txt", "ab")
        left = await world.kill_worker()
        assert len(left) >= 2, "an interpreter works"
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))
        shutil.rmtree(written.parent)
        await world.start("worker")
        (await world.writes("a.txt", "ab")).with_name("go").touch()
        await world.completed(run)
        steps = (await world.ask("GET", f"{run}/steps?order=asc"))["data"]
        assert [step["status"] for step in steps] == ["completed"] * 3
        first, second = [step["step_details"]["tool_calls"][0]["code_interpreter"]["outputs"] for step in steps[:2]]
        assert (first, second) == ([], [{"type": "logs", "logs": "slow\n"}])
        answer, _ = (await world.ask("GET", f"{thread}/messages"))["data"]
        (linked,) = answer["content"][0]["text"]["annotations"]
        content = await world.read("GET", f"/files/{linked['file_path']['file_id']}/content")
        assert content == b"ab", "the call that died has left nothing"
        heard = [turn["content"] for turn in world.upstream.body["messages"] if turn["role"] == "tool"]
        assert heard[1].startswith("[A new Python process was started")
