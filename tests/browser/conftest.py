from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """These tests need Chromium and Playwright, so they run only when they are named: `pytest tests/browser`."""
    named = any(Path(argument.split("::")[0]).resolve().is_relative_to(HERE) for argument in config.args)
    return None if named else True
