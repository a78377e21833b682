"""Where things live: containers, and names in them. Every name begins with the project: no project sees another."""

from __future__ import annotations

ASSISTANTS = "assistants"
THREADS = "threads"  # the log of a thread, and its document beside it
MESSAGES = "messages"
RUNS = "runs"
STEPS = "steps"
STREAMS = "streams"  # what was streamed of a run
SNAPSHOTS = "snapshots"  # folded state at the start of a log's generation
IDEMPOTENCY = "idempotency"  # which id an Idempotency-Key stands for

CONTAINERS = (ASSISTANTS, THREADS, MESSAGES, RUNS, STEPS, STREAMS, SNAPSHOTS, IDEMPOTENCY)

# Days after which nobody needs what lies here: a run lives a day at most, a key is remembered for one. On Azure the
# account's lifecycle rules remove it (bicep/storage.bicep), SQLite does so itself.
KEPT_DAYS = {STREAMS: 7, IDEMPOTENCY: 2}


def thread_log(project: str, thread_id: str) -> str:
    return f"{project}/{thread_id}.log"


def snapshot(project: str, thread_id: str, generation: int) -> str:
    return f"{project}/{thread_id}.{generation}"


def document(project: str, *ids: str) -> str:
    """project/id, project/thread/message, project/thread/run/step."""
    return "/".join((project, *ids))
