"""Check the contracts on imports in pyproject.toml: `python tools/lint_imports.py`.

import-linter finds the parts of the package in all four folders only after the package has been imported, so its own
command `lint-imports` fails.
"""

from __future__ import annotations

from importlinter.cli import lint_imports_command

import assistants_service  # noqa: F401

if __name__ == "__main__":
    lint_imports_command()
