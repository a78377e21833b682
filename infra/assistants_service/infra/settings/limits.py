"""Settings of what clients may take."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field


class LimitSettings(BaseModel):
    """What clients may take and store."""

    project_requests_per_minute: Annotated[int, Field(ge=0)] = Field(
        0, description="requests per minute that each API process accepts from one project; 0: no limit"
    )
    project_active_runs: Annotated[int, Field(ge=0)] = Field(
        0, description="active runs that each API process allows one project; 0: no limit"
    )
    project_stored_bytes: Annotated[int, Field(ge=0)] = Field(
        0, description="bytes of threads, files and vector stores that one project may store; 0: no limit"
    )
    max_connections: Annotated[int, Field(ge=1)] = Field(
        5000, description="maximum number of open connections to one API process"
    )
    keep_alive_timeout: Annotated[float, Field(gt=0)] = Field(
        75,
        description=(
            "seconds after which an idle connection, or one whose request headers are incomplete, is closed; a"
            " proxy in front should close idle connections sooner"
        ),
    )
    file_max_mb: Annotated[int, Field(ge=1)] = Field(
        512, description="maximum size in MiB of a file uploaded in one request"
    )
    upload_max_mb: Annotated[int, Field(ge=1)] = Field(
        8192, description="maximum size in MiB of a file uploaded in parts through /v1/uploads"
    )
    poll_after_ms: Annotated[int, Field(ge=1)] = Field(
        100, description="milliseconds that polling clients are asked to wait"
    )
