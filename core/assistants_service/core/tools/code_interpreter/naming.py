"""The names of the user's files in the folder of their thread. The log has those that calls have found, which so never
change; others are made from what the log has: a file that is attached later takes no other file's name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from assistants_service.core.tools.code_interpreter.services import CodeServices
from assistants_service.core.tools.run_info import ThreadInfo

MOST_BYTES: Final = 255  # of a name, in UTF-8: file systems take no longer one
MOST_SUFFIX: Final = 240  # bytes of them, so that part of the stem and a number fit in front; a longer one is cut, too


@dataclass(frozen=True, slots=True)
class UsersFile:
    """`name` in the folder, `filename` as it was uploaded, and the `paths` under which code finds it: its id and its
    name, but for those that calls have removed or written to."""

    name: str
    filename: str
    paths: Sequence[str]


async def users_files(
    project: str, thread: ThreadInfo, file_ids: Sequence[str], services: CodeServices
) -> dict[str, UsersFile]:
    """The users' files by id. Those that do not exist are left out."""
    files: dict[str, UsersFile] = {}
    taken = {*file_ids, *thread.file_names, *thread.file_names.values(), *_with_folders(thread.files)}
    for file_id, filename in (await services.named_files.names(project, file_ids)).items():
        name = thread.file_names.get(file_id) or _free(filename, taken)
        taken.add(name)
        paths = [path for path in (file_id, name) if path not in thread.files and path not in thread.removed]
        files[file_id] = UsersFile(name, filename, list(dict.fromkeys(paths)))
    return files


def new_names(thread: ThreadInfo, files: Mapping[str, UsersFile]) -> dict[str, str]:
    """The names of files that the log does not name yet."""
    return {file_id: file.name for file_id, file in files.items() if file_id not in thread.file_names}


def _with_folders(paths: Collection[str]) -> set[str]:
    return {str(each) for path in paths for each in (PurePosixPath(path), *PurePosixPath(path).parents)}


def _free(name: str, taken: Collection[str]) -> str:
    """The name if it is not taken; otherwise `data_2.csv` for `data.csv`, and so on. A stem that is too long is cut."""
    path = PurePosixPath(name)
    stem, suffix = (path.stem, path.suffix) if len(path.suffix.encode()) <= MOST_SUFFIX else (name, "")
    number, free = 1, name if len(name.encode()) <= MOST_BYTES else _fitting(stem, suffix)
    while free in taken:
        number += 1
        free = _fitting(stem, f"_{number}{suffix}")
    return free


def _fitting(stem: str, end: str) -> str:
    """The stem is cut between two characters."""
    return stem.encode()[: MOST_BYTES - len(end.encode())].decode(errors="ignore") + end
