"""Reading files by a pool of readers, for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

import hostile_files
from assistants_service.core.ports.extraction import Chunk, Chunking, Unreadable
from assistants_service.infra.extraction.pool import ReaderPool


async def read(
    readers: ReaderPool,
    path: Path,
    chunking: Chunking = Chunking(),  # noqa: B008
    project: str = "p",
) -> list[Chunk]:
    return list(await readers.chunks(project, path, path.name, chunking))


async def failure(readers: ReaderPool, path: Path) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        await read(readers, path)
    return caught.value


def text_file(folder: Path, text: str = hostile_files.HARMLESS) -> Path:
    path = folder / "note.txt"
    path.write_text(text)
    return path
