"""`tool_resources` of assistants, threads and runs, as they go over the wire and as the log has them."""

from __future__ import annotations

from typing import TypedDict

from assistants_service.core.protocol.objects import Struct


class CodeInterpreterFiles(Struct, frozen=True, kw_only=True):
    file_ids: tuple[str, ...] = ()


class FileSearchStores(Struct, frozen=True, kw_only=True):
    vector_store_ids: tuple[str, ...] = ()


class ToolResources(TypedDict, total=False):
    """Of each tool that has any. No struct: the order is that in which they were given, and stays so. Never changed in
    place."""

    code_interpreter: CodeInterpreterFiles
    file_search: FileSearchStores


def files_in(resources: ToolResources) -> tuple[str, ...]:
    """What code_interpreter has."""
    return resources.get("code_interpreter", CodeInterpreterFiles()).file_ids


def stores_in(resources: ToolResources) -> tuple[str, ...]:
    """What file_search has."""
    return resources.get("file_search", FileSearchStores()).vector_store_ids
