"""What all tests share."""

import os

import pytest

from azurite import azure_account, azurite
from open_connections import pytest_runtest_call, pytest_runtest_teardown

__all__ = ["azure_account", "azurite", "pytest_runtest_call", "pytest_runtest_teardown"]


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many a test waits for processes, and for leases to end."""
    return (os.cpu_count() or 1) + 1


# The files that take longest. Some of them wait most of the time, while the others use the processors.
LONG = (
    *("test_clients", "test_crash_sweep", "test_functions", "test_kill", "test_simulation", "test_vector_index"),
    *("test_storage_contract", "test_manual", "test_model", "test_docs", "test_stores_kill", "test_deployment"),
    *("test_fuzz", "test_stores_crash", "test_fairness", "test_malformed", "test_files_crash"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files, lest one of them runs on when all others are done."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))
