"""A process of the service under requests that Schemathesis makes from the served OpenAPI document, and malformed ones.

`make fuzz` sends 10,000 of each, other ones each time; `make test` a few, the same ones each time.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from helper import resident_mb
from inprocess_service import Api, path_of
from malformed_requests import UPLOAD, WEATHER, malformed
from multipart_forms import add_part, upload
from service_process import Process, service
from test_malformed import AT_ONCE, send_all

HERE = Path(__file__).parent
FUZZ = int(os.environ.get("FUZZ", "0"))  # requests of each kind
SEED = int(os.environ.get("SEED", random.randrange(2**32))) if FUZZ else 0
PER_OPERATION = FUZZ // 50  # how many Schemathesis makes depends on the operation
GROWTH = 50  # MB


def test_no_request_from_the_document_and_no_malformed_one_does_any_harm(tmp_path: Path) -> None:
    # Streams of runs that wait for their client end when these expire.
    with service(f"sqlite:///{tmp_path}/fuzz.db", RUN_EXPIRES_AFTER="3") as process:
        few = ["--generation-deterministic", "--phases", "examples,fuzzing,stateful", "--max-examples", "4"]
        assert not unreached(from_the_document(process, tmp_path, few))
        send_malformed(process, 300)
        if FUZZ:
            warm = resident_mb(process.pid)
            counts = from_the_document(process, tmp_path, ["--seed", str(SEED), "--max-examples", str(PER_OPERATION)])
            send_malformed(process, FUZZ)
            grown = resident_mb(process.pid) - warm
            tell(counts, warm, grown)
            assert counts.total() >= FUZZ
            assert grown < GROWTH
    assert not [line for line in process.log if " ERROR " in line]


def from_the_document(process: Process, folder: Path, options: list[str]) -> Counter[str]:
    """What came of the requests: how many there were by operation, status and content type."""
    told = folder / "counts.json"
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "st", "--config-file", HERE / "fuzz" / "schemathesis.toml"),
            *("run", f"{process.url}/openapi.json", "--no-color", *options),
        ],
        check=False,  # what it says is worth more than an exit code
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HERE), "FUZZ_COUNTS": str(told)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Counter(json.loads(told.read_text()))


def send_malformed(process: Process, count: int) -> None:
    async def send() -> list[str]:
        problems: list[str] = []
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            api = Api(session, URL(process.url))
            requests = malformed(random.Random(SEED), await one_of_each(api), count)
            await asyncio.gather(*(send_all(api, requests, problems) for _ in range(AT_ONCE)))
        return problems

    problems = asyncio.run(send())
    assert not problems, "\n".join(problems[:20])


async def one_of_each(api: Api) -> dict[str, str]:
    """As in test_malformed.py, with the offline model."""
    assistant = (await api.post("/assistants", {"model": "offline", "tools": [WEATHER]}))["id"]
    free = await api.post("/threads", {"messages": [{"role": "user", "content": "Hello"}]})
    question = {"messages": [{"role": "user", "content": "What is the weather in Oslo?"}]}
    run = await api.post("/threads/runs", {"assistant_id": assistant, "thread": question})
    while run["status"] != "requires_action":
        run = await api.get(path_of(run))
    pending = (await api.post("/uploads", UPLOAD))["id"]
    file = (await upload(api, b"words"))["id"]
    return {
        "assistant": assistant,
        "thread": free["id"],
        "message": (await api.get(f"/threads/{free['id']}/messages"))["first_id"],
        "busy": run["thread_id"],
        "run": run["id"],
        "step": (await api.get(f"{path_of(run)}/steps"))["first_id"],
        "upload": pending,
        "part": await add_part(api, pending, b"part"),
        "file": file,
        "store": (await api.post("/vector_stores", {"file_ids": [file]}))["id"],
    }


def unreached(counts: Counter[str]) -> set[str]:
    """Operations that refused whatever they were asked."""
    operations = {" ".join(each.split()[:2]): False for each in counts}
    operations |= {" ".join(each.split()[:2]): True for each in counts if each.split()[2] == "200"}
    return {operation for operation, reached in operations.items() if not reached}


def tell(counts: Counter[str], warm: float, grown: float) -> None:
    statuses: Counter[Any] = Counter()
    for each, count in counts.items():
        statuses[each.split()[2]] += count
    shown = ", ".join(f"{count:,} x {status}" for status, count in sorted(statuses.items()))
    print(f"\nseed {SEED}: {counts.total():,} requests from the document: {shown}")
    print(f"{FUZZ:,} malformed requests: all refused")
    print(f"memory: {warm:.0f} MB warm, {grown:+.0f} MB after")
