"""Fixtures that all tests share."""

from azurite import azure_account, azurite

__all__ = ["azure_account", "azurite"]
