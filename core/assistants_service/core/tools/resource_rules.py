"""A tool's resources: its entry in the `tool_resources` of assistants, threads and runs, and files that messages attach
for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

from assistants_service.core.files.service import FileService
from assistants_service.core.protocol.bodies import Body
from assistants_service.core.protocol.objects import Struct
from assistants_service.core.request_context import RequestContext
from assistants_service.core.vector_stores.service import VectorStoreService

B = TypeVar("B", bound=Body)
R = TypeVar("R", bound=Struct)


@dataclass(frozen=True, slots=True)
class Aggregates:
    """What tools may change before a request that concerns them is committed."""

    files: FileService
    vector_stores: VectorStoreService


class Preparation(Protocol):
    """Changes other aggregates before an assistant, thread or message that needs them is committed. A request that is
    repeated after a crash has the same ids, and must have the same effect. A refused one must have none."""

    async def for_assistant(self, context: RequestContext, assistant_id: str, body: Any) -> Any:
        """Returns the entry to create instead of this one of the request. None: not given."""

    async def for_thread(self, context: RequestContext, thread_id: str, body: Any, file_ids: Sequence[str]) -> Any:
        """The same for a new thread. Its messages attach these files for the tool."""

    async def for_messages(self, context: RequestContext, reserved_id: str, entry: Any, file_ids: Sequence[str]) -> Any:
        """Called if new messages attach files for the tool. `entry` is the thread's, None if it has none; `reserved_id`
        is the id of the message, or of the run that brings the messages. Returns what `attached` gets."""


class ResourceRules(Generic[B, R]):
    """The rules of a tool's entry in `tool_resources`. By default an entry consists of lists of ids, none of which the
    tool changes by itself."""

    stored: ClassVar[type[Struct]]  # in assistants, threads and runs
    body: ClassVar[type[Body]]  # in requests
    new_body: ClassVar[type[Body] | None] = None  # in requests that create an assistant or a thread, if different
    always: ClassVar[bool] = False  # an assistant with the tool has an entry, even if the request gives none
    attachable: ClassVar[bool] = False  # messages may attach files for the tool

    def entry_of(self, body: B) -> R:
        """The entry that the request gives."""
        return self._entry(lambda field: tuple(getattr(body, field) or ()))

    def keeps(self, body: B) -> bool:
        """Whether an update with this body leaves an entry as it is."""
        return False

    def merged(self, entries: Sequence[R]) -> R:
        """The entry of a run, from that of its assistant and that of its thread, or from one of them."""
        return self._entry(lambda field: distinct(each for entry in entries for each in getattr(entry, field)))

    def _entry(self, ids: Callable[[str], tuple[str, ...]]) -> R:
        """`ids` returns those of a field."""
        return cast("R", self.stored(**{field: ids(field) for field in self.stored.__struct_fields__}))

    def attached(self, entry: R | None, file_ids: Sequence[str], prepared: Any) -> R | None:
        """The entry of a thread after new messages attach these files for the tool: a pure function, as it is part of a
        command. `prepared` is the result of the tool's preparation; None if there was none, or not yet."""
        return entry

    def preparation(self, aggregates: Aggregates) -> Preparation | None:
        """Created once in each process of the API. None: nothing must be done before a commit."""
        return None


AnyRules = ResourceRules[Any, Any]


def distinct(ids: Iterable[str]) -> tuple[str, ...]:
    """The values without repetitions, in order."""
    return tuple(dict.fromkeys(ids))
