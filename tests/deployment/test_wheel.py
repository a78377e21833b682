"""What `pip install` of the wheel gives: one importable name, a command, and a service whose defaults work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from openai import OpenAI

from test_deployment import BIN, ROOT, run, started

PACKAGE = "assistants_service"
TAKEN = ("app", "core", "worker", "infra", "tests", "tools", "assistants")  # names that a user's project may have


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "WHEEL" in os.environ:  # what a release publishes
        return Path(os.environ["WHEEL"])
    folder = tmp_path_factory.mktemp("wheel")
    run(BIN / "uv", "build", "--quiet", "--wheel", "--out-dir", folder, ROOT, env=dict(os.environ))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment with the wheel and what it asks for, in the versions of uv.lock."""
    folder = tmp_path_factory.mktemp("environment")
    locked = folder / "locked.txt"
    export = ("export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-hashes")
    run(BIN / "uv", *export, "--directory", ROOT, "--output-file", locked, env=dict(os.environ))
    run(BIN / "uv", "venv", "--quiet", "--python", sys.executable, folder / "venv", env=dict(os.environ))
    env = {**os.environ, "VIRTUAL_ENV": str(folder / "venv")}
    run(BIN / "uv", "pip", "install", "--quiet", "--constraint", locked, wheel, env=env)
    return folder / "venv" / "bin"


def test_the_wheel_has_one_importable_name_and_all_that_is_read_at_run_time(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (archive.read(name).decode() for name in names if name.endswith("/entry_points.txt"))
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {PACKAGE}
    assert {line.partition(" ")[0] for line in entry_points.split("\n")[1:] if line} == {
        "assistants",
        "assistants-service",
    }
    sources = [path for folder in ("core", "app", "worker", "infra") for path in (ROOT / folder / PACKAGE).rglob("*")]
    wanted = {
        f"{PACKAGE}/{str(path).partition(f'/{PACKAGE}/')[2]}"
        for path in sources
        if path.is_file() and path.suffix != ".pyc"
    }
    assert wanted <= set(names)


@pytest.mark.parametrize("command", [["assistants"], ["assistants-service"], ["python", "-m", PACKAGE]], ids=" ".join)
def test_each_way_to_start_it_has_help(environment: Path, command: list[str], tmp_path: Path) -> None:
    told = [environment / command[0], *command[1:], "--help"]
    done = subprocess.run(told, cwd=tmp_path, env={}, capture_output=True, text=True, check=True)
    assert re.search(r"^ +serve +\S", done.stdout, re.MULTILINE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK calls the whole protocol deprecated
def test_a_project_whose_packages_have_common_names_runs_its_actions(environment: Path, tmp_path: Path) -> None:
    for name in TAKEN:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "core" / "weather.py").write_text("FORECAST = '4 degrees and rain'\n")
    (tmp_path / "app" / "tools.py").write_text(
        "from assistants_service import action\nfrom core.weather import FORECAST\n\n\n"
        "@action\ndef forecast() -> str:\n    return FORECAST\n"
    )
    env = {"ACTIONS": "app.tools", "STORAGE": f"sqlite:///{tmp_path}/a.db"}
    with (
        started([environment / "assistants", "serve"], tmp_path, env) as url,
        OpenAI(base_url=f"{url}/v1", api_key="unused") as client,
    ):
        beta = client.beta
        tool = {"type": "function", "function": {"name": "forecast"}}
        assistant = beta.assistants.create(model="offline", tools=[tool])  # type: ignore[list-item]
        run = beta.threads.create_and_run_poll(
            assistant_id=assistant.id, thread={"messages": [{"role": "user", "content": "forecast"}]}
        )
        assert run.status == "completed", run.last_error
        (answer, _) = beta.threads.messages.list(run.thread_id).data
        assert "4 degrees and rain" in answer.content[0].text.value  # type: ignore[union-attr]
        file = client.files.create(file=("tide.txt", b"The tide turns at noon."), purpose="assistants")
        store = client.vector_stores.create(name="Tides")
        indexed = client.vector_stores.files.create_and_poll(file.id, vector_store_id=store.id, poll_interval_ms=50)
        assert (indexed.status, indexed.last_error) == ("completed", None)
        found = client.vector_stores.search(store.id, query="When does the tide turn?").data
        assert [one.filename for one in found] == ["tide.txt"]
