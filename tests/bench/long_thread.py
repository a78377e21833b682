"""Does a long thread cost more? `python tests/bench/long_thread.py`: lists and run starts at 10 and at 10,000 messages.

The service runs as users run it (SQLite file, offline model). Requests to the two threads alternate, so that a noisy
machine is noisy to both; what counts is the ratio of the medians. Exits with 1 if one is above LIMIT.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from service import service

SIZES = (10, 10_000)
ROUNDS = 200
BATCH = 1000
LIMIT = 1.5
HEADERS = {"OpenAI-Beta": "assistants=v2", "Content-Type": "application/json"}


class Api:
    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(url.removeprefix("http://"))

    def call(self, method: str, path: str, body: Any = None) -> Any:
        self._connection.request(method, f"/v1{path}", json.dumps(body) if body is not None else None, HEADERS)
        response = self._connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            raise RuntimeError(f"{method} {path}: {response.status} {answer}")
        return answer


def filled_thread(api: Api, size: int) -> str:
    """A thread of `size` messages."""
    messages = [{"role": "user", "content": f"message number {number} of a long conversation"} for number in range(size)]
    thread_id: str = api.call("POST", "/threads", {"messages": messages[:BATCH]})["id"]
    for message in messages[BATCH:]:
        api.call("POST", f"/threads/{thread_id}/messages", message)
        if (done := int(message["content"].split()[2]) + 1) % 3000 == 0:
            print(f"  {done} of {size} messages", file=sys.stderr)
    return thread_id


def list_twenty(api: Api, thread_id: str, _: str) -> float:
    begun = time.perf_counter()
    assert len(api.call("GET", f"/threads/{thread_id}/messages?limit=20")["data"]) >= 10
    return time.perf_counter() - begun


def start_run(api: Api, thread_id: str, assistant_id: str) -> float:
    """The time of the POST; the run is then cancelled or waited for, outside of the figure."""
    body = {"assistant_id": assistant_id, "truncation_strategy": {"type": "last_messages", "last_messages": 5}}
    begun = time.perf_counter()
    run = api.call("POST", f"/threads/{thread_id}/runs", body)
    taken = time.perf_counter() - begun
    while api.call("GET", f"/threads/{thread_id}/runs/{run['id']}")["status"] in ("queued", "in_progress"):
        time.sleep(0.002)
    return taken


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, service(f"sqlite:///{folder}/bench.db") as one:
        api = Api(one.url)
        assistant_id = api.call("POST", "/assistants", {"model": "offline"})["id"]
        threads = [filled_thread(api, size) for size in SIZES]
        above = False
        for name, act in (("list 20 messages", list_twenty), ("start a run", start_run)):
            times = [[act(api, thread, assistant_id) for thread in threads] for _ in range(ROUNDS)]
            medians = [statistics.median(column) * 1000 for column in zip(*times, strict=True)]
            ratio = medians[1] / medians[0]
            above |= ratio > LIMIT
            print(f"{name}: {medians[0]:.2f} ms at {SIZES[0]}, {medians[1]:.2f} ms at {SIZES[1]}, ratio {ratio:.2f}")
    sys.exit(above)


if __name__ == "__main__":
    main()
