"""The objects that the API has, each with all that is known of its kind. One without a part, or without a place in the
table, fails at import.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from assistants_service.core import names
from assistants_service.core.errors import ApiError, no_such, no_such_file, no_such_upload


@dataclass(frozen=True, slots=True)
class Resource:
    """`prefix` is that of its ids, `param` stands for an id in paths, and `container` has its documents. `listed`:
    lists are made from the documents, so a backup must hold them. `strict`: an id in a path must begin with the
    prefix. `error`: the 404, if it is not the usual one."""

    noun: str
    prefix: str
    param: str
    container: str
    listed: bool
    strict: bool = True
    error: Callable[[str], ApiError] | None = None

    def unknown(self, object_id: str) -> ApiError:
        """The 404 of an object that is not there."""
        return self.error(object_id) if self.error else no_such(self.noun, object_id)


ASSISTANT: Final = Resource("assistant", "asst", "assistant_id", names.ASSISTANTS, listed=True)
THREAD: Final = Resource("thread", "thread", "thread_id", names.THREADS, listed=False)
MESSAGE: Final = Resource("message", "msg", "message_id", names.MESSAGES, listed=False)
RUN: Final = Resource("run", "run", "run_id", names.RUNS, listed=False)
STEP: Final = Resource("run step", "step", "step_id", names.STEPS, listed=False)
FILE: Final = Resource("file", "file", "file_id", names.FILES, listed=True, strict=False, error=no_such_file)
UPLOAD: Final = Resource(
    "upload", "upload", "upload_id", names.UPLOADS, listed=False, strict=False, error=no_such_upload
)
VECTOR_STORE: Final = Resource("vector store", "vs", "vector_store_id", names.VECTOR_STORES, listed=True)
STORE_FILE: Final = Resource("file", "file", "file_id", names.STORE_FILES, listed=False, strict=False)
FILE_BATCH: Final = Resource("file batch", "vsfb", "batch_id", names.STORE_BATCHES, listed=False)

RESOURCES: Final = (ASSISTANT, THREAD, MESSAGE, RUN, STEP, FILE, UPLOAD, VECTOR_STORE, STORE_FILE, FILE_BATCH)
BY_CONTAINER: Final = {resource.container: resource for resource in RESOURCES}
PARAMS: Final = frozenset(resource.param for resource in RESOURCES)


def _check() -> None:
    for resource in RESOURCES:
        if resource.container not in names.CONTAINERS:
            raise TypeError(f"{resource.noun}: there is no container '{resource.container}' in core/names.py")
        if resource.listed and resource.container not in names.TRUTH:
            raise TypeError(f"{resource.noun}: it is listed, so '{resource.container}' belongs to names.TRUTH")
    if absent := [each.noun for each in globals().values() if isinstance(each, Resource) and each not in RESOURCES]:
        raise TypeError(f"RESOURCES lacks {absent}")
    if lost := set(names.CONTAINERS) - set(names.INTERNAL) - set(BY_CONTAINER):
        raise TypeError(f"documents of {lost} are of no resource: add one, or add the container to names.INTERNAL")


_check()
