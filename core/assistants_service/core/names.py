"""Names of containers, and names within them. Each begins with the project, so projects cannot see each other."""

from __future__ import annotations

import re

ASSISTANTS = "assistants"
THREADS = "threads"  # the log of a thread, and its document
MESSAGES = "messages"
RUNS = "runs"
STEPS = "steps"
STREAMS = "streams"  # the events streamed for a run
SNAPSHOTS = "snapshots"  # folded state at the start of a log's generation
IDEMPOTENCY = "idempotency"  # the id that an Idempotency-Key reserved
FILES = "files"
UPLOADS = "uploads"
CONTENTS = "contents"  # of files, by the file's name
VECTOR_STORES = "vector-stores"
STORE_LOGS = "vector-store-logs"  # apart from the documents, which are listed
STORE_FILES = "vector-store-files"
STORE_BATCHES = "vector-store-batches"
FILE_STORES = "file-stores"  # the stores that may contain a file
SEGMENTS = "segments"  # the index of a vector store
KEYS = "keys"  # API keys of all projects: they are looked up before the project is known

# What a backup must contain. The rest is derived from it on demand, or short-lived.
TRUTH = (
    *(ASSISTANTS, KEYS, FILES, UPLOADS, CONTENTS),  # documents without a log, and the bytes of files
    *(THREADS, STORE_LOGS, SNAPSHOTS),  # logs, and the state that a rolled-over log begins with
    *(SEGMENTS, FILE_STORES),  # named in the logs of stores, and the mapping from a file to its stores
    VECTOR_STORES,  # derived from the logs, but lists are made from these documents
)
PROJECTIONS = (MESSAGES, RUNS, STEPS, STORE_FILES, STORE_BATCHES)
PASSING = (STREAMS, IDEMPOTENCY)
CONTAINERS = (*TRUTH, *PROJECTIONS, *PASSING)
# Containers without objects of the API. The documents of all others belong to a resource: core/resources.py.
INTERNAL = (*(SNAPSHOTS, CONTENTS, STORE_LOGS, FILE_STORES, SEGMENTS, KEYS), *PASSING)
# Queues: work; poison items, for inspection; and items that the Azure Functions host gave up, in a queue that the host
# names, until worker/function_app.py handles them.
WORK, DEAD_LETTERS, POISON = "work", "work-buried", "work-poison"
WEIGHED = (THREADS, CONTENTS, STORE_LOGS, SEGMENTS)  # what counts towards stored bytes: originals, not projections

# Valid project names: a project is the first part of all names, so it must be unambiguous in every engine.
PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
PROJECT_RULE = "expected up to 63 letters, digits, dots, underscores and hyphens, starting with a letter or a digit"

# Days after which nothing needs these objects: a run lives at most a day, an Idempotency-Key one day. On Azure, the
# account's lifecycle rules delete them (bicep/storage.bicep); SQLite does so itself.
KEPT_DAYS = {STREAMS: 7, IDEMPOTENCY: 2}


def log(project: str, log_id: str) -> str:
    return f"{project}/{log_id}.log"


def snapshot(project: str, log_id: str, generation: int) -> str:
    return f"{project}/{log_id}.{generation}"


def document(project: str, *ids: str) -> str:
    """project/id, project/thread/message, project/thread/run/step, project/store/file, project/file/store."""
    return "/".join((project, *ids))
