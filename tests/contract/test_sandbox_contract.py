"""What a cell does and what comes of it: the same in confined processes of this machine and in sessions of Azure.

With SANDBOX=all (`make sandbox`), on this machine only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
import pytest_asyncio

from assistants_service.core.ports.sandbox import ChangedFile, Interpreter, InterpreterLost, Sandbox, SandboxBusy
from assistants_service.infra.dynamic_sessions.interpreter import SessionInterpreter
from fake_session_pool import opened, session_pool
from sandboxes import bare_sandbox, needs_landlock

pytestmark = pytest.mark.asyncio(loop_scope="module")
Made = Callable[..., AbstractAsyncContextManager[Sandbox]]


@contextlib.asynccontextmanager
async def local(**limits: float) -> AsyncIterator[Sandbox]:
    sandbox = bare_sandbox(**limits)
    try:
        yield sandbox
    finally:
        async with asyncio.timeout(30):
            await sandbox.close()


@contextlib.asynccontextmanager
async def azure(**limits: float) -> AsyncIterator[Sandbox]:
    async with session_pool() as pool, opened(pool, **limits) as sandbox:
        yield sandbox


SANDBOXES = [
    pytest.param(local, marks=needs_landlock, id="local"),
    *([] if os.environ.get("SANDBOX") == "all" else [pytest.param(azure, id="azure")]),
]


@pytest.fixture(scope="module", params=SANDBOXES)
def made(request: pytest.FixtureRequest) -> Made:
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(made: Made) -> AsyncIterator[Sandbox]:
    async with made(interpreters=6) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(sandbox: Sandbox) -> AsyncIterator[Interpreter]:
    """One for all tests that do not mind what others have left."""
    made = await sandbox.start("session")
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def fresh(sandbox: Sandbox) -> AsyncIterator[Interpreter]:
    made = await sandbox.start("fresh")
    yield made
    await made.close()


async def parts(*given: bytes) -> AsyncIterator[bytes]:
    for each in given:
        yield each


async def needs_mount(session: Interpreter) -> None:
    """Without it, the folder of an imitated session has another path; that of a real one has not."""
    if isinstance(session, SessionInterpreter) and (await session.run("import os\nos.getcwd()")).value != "'/mnt/data'":
        pytest.skip("this machine cannot mount a folder at /mnt/data")


async def content(session: Interpreter, path: str) -> bytes:
    return b"".join([part async for part in session.read(path)])


async def test_variables_live_as_long_as_the_session(session: Interpreter) -> None:
    await session.run("import math\nx = 20")
    await session.run("def double(n):\n    return 2 * n")
    assert (await session.run("double(x) + math.floor(2.5)")).value == "42"
    assert (await session.run("_ + 1")).value == "43"


async def test_the_last_expression_is_the_value_and_prints_are_logs(session: Interpreter) -> None:
    result = await session.run("import sys\nprint('one')\nprint('two', file=sys.stderr)\n'three'")
    assert (result.logs, result.value, result.error) == ("one\ntwo\n", "'three'", None)
    assert (await session.run("x = 1")).value is None
    assert (await session.run("None")).value is None
    assert (await session.run("")).value is None
    assert (await session.run("print('four')")).logs == "four\n"


async def test_what_a_library_writes_to_the_descriptors_is_in_the_logs(session: Interpreter) -> None:
    assert (await session.run("import os\nos.write(1, b'one ')\nos.write(2, b'two')\nNone")).logs == "one two"


async def test_an_exception_is_a_traceback_from_the_cells_own_frame_on(fresh: Interpreter) -> None:
    await fresh.run("def divide(a):\n    return a / 0")
    result = await fresh.run("print('before')\ndivide(1)")
    assert result.logs == "before\n"
    assert result.error
    lines = result.error.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1:3] == ['  File "<cell 2>", line 2, in <module>', "    divide(1)"]
    assert '  File "<cell 1>", line 2, in divide' in lines
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert (await fresh.run("1")).value == "1"


async def test_what_cannot_be_compiled_shows_the_line(fresh: Interpreter) -> None:
    error = (await fresh.run("x = (1,\ny = 2")).error
    assert error
    assert error.startswith('  File "<cell 1>", line 1')
    assert "SyntaxError" in error
    assert "assistants_service" not in error


async def test_the_end_of_the_program_is_none_of_the_session(session: Interpreter) -> None:
    result = await session.run("import sys\nx = 5\nsys.exit('enough')")
    assert result.error
    assert result.error.endswith("SystemExit: enough\n")
    assert (await session.run("x")).value == "5"


async def test_await_works_at_the_top(session: Interpreter) -> None:
    code = "import asyncio\nawait asyncio.sleep(0)\nawait asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2))"
    assert (await session.run(code)).value == "[1, 2]"


async def test_threads_and_a_database_work(session: Interpreter) -> None:
    code = (
        "import sqlite3\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor() as pool:\n    squares = list(pool.map(lambda n: n * n, range(4)))\n"
        "with sqlite3.connect('/mnt/data/a.db') as db:\n    db.execute('create table t as select 1 as a')\n"
        "squares, db.execute('select * from t').fetchall()"
    )
    result = await session.run(code)
    assert (result.value, result.error) == ("([0, 1, 4, 9], [(1,)])", None)
    assert [each.path for each in result.changed] == ["a.db"]


async def test_zip_files_copies_and_temporary_files_work(fresh: Interpreter) -> None:
    code = (
        "import os, shutil, tempfile, zipfile\n"
        "open('/mnt/data/a.txt', 'w').write('text')\n"
        "shutil.copy2('/mnt/data/a.txt', '/mnt/data/b.txt')\n"
        "shutil.copytree('/mnt/data', tempfile.mkdtemp() + '/copy')\n"
        "with zipfile.ZipFile('/mnt/data/c.zip', 'w') as z:\n    z.write('/mnt/data/a.txt', 'e.txt')\n"
        "with zipfile.ZipFile('/mnt/data/c.zip') as z:\n    z.extractall('/mnt/data/d')\n"
        "with tempfile.NamedTemporaryFile() as file:\n    pass\n"
        "shutil.move('/mnt/data/b.txt', '/mnt/data/d/b.txt')"  # which copies, before Linux 5.19
    )
    result = await fresh.run(code)
    assert result.error is None
    assert {each.path for each in result.changed} == {"a.txt", "c.zip", "d/b.txt", "d/e.txt"}


async def test_files_are_told_when_they_change(fresh: Interpreter) -> None:
    await fresh.write("in/table.csv", parts(b"a,b\n", b"1,2\n"))
    await fresh.write("other.txt", parts())
    result = await fresh.run("open('/mnt/data/in/table.csv').read()")
    assert (result.value, result.changed) == (repr("a,b\n1,2\n"), ())
    result = await fresh.run("open('/mnt/data/in/table.csv', 'r+').write('A')\nopen('new.txt', 'w').write('neu')")
    assert result.changed == (ChangedFile("in/table.csv", 8), ChangedFile("new.txt", 3))
    assert await content(fresh, "in/table.csv") == b"A,b\n1,2\n"
    result = await fresh.run("import os\nos.remove('/mnt/data/in/table.csv')\nos.rename('new.txt', 'newer.txt')")
    assert (result.changed, result.removed) == ((ChangedFile("newer.txt", 3),), ("in/table.csv", "new.txt"))
    assert (await fresh.run("1")).changed == ()


async def test_what_code_changes_between_two_calls_is_told_by_the_next(fresh: Interpreter) -> None:
    """As a thread does when the process goes on. A handler of SIGCONT always comes before the next cell."""
    await fresh.run(
        "import os, signal\nopen('old', 'w').write('old')\n"
        "def late(*_):\n    os.path.exists('old') and os.rename('old', 'late')\nsignal.signal(signal.SIGCONT, late)"
    )
    await fresh.write("given", parts(b"by the worker"))
    result = await fresh.run("1")
    assert (result.changed, result.removed) == ((ChangedFile("late", 3),), ("old",))
    await fresh.write("given", parts(b"again"))
    result = await fresh.run("open('given').read()")
    assert (result.value, result.changed, result.removed) == ("'again'", (), ())
    assert (await fresh.run("open('given', 'r+').write('A')")).changed == (ChangedFile("given", 5),)


async def test_what_is_written_to_a_mapping_is_told_in_each_call(session: Interpreter) -> None:
    """The time of a file's last change may stay as it was."""
    await session.run(
        "import mmap\nwith open('/mnt/data/m', 'w+b') as f:\n    f.truncate(9)\n    m = mmap.mmap(f.fileno(), 9)"
    )
    for text in ("first", "again"):
        result = await session.run(f"m[:5] = b'{text}'")
        assert [file.path for file in result.changed] == ["m"]
        assert (await content(session, "m"))[:5] == text.encode()
    assert (await session.run("m[:5]")).changed == ()


@pytest.mark.parametrize("code", ["sys.stdout.close()", "sys.stdout.detach()", "sys.stdout = sys.stderr = None"])
async def test_what_is_printed_after_a_cell_has_closed_its_output_is_told(session: Interpreter, code: str) -> None:
    await session.run(f"import sys\n{code}")
    assert (await session.run("print('still here')")).logs == "still here\n"


async def test_what_only_calls_itself_an_image_is_a_value(session: Interpreter) -> None:
    code = "class Image:\n    def _repr_png_(self): return b'GIF89a'\n    def __repr__(self): return 'no'\nImage()"
    result = await session.run(code)
    assert (result.images, result.value) == ((), "no")


async def test_a_large_file_comes_back_as_it_went(session: Interpreter) -> None:
    data = os.urandom(3_000_000)
    await session.write("large", parts(data))
    assert (await session.run("open('copy', 'wb').write(open('large', 'rb').read())")).value == "3000000"
    assert await content(session, "copy") == data


async def test_images_come_in_the_order_in_which_they_were_shown_and_are_no_files(session: Interpreter) -> None:
    code = (
        "class Image:\n    def __init__(self, n):\n        self.n = n\n"
        "    def _repr_png_(self):\n        return b'\\x89PNG\\r\\n\\x1a\\n' + bytes([self.n]) * 5000\n"
        "display(Image(1), 'text', Image(2))\nopen('/mnt/data/shown', 'w').write('x')\n"
        "import time\ntime.sleep(0.1)\nImage(3)"
    )
    result = await session.run(code)
    assert [(image[:4], image[8], len(image)) for image in result.images] == [(b"\x89PNG", n, 5008) for n in (1, 2, 3)]
    assert (result.logs, result.value, result.changed) == ("text\n", None, (ChangedFile("shown", 1),))
    assert (await session.run("import os\nos.remove('shown')")).removed == ("shown",)


async def test_a_path_that_is_not_valid_is_refused(session: Interpreter) -> None:
    for path in ("", "/etc/passwd", "../up", "a/../../b", "a//b", "./a", "line\nfeed", "\ud800", "a" * 1025):
        with pytest.raises(ValueError, match="no valid path"):
            await session.write(path, parts(b"x"))
        with pytest.raises(ValueError, match="no valid path"):
            await content(session, path)
    assert (await session.run("1")).value == "1"


async def test_what_is_no_file_is_not_read(fresh: Interpreter) -> None:
    await fresh.run("import os\nos.mkdir('folder')")
    for path in ("folder", "missing"):
        with pytest.raises(ValueError, match=f"{path} cannot be read"):
            await content(fresh, path)
    try:
        await fresh.write("folder", parts(b"x"))
        told = "\n".join((await fresh.run("1")).notes)  # a file is put in place by the next call
    except ValueError as error:
        told = str(error)
    assert "folder cannot be stored" in told
    assert (await fresh.run("1")).value == "1"


async def test_output_is_cut_in_the_middle(session: Interpreter) -> None:
    result = await session.run("print('head')\nprint('-' * 200_000)\nprint('tail')")
    assert len(result.logs) < 66_000
    assert result.logs.startswith("head\n---")
    assert result.logs.endswith("---\ntail\n")
    assert result.notes == (f"The output was cut to 64 KiB: {200_011 - 65_536:,} bytes were left out in the middle.",)
    value = (await session.run("'x' * 200_000")).value
    assert value
    assert len(value) < 66_000


async def test_text_that_is_no_unicode_is_told_all_the_same(session: Interpreter) -> None:
    result = await session.run(r"import os;os.write(1, b'\xff');print('\ud800');'\udc00'")
    assert result.logs.encode()
    assert result.value == r"'\udc00'"


async def test_the_folder_has_one_name(fresh: Interpreter) -> None:
    await needs_mount(fresh)
    result = await fresh.run(
        "import os, sys\nprint(os.getcwd(), os.path.realpath('/mnt/data'))\nopen('/mnt/data/missing')"
    )
    assert result.logs == "/mnt/data /mnt/data\n"
    assert result.error
    assert result.error.endswith("No such file or directory: '/mnt/data/missing'\n")


async def test_two_sessions_have_nothing_in_common(sandbox: Sandbox) -> None:
    one, other = await sandbox.start("one"), await sandbox.start("other")
    await one.run("x = 1\nopen('/mnt/data/a', 'w').write('a')")
    assert "NameError" in ((await other.run("x")).error or "")
    assert (await other.run("import os\nos.listdir('/mnt/data')")).value == "[]"
    await one.close()
    await other.close()


async def test_a_module_of_its_own_can_be_imported(session: Interpreter) -> None:
    await session.write("mine.py", parts(b"x = 42"))
    assert (await session.run("import mine\nmine.x")).value == "42"
    assert "ModuleNotFoundError" in ((await session.run("import missing")).error or "")


async def test_classes_can_be_pickled(session: Interpreter) -> None:
    code = "import dataclasses, pickle\n@dataclasses.dataclass\nclass P:\n    x: int\npickle.loads(pickle.dumps(P(3)))"
    assert (await session.run(code)).value == "P(x=3)"


async def test_a_call_that_takes_too_long_is_interrupted_and_keeps_its_state(made: Made) -> None:
    async with made(seconds=0.3) as sandbox:
        session = await sandbox.start("session")
        result = await session.run("x = 1\nwhile True:\n    x += 1")
        assert result.error
        assert result.error.endswith("KeyboardInterrupt\n")
        assert result.notes == ("The code was interrupted after 0.3 seconds.",)
        assert int((await session.run("x")).value or 0) > 1


async def test_no_more_is_kept_of_a_call_than_allowed(made: Made) -> None:
    async with made(kept=10) as sandbox:
        session = await sandbox.start("session")
        result = await session.run("for name in 'abc':\n    open(name, 'w').write('12345')")
        assert [each.path for each in result.changed] == ["a", "b"]
        assert result.removed == ("c",), "an old version of it must not come back"
        assert result.notes == ("Only files of 10 bytes in total are kept of a call; not kept: c.",)


async def test_a_file_that_does_not_fit_is_refused_and_leaves_nothing(made: Made) -> None:
    async with made(file=1 << 20, folder=3 << 20) as sandbox:
        session = await sandbox.start("session")
        with pytest.raises(ValueError, match=r"large cannot be stored: File too large. A file may have 1 MiB."):
            await session.write("large", parts(bytes(1 << 20), b"x"))
        await session.write("small", parts(bytes(1 << 20)))
        with pytest.raises(ValueError, match="more than 3 MiB in total"):
            await session.write("one too many", parts(bytes(1 << 20)))
        assert (await session.run("import os\nos.listdir('/mnt/data')")).value == "['small']"


IGNORING = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    pass"


SWALLOWING = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"


IN_C = "import itertools\nsum(itertools.repeat(0))"


@pytest.mark.parametrize("code", [IGNORING, SWALLOWING, IN_C])
async def test_a_call_that_cannot_be_interrupted_is_killed(code: str, made: Made) -> None:
    async with made(seconds=0.3, grace=0.3) as sandbox:
        session = await sandbox.start("session")
        async with asyncio.timeout(10):
            with pytest.raises(InterpreterLost, match="did not end within"):
                await session.run(code)
        assert not session.alive
        await session.close()
        assert (await (await sandbox.start("next")).run("1")).value == "1"


async def test_what_was_printed_before_an_interpreter_ended_is_told(sandbox: Sandbox) -> None:
    for ending in ("os._exit(3)", "os.closerange(0, 256)\nwhile True: pass"):
        session = await sandbox.start("session")
        await needs_mount(session)
        with pytest.raises(InterpreterLost) as lost:
            await session.run(f"import os\nprint('half of it in', os.getcwd())\n{ending}")
        assert lost.value.logs == "half of it in /mnt/data\n"


async def test_no_more_interpreters_than_allowed(made: Made) -> None:
    async with made(interpreters=2) as sandbox:
        one, _ = await sandbox.start("one"), await sandbox.start("two")
        with pytest.raises(SandboxBusy):
            await sandbox.start("three")
        await one.close()
        await one.close()
        assert (await (await sandbox.start("three")).run("3")).value == "3"
