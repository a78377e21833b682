"""The service's managed identity on Azure, for storage and models, without secrets in settings."""

from __future__ import annotations

import os
from typing import Final

from azure.identity.aio import DefaultAzureCredential, get_bearer_token_provider

AZURE_OPENAI: Final = "https://cognitiveservices.azure.com/.default"
CHOICE: Final = "AZURE_TOKEN_CREDENTIALS"  # read by azure-identity: prod, dev, or the name of one credential
# The logged-in developer. In production these find no login, and their errors hide the real cause.
DESK: Final = ("shared_token_cache", "visual_studio_code", "cli", "developer_cli", "powershell")


def new_credential() -> DefaultAzureCredential:
    """A workload identity, a managed identity (that of AZURE_CLIENT_ID, if set), or the service principal in the
    environment; others if AZURE_TOKEN_CREDENTIALS selects them. Raises ValueError for an invalid choice."""
    excluded = {} if os.environ.get(CHOICE) else {f"exclude_{name}_credential": True for name in DESK}
    return DefaultAzureCredential(**excluded)


class ModelToken:
    """Gets the token for a call of Azure OpenAI. The credential caches it until shortly before it expires."""

    def __init__(self) -> None:
        self._credential = new_credential()
        self._token = get_bearer_token_provider(self._credential, AZURE_OPENAI)

    async def __call__(self) -> str:
        return await self._token()

    async def close(self) -> None:
        await self._credential.close()
