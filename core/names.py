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
FILES = "files"
UPLOADS = "uploads"
CONTENTS = "contents"  # of files, by the file's name

CONTAINERS = (ASSISTANTS, THREADS, MESSAGES, RUNS, STEPS, STREAMS, SNAPSHOTS, IDEMPOTENCY, FILES, UPLOADS, CONTENTS)


def thread_log(project: str, thread_id: str) -> str:
    return f"{project}/{thread_id}.log"


def snapshot(project: str, thread_id: str, generation: int) -> str:
    return f"{project}/{thread_id}.{generation}"


def document(project: str, *ids: str) -> str:
    """project/id, project/thread/message, project/thread/run/step."""
    return "/".join((project, *ids))
