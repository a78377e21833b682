"""The tool over HTTP with a real interpreter: a file goes in, another one comes out."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from assistants_service.infra.sandbox.local import LocalSandbox
from inprocess_service import calls, in_process, says
from multipart_forms import download, upload
from sandboxes import bare_sandbox, needs_landlock
from scripted_sandbox import CODE, python

pytestmark = needs_landlock
SUM = "import csv\nrows = list(csv.DictReader(open('/mnt/data/table.csv')))\ntotal = sum(int(row['b']) for row in rows)"
WRITE = "open('/mnt/data/total.txt', 'w').write(f'{total}\\n')\nprint(total)\ntotal"
LINK = "sandbox:/mnt/data/total.txt"


@pytest.fixture
async def sandbox() -> AsyncIterator[LocalSandbox]:
    made = bare_sandbox()
    yield made
    await made.close()


async def test_a_file_is_read_and_another_one_is_handed_back(sandbox: LocalSandbox) -> None:
    script = (calls(python(SUM)), calls(python(WRITE)), says(f"Here: [total]({LINK})."))
    async with in_process(*script, sandbox=sandbox) as service:
        file = await upload(service.api, b"a,b\nx,20\ny,22\n", "table.csv")
        tools = {"tools": [CODE], "tool_resources": {"code_interpreter": {"file_ids": [file["id"]]}}}
        run = await service.finished(assistant=await service.assistant(**tools))
        assert run["status"] == "completed"
        heard = [turn.text for turn in service.prompts[-1].turns if turn.role == "tool"]
        assert heard[-1].startswith("42\n42\n")
        (message,) = (await service.api.get(f"/threads/{run['thread_id']}/messages?limit=1"))["data"]
        (cited,) = message["content"][0]["text"]["annotations"]
        assert cited["text"] == LINK
        assert (await download(service.api, cited["file_path"]["file_id"])).raw == b"42\n"
