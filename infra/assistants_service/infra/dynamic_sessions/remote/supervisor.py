"""In the kernel of a session: starts the process that executes cells, passes calls to it, and prints what became of
them.

A call has an id. If the same call comes again, because its answer was lost, it is answered from memory and not executed
again. What is too large for an answer is left in files, which the next call removes.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from assistants_service.infra.sandbox import folder, frames
from assistants_service.infra.sandbox.figures import MOST_BYTES
from assistants_service.infra.sandbox.logs import OutputLog

_PROGRAM: Final = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from assistants_service.infra.dynamic_sessions.remote.process import main; main()"
)
_LARGEST: Final = {frames.READY: 1 << 16, frames.IMAGE: MOST_BYTES, frames.RESULT: 1 << 24}  # bytes
# Characters of a report that is printed. The API cuts output at 4,096 characters unless it is asked for more
# (outputStreamsMaxLength in DynamicSessions.json of azure-rest-api-specs); its maximum is not documented.
_MOST_PRINTED: Final = 3_000
_EXIT_TIMEOUT: Final = 0.5  # seconds for a process that has closed its end

_Version = tuple[int, int, int]  # of a file: inode, time of the last change in ns, size

_supervisor: Supervisor | None = None


def begin(setup: Mapping[str, Any], program: str) -> None:
    """Start the process, unless it has been started. `program` is the folder of these modules. `setup` has `session`
    (a secret name), `call`, `data` (the folder of files), `modules` (to load before the first cell), `memory`,
    `largest_file`, `kept`, `logs` (bytes), `images` (number), `seconds`, `grace`, and `start` (seconds)."""
    global _supervisor  # noqa: PLW0603 # the kernel has one, and keeps it from execution to execution
    if _supervisor is None:
        _supervisor = Supervisor(setup, program)
    _print(setup["call"], {"state": "ready" if _supervisor.session == setup["session"] else "gone"})


def call(request: Mapping[str, Any]) -> None:
    """Execute a cell. `request` has `session`, `call`, `uploads` (pairs of a name and the path where that file
    belongs), and `code`."""
    if _supervisor is None or _supervisor.session != request["session"]:
        return _print(request["call"], {"state": "gone"})
    _print(request["call"], _supervisor.answer(request))


def _print(call_id: str, report: Mapping[str, Any]) -> None:
    packed = base64.b64encode(zlib.compress(json.dumps(report).encode())).decode()
    if len(packed) > _MOST_PRINTED and _supervisor:
        packed = "@" + _supervisor.left(f"{call_id}-report", json.dumps(report).encode())
    print(f"\n<{call_id}>{packed}</{call_id}>", flush=True)  # noqa: T201


class Supervisor:
    """Supervises the one process that a session has."""

    def __init__(self, setup: Mapping[str, Any], program: str) -> None:
        self.session = setup["session"]
        self._setup, self._data = setup, setup["data"]
        self._answered: tuple[str, Mapping[str, Any]] = ("", {})
        self._left: list[str] = []  # names of files for the worker
        scratch = tempfile.mkdtemp()
        self._logs = OutputLog(Path(scratch))
        own = {"MPLBACKEND": "agg", **dict.fromkeys(("TMPDIR", "HOME", "MPLCONFIGDIR"), scratch)}
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-B", "-c", _PROGRAM, program, json.dumps({**setup, "parent": os.getpid()})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._logs.descriptor,
            env={**os.environ, **own},
            cwd="/",
            start_new_session=True,
        )
        self._ready = False
        self._interrupted = False

    def answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._answered[0] != request["call"]:
            self._answered = request["call"], {"state": "aborted"}  # if the API interrupts this
            self._answered = request["call"], self._executed(request)
        return self._answered[1]

    def left(self, name: str, content: bytes) -> str:
        """Leave a file for the worker. Returns its name."""
        Path(self._data, name).write_bytes(content)
        self._left.append(name)
        return name

    def _executed(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self._clear()
        placed, misplaced = self._place(request["uploads"])
        try:
            try:
                report = self._run(request, placed)
            finally:
                self._signal(signal.SIGSTOP)  # no thread of a cell goes on between calls
        except TimeoutError:
            self._end()
            return {"state": "timeout", **self._printed()}
        except (EOFError, OSError):
            return {"state": "ended", "status": self._end(_EXIT_TIMEOUT), **self._printed()}
        except frames.ForgedFrame:
            self._end()
            return {"state": "forged"}
        except BaseException:
            self._end()
            raise
        return {**report, "misplaced": misplaced}

    def _run(self, request: Mapping[str, Any], placed: Mapping[str, _Version]) -> dict[str, Any]:
        setup, images = self._setup, list[bytes]()
        self._signal(signal.SIGCONT)
        if not self._ready:
            self._deadlines(setup["start"], 0)
            self._receive(frames.NO_NONCE, frames.READY)
            self._ready = True
        self._logs.clear()
        nonce = os.urandom(16)
        self._deadlines(setup["seconds"], setup["grace"])
        self._send(frames.pack(nonce, frames.PLACED, json.dumps(placed).encode()))
        self._send(frames.pack(nonce, frames.EXECUTE, request["code"].encode(errors="replace")))
        while (frame := self._receive(nonce, frames.IMAGE, frames.RESULT))[0] == frames.IMAGE:
            if len(images) == setup["images"]:
                raise frames.ForgedFrame
            images.append(frame[1])
        # The process has found what the cell changed: files that are made now do not count.
        for number, image in enumerate(images):
            self.left(f"{request['call']}-image-{number}", image)
        return {
            "state": "done",
            "result": frame[1].decode(errors="replace"),
            **self._printed(),
            "images": [len(image) for image in images],
            "interrupted": self._interrupted,
            "files": self._expose(request["call"], frame[1]),
        }

    def _printed(self) -> dict[str, Any]:
        logs, left_out = self._logs.text(self._setup["logs"])
        return {"logs": logs, "left_out": left_out}

    # -- files -----------------------------------------------------------------------------------------------------
    # Their names are flat and plain, because the API allows certain characters only, and no dots in folders
    # (learn.microsoft.com/azure/container-apps/sessions-code-interpreter#supported-characters).

    def _clear(self) -> None:
        for name in self._left:
            Path(self._data, name).unlink(missing_ok=True)
        self._left.clear()

    def _place(self, uploads: list[tuple[str, str]]) -> tuple[dict[str, _Version], list[tuple[str, str]]]:
        """Move files that were uploaded to their paths. Returns those that are there, by path, and the paths at which
        that is impossible, and why."""
        placed, misplaced = dict[str, _Version](), []
        for name, path in uploads:
            target = Path(self._data, path)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                Path(self._data, name).replace(target)
                placed[path] = folder.version(target.lstat())
            except OSError as error:
                misplaced.append((path, error.strerror or str(error)))
                Path(self._data, name).unlink(missing_ok=True)
        return placed, misplaced

    def _expose(self, call_id: str, result: bytes) -> list[str]:
        """Make links to the files that the call changed, in order, up to `kept` bytes. Returns their paths."""
        exposed, total = list[str](), 0
        try:
            changed = [(str(path), int(size)) for path, size in json.loads(result)["changed"]]
        except (ValueError, TypeError, KeyError):
            raise frames.ForgedFrame from None
        for path, size in changed:
            if total + size <= self._setup["kept"]:
                total += size
                if self._linked(path, f"{call_id}-file-{len(exposed)}"):
                    exposed.append(path)
        return exposed

    def _linked(self, path: str, name: str) -> bool:
        """Whether there is such a file still, which a thread of the cell may have removed."""
        self._left.append(name)
        source, target = Path(self._data, path), Path(self._data, name)
        try:
            try:
                os.link(source, target, follow_symlinks=False)
            except OSError:  # a file system without links
                shutil.copyfile(source, target, follow_symlinks=False)
        except OSError:
            return False
        return True

    # -- the process -----------------------------------------------------------------------------------------------

    def _deadlines(self, seconds: float, grace: float) -> None:
        self._interrupted = False
        self._alarm = time.monotonic() + seconds
        self._kill_at = self._alarm + grace

    def _send(self, data: bytes) -> None:
        assert self._process.stdin  # noqa: S101
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def _receive(self, nonce: bytes, *kinds: bytes) -> tuple[bytes, bytes]:
        """A frame's kind and payload. Raises EOFError, TimeoutError and ForgedFrame."""
        size, answered, kind = frames.HEADER.unpack(self._exactly(frames.HEADER.size))
        if answered != nonce or kind not in kinds or size > _LARGEST[kind]:
            raise frames.ForgedFrame
        return kind, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        assert self._process.stdout  # noqa: S101
        source, parts = self._process.stdout.fileno(), bytearray()
        while len(parts) < size:
            self._await(source)
            part = os.read(source, min(size - len(parts), 1 << 20))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    def _await(self, source: int) -> None:
        """Waits until there is something to read. Sends SIGINT at the time limit, and raises TimeoutError after the
        grace period."""
        while not select.select([source], [], [], max(0.0, self._until() - time.monotonic()))[0]:
            if not self._interrupted and self._alarm < self._kill_at:
                self._interrupted = True
                self._signal(signal.SIGINT)
            elif time.monotonic() >= self._kill_at:
                raise TimeoutError

    def _until(self) -> float:
        return self._kill_at if self._interrupted else self._alarm

    def _signal(self, number: signal.Signals) -> None:
        """Sends the signal to the process, and to those that cells have started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _end(self, seconds: float = 0) -> int:
        """Kill the process if it does not end by itself within so many seconds. Returns its exit status, which is
        negative for a signal."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            return self._process.wait()
