"""Where things live: containers, and names in them. Every name begins with the project: no project sees another."""

from __future__ import annotations

import re

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
VECTOR_STORES = "vector-stores"
STORE_LOGS = "vector-store-logs"  # apart from the documents, which are listed
STORE_FILES = "vector-store-files"
STORE_BATCHES = "vector-store-batches"
FILE_STORES = "file-stores"  # which stores a file may be in
SEGMENTS = "segments"  # what the index of a vector store consists of
KEYS = "keys"  # API keys of all projects, which are looked up before a project is known

# What a backup must hold. The rest is made from it when it is asked for, or is of the moment.
TRUTH = (
    *(ASSISTANTS, KEYS, FILES, UPLOADS, CONTENTS),  # documents without a log, and the bytes of files
    *(THREADS, STORE_LOGS, SNAPSHOTS),  # logs, and the state that a rolled-over log begins with
    *(SEGMENTS, FILE_STORES),  # named by the logs of stores, and the way from a file to the stores that hold it
    VECTOR_STORES,  # made from their logs, but lists are made from these documents
)
PROJECTIONS = (MESSAGES, RUNS, STEPS, STORE_FILES, STORE_BATCHES)
PASSING = (STREAMS, IDEMPOTENCY)
CONTAINERS = (*TRUTH, *PROJECTIONS, *PASSING)
# Queues: what there is to do; what could not be done, for people to look at; and what the Azure Functions host delivers
# no more, under a name of its choice, until worker/function_app.py takes it from there.
WORK, BURIED, POISON = "work", "work-buried", "work-poison"
WEIGHED = (THREADS, CONTENTS, STORE_LOGS, SEGMENTS)  # what counts as stored: truth rather than what is made from it

# What a project may be called: its name begins all others, so it must not end before they do, on any engine.
PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
PROJECT_RULE = "expected up to 63 letters, digits, dots, underscores and hyphens, starting with a letter or a digit"

# Days after which nothing needs what lies here: a run lives a day at most, a key is remembered for one. On Azure the
# account's lifecycle rules remove it (bicep/storage.bicep), SQLite does so itself.
KEPT_DAYS = {STREAMS: 7, IDEMPOTENCY: 2}


def log(project: str, log_id: str) -> str:
    return f"{project}/{log_id}.log"


def snapshot(project: str, log_id: str, generation: int) -> str:
    return f"{project}/{log_id}.{generation}"


def document(project: str, *ids: str) -> str:
    """project/id, project/thread/message, project/thread/run/step, project/store/file, project/file/store."""
    return "/".join((project, *ids))
