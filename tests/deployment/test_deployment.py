"""What deploys the service, as far as a machine without Docker, GitHub and Azure can tell: the files are what their
schemas and linters want, they agree with each other, and what they install and start does start, here."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID

import fpdf
import pytest
from jsonschema.validators import validator_for
from openai import OpenAI
from ruamel.yaml import YAML

import bicep_files
from assistants_service.infra.sandbox import data_folder
from azurite import Azurite
from service_process import LISTENING, get

Json = Any

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DOCKERFILE = (ROOT / "Dockerfile").read_text()
API_KEY = "local-key"


def read(path: Path) -> Json:
    """As YAML 1.2 has it, with merge keys resolved."""
    return json.loads(json.dumps(YAML(typ="safe", pure=True).load(path.read_text())))


def faults(kind: str, document: Json) -> list[str]:
    """By the schema that check-jsonschema brings: `compose-spec`, `github-workflows`."""
    schema = json.loads(files("check_jsonschema").joinpath(f"builtin_schemas/vendor/{kind}.json").read_text())
    return [error.message for error in validator_for(schema)(schema).iter_errors(document)]


# --- Compose --------------------------------------------------------------------------------------------------------

COMPOSE = read(ROOT / "azurite-compose.yml")


def test_containers_reach_a_model_server_on_the_host_and_find_actions() -> None:
    for name in ("api", "worker"):
        container = COMPOSE["services"][name]
        assert container["extra_hosts"] == ["host.docker.internal:host-gateway"]
        (mounted,) = container["volumes"]
        assert mounted.endswith(f":{container['environment']['PYTHONPATH']}:ro")
        assert mounted.startswith("${ACTIONS_FOLDER:-./examples}:")


def test_the_compose_file_is_one() -> None:
    assert faults("compose-spec", COMPOSE) == []
    assert faults("compose-spec", {**COMPOSE, "services": {"api": {"imagine": "assistants-service"}}})


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_container_has_no_rights_and_starts_when_it_can(name: str) -> None:
    container = COMPOSE["services"][name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["tmpfs"] == ["/tmp:exec"]  # Docker's own default is noexec, and no PDF file could be read
    assert all(port.startswith("127.0.0.1:") for port in container.get("ports", ()))
    if name != "azurite":
        assert container["depends_on"] == {"azurite": {"condition": "service_healthy"}}
        assert "healthcheck" in COMPOSE["services"]["azurite"]
        assert container["command"] == f"assistants {name}"


# --- the image ------------------------------------------------------------------------------------------------------


def instructions(name: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.partition(" ")[2].strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in instructions("ENV") for pair in shlex.split(line))


def lint(text: str) -> str:
    done = subprocess.run(
        [BIN / "hadolint", "--no-color", "-"], input=text, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_the_dockerfile_is_linted() -> None:
    assert lint(DOCKERFILE) == ""
    assert "DL3002" in lint(DOCKERFILE.replace("USER 10001:10001", "USER root"))


def test_the_image_is_without_rights_and_watched() -> None:
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER \d+:\d+$", last_stage, re.MULTILINE)
    assert "PYTHONDONTWRITEBYTECODE=1" in last_stage
    assert "/health/ready" in instructions("HEALTHCHECK")[0]


def test_the_image_has_the_link_that_interpreters_look_for() -> None:
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert f"ln --symbolic {data_folder.LINK} {data_folder.DATA}\n" in last_stage


def context(to: Path) -> None:
    """What .dockerignore lets through."""
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source = ROOT / line[1:]
            if source.is_dir():
                shutil.copytree(source, to / source.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, to)


@contextmanager
def started(command: list[str | Path], cwd: Path, env: dict[str, str]) -> Iterator[str]:
    """The URL of an API that this starts, or nothing of a worker. It ends by SIGTERM with exit code 0."""
    clean = {"PATH": os.environ["PATH"], "HOME": str(cwd), "PORT": "0"}
    process = subprocess.Popen(command, cwd=cwd, env=clean | env, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    said = []
    for line in process.stderr:
        said.append(line)
        if (found := LISTENING.search(line)) or "worker ready" in line:
            break
    reading = threading.Thread(target=lambda: said.extend(process.stderr or ()))  # else it would wait for a reader
    reading.start()
    try:
        assert process.poll() is None, f"{command} did not start: {''.join(said)}"
        yield found[1].replace("0.0.0.0", "127.0.0.1") if found else ""
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, "".join(said)
    finally:
        process.kill()
        process.wait()
        reading.join()
        print("".join(said))  # pytest shows it if the test fails
        process.stderr.close()


def test_what_the_dockerfile_installs_and_starts_answers(tmp_path: Path) -> None:
    """Its own commands, in a clean environment: uv's, the start, and the health check, with nothing to write to but
    /data."""
    build, prefix, data = tmp_path / "build", tmp_path / "prefix", tmp_path / "data"
    build.mkdir()
    data.mkdir()
    context(build)
    env = environment()
    syncs = [line for line in instructions("RUN") if line.startswith("uv sync")]
    assert len(syncs) == 2
    assert env["UV_PROJECT_ENVIRONMENT"] == "/opt/assistants"
    # Hard links in place of copies, and no bytecode of what is installed: they cost time here, and prove nothing.
    quick = {"UV_LINK_MODE": "hardlink", "UV_COMPILE_BYTECODE": "0", "UV_PYTHON": sys.executable}
    installing = {**os.environ, **env, **quick, "UV_PROJECT_ENVIRONMENT": str(prefix), "PATH": os.environ["PATH"]}
    installing.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        [BIN / "uv", *syncs[-1].split()[1:]], cwd=build, env=installing, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(build)  # the image has the installed code only

    path = env["PATH"].replace("/opt/assistants", str(prefix)).replace("$PATH", os.environ["PATH"])
    (command,) = [json.loads(line) for line in instructions("CMD")]
    storage = env["STORAGE"].replace("/data/", f"{data}/")
    running = {"PATH": path, "HOST": env["HOST"], "STORAGE": storage, "PYTHONDONTWRITEBYTECODE": "1"}
    running["API_KEYS"] = f"default:{API_KEY}"
    running |= {"PYTHONPATH": str(ROOT / "examples"), "ACTIONS": "weather"}  # as the manual adds actions
    assert list(prefix.glob("lib/*/site-packages/pandas"))  # of the extra `code`
    with started([prefix / "bin" / command[0], *command[1:]], data, running) as url:
        code = json.loads(get(f"{url}/health")[1])["code_interpreter"]
        assert code == {"status": "on"} or "Landlock" in code["reason"]
        (check,) = [json.loads(line.partition("CMD ")[2]) for line in instructions("HEALTHCHECK")]
        for port, healthy in ((url.rpartition(":")[2], True), ("1", False)):
            checking = {**os.environ, "PATH": path, "PORT": port}
            done = subprocess.run(
                [prefix / "bin" / check[0], *check[1:]], env=checking, capture_output=True, check=False
            )
            assert (done.returncode == 0) is healthy
    assert {each.name.partition("-")[0] for each in data.iterdir()} == {"assistants.db"}


# --- azd ------------------------------------------------------------------------------------------------------------

AZD = read(ROOT / "azure.yaml")
PARAMETERS = json.loads((ROOT / "bicep" / "main.parameters.json").read_text())["parameters"]


def test_azd_knows_where_everything_is() -> None:
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", AZD["name"])
    assert (ROOT / AZD["infra"]["path"] / "main.bicep").exists()
    hosts = {name: service["host"] for name, service in AZD["services"].items()}
    assert hosts == {"api": "appservice", "worker": "function"}
    for name, service in AZD["services"].items():
        assert (service["project"], service["language"], service["dist"]) == (".", "python", f"dist/{name}")
        for system, python in (("posix", "python3"), ("windows", "python")):
            assert service["hooks"]["prepackage"][system]["run"] == f"{python} tools/package.py {name}"
        # How azd finds the app that a service is deployed to.
        module = {"api": "api.bicep", "worker": "worker-functions.bicep"}[name]
        assert f"{{ 'azd-service-name': '{name}' }}" in (ROOT / "bicep" / module).read_text()


def test_what_can_be_set_is_set_alike_everywhere() -> None:
    """By azd at a desk (main.parameters.json), by azd in the pipeline (azure.yaml, deploy.yml), and in the manual."""
    values = [found for each in PARAMETERS.values() for found in re.findall(r"\$\{(\w+)(?:=(\w*))?\}", each["value"])]
    settable = {name: default for name, default in values if not name.startswith("AZURE_")}
    assert len(settable) > 10
    assert set(AZD["pipeline"]["variables"]) == {"AZURE_KEY_VAULT_NAME", *settable}
    given = read(ROOT / ".github" / "workflows" / "deploy.yml")["jobs"]["deploy"]["env"]
    for name, default in settable.items():
        assert given[name] == (f"${{{{ vars.{name} || '{default}' }}}}" if default else f"${{{{ vars.{name} }}}}")
    manual = (ROOT / "docs" / "operations.md").read_text()
    assert not [name for name in settable if f"`{name}`" not in manual]
    assert AZD["services"]["worker"]["condition"] == PARAMETERS["functionsWorker"]["value"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, so that nothing but what is packaged can be imported."""
    folder = tmp_path_factory.mktemp("project")
    context(folder)
    for name in ("tools/package.py", "examples/weather.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def deployed(part: str, project: Path, to: Path) -> tuple[Path, Path]:
    """The package of a part, and the Python of the environment that Azure installs its requirements.txt into."""
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "ACTIONS": "examples.weather"}
    run(sys.executable, project / "tools" / "package.py", part, env=env)
    package, venv = project / "dist" / part, to / f"{part}-env"
    assert (package / "examples" / "weather.py").exists()
    requirements = (package / "requirements.txt").read_text()
    assert "--hash=sha256:" in requirements
    assert "pytest" not in requirements
    run(BIN / "uv", "venv", "--quiet", "--python", sys.executable, venv, env=env)
    install = ("pip", "install", "--quiet", "--require-hashes", "-r", package / "requirements.txt")
    run(BIN / "uv", *install, env={**env, "VIRTUAL_ENV": str(venv)})
    return package, venv / "bin" / "python"


# What Azure puts in the place of an expression of the Bicep files, and of a reference to the vault. None: a condition
# does not hold.
IN_AZURE: dict[str, str | None] = {
    "identity.outputs.clientId": str(UUID(int=1)),
    "identityClientId": str(UUID(int=1)),
    "monitoring.outputs.connectionString": f"InstrumentationKey={UUID(int=2)};IngestionEndpoint=http://127.0.0.1:9/",
    "openAiRole!.outputs.endpoint": "https://127.0.0.1:9/",
    "embeddingModel": None,  # the built-in model
    "actions": "examples.weather",
    "codeSessions > 0": None,  # no session pool
    "hostStorage.outputs.name": "sthhost",
    "queueUrl": "http://127.0.0.1:9/",
    "API_KEYS": f"default:{API_KEY}",
}


def test_functions_execute_code_in_a_session_pool_or_not_at_all() -> None:
    files, pool = bicep_files.read_all(ROOT / "bicep"), "https://westus2.dynamicsessions.io/subscriptions/s/pool"
    azure = {**IN_AZURE, "storage.outputs.blobUrl": "", "codeInterpreter!.outputs.endpoint": pool}
    for sessions, where in ((None, "off"), ("100", "azure")):
        found = bicep_files.environment(files, "worker-functions.bicep", {**azure, "codeSessions > 0": sessions})
        assert (found["CODE_INTERPRETER"], found.get("CODE_INTERPRETER_POOL")) == (where, pool if sessions else None)
        assert "CODE_INTERPRETER" not in bicep_files.environment(files, "api.bicep", azure)


def test_what_azd_deploys_installs_starts_and_works_with_what_the_bicep_files_set(
    project: Path, tmp_path: Path, azurite: Azurite
) -> None:
    """API and Functions worker, each from its package, its requirements.txt and its environment alone: a PDF file is
    uploaded, read and indexed. In place of the account, which takes an identity, is Azurite, which takes a key."""
    account = azurite.account()
    files, azure = bicep_files.read_all(ROOT / "bicep"), {**IN_AZURE, "storage.outputs.blobUrl": account}
    of_api = bicep_files.environment(files, "api.bicep", azure)
    of_worker = bicep_files.environment(files, "worker-functions.bicep", azure)
    assert of_api.pop("PORT") == "8000"  # a free one is taken here
    (app_command,) = re.findall(r"appCommandLine: 'python (.*)'", (ROOT / "bicep" / "api.bicep").read_text())
    package, python = deployed("api", project, tmp_path)
    api = started([python, *app_command.split()], package, of_api)
    package, python = deployed("worker", project, tmp_path)
    host = [python, ROOT / "tests" / "deployment" / "functions_host.py", package]
    worker = started(host, package, {**of_worker, "WORK": account})  # the host's own way to the queue
    with api as url, worker, OpenAI(base_url=f"{url}/v1", api_key=API_KEY) as client:
        assert get(f"{url}/health/ready")[0] == 200
        pdf = fpdf.FPDF()
        pdf.add_page()
        pdf.set_font("helvetica")
        pdf.cell(text="The tide turns at noon.")
        store = client.vector_stores.create(name="Tides")
        tide = ("tide.pdf", bytes(pdf.output()))
        file = client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=tide, poll_interval_ms=50)
        assert (file.status, file.last_error) == ("completed", None)


def test_a_package_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "package.py", tmp_path / "tools")
    command = [sys.executable, tmp_path / "tools" / "package.py"]
    for arguments, said in ((["api"], "core/assistants_service is missing"), (["all"], "usage:"), ([], "usage:")):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode
        assert done.stderr.startswith(said)
        assert done.stderr.count("\n") == 1


def run(*command: str | Path, env: dict[str, str]) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --- GitHub ---------------------------------------------------------------------------------------------------------

PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40}")


def weak(workflow: Json) -> list[str]:
    """What a workflow of this project must not do."""
    found = [] if workflow.get("permissions") == {"contents": "read"} else ["permissions: more than to read"]
    for name, job in workflow["jobs"].items():
        if "timeout-minutes" not in job:
            found.append(f"{name}: no timeout")
        for step in job["steps"]:
            if not PINNED.fullmatch(step.get("uses", "a/b@" + "0" * 40)):
                found.append(f"{name}: {step['uses']} is not pinned")
            if "checkout" in step.get("uses", "") and step.get("with", {}).get("persist-credentials") is not False:
                found.append(f"{name}: leaves its token behind")
            if "${{" in step.get("run", ""):
                found.append(f"{name}: text of others in a script")
        secrets = set(re.findall(r"secrets\.(\w+)", json.dumps(job))) - {"GITHUB_TOKEN"}
        found += [f"{name}: the secret {each}" for each in sorted(secrets)]
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_ones_and_pinned(path: Path) -> None:
    workflow = read(path)
    assert faults("github-workflows", workflow) == []
    assert weak(workflow) == []


def test_a_release_tags_only_the_digest_that_was_tested() -> None:
    steps = read(ROOT / ".github" / "workflows" / "release.yml")["jobs"]["image"]["steps"]
    builds = [step for step in steps if "build-push" in step.get("uses", "")]
    assert [step["if"].partition(" == ")[2] for step in builds] == ["'pull_request'", "'push'"]  # one of them runs
    pushed = builds[1]
    assert "push-by-digest=true" in pushed["with"]["outputs"] and not {"push", "tags"} & pushed["with"].keys()
    (tested,) = [n for n, step in enumerate(steps) if "docker run" in step.get("run", "")]
    (tagged,) = [n for n, step in enumerate(steps) if "imagetools create" in step.get("run", "")]
    assert steps.index(pushed) < tested < tagged
    platforms = [each.removeprefix("linux/") for each in pushed["with"]["platforms"].split(",")]
    assert f"'{' '.join(platforms)}'" in steps[tested]["env"]["PLATFORMS"]
    assert all("steps.pushed.outputs.digest" in json.dumps(steps[n]["env"]) for n in (tested, tagged))


def test_nothing_is_published_before_its_tag_was_compared_with_the_version() -> None:
    """The job `wheel` compares them."""
    jobs = read(ROOT / ".github" / "workflows" / "release.yml")["jobs"]
    assert any("GITHUB_REF_NAME#v" in step.get("run", "") for step in jobs["wheel"]["steps"])
    publishing = {name for name, job in jobs.items() if "write" in job.get("permissions", {}).values()}
    assert publishing == {"publish", "image"}
    assert all("wheel" in jobs[name].get("needs", ()) for name in publishing)


def test_weak_workflows_are_found() -> None:
    assert [path.name for path in WORKFLOWS] == ["deploy.yml", "release.yml", "test.yml"]
    deploy = (ROOT / ".github" / "workflows" / "deploy.yml").read_text()
    for there, planted, said in (
        ("@08c6903cd8c0fde910a37f88322edcfb5dd907a8", "@v5", "not pinned"),
        ("vars.AZURE_CLIENT_ID", "secrets.AZURE_CREDENTIALS", "the secret AZURE_CREDENTIALS"),
        ('"$AZURE_CLIENT_ID"', "${{ vars.AZURE_CLIENT_ID }}", "text of others"),
        ("    timeout-minutes: 60\n", "", "no timeout"),
        ("permissions:\n  contents: read\n", "", "more than to read"),
        ("          persist-credentials: false\n", "          fetch-depth: 1\n", "leaves its token"),
    ):
        assert there in deploy
        assert [each for each in weak(YAML(typ="safe").load(deploy.replace(there, planted, 1))) if said in each]
    assert faults("github-workflows", {"on": "push", "jobs": {"a": {"steps": []}}})
