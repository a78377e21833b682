"""README and examples do what they say. `make docs` writes into README.md what this file holds it to."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import wrap

import pytest
from pydantic.fields import FieldInfo

from assistants_service.core import names
from assistants_service.infra.configuration import settings_by_importance
from assistants_service.infra.settings.settings import Settings
from service_process import Process, service

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
EXAMPLES = ROOT / "examples"
DEPLOY = ".github/workflows/deploy.yml"
KEY = "sk-of-the-examples"
ALL = """
import runpy, sys
for name in sys.argv[1:]:
    try:
        runpy.run_path(f"examples/{name}.py")
    except SystemExit as ended:
        print("ended:", ended)
"""
SHOWN = re.compile(r"<!-- (settings|examples/\w+\.py) -->\n.*?<!-- end -->", re.DOTALL)
OPERATIONS = ROOT / "docs" / "operations.md"
COMPOSE = ROOT / "azurite-compose.yml"
COPIED = re.compile(r"(?<=<!-- copy -->\n```sh\nfor container in )[^;]*(?=; do)")
SCRIPT = re.compile(r"<!-- (first run|watch) -->\n```sh\n(.*?)```\n", re.DOTALL)
PARTS = ("core", "app", "worker", "infra")
DEFINITION = re.compile(r"^ *(?:class|(?:async )?def) (\w+)", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def settings_tables() -> str:
    first, others = settings_by_importance()
    groups = "\n\n".join(f"#### {title}\n\n{table_of(fields)}" for title, fields in others.items())
    return f"{table_of(first)}\n\n### Further settings\n\n{groups}"


def table_of(fields: Mapping[str, FieldInfo]) -> str:
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "" if default in (None, {}, ()) else f"`{default}`"
        rows.append(f"| `{name.upper()}` | {shown} | {(field.description or '').replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def example(name: str) -> str:
    return f"```python\n{(ROOT / name).read_text()}```"


def written(text: str) -> str:
    """README.md with its shown parts made anew."""

    def part(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- {name} -->\n{settings_tables() if name == 'settings' else example(name)}\n<!-- end -->"

    return SHOWN.sub(part, text)


def with_containers(text: str) -> str:
    """docs/operations.md, whose backup copies the containers that hold truth."""
    return COPIED.sub(" \\\\\n    ".join(wrap(" ".join(names.TRUTH), 100)), text)


def test_a_backup_copies_the_containers_that_hold_truth() -> None:
    text = OPERATIONS.read_text()
    assert COPIED.search(text)
    assert text == with_containers(text), "run `make docs`"


def test_every_setting_is_in_one_table() -> None:
    first, others = settings_by_importance()
    shown = [name for group in (first, *others.values()) for name in group]
    assert sorted(shown) == sorted(Settings.model_fields)


def test_readme_shows_the_settings_and_the_examples_as_they_are() -> None:
    text = README.read_text()
    assert {found[1] for found in SHOWN.finditer(text)} >= {"settings", "examples/first_run.py"}
    assert text == written(text), "run `make docs`"


@pytest.mark.parametrize("page", [README, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    gone = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not gone


def test_what_the_walks_name_is_there() -> None:
    """Functions, classes and files."""
    (walks,) = re.findall(r"^## Three walks$(.*?)^## ", (ROOT / "docs/design.md").read_text(), re.DOTALL | re.MULTILINE)
    sources = [file for part in PARTS for file in (ROOT / part / "assistants_service").rglob("*.py")]
    defined = {name for file in sources for name in DEFINITION.findall(file.read_text())}
    files = {f"/{file.relative_to(ROOT)}" for file in sources}
    folders = {part for file in files for part in file.split("/")[:-1]}
    for name in re.findall(r"`([\w./]+)`", walks):
        if name.endswith(".py"):
            assert any(file.endswith(f"/{name}") for file in files), name
        elif "/" not in name:
            assert name.split(".")[-1] in defined | folders, name


def test_what_is_pinned_twice_is_pinned_alike() -> None:
    def pins(pattern: str, *files: str) -> set[str]:
        return {found for file in files for found in re.findall(pattern, (ROOT / file).read_text())}

    assert len(pins(r"(?:UV_VERSION := |uv==)(\d+\.\d+\.\d+)", "Makefile", "Dockerfile", DEPLOY)) == 1
    assert len(pins(r'(?:azd: ">= |--version )(\d+\.\d+\.\d+)', "azure.yaml", DEPLOY)) == 1
    assert (
        len(pins(r'azurite(?:": "|:)(\d+\.\d+\.\d+)', "azurite-compose.yml", "tests/support/azurite/package.json")) == 1
    )


@pytest.fixture(scope="module")
def running() -> Iterator[Process]:
    with service("sqlite://:memory:", API_KEYS=f"default:{KEY}", CODE_INTERPRETER="auto") as process:
        yield process


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_first_run_by_curl_then_watched(running: Process) -> None:
    scripts = dict(SCRIPT.findall(README.read_text()))
    script = scripts["first run"] + "\n" + scripts["watch"]
    done = _run(["env", f"OPENAI_BASE_URL={running.url}/v1/", "sh", "-eu", "-c", script], running)
    messages, events = done.split("id: 0.", 1)
    assert "get_weather answered: 4 degrees and rain" in messages
    whole, rest = events.split("data: [DONE]", 1)
    assert whole.count("event: thread.") == rest.count("event: thread.") + 5


def test_the_first_run_by_the_sdk(running: Process) -> None:
    done = _python("first_run.py", running)
    assert 'the model asks for get_weather({"city": "Oslo"})' in done
    assert "get_weather answered: 4 degrees and rain in Oslo" in done


def test_the_start_says_that_no_provider_answers(running: Process) -> None:
    """README's runs are the offline model's."""
    assert "".join(running.log).count("the offline model answers for model names without a provider") == 1


def test_the_streamed_run(running: Process) -> None:
    assert 'You said: "Tell me something."' in _python("streaming.py", running)


def test_a_file_is_asked(running: Process) -> None:
    done = _python("ask_files.py", running)
    assert done.startswith("[1] is diary.txt\n")
    assert 'Your files say: "On Tuesday Filip ate a cake, and nobody else had any." [1]' in done


@pytest.mark.skipif(sys.platform != "linux", reason="code is confined on Linux only")
def test_a_file_is_plotted(running: Process, tmp_path: Path) -> None:
    done = _python("plot_file.py", running, str(tmp_path))
    assert "sold: sum 360, mean 120, from 90 to 150" in done
    assert done.endswith("saved plot.png\n")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_actions_answer_in_the_clients_place() -> None:
    with service("sqlite://:memory:", API_KEYS=f"default:{KEY}", ACTIONS="examples.weather") as process:
        done = _python("first_run.py", process)
        assert "asks for" not in done
        assert "get_weather answered: 7 degrees and sun in Oslo" in done
        assert "get_weather answered: 7 degrees and sun in Oslo" in _run(["sh", "-eu", "-c", first_run()], process)


def test_examples_end_and_say_why_where_the_model_does_not_answer() -> None:
    gone = json.dumps({"offline": {"base_url": "http://127.0.0.1:1/v1"}})
    settings = {"PROVIDERS": gone, "MODEL_RETRIES": "0", "API_KEYS": f"default:{KEY}"}
    with service("sqlite://:memory:", **settings) as process:
        said = _run(["sh", "-eu", "-c", first_run()], process)
        assert "The run is not completed:" in said
        assert "server_error" in said
        # In one process, as the SDK takes a second to be imported.
        ended = _run([sys.executable, "-W", "ignore", "-c", ALL, "first_run", "streaming", "ask_files"], process)
        assert len(re.findall("^ended: .*server_error", ended, re.MULTILINE)) == 3


REFUSED = ["sh", "-c", 'sh -eu -c "$0" || exit 1']  # shells end with codes of their own


def test_the_first_run_by_curl_ends_and_says_why_where_it_is_not_let_in(running: Process) -> None:
    said = _run(["env", "OPENAI_API_KEY=sk-unknown", *REFUSED, first_run()], running, code=1)
    assert "The assistant is not created:" in said
    assert said.count('"error"') == said.count("Incorrect API key") == 1


def test_the_first_run_by_curl_ends_and_says_why_where_its_model_is_off() -> None:
    with service("sqlite://:memory:", API_KEYS=f"default:{KEY}", OFFLINE_MODEL="off") as process:
        said = _run([*REFUSED, first_run()], process, code=1)
    assert "The assistant is not created:" in said
    assert said.count('"error"') == 1
    assert "offline/offline" in said


def first_run() -> str:
    return dict(SCRIPT.findall(README.read_text()))["first run"]


def test_assistants_are_recreated_once(running: Process, tmp_path: Path) -> None:
    file = tmp_path / "assistants.json"
    # As the original returned it.
    old = {
        "id": "asst_old",
        "object": "assistant",
        "created_at": 1,
        "name": "Weather",
        "description": None,
        "model": "gpt-4o",
        "tools": [{"type": "file_search", "file_search": {"ranking_options": {"ranker": "default_2024_08_21"}}}],
        "tool_resources": {
            "code_interpreter": {"file_ids": ["file-a", "file-b"]},
            "file_search": {"vector_store_ids": ["vs_gone"]},
        },
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "response_format": "auto",
    }
    full = {**old, "id": "asst_full", "metadata": {str(number): "v" for number in range(16)}}
    wrong = {**old, "id": "asst_wrong", "temperature": 3.0}
    bare = {**old, "id": "asst_bare", "tool_resources": {"code_interpreter": {"file_ids": None}, "file_search": None}}
    file.write_text(json.dumps({"object": "list", "data": [{"model": "gpt-4o"}, old, full, wrong, bare]}))
    first = _python("recreate_assistants.py", running, str(file), code=1)
    assert re.fullmatch(
        r"entry 1 not recreated: it has no `id`, .*\n"
        r"asst_old asst_[a-z0-9]{24}\n"
        r"  without file-a, file-b, vs_gone: upload .*\n"
        r"asst_full not recreated: .* remove one, and run again\n"
        r"asst_wrong not recreated: .*temperature.*\n"
        r"asst_bare asst_[a-z0-9]{24}\n"
        r"3 of 5 were not recreated: entry 1, asst_full, asst_wrong\n",
        first,
    )
    assert _python("recreate_assistants.py", running, str(file), code=1) == first


def _python(name: str, process: Process, *arguments: str, code: int = 0) -> str:
    return _run([sys.executable, "-W", "ignore", str(EXAMPLES / name), *arguments], process, code)


def _run(command: list[str], process: Process, code: int = 0) -> str:
    given = {"OPENAI_BASE_URL": f"{process.url}/v1", "OPENAI_API_KEY": KEY, "NO_PROXY": "127.0.0.1"}
    environment = {**os.environ, **given}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=ROOT)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + (done.stderr if code else "")


def with_settings(compose: str) -> str:
    """The settings that the containers get from the shell: all but those that the file itself gives."""
    head, _, tail = re.split(r"(?<=`make docs` writes the list.\n)((?:    [A-Z_]+:\n)*)(?=    # end\n)", compose)
    fixed = {"HOST", "PORT", *re.findall(r"^    ([A-Z_]+): ", head, re.MULTILINE)}
    passed = [name.upper() for name in Settings.model_fields if name.upper() not in fixed]
    return head + "".join(f"    {name}:\n" for name in passed) + tail


def test_the_compose_file_passes_every_setting_on() -> None:
    text = COMPOSE.read_text()
    assert with_settings(text) == text, "run `make docs`"
    assert {"STORAGE", "API_KEYS", "OPENAI_API_KEY", "OTEL_SERVICE_NAME"} <= set(
        re.findall(r"^    ([A-Z_]+):", text, re.MULTILINE)
    )


if __name__ == "__main__":
    COMPOSE.write_text(with_settings(COMPOSE.read_text()))
    README.write_text(written(README.read_text()))
    OPERATIONS.write_text(with_containers(OPERATIONS.read_text()))
