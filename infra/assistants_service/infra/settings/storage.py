"""Settings of the store."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from assistants_service.core.log.generations import ROLLOVER_AFTER


class StorageSettings(BaseModel):
    """Where data is stored."""

    storage: str = Field(
        "sqlite:///data/assistants.db",
        description=(
            "where data is stored: sqlite:///PATH, sqlite://:memory:, an Azure Storage connection string,"
            " UseDevelopmentStorage=true (Azurite), or https://ACCOUNT.blob.core.windows.net (managed identity)"
        ),
    )
    storage_wait: Annotated[float, Field(ge=0, le=86_400)] = Field(
        60, description="seconds to wait at start for a store that is not responding"
    )
    event_log_rollover: Annotated[int, Field(ge=2, le=40_000)] = Field(
        ROLLOVER_AFTER,
        description=(
            "minimum number of commits after which the event log of a thread or a vector store is restarted from"
            " a snapshot"
        ),
    )
