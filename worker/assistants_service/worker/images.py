"""Images of messages that are files: the model gets their bytes, in data: URLs."""

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
LARGEST: Final = 20 * MIB  # bytes of an image, as providers have it
MOST: Final = 48 * MIB  # bytes of all images of a prompt: the newest count
KEPT: Final = 64 * MIB  # characters of data: URLs that a process remembers; room for each that is allowed

# What the protocol's models take, by the bytes that such a file begins with.
_SIGNS: Final = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF87a", "gif"), (b"GIF89a", "gif"))
GONE: Final = "there is no such file, or not any more"


class Unusable(Exception):
    """The file cannot be shown to a model. The message says why."""


def kind_of(data: bytes) -> str | None:
    """The image's media type by its content, since a name may say anything."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((f"image/{kind}" for sign, kind in _SIGNS if data.startswith(sign)), None)


@dataclass(slots=True)
class Images:
    """Reads images, and remembers those of the last prompts: a run asks for the same ones in each of its turns."""

    files: FileService
    kept: int = KEPT
    _urls: LRUCache[tuple[str, str], str] = field(init=False)

    def __post_init__(self) -> None:
        self._urls = LRUCache(self.kept, len)

    async def fill(self, project: str, prompt: Prompt) -> Prompt:
        """The prompt with data in the place of files.

        An image that has no answer yet has to be there: else this raises ModelError, and the run fails. One that
        was deleted, or expired, since it was talked about must not end the thread: a note takes its place.
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
        """The image with its data, or a note, and the bytes that it takes."""
        file_id = image.url.removeprefix(IMAGE_FILE)
        try:
            file = await self._file(project, file_id, room)
            return image._replace(url=await self._url(project, file_id)), file.bytes
        except Unusable as error:
            if needed:
                raise ModelError("invalid_prompt", f"The image {file_id} cannot be used: {error}.") from None
            return f"[The image {file_id} is not shown: {error}.]", 0

    async def _file(self, project: str, file_id: str, room: int) -> File:
        """Asked each time, as a file that is remembered may be deleted. Raises Unusable."""
        if not SAFE_ID.fullmatch(file_id):  # a message may name anything; what is no id must not become part of a name
            raise Unusable(GONE)
        try:
            file = decode_file((await self.files.fetch(project, file_id)).body)
        except ApiError:
            raise Unusable(GONE) from None
        if file.bytes > LARGEST:
            raise Unusable(f"it has {file.bytes} bytes, and {LARGEST} are allowed")
        if file.bytes > room:
            raise Unusable(f"the images of a prompt may have {MOST} bytes together")
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
            raise Unusable("it is no PNG, JPEG, GIF or WebP")
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"
