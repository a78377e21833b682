"""Files and uploads as they go over the wire."""

from __future__ import annotations

from typing import Literal

from assistants_service.core.protocol.objects import Struct


class File(Struct, frozen=True, kw_only=True):
    object: Literal["file"] = "file"
    id: str
    purpose: str
    filename: str
    bytes: int
    created_at: int
    expires_at: int | None = None
    status: Literal["uploaded", "processed", "error"] = "processed"
    status_details: str | None = None


class Upload(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"] = "pending"
    expires_at: int
    file: File | None = None


class UploadPart(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str
