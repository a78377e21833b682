"""Wrong settings: the command ends at once, with one line on stderr that names what to set. A store that is away is
waited for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from assistants_service.command import parser
from assistants_service.infra.configuration import ConfigurationError, read_settings
from assistants_service.infra.models.kinds import KINDS, Offline
from assistants_service.infra.settings import models as settings_of_models
from assistants_service.infra.settings.models import ProviderSettings
from assistants_service.infra.settings.settings import Settings
from assistants_service.infra.version import VERSION
from assistants_service.infra.wiring import place_of
from assistants_service.parts import open_parts
from assistants_service.serving import run
from real_processes import free_port
from service_process import COMMAND, get, service

KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
NOWHERE = "BlobEndpoint=http://127.0.0.1:1/a;QueueEndpoint=http://127.0.0.1:1/a"
AWAY = f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey={KEY};{NOWHERE};"
ACTIONS = {
    "empty_actions": "x = 1",
    "broken_actions": "raise RuntimeError('two\\nlines')",
    "wrong_actions": "def f(:",
    "quitting_actions": "import sys; sys.exit(0)",
    "unusable_actions": "from assistants_service import action\n@action\ndef f(x: 'Nothing') -> None: ...",
}
TAKEN = "a port that is taken"

# name: (settings, the setting that is named, what else is said)
CASES: dict[str, tuple[dict[str, str], str, str]] = {
    "storage that does not answer": ({"STORAGE": AWAY}, "STORAGE", "does not respond"),
    "storage in a folder that cannot be": ({"STORAGE": "sqlite:////proc/no/x.db"}, "STORAGE", "SQLite cannot open"),
    "storage that is no database": ({"STORAGE": f"sqlite:///{__file__}"}, "STORAGE", "not a database"),
    "a connection string without a key": ({"STORAGE": "AccountName=a"}, "STORAGE", "AccountKey"),
    "a connection string with half a key": ({"STORAGE": f"AccountName=a;AccountKey={KEY[:-3]}"}, "STORAGE", "Base64"),
    "storage of no kind": ({"STORAGE": "postgres://x"}, "STORAGE", "sqlite:///PATH"),
    "storage without a path": ({"STORAGE": "sqlite:///"}, "STORAGE", "sqlite:///PATH"),
    "storage in the memory of each connection": ({"STORAGE": "sqlite:///:memory:"}, "STORAGE", "sqlite://:memory:"),
    "storage under a URI of SQLite": ({"STORAGE": "sqlite:///file::memory:?cache=shared"}, "STORAGE", "sqlite:///PATH"),
    "storage in memory, by too few slashes": ({"STORAGE": "sqlite://"}, "STORAGE", "sqlite:///PATH"),
    TAKEN: ({"PORT": TAKEN}, "PORT", "is taken"),
    "a port that is no number": ({"PORT": "http"}, "PORT", "integer"),
    "a port that cannot be": ({"PORT": "65536"}, "PORT", "the maximum is 65535."),
    "a host that cannot be": ({"HOST": "256.0.0.1", "API_KEYS": "a:b"}, "HOST", "Cannot listen"),
    "no keys where others can reach": ({"HOST": "0.0.0.0"}, "API_KEYS", "other machines can reach"),
    "no keys where others can reach, by IPv6": ({"HOST": "::"}, "API_KEYS", "other machines can reach"),
    "keys without a project": ({"API_KEYS": "abc"}, "API_KEYS", "project:key; separate several by commas."),
    "a key of two projects": ({"API_KEYS": "a:key,b:key"}, "API_KEYS", "twice"),
    "an unknown provider": ({"DEFAULT_PROVIDER": "acme"}, "DEFAULT_PROVIDER", "'acme', which is not configured"),
    "an unknown provider where none is": (
        {"DEFAULT_PROVIDER": "acme", "OFFLINE_MODEL": "off"},
        "DEFAULT_PROVIDER",
        "not configured: add it to PROVIDERS.",
    ),
    "a default that is turned off": (
        {"DEFAULT_PROVIDER": "offline", "OFFLINE_MODEL": "off"},
        "DEFAULT_PROVIDER",
        "which OFFLINE_MODEL=off turns off: change one of the two.",
    ),
    "a provider with a slash in its name": ({"PROVIDERS": '{"a/b": {}}'}, "PROVIDERS", "contain a slash"),
    "a provider without a name": ({"PROVIDERS": '{"": {}}'}, "PROVIDERS", "must not be empty"),
    "providers that are no JSON": ({"PROVIDERS": "{"}, "PROVIDERS", "expected JSON"),
    "a provider that is there twice": ({"PROVIDERS": '{"a": {}, "b": {}, "a": {}}'}, "PROVIDERS", "'a' is given twice"),
    "a field of a provider that is there twice": (
        {"PROVIDERS": '{"a": {"api": "chat", "api": "responses"}}'},
        "PROVIDERS",
        "'api' is given twice",
    ),
    "a role that is there twice": ({"ENTRA_ROLES": '{"A": "one", "A": "two"}'}, "ENTRA_ROLES", "'A' is given twice"),
    "providers that are no object": ({"PROVIDERS": "[]"}, "PROVIDERS", 'expected JSON such as {"ollama": {'),
    "a provider of no kind": ({"PROVIDERS": '{"a": {"api": "x"}}'}, "PROVIDERS", "a.api: "),
    "a provider with an unknown key": (
        {"PROVIDERS": '{"a": {"url": "x"}}'},
        "PROVIDERS",
        "a.url: there is no such key",
    ),
    "a provider's URL that is none": (
        {"PROVIDERS": '{"a": {"base_url": "x"}}'},
        "PROVIDERS",
        "a.base_url: expected a URL that begins with http:// or https://.",
    ),
    "OpenAI's URL that is none": ({"OPENAI_BASE_URL": "localhost:11434"}, "OPENAI_BASE_URL", "http"),
    "actions that are nowhere": ({"ACTIONS": "no_such_actions"}, "ACTIONS", "cannot be imported"),
    "a module without actions": ({"ACTIONS": "empty_actions"}, "ACTIONS", "no function marked"),
    "a module that raises": ({"ACTIONS": "broken_actions"}, "ACTIONS", "cannot be imported"),
    "a module that is no Python": ({"ACTIONS": "wrong_actions"}, "ACTIONS", "cannot be imported"),
    "a module that quits": ({"ACTIONS": "quitting_actions"}, "ACTIONS", "cannot be imported"),
    "an action that cannot be described": ({"ACTIONS": "unusable_actions"}, "ACTIONS", "cannot be used"),
    "a wait without an end": ({"STORAGE_WAIT": "inf"}, "STORAGE_WAIT", "finite"),
    "a wait of years": ({"STORAGE_WAIT": "1e9"}, "STORAGE_WAIT", "86400"),
    "a timeout without an end": ({"MODEL_TIMEOUT": "inf"}, "MODEL_TIMEOUT", "finite"),
    "a timeout that is no number": ({"ACTION_TIMEOUT": "nan"}, "ACTION_TIMEOUT", "finite"),
    **{
        f"JSON without an end in {name}": ({name: "[" * 100_000}, name, "nested too deeply")
        for name in ("PROVIDERS", "ENTRA_ROLES", "EMBEDDING_INPUT")
    },
    **{
        f"an origin that no browser sends, {given}": (
            {"CORS_ORIGINS": f"https://ok.example,{given}"},
            "CORS_ORIGINS",
            words,
        )
        for given, words in {
            "foo.example": "write https://foo.example.",
            "https://foo.example/": "write https://foo.example.",
            "http://Foo.example:80": "write http://foo.example.",
            "https://foo.example:8443/a?b": "write https://foo.example:8443.",
            "https://bücher.example": "write https://xn--bcher-kva.example.",
            "https://*.foo.example": "or * for all",
            "https://foo.example:http": "expected https://HOST",
        }.items()
    },
    "a provider without a URL": ({"PROVIDERS": '{"a": {"api_key": "k"}}'}, "PROVIDERS", "a: base_url is missing"),
    **{
        f"the field {field} for embeddings": (
            {"EMBEDDING_INPUT": json.dumps({"query": {"fields": {field: "x"}}})},
            "EMBEDDING_INPUT",
            "the service itself sets",
        )
        for field in ("input", "model", "encoding_format", "dimensions")
    },
    "a lifetime of nothing": ({"RUN_EXPIRES_AFTER": "0"}, "RUN_EXPIRES_AFTER", "1"),
    "a level that is none": ({"LOG_LEVEL": "loud"}, "LOG_LEVEL", "'debug'"),
    "a format of logs that is none": ({"LOG_FORMAT": "xml"}, "LOG_FORMAT", "'json'"),
    "an Application Insights that is none": (
        {"APPLICATIONINSIGHTS_CONNECTION_STRING": "InstrumentationKey=no"},
        "APPLICATIONINSIGHTS_CONNECTION_STRING",
        "not valid",
    ),
    "a collector that is none": ({"OTEL_EXPORTER_OTLP_ENDPOINT": "x:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT", "http"),
    "no time for models": ({"MODEL_TIMEOUT": "0"}, "MODEL_TIMEOUT", "greater than 0"),
}

# Imports the command once and forks for each case: the processes are real, and start at once.
FORKS = """
import json, os, signal, sys, time
from assistants_service import command

def start(case):
    folder = case["folder"]
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(40)  # what is started in spite of a wrong setting would outlive the test
    os.environ.clear()
    os.environ.update(case["env"])
    os.dup2(os.open(folder + "/err", os.O_WRONLY | os.O_CREAT), 2)
    sys.argv = ["assistants", "serve"]
    try:
        command.main()
    except SystemExit as error:
        os._exit(error.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)

begun = time.monotonic()
cases = json.load(sys.stdin)
running = {start(case): case for case in cases}
codes = {}
while running:
    pid, status = os.wait()
    codes[running.pop(pid)["name"]] = [os.waitstatus_to_exitcode(status), time.monotonic() - begun]
print(json.dumps(codes))
"""


@dataclass(frozen=True)
class Outcome:
    code: int
    seconds: float
    stderr: str


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    """How the command ended in each case."""
    home = tmp_path_factory.mktemp("configuration")
    for name, text in ACTIONS.items():
        (home / f"{name}.py").write_text(text)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = [case(home, name, settings, port) for name, (settings, _, _) in CASES.items()]
        ended = subprocess.run(
            [sys.executable, "-c", FORKS],
            input=json.dumps(cases),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=bare(home),
        )
    assert ended.returncode == 0, ended.stderr
    yield {
        each["name"]: Outcome(*codes, (Path(each["folder"]) / "err").read_text())
        for each in cases
        for codes in [json.loads(ended.stdout)[each["name"]]]
    }


def bare(home: Path, **settings: str) -> dict[str, str]:
    """An environment without settings, but for these."""
    kept = {key: value for key, value in os.environ.items() if key.lower() not in Settings.model_fields}
    return {
        **kept,
        "PYTHONPATH": str(home),
        "STORAGE": "sqlite://:memory:",
        "STORAGE_WAIT": "0",
        "PORT": "0",
        **settings,
    }


def case(home: Path, name: str, settings: dict[str, str], port: str) -> dict[str, Any]:
    folder = home / re.sub(r"\W", "_", name)
    folder.mkdir()
    settings = {key: port if value == TAKEN else value for key, value in settings.items()}
    return {"name": name, "folder": str(folder), "env": bare(home, **settings)}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_setting_ends_the_command_with_one_line_that_names_it(outcomes: dict[str, Outcome], name: str) -> None:
    outcome, (_, setting, words) = outcomes[name], CASES[name]
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert outcome.stderr.startswith("assistants: ")
    assert re.search(rf"\b{setting}\b", outcome.stderr), outcome.stderr
    assert words in outcome.stderr
    assert outcome.code == 2


def test_wrong_settings_end_the_command_within_seconds(outcomes: dict[str, Outcome]) -> None:
    """All of them started at once."""
    slowest = max(outcomes, key=lambda name: outcomes[name].seconds)
    assert outcomes[slowest].seconds < 20, slowest


def test_no_message_repeats_a_secret(outcomes: dict[str, Outcome]) -> None:
    said = "".join(outcome.stderr for outcome in outcomes.values())
    assert KEY[:20] not in said
    assert "a:key" not in said


def test_the_command_itself_ends_so(tmp_path: Path) -> None:
    environment = bare(tmp_path, HOST="0.0.0.0")
    ended = subprocess.run([COMMAND, "serve"], env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert "API_KEYS" in ended.stderr


REFERENCE = "@Microsoft.KeyVault(VaultName=kv-x;SecretName=API-KEYS)"


def test_a_secret_that_the_vault_does_not_give_yet_is_told_and_ends_nothing(tmp_path: Path) -> None:
    """App Service would start a process that ends again and again."""
    with service(f"sqlite:///{tmp_path}/a.db", HOST="127.0.0.1", API_KEYS=REFERENCE) as process:
        for path in ("/health/ready", "/v1/assistants"):
            with pytest.raises(urllib.error.HTTPError, match="503") as refused:
                get(process.url + path)
            with refused.value as answer:
                error = json.load(answer)["error"]
            assert error["code"] == "not_configured"
            assert error["message"].startswith("API_KEYS: the reference to Key Vault is not resolved.")
        assert get(process.url + "/health/live")[0] == 200, "else a liveness probe restarts it over and over"
        assert process.terminate() == 0
    assert any("API_KEYS: the reference" in line for line in process.log)
    assert not (tmp_path / "a.db").exists()


def test_a_worker_ends_with_that_reason(tmp_path: Path) -> None:
    environment = bare(tmp_path, OPENAI_API_KEY=REFERENCE)
    ended = subprocess.run(
        [COMMAND, "worker"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "OPENAI_API_KEY: the reference to Key Vault is not resolved" in ended.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["api", "--help"], ["worker", "--help"]])
def test_help_tells_of_every_setting(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from assistants_service.command import parser

    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)
    text = capsys.readouterr().out
    assert ended.value.code == 0
    for name, setting in Settings.model_fields.items():
        assert re.search(rf"^  {name.upper()}( \(default: .*\))?$", text, re.MULTILINE), name
        assert setting.description
        assert setting.description in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 120


def test_help_says_what_each_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    from assistants_service.command import parser

    def told(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            parser().parse_args([*arguments, "--help"])
        return capsys.readouterr().out

    listed = dict(re.findall(r"^    ([a-z]+) +(\S.+)$", told().partition("\ncommands:")[2], re.MULTILINE))
    assert set(listed) >= {"serve", "api", "worker", "keys", "resume", "reindex", "vacuum"}
    for name in ("serve", "api", "worker", "keys", "resume", "reindex", "vacuum"):
        description = told(name).split("\n\n")[1]
        assert re.match(r"[A-Z][a-z]+,? .*\.$", description, re.DOTALL), name


@pytest.mark.parametrize("arguments", [[], ["start"], ["serve", "--port", "http"], ["worker", "--port", "1"]])
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from assistants_service.command import parser

    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)
    assert ended.value.code == 2
    assert "usage: assistants" in capsys.readouterr().err


def test_every_number_is_finite() -> None:
    numbers = [name for name, field in Settings.model_fields.items() if "float" in str(field.annotation)]
    assert len(numbers) > 5
    for name in numbers:
        for value in ("inf", "nan"):
            with pytest.raises(ValidationError):
                Settings(**{name: value})  # type: ignore[arg-type]


def test_a_provider_needs_a_url_if_those_of_its_kind_are_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(Offline):
        """Another kind within the process."""

    monkeypatch.setattr(settings_of_models, "KINDS", {**KINDS, "local": Local()})
    with pytest.raises(ValidationError, match="base_url is missing"):
        ProviderSettings(api_key=SecretStr("k"))
    for kind in ("offline", "local"):
        assert ProviderSettings(api=kind).base_url is None


ORIGINS = ["https://a.example", "http://127.0.0.1:3000", "http://[::1]:3000", "tauri://localhost", "null"]


def test_origins_are_accepted_as_browsers_send_them() -> None:
    assert Settings(cors_origins=",".join(ORIGINS)).cors_origins == tuple(ORIGINS)  # type: ignore[arg-type]
    assert Settings(cors_origins="*").cors_origins == ("*",)  # type: ignore[arg-type]


# --- a store that is away, and one that no other process sees--------------------------------------------------------


@pytest.mark.parametrize("engine", ["sqlite", "azurite"])
async def test_a_process_waits_for_a_store_that_is_away_at_its_start(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "disk"
    async with contextlib.AsyncExitStack() as stack:
        if engine == "sqlite":
            place.touch()  # where a disk is to be mounted
            storage = f"sqlite:///{place}/a.db"

            async def arrive() -> None:
                place.unlink()
                place.mkdir()
        else:
            azurite = request.getfixturevalue("azurite")
            port = free_port()
            storage = azurite.account(blob_port=port)

            async def arrive() -> None:
                await stack.enter_async_context(await relay(port, azurite.ports["blob"]))

        opening = asyncio.create_task(stack.enter_async_context(open_parts(Settings(storage=storage, storage_wait=20))))
        while "is not available, waiting" not in caplog.text:
            await asyncio.sleep(0.01)
        assert not opening.done()
        await arrive()
        await (await opening).storage.ping()
    assert KEY not in caplog.text


async def relay(port: int, to: int) -> asyncio.Server:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", to)
        await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

    return await asyncio.start_server(connected, "127.0.0.1", port)


async def test_a_process_that_is_to_end_waits_no_longer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "disk").touch()
    stop = asyncio.Event()
    opening = asyncio.create_task(open_parts(Settings(storage=f"sqlite:///{tmp_path}/disk/a.db"), stop).__aenter__())
    while "is not available, waiting" not in caplog.text:
        await asyncio.sleep(0.01)
    stop.set()
    with pytest.raises(ConfigurationError, match="Check STORAGE"):
        await asyncio.wait_for(opening, 30)


WRONG = ("x", "5", "-1e9", "1e99", "inf", "1.5", "{", "[]", '{"a": 5}', '{"a": {"base_url": 5}}', '{"query": 5}')
OF_A_LIBRARY = re.compile(r"[Ii]nput|String should|pattern|pydantic|dictionary|parse|instance of|type=|Value error")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_wrong_setting_is_told_in_plain_words(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong about it: no text of the library that checks it."""
    for value in WRONG:
        monkeypatch.setenv(name.upper(), value)
        try:
            read_settings({})
        except ConfigurationError as error:
            told = str(error).removeprefix(f"{name.upper()} is not valid: ")
            assert told != str(error)
            assert not OF_A_LIBRARY.search(told), (value, told)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ENTRA_ROLES", "Writer", 'expected JSON such as {"Writer": "PROJECT"}.'),
        ("ENTRA_ROLES", "5", 'expected JSON such as {"Writer": "PROJECT"}.'),
        ("ENTRA_ROLES", '{"Writer": 5}', "Writer: expected a string."),
        ("ENTRA_TENANT", "contoso.com", "expected the tenant's ID, a GUID."),
        ("ALLOWED_HOSTS", "a.example,b.example:80", "1: expected a host name without a scheme and a port."),
        (
            "AZURE_OPENAI_ENDPOINT",
            "http://x.example",
            "expected a URL that begins with https:// (http:// only for localhost).",
        ),
        (
            "AZURE_OPENAI_ENDPOINT",
            "http://localhost\n",
            "expected a URL that begins with https:// (http:// only for localhost).",
        ),
        ("WORKER_VISIBILITY_TIMEOUT", "0", "the minimum is 1."),
        ("STORAGE_WAIT", "1e9", "the maximum is 86400."),
        ("MODEL_TIMEOUT", "0", "it must be greater than 0."),
        ("LOG_FORMAT", "xml", "expected 'text' or 'json'."),
        ("PROVIDERS", '{"a": {"base_url": "http://a", "identity": "perhaps"}}', "a.identity: expected true or false."),
    ],
)
def test_what_is_told_of_a_wrong_setting(name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        read_settings({})
    assert str(caught.value) == f"{name} is not valid: {told}"


OLD = {"LOG_ROLL_AFTER": "event_log_rollover", "WORKER_HIDE_SECONDS": "worker_visibility_timeout"}


@pytest.mark.parametrize(("old", "new"), OLD.items())
async def test_a_setting_by_its_old_name_counts_and_is_told(
    old: str, new: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(old, "77")
    settings = read_settings({"storage": "sqlite://:memory:"})
    assert getattr(settings, new) == 77
    async with open_parts(settings):
        assert f"{old} has been renamed to {new.upper()}" in caplog.text
    monkeypatch.setenv(old, "x")
    with pytest.raises(ConfigurationError, match=f"^{old} is not valid"):
        read_settings({})
    monkeypatch.setenv(new.upper(), "88")
    assert getattr(read_settings({}), new) == 88


async def test_the_index_that_is_gone_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SEARCH_INDEX", "embedded")
    async with open_parts(read_settings({"storage": "sqlite://:memory:"})):
        assert not caplog.text
    monkeypatch.setenv("SEARCH_INDEX", "lancedb")
    async with open_parts(read_settings({"storage": "sqlite://:memory:"})):
        assert "`assistants reindex`" in caplog.text


@pytest.mark.parametrize("api", [True, False])
async def test_a_store_that_no_other_process_sees_is_for_one_process(api: bool) -> None:
    with pytest.raises(ConfigurationError, match="Run `assistants serve`"):
        await run(Settings(storage="sqlite://:memory:"), api=api, worker=not api)


@pytest.mark.parametrize(
    ("storage", "told"),
    [
        ("sqlite:////data/a.db", "/data/a.db"),
        ("https://acme.blob.core.windows.net", "https://acme.blob.core.windows.net"),
        ("UseDevelopmentStorage=true", "Azurite on this machine"),
        (f"AccountName=acme;AccountKey={KEY};EndpointSuffix=core.windows.net", "account acme"),
        (f"BlobEndpoint=http://here:1/acme?sig={KEY};AccountKey={KEY}", "http://here:1/acme"),
    ],
)
def test_the_store_is_told_without_what_lets_anyone_in(storage: str, told: str) -> None:
    assert place_of(Settings(storage=storage)) == told


def test_the_command_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"assistants {VERSION}\n")
