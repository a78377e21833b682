"""Clients as processes of their own: which there are, what each plays, and what came of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import envs
from npm import NODE, npm_install

HERE = Path(__file__).parent
NPM = HERE / "npm"
PROJECTS = 100  # more than any program has scenarios
STORES = ("sqlite", "azurite")
# `make clients`: what is left out otherwise, since the store does not matter to a client.
OTHERS = os.environ.get("CLIENTS") == "others"
TIMEOUT = 600.0  # seconds for all that a client plays, on a machine that does much else
# A client's own deprecations are no concern of the service; whatever else it warns of is.
STRICT = ("-W", "error", "-W", "ignore::DeprecationWarning")
LENIENT = ("-W", "ignore")
WHOLE = re.compile(r"\{.*\}")  # a line that tells an outcome; one that died may leave a part of one
_INSTALLING = threading.Lock()


@dataclass(frozen=True)
class Played:
    outcomes: Mapping[tuple[str, str], str | None]  # the error, or None, by way and scenario
    complaint: str  # what the client wrote besides, and how it ended, if that was not well


@dataclass(frozen=True)
class Party:
    """A client: the program that it plays, how to run it, and the ways in which it plays each scenario, by store.
    `others` are those that only `make clients` plays. `dialect` tells the program whose client to take."""

    name: str
    program: Path
    command: Callable[[], list[str]]
    ways: Mapping[str, tuple[str, ...]]
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dialect: str = "openai"

    @property
    def played(self) -> Mapping[str, tuple[str, ...]]:
        """The ways of this session."""
        return self.others if OTHERS else self.ways

    @property
    def scenarios(self) -> list[str]:
        pattern = r"^@scenario\nasync def (\w+)|^scenario\('(\w+)'"
        found = re.findall(pattern, self.program.read_text(encoding="utf-8"), re.MULTILINE)
        return [python or node for python, node in found]

    def play(self, url: str, store: str, scenarios: Iterable[str]) -> Played:
        command = [*ready(self.command), str(self.program), *scenarios]
        ways = " ".join(self.played[store])
        done = run(command, url, key=self.name, PROJECTS=str(PROJECTS), DIALECT=self.dialect, WAYS=ways)
        lines = done.stdout.splitlines()
        told: list[dict[str, Any]] = [json.loads(line) for line in lines if WHOLE.fullmatch(line)]
        outcomes = {(one["client"], one["scenario"]): one["error"] for one in told}
        besides = [f"It ended with {done.returncode}."] if done.returncode else []
        besides += [line for line in lines if not WHOLE.fullmatch(line)]
        return Played(outcomes, "\n".join((*besides, done.stderr)).strip())


def run(command: list[str], url: str, *, key: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "AZURE_", "LANGCHAIN_"))
    }
    clean |= {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": key, **env}
    return subprocess.run(
        command, env=clean, cwd=HERE, capture_output=True, text=True, encoding="utf-8", timeout=TIMEOUT, check=False
    )


def node() -> list[str]:
    npm_install(NPM)
    return [str(NODE)]


def ready(command: Callable[[], list[str]]) -> list[str]:
    """The command, once what it needs is installed: two stores may want the same client at once."""
    with _INSTALLING:
        return command()


BOTH = ("sync", "async")  # on one store; where the other differs the way does not matter
PARTIES = {
    party.name: party
    for party in (
        Party(
            "openai-3.52.0",
            HERE / "openai_scenarios.py",
            lambda: [sys.executable, *STRICT],
            {"sqlite": BOTH, "azurite": ("async",)},
        ),
        Party(  # what is behind the paths is the same, so one store will do
            "azure-3.52.0",
            HERE / "openai_scenarios.py",
            lambda: [sys.executable, *STRICT],
            {"sqlite": ("sync",)},
            dialect="azure",
        ),
        Party(
            "openai-1.109.1",
            HERE / "openai_scenarios.py",
            lambda: [str(envs.python("openai-1")), *STRICT],
            {"sqlite": ("async",)},
            {"azurite": ("sync",)},
        ),
        Party("npm-7.55.0", NPM / "scenarios.mjs", node, {"sqlite": ("npm",)}, {"azurite": ("npm",)}),
        Party(
            "langchain",
            HERE / "langchain_scenarios.py",
            lambda: [str(envs.python("langchain")), *LENIENT],
            {"sqlite": ("langchain",)},
            {"azurite": ("langchain",)},
        ),
    )
}


def api_keys() -> str:
    """A project and a key for every scenario of every client, and one for each client's other programs."""
    numbers = ["", *(f"-{number}" for number in range(PROJECTS))]
    return ",".join(f"{name}{number}:{name}{number}" for name in PARTIES for number in numbers)
