"""The command `assistants`, as a process that kills itself: by SIGKILL, at the n-th request with which it changes Azure
Storage. Either before that request leaves; or when it was done, and this process does not know yet.

    python crashing_service.py worker

Orders come on standard input: `7 before` or `7 after`, counted from the order on; `0 never` only counts. The requests
are told on standard error. The process ends with its input, thus with its parent. The service knows of nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from assistants_service import command, composition
from assistants_service.infra.azure.calls import Transport
from assistants_service.worker import work_queue

# Ten minutes are too long for a test:
TOMBSTONES = 20.0  # seconds that a deleted thread's stay
STALE = 60.0  # seconds that a work item waits whose commit never came
ORDERED, REQUEST = "order taken", "request "  # beginnings of lines


class Fate:
    """What was ordered last, and how many requests were sent since."""

    def __init__(self) -> None:
        self.at, self.when, self.count = 0, "never", 0

    def listen(self) -> None:
        for order in sys.stdin:
            at, self.when = order.split()
            self.at, self.count = int(at), 0
            tell(ORDERED)
        os.kill(os.getpid(), signal.SIGKILL)

    def next(self, request: Any) -> str:
        """`before`, `after` or `never`: when this request is the last one."""
        self.count += 1
        tell(f"{REQUEST}{described(request)}")
        return self.when if self.count == self.at else "never"


def described(request: Any) -> str:
    """Such as `PUT appendblock threads`."""
    url = urlsplit(request.url)
    container = url.path.split("/")[2]
    operation = url.query.partition("comp=")[2].partition("&")[0]
    return " ".join(word for word in (request.method, operation, container) if word)


def tell(line: str) -> None:
    os.write(2, f"{line}\n".encode())  # in one piece: the service logs to the same place


def die_if(now: bool) -> None:
    if now:
        os.kill(os.getpid(), signal.SIGKILL)


fate, send = Fate(), Transport.send


async def mortal(self: Transport, request: Any, **config: Any) -> Any:
    if request.method in ("GET", "HEAD"):
        return await send(self, request, **config)
    last = fate.next(request)
    die_if(last == "before")
    response = await send(self, request, **config)
    die_if(last == "after")
    return response


if __name__ == "__main__":
    Transport.send = mortal  # type: ignore[method-assign]
    composition.WorkerContext = partial(composition.WorkerContext, tombstone_seconds=TOMBSTONES)  # type: ignore[misc]
    work_queue.STALE = STALE  # type: ignore[misc]
    threading.Thread(target=fate.listen, daemon=True).start()
    command.main()
