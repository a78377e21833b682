"""The whole service with confined interpreters: what a user asks, what the tool does, and what is stored of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from assistants_service.core.tools.code_interpreter import model_texts
from assistants_service.infra.models.offline import OfflineModel
from assistants_service.infra.sandbox.limits import InterpreterLimits
from assistants_service.infra.sandbox.local import LocalSandbox
from inprocess_service import InProcess, calls, in_process, path_of, says
from multipart_forms import download, upload
from sandboxes import bare_sandbox
from scripted_models import BareModels
from scripted_sandbox import CODE, python

pytestmark = pytest.mark.asyncio(loop_scope="module")
Json = Any
LINK = "sandbox:/mnt/data/"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[LocalSandbox]:
    made = bare_sandbox()
    yield made
    async with asyncio.timeout(30):
        await made.close()


def outputs(service: InProcess) -> list[str]:
    """What the model was told of the calls of its run."""
    return [turn.text for turn in service.prompts[-1].turns if turn.role == "tool"]


async def test_a_users_file_is_read_and_a_new_one_is_downloaded(sandbox: LocalSandbox) -> None:
    code = (
        "import csv\nrows = list(csv.DictReader(open('/mnt/data/sales.csv')))\n"
        "total = sum(int(row['sold']) for row in rows)\n"
        "with open('/mnt/data/größe.txt', 'w') as file:\n    print(total, 'Größe', file=file)\n"
        "print(len(rows))\ntotal"
    )
    script = calls(python(code)), calls(python("total + 1", "call_2")), says(f"[It]({LINK}größe.txt)")
    async with in_process(*script, sandbox=sandbox) as service:
        file = await upload(service.api, b"month,sold\nJan,10\nFeb,32\n", "sales.csv")
        resources = {"code_interpreter": {"file_ids": [file["id"]]}}
        assistant = await service.assistant(tools=[CODE], tool_resources=resources)
        run = await service.finished(assistant=assistant)
        assert run["status"] == "completed"
        assert outputs(service) == ["2\n42\n[Files written:\n- /mnt/data/größe.txt (11 bytes)]", "43"]
        message = (await service.api.get(f"/threads/{run['thread_id']}/messages?limit=1"))["data"][0]
        (attached,) = message["attachments"]
        assert (await download(service.api, attached["file_id"])).raw == "42 Größe\n".encode()


async def test_files_outlive_an_interpreter_that_dies(sandbox: LocalSandbox) -> None:
    script = (
        calls(python("x = 1\nopen('/mnt/data/a.bin', 'wb').write(bytes(range(256)))")),
        calls(python("open('/mnt/data/b.bin', 'wb').write(b'lost')\nimport os; os._exit(1)", "call_2")),
        calls(
            python("import os\n'x' in dir(), os.listdir('/mnt/data'), open('/mnt/data/a.bin', 'rb').read()[255]", "c3")
        ),
        says("Done."),
    )
    async with in_process(*script, sandbox=sandbox) as service:
        run = await service.finished(assistant=await service.assistant(tools=[CODE]))
        assert run["status"] == "completed"
        _, lost, again = outputs(service)
        assert lost.startswith("Error: Python ended during this call: ")
        assert again == f"{model_texts.RESTARTED}\n(False, ['a.bin'], 255)"


async def test_a_cancelled_run_stops_its_code(sandbox: LocalSandbox) -> None:
    code = "while True: pass"
    async with in_process(calls(python(code)), sandbox=sandbox) as service:
        run = await service.start_run(assistant=await service.assistant(tools=[CODE]))
        while not (await service.steps(run)):
            await asyncio.sleep(0.01)
        await service.api.post(f"{path_of(run)}/cancel")
        assert (await service.until(run))["status"] == "cancelled"
    for interpreter in [await sandbox.start(f"session {number}") for number in range(InterpreterLimits().interpreters)]:
        await interpreter.close()  # all of them could be started: none was left


async def test_the_offline_model_plots_a_file() -> None:
    """README's example, with the libraries."""
    sandbox = LocalSandbox()
    async with in_process(models=Offline(), sandbox=sandbox) as service:
        file = await upload(service.api, b"month,sold\nJan,10\nFeb,32\n", "sales.csv")
        resources = {"code_interpreter": {"file_ids": [file["id"]]}}
        thread = await service.thread("Plot sales.csv, please.", tool_resources=resources)
        run = await service.finished(thread, await service.assistant(tools=[CODE]))
        assert run["status"] == "completed"
        message = (await service.api.get(f"/threads/{thread}/messages?limit=1"))["data"][0]
        image, text = message["content"]
        (link,) = text["text"]["annotations"]
        for file_id in (image["image_file"]["file_id"], link["file_path"]["file_id"]):
            assert (await download(service.api, file_id)).raw.startswith(b"\x89PNG")
        assert "sold: sum 42, mean 21, from 10 to 32" in text["text"]["value"]
    async with asyncio.timeout(30):
        await sandbox.close()


class Offline(OfflineModel, BareModels):
    """ports.models.Models of this model alone."""
