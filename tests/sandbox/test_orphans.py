"""What a worker leaves that is killed: nothing. And what an interpreter has of its worker: three descriptors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from sandboxes import bare_sandbox, needs_landlock

pytestmark = needs_landlock
WORKER = """
import asyncio
from sandboxes import bare_sandbox

async def main():
    sandbox = bare_sandbox()
    idle, busy = await sandbox.start("idle"), await sandbox.start("busy")
    running = asyncio.create_task(busy.run("import itertools; sum(itertools.repeat(0))"))
    server = await sandbox._servers.get()
    await asyncio.sleep(0.1)
    print(idle._process.pid, busy._process.pid, server.pid, sandbox._workspace.root, flush=True)
    await running

asyncio.run(main())
"""


def test_all_interpreters_end_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    # A folder of its own: the worker of another test would remove what this one leaves.
    environment = {"PYTHONPATH": ":".join(sys.path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True, env=environment) as worker:
        *pids, root = worker.stdout.readline().split()
        assert len(pids) == 3
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
        worker.kill()
    end = time.monotonic() + 20
    left = pids
    while left and time.monotonic() < end:
        time.sleep(0.01)
        left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    assert not left
    assert Path(root).is_dir()  # until the next worker starts


async def test_an_interpreter_has_no_descriptors_of_its_worker() -> None:
    code = (
        "import os\ndef is_open(fd):\n    try:\n        os.fstat(fd)\n    except OSError:\n        return False\n"
        "    return True\n[fd for fd in range(4096) if is_open(fd)]"
    )
    sandbox = bare_sandbox()
    with Path("/etc/hostname").open("rb") as inherited:
        inherited.fileno()
        session = await sandbox.start("session")
        assert (await session.run(code)).value in ("[0, 1, 2, 10, 11]", "[0, 1, 2, 9, 10, 11]")  # 9: the image's link
    await sandbox.close()
