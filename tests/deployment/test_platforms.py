"""The service can be installed wherever it is said to run: by uv.lock, each package that it needs has a wheel there."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename

LOCK = tomllib.loads((Path(__file__).parents[2] / "uv.lock").read_text())
PYTHONS = [(3, 11), (3, 12), (3, 13), (3, 14)]
MACHINES = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")]  # cryptography left Macs of Intel behind
GLIBC, MACOS = 36, (14, 0)  # of Debian 12; the oldest macOS that its vendor maintains


def environment(system: str, machine: str, python: tuple[int, int]) -> dict[str, str]:
    return {
        "sys_platform": system,
        "platform_system": {"linux": "Linux", "darwin": "Darwin"}[system],
        "platform_machine": machine,
        "os_name": "posix",
        "python_version": f"{python[0]}.{python[1]}",
        "python_full_version": f"{python[0]}.{python[1]}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }


def platforms(system: str, machine: str) -> list[str]:
    if system == "darwin":
        return list(mac_platforms(MACOS, machine))
    named = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
    found = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 4, -1)]
    return [*found, *(f"{name}_{machine}" for minor, name in named.items()), f"linux_{machine}"]


def needed(env: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The packages that the service needs there, without extras and groups."""
    versions: dict[str, list[dict[str, Any]]] = {}
    for package in LOCK["package"]:
        versions.setdefault(package["name"], []).append(package)
    wanted: list[tuple[str, str | None, tuple[str, ...]]] = [("assistants-service", None, ())]
    seen = set()
    while wanted:
        name, version, extras = wanted.pop()
        if (name, version, extras) in seen:
            continue
        seen.add((name, version, extras))
        (package,) = (each for each in versions[name] if version in (None, each.get("version")))
        if package["source"].get("editable") is None:
            yield package
        optional = (each for extra in extras for each in package.get("optional-dependencies", {}).get(extra, ()))
        for each in (*package.get("dependencies", ()), *optional):
            if "marker" not in each or Marker(each["marker"]).evaluate(env):
                wanted.append((each["name"], each.get("version"), tuple(each.get("extra", ()))))


def tags(system: str, machine: str, python: tuple[int, int]) -> set[Tag]:
    there = platforms(system, machine)
    own = f"cp{python[0]}{python[1]}"
    return {*cpython_tags(python, [own], there), *compatible_tags(python, own, there)}


@pytest.mark.parametrize(
    ("system", "machine", "python"),
    [(system, machine, python) for (system, machine), python in product(MACHINES, PYTHONS)],
    ids=lambda value: value if isinstance(value, str) else ".".join(map(str, value)),
)
def test_every_package_has_a_wheel(system: str, machine: str, python: tuple[int, int]) -> None:
    """Those of the built-in embeddings, too: a file is found by its meaning wherever the service runs."""
    found = list(needed(environment(system, machine, python)))
    assert {"wordllama", "tokenizers", "safetensors", "kreuzberg", "numpy"} <= {package["name"] for package in found}
    fitting = tags(system, machine, python)
    without = [
        package["name"]
        for package in found
        if not any(fitting & parse_wheel_filename(Path(wheel["url"]).name)[3] for wheel in package.get("wheels", ()))
    ]
    assert without == []
