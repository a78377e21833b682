"""The process of a session that executes cells, as `infra.sandbox.child` is on the worker's machine. It is not
confined: the session is a virtual machine of its own."""

from __future__ import annotations

import json
import os
import resource
import sys

from assistants_service.infra.sandbox import child, confinement


def main() -> None:
    """The last argument is a JSON object: `parent` (the process id of the kernel), and of `supervisor.begin` data,
    modules, memory, largest_file and images."""
    setup = json.loads(sys.argv.pop())
    confinement.end_with(setup["parent"])
    child.take(requests=0, answers=1, output=2)
    os.chdir(setup["data"])
    sys.path[:] = [*sys.path[1:], setup["data"]]  # without the folder of this program
    sys.argv[:] = [""]
    for kind, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, setup["largest_file"])):
        resource.setrlimit(kind, (most, most))
    missing = child.load(setup["modules"])
    mapped = os.open(confinement.MAPPED, os.O_RDONLY)
    confinement.limit_memory(setup["memory"], mapped)
    os.close(mapped)
    child._Service(setup["data"], setup["images"]).run(missing)
