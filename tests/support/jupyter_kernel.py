"""Takes the place of fake_kernel.py with a real Jupyter kernel, if JUPYTER names a Python that has ipykernel and
jupyter_client:

    python -m venv /tmp/jupyter && /tmp/jupyter/bin/pip install ipykernel jupyter_client
    JUPYTER=/tmp/jupyter/bin/python pytest tests/contract/test_sandbox_contract.py -k azure
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from jupyter_client.manager import start_new_kernel  # type: ignore[import-not-found]


def executed(client: Any, code: str) -> dict[str, str]:
    said: dict[str, list[str]] = {"stdout": [], "stderr": []}

    def hear(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "stream":
            said[content["name"]].append(content["text"])
        elif message["msg_type"] == "error":
            said["stderr"].append("\n".join(content["traceback"]))

    status = client.execute_interactive(code, output_hook=hear, allow_stdin=False)["content"]["status"]
    texts = {name: "".join(parts) for name, parts in said.items()}
    return {"status": "Succeeded" if status == "ok" else "Failed", **texts}


def end_with(manager: Any) -> None:
    while manager.is_alive():
        time.sleep(0.05)
    os._exit(1)


def main(folder: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what else is printed is no answer
    manager, client = start_new_kernel(
        env={**os.environ, "HOME": os.environ["TMPDIR"], "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    )
    threading.Thread(target=end_with, args=(manager,), daemon=True).start()
    try:
        for line in os.fdopen(0, "rb"):
            code = json.loads(line)
            if not Path("/mnt/data").samefile(folder):
                sys.exit("This machine cannot mount /mnt/data.")
            print(json.dumps(executed(client, code)), file=answers, flush=True)
    finally:
        manager.shutdown_kernel(now=True)


main(sys.argv[1])
