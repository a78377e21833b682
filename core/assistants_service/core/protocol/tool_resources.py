"""`tool_resources` of assistants, threads and runs, as on the wire and in the log."""

from __future__ import annotations

from typing import TypedDict

from assistants_service.core.protocol.objects import Struct


class CodeInterpreterFiles(Struct, frozen=True, kw_only=True):
    file_ids: tuple[str, ...] = ()


class FileSearchStores(Struct, frozen=True, kw_only=True):
    vector_store_ids: tuple[str, ...] = ()


class ToolResources(TypedDict, total=False):
    """The resources of each tool that has any. This is a dict and not a struct because responses keep the order of the
    request. Never changed in place."""

    code_interpreter: CodeInterpreterFiles
    file_search: FileSearchStores


def files_in(resources: ToolResources) -> tuple[str, ...]:
    """The ids of the files of code_interpreter."""
    return resources.get("code_interpreter", CodeInterpreterFiles()).file_ids


def stores_in(resources: ToolResources) -> tuple[str, ...]:
    """The ids of the vector stores of file_search."""
    return resources.get("file_search", FileSearchStores()).vector_store_ids
