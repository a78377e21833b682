"""Request bodies of files and uploads."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

from assistants_service.core.protocol.bodies import Body, documented

MAX_UPLOAD: Final = 8 * 1024**3  # bytes of a file that comes in parts


def _file_name(value: str) -> str:
    """Keeps only the file name, because some clients send a path; without characters that a terminal or a header
    interprets."""
    name = re.split(r"[/\\]", value)[-1]
    if name in {"", ".", ".."} or any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise PydanticCustomError("value_error", "not a file name")
    return name


FILE_NAME: Final = (  # as far as a pattern can say what _file_name checks
    r"^([^\u0000-\u001f\u007f-\u009f]*[/\\])?(?!\.{1,2}$)[^\u0000-\u001f\u007f-\u009f/\\]+$"
)


FileName = Annotated[str, StringConstraints(max_length=255), AfterValidator(_file_name), documented(pattern=FILE_NAME)]


Purpose = Literal["fine-tune", "assistants", "batch", "user_data", "vision", "evals"]


class ExpiresAfterBody(Body):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class CreateFile(Body):
    """The fields of the form; the file itself is streamed separately. `filename` is that of the file."""

    filename: FileName
    purpose: Purpose
    expires_after: ExpiresAfterBody | None = None


class CreateUpload(Body):
    filename: FileName
    purpose: Purpose
    bytes: Annotated[int, Field(ge=1), documented(maximum=MAX_UPLOAD)]
    mime_type: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    expires_after: ExpiresAfterBody | None = None


class CompleteUpload(Body):
    part_ids: Annotated[list[str], Field(min_length=1, max_length=10_000)]
    md5: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{32}$")] | None = None
