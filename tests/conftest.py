"""What all tests share."""

import os

from azurite import azure_account, azurite

__all__ = ["azure_account", "azurite"]


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many a test waits for processes, and for leases to end."""
    return (os.cpu_count() or 1) + 1
