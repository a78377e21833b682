"""The libraries that interpreters have: they work in the confinement, and figures are seen. One interpreter for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from assistants_service.infra.sandbox.interpreter import LocalInterpreter
from assistants_service.infra.sandbox.local import LocalSandbox
from sandboxes import needs_landlock

pytestmark = [needs_landlock, pytest.mark.asyncio(loop_scope="module")]
PNG = b"\x89PNG\r\n\x1a\n"
PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[LocalSandbox]:
    made = LocalSandbox()
    yield made
    async with asyncio.timeout(30):
        await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(sandbox: LocalSandbox) -> LocalInterpreter:
    return await sandbox.start("session")


async def test_all_libraries_of_the_extra_are_there(session: LocalInterpreter) -> None:
    assert session.missing == ()


async def test_tables_are_read_and_written(session: LocalInterpreter) -> None:
    code = (
        "import numpy as np, pandas as pd\n"
        "df = pd.DataFrame({'a': np.arange(3), 'b': ['x', 'y', 'z']})\n"
        "df.to_csv('t.csv', index=False)\ndf.to_excel('t.xlsx', index=False)\n"
        "pd.read_csv('/mnt/data/t.csv').equals(pd.read_excel('/mnt/data/t.xlsx')), np.linalg.inv(np.eye(2)).sum()"
    )
    result = await session.run(code)
    assert result.error is None
    assert result.value == "(True, np.float64(2.0))"
    assert [each.path for each in result.changed] == ["t.csv", "t.xlsx"]
    value = (await session.run("df")).value
    assert value
    assert value.splitlines()[0].split() == ["a", "b"]


async def test_figures_are_shown_as_in_a_notebook(session: LocalInterpreter) -> None:
    for code in (
        PLOT + "plt.show()",
        PLOT,  # left open
        PLOT + "plt.savefig('/mnt/data/plot.png')\nplt.show()",
        "import matplotlib\nmatplotlib.use('Agg')\n" + PLOT + "plt.show()",
        "fig, ax = plt.subplots()\nfig.show()",
        "fig, ax = plt.subplots()\nfig",
        "fig, ax = plt.subplots()\ndisplay(fig)",
        "from PIL import Image\nImage.new('RGB', (4, 4))",
        PLOT + "1 / 0",
    ):
        result = await session.run(code)
        assert len(result.images) == 1, code
        assert result.images[0].startswith(PNG)
        assert result.logs == ""
        assert not result.error or "ZeroDivisionError" in result.error
    result = await session.run(PLOT + "plt.show()\nplt.figure()\nplt.figure()")
    assert len(result.images) == 3
    assert (await session.run(PLOT + "plt.close()\ndisplay(1, 'two')")).logs == "1\ntwo\n"


async def test_no_more_images_than_allowed(session: LocalInterpreter) -> None:
    result = await session.run("for _ in range(23):\n    plt.figure(figsize=(1, 1))\n    plt.show()")
    assert len(result.images) == 20
    assert result.notes == ("Only the first 20 images are shown; 3 were left out.",)


async def test_a_figure_that_cannot_be_drawn_is_an_error(session: LocalInterpreter) -> None:
    result = await session.run("plt.figure(figsize=(1e5, 1e5))\nx = 1")
    assert result.error
    assert result.images == ()
    assert (await session.run("x")).value == "1"


async def test_memory_has_a_limit_that_python_reports(session: LocalInterpreter) -> None:
    result = await session.run("np.ones(1 << 40)")
    assert result.error
    assert "MemoryError" in result.error


async def test_interpreters_get_different_random_numbers_of_numpy(sandbox: LocalSandbox) -> None:
    code = "import numpy as np\nfloat(np.random.rand()), int(np.random.default_rng().integers(1 << 60))"
    one, other = [(await (await sandbox.start(name)).run(code)).value for name in ("one", "other")]
    assert one
    assert other
    assert not set(one.strip("()").split(", ")) & set(other.strip("()").split(", "))


async def test_the_libraries_are_imported_once_by_a_process_that_can_be_forked(sandbox: LocalSandbox) -> None:
    """With one thread, and without memory that interpreters would share."""
    place = Path("/proc", str((await sandbox._servers.get()).pid))
    assert len([*(place / "task").iterdir()]) == 1
    rights = [line.split()[1] for line in (place / "maps").read_text().splitlines()]
    assert "rw-p" in rights
    assert "rw-s" not in rights
