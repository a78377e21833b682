"""Connections that a test leaves open fail this test. Without this they fail the one in which they are collected as
garbage, which is another one; and one test that failed would make others fail.

A connector of aiohttp is what holds them: of a client session, and of each HTTP client of the service.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

_made: list[tuple[aiohttp.BaseConnector, traceback.StackSummary]] = []
_failed = pytest.StashKey[bool]()
_init = aiohttp.BaseConnector.__init__


def _noted(self: aiohttp.BaseConnector, *args: Any, **options: Any) -> None:
    stack = traceback.StackSummary.extract(traceback.walk_stack(None), limit=40, lookup_lines=False)
    _made.append((self, stack))
    _init(self, *args, **options)


aiohttp.BaseConnector.__init__ = _noted  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """What was made before is of fixtures, which may outlive the test."""
    _made.clear()
    try:
        yield
    except BaseException:
        item.stash[_failed] = True
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    yield
    left = [(connector, stack) for connector, stack in _made if not connector.closed]
    _made.clear()
    for connector, _ in left:
        connector._close()  # its event loop may be closed, so nothing can be awaited
    if left and not item.stash.get(_failed, False):
        places = "\n".join(_place(stack) for _, stack in left)
        pytest.fail(f"{len(left)} connectors were left open, which were made here, innermost first:\n{places}", False)


def _place(stack: traceback.StackSummary) -> str:
    ours = [frame for frame in stack if "site-packages" not in frame.filename and "/lib/python" not in frame.filename]
    return "\n".join(f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in ours[1:8])
