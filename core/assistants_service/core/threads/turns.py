"""Converts a message into a turn of a prompt."""

from __future__ import annotations

from collections.abc import Iterable

from assistants_service.core.ports.models import Image, Turn, TurnContent
from assistants_service.core.protocol.threads.resources import (
    ImageFilePart,
    ImageUrlPart,
    Message,
    MessagePart,
    RefusalPart,
    TextPart,
)

IMAGE_FILE = "file:"  # instead of an image's URL: a file's id follows


def turn_of(message: Message) -> Turn:
    parts = [_part(part) for part in message.content]
    if message.role != "user":  # no provider accepts images in assistant messages
        parts = [_named(part) if isinstance(part, Image) else part for part in parts]
    return Turn(role=message.role, content=content_of(parts))


def _part(part: MessagePart) -> str | Image:
    match part:
        case TextPart(text=text):
            return text.value
        case RefusalPart(refusal=refusal):
            return refusal
        case ImageUrlPart(image_url=image):
            return Image(image.url, image.detail)
        case ImageFilePart(image_file=file):
            return Image(IMAGE_FILE + file.file_id, file.detail)


def _named(image: Image) -> str:
    """A note in place of an image. A data: URL is not quoted, since it would only cost tokens."""
    return f"[image {image.url.removeprefix(IMAGE_FILE).partition(',')[0]}]"


def content_of(parts: Iterable[str | Image]) -> TurnContent:
    """Consecutive texts are joined as lines of one text; without images, that text is the content."""
    merged: list[str | Image] = []
    for part in parts:
        last = merged[-1] if merged else None
        if isinstance(part, str) and isinstance(last, str):
            merged[-1] = f"{last}\n{part}"
        else:
            merged.append(part)
    return tuple(merged) if any(isinstance(part, Image) for part in merged) else "".join(map(str, merged))
