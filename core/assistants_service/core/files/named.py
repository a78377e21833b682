"""A cache of the names of users' files, which each turn of a run needs, and which never change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cachetools import LRUCache

from assistants_service.core.errors import ApiError
from assistants_service.core.fanout import fan_out
from assistants_service.core.files.service import FileService, decode_file

REMEMBERED: Final = 10_000  # names


@dataclass(frozen=True, slots=True)
class NamedFiles:
    files: FileService
    _names: LRUCache[tuple[str, str], str] = field(default_factory=lambda: LRUCache(REMEMBERED))

    async def names(self, project: str, file_ids: Sequence[str]) -> dict[str, str]:
        """The names of these files by id. Files that do not exist are left out."""
        found = await fan_out(lambda file_id: self._name(project, file_id), file_ids)
        return {file_id: name for file_id, name in zip(file_ids, found, strict=True) if name is not None}

    async def _name(self, project: str, file_id: str) -> str | None:
        name = self._names.get((project, file_id))
        if name is None:
            try:
                name = decode_file((await self.files.fetch(project, file_id)).body).filename
            except ApiError:
                return None
            self._names[project, file_id] = name
        return name
