"""The base types of tools on the wire and in the log."""

from __future__ import annotations

from assistants_service.core.protocol.objects import Struct


class ToolStruct(Struct, frozen=True, kw_only=True, tag_field="type"):
    """A tool in the `tools` of an assistant or a run, as on the wire."""


class StepCall(Struct, frozen=True, kw_only=True, tag_field="type"):
    """A call in a step, as stored in the log. It has a field named like its type. On the wire `id` comes first; msgspec
    puts the tag first, which clients accept."""

    id: str


class Annotation(Struct, frozen=True, kw_only=True, tag_field="type"):
    """A citation in the text of a message, as on the wire and in the log. Offsets count the text's code points. A
    tool's own has a field that is named like its type."""

    text: str
    start_index: int
    end_index: int

    @property
    def attached(self) -> str | None:
        """The id of the file that the annotation attaches to its message, if any."""
        return None

    def as_delta(self) -> Annotation:
        """The annotation as the stream shows it: its own fields, and possibly more."""
        return self
