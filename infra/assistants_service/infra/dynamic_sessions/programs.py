"""What the kernel of a session executes: the modules of `remote` with what they need of `infra.sandbox`, and calls of
them. Nothing else reaches the kernel: cells are data of such a call."""

from __future__ import annotations

import base64
import functools
import json
import zlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

_PACKAGE: Final = "assistants_service.infra"
_SUPERVISOR: Final = f"{_PACKAGE}.dynamic_sessions.remote.supervisor"
_MODULES: Final = (
    "__init__",
    *(f"sandbox/{name}" for name in ("__init__", "child", "cell", "figures", "folder", "data_folder", "frames")),
    *(f"sandbox/{name}" for name in ("logs", "confinement", "landlock", "seccomp", "syscalls")),
    *(f"dynamic_sessions/{name}" for name in ("__init__", "remote/__init__", "remote/process", "remote/supervisor")),
)


def begin(setup: Mapping[str, Any]) -> str:
    """Store the modules in a folder of the session, and start its process (`supervisor.begin`)."""
    return _BEGIN.format(sources=_packed(), supervisor=_SUPERVISOR, setup=json.dumps(setup))


def call(request: Mapping[str, Any]) -> str:
    """Pass a call to the supervisor (`supervisor.call`). In a session that has none, which Azure starts when the one of
    that identifier is gone, it only says so."""
    return _CALL.format(supervisor=_SUPERVISOR, request=json.dumps(request), gone=f"<{request['call']}>gone")


@functools.cache
def _packed() -> str:
    return base64.b64encode(zlib.compress(json.dumps(_sources()).encode(), 9)).decode()


def _sources() -> dict[str, str]:
    root = files(_PACKAGE)
    return {f"{name}.py": root.joinpath(f"{name}.py").read_text("utf-8") for name in _MODULES}


# JSON that json.dumps makes is ASCII; as a raw string literal it is read back unchanged by repr().
_BEGIN: Final = """\
def _begin():
    import base64, importlib, json, pathlib, sys, tempfile, zlib
    if {supervisor!r} not in sys.modules:
        folder = tempfile.mkdtemp()
        for path, source in json.loads(zlib.decompress(base64.b64decode({sources!r}))).items():
            file = pathlib.Path(folder, "assistants_service/infra", path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source, encoding="utf-8")
        sys.path.insert(0, folder)
    supervisor = importlib.import_module({supervisor!r})
    supervisor.begin(json.loads({setup!r}), sys.path[0])
_begin()
"""
_CALL: Final = """\
def _call():
    import json, sys
    supervisor = sys.modules.get({supervisor!r})
    if supervisor:
        supervisor.call(json.loads({request!r}))
    else:
        print({gone!r})
_call()
"""
