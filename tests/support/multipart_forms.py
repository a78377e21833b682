"""Files as clients send them: multipart forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inprocess_service import Answer, Api

BOUNDARY = "a-boundary-of-the-tests"
TYPE = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def field(name: str, value: str | bytes, filename: str | None = None) -> bytes:
    """One field of a form; a file if it has a name."""
    body = value.encode() if isinstance(value, str) else value
    named = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return head.encode() + body + b"\r\n"


def form(*fields: bytes) -> bytes:
    return b"".join(fields) + f"--{BOUNDARY}--\r\n".encode()


def file_form(content: bytes, filename: str = "notes.txt", **fields: str) -> bytes:
    """Of POST /files; `purpose` is `assistants` if none is given."""
    given = [field(name, value) for name, value in {"purpose": "assistants", **fields}.items()]
    return form(*given, field("file", content, filename))


async def send_form(api: Api, path: str, data: Any, **headers: str) -> Answer:
    return await api.send("POST", f"/v1{path}", data=data, headers={**TYPE, **headers})


async def upload(api: Api, content: bytes, filename: str = "notes.txt", **fields: str) -> Any:
    """The file object of a new file."""
    answer = await send_form(api, "/files", file_form(content, filename, **fields))
    assert answer.status == 200, answer.raw
    return answer.body


async def add_part(api: Api, upload_id: str, data: bytes) -> str:
    """The id of a new part."""
    answer = await send_form(api, f"/uploads/{upload_id}/parts", form(field("data", data, "blob")))
    assert answer.status == 200, answer.raw
    return str(answer.body["id"])


async def download(api: Api, file_id: str, **headers: str) -> Answer:
    return await api.send("GET", f"/v1/files/{file_id}/content", headers=headers)
