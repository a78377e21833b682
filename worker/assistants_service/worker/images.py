"""Images of messages that are files: they are sent to the model as data: URLs."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace
from typing import Final

from cachetools import LRUCache

from assistants_service.core.errors import ApiError
from assistants_service.core.files.service import FileService, decode_file
from assistants_service.core.ids import SAFE_ID
from assistants_service.core.ports.models import Image, ModelError, Prompt, Turn
from assistants_service.core.protocol.files.resources import File
from assistants_service.core.threads.turns import IMAGE_FILE, content_of

MIB: Final = 1024 * 1024
LARGEST: Final = 20 * MIB  # bytes of an image, as providers limit it
MOST: Final = 48 * MIB  # bytes of all images of a prompt: the newest take precedence
KEPT: Final = 64 * MIB  # characters of cached data: URLs; enough for the largest image

# The formats that the protocol's models accept, by their first bytes.
_SIGNS: Final = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF87a", "gif"), (b"GIF89a", "gif"))
GONE: Final = "the file does not exist"


class Unusable(Exception):
    """The file cannot be shown to a model. The message says why."""


def kind_of(data: bytes) -> str | None:
    """The image's media type by its content, because names are unreliable."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((f"image/{kind}" for sign, kind in _SIGNS if data.startswith(sign)), None)


@dataclass(slots=True)
class Images:
    """Reads images, and caches those of the last prompts: a run needs the same ones in each of its turns."""

    files: FileService
    kept: int = KEPT
    _urls: LRUCache[tuple[str, str], str] = field(init=False)

    def __post_init__(self) -> None:
        self._urls = LRUCache(self.kept, len)

    async def fill(self, project: str, prompt: Prompt) -> Prompt:
        """The prompt with data in place of files.

        An image without an answer after it is required: if it is missing, this raises ModelError, and the run fails. An
        older one that was deleted, or expired, must not make the thread unusable: a note replaces it.
        """
        if not any(image.url.startswith(IMAGE_FILE) for turn in prompt.turns for image in turn.images):
            return prompt
        answered = max((place for place, turn in enumerate(prompt.turns) if turn.role == "assistant"), default=-1)
        room, filled = MOST, list(prompt.turns)
        for place in reversed(range(len(filled))):
            filled[place], room = await self._turn(project, filled[place], room, needed=place > answered)
        return replace(prompt, turns=tuple(filled))

    async def _turn(self, project: str, turn: Turn, room: int, *, needed: bool) -> tuple[Turn, int]:
        if not turn.images:
            return turn, room
        parts = list(turn.parts)
        for place, part in reversed(list(enumerate(parts))):
            if isinstance(part, Image) and part.url.startswith(IMAGE_FILE):
                parts[place], used = await self._shown(project, part, room, needed=needed)
                room -= used
        return replace(turn, content=content_of(parts)), room

    async def _shown(self, project: str, image: Image, room: int, *, needed: bool) -> tuple[str | Image, int]:
        """The image with its data, or a note, and its size in bytes."""
        file_id = image.url.removeprefix(IMAGE_FILE)
        try:
            file = await self._file(project, file_id, room)
            return image._replace(url=await self._url(project, file_id)), file.bytes
        except Unusable as error:
            if needed:
                raise ModelError("invalid_prompt", f"The image {file_id} cannot be used: {error}.") from None
            return f"[The image {file_id} is not shown: {error}.]", 0

    async def _file(self, project: str, file_id: str, room: int) -> File:
        """Checked each time, because a cached file may have been deleted. Raises Unusable."""
        if not SAFE_ID.fullmatch(file_id):  # a message may contain anything; only an id may become part of a name
            raise Unusable(GONE)
        try:
            file = decode_file((await self.files.fetch(project, file_id)).body)
        except ApiError:
            raise Unusable(GONE) from None
        if file.bytes > LARGEST:
            raise Unusable(f"it has {file.bytes} bytes; the limit is {LARGEST}")
        if file.bytes > room:
            raise Unusable(f"together, the images of a prompt have more than {MOST} bytes")
        return file

    async def _url(self, project: str, file_id: str) -> str:
        """Raises Unusable."""
        url = self._urls.get((project, file_id))
        if url is None:
            url = self._urls[project, file_id] = await self._read(project, file_id)
        return url

    async def _read(self, project: str, file_id: str) -> str:
        data = b"".join([piece async for piece in self.files.read(project, file_id)])
        kind = kind_of(data)
        if not data:
            raise Unusable(GONE)
        if kind is None:
            raise Unusable("it is not PNG, JPEG, GIF or WebP")
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"
