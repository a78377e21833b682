"""The kernel of a session of fake_session_pool.py, in a process of its own: executes what it is sent, one execution
after another, with sys.stdout and sys.stderr replaced, as a Jupyter kernel does.

Executed by its path and in isolation (`-I -S`), so that nothing of the service can be imported but what is sent.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import sys
import traceback
from pathlib import Path

DATA = "/mnt/data"


def executed(code: str, namespace: dict[str, object]) -> dict[str, object]:
    out, err, value = io.StringIO(), io.StringIO(), None
    status = "Succeeded"
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            tree = ast.parse(code)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, "<ipython-input>", "exec"), namespace)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), "<ipython-input>", "eval"), namespace)
        except BaseException:
            status = "Failed"
            traceback.print_exc()
    return {"status": status, "stdout": out.getvalue(), "stderr": err.getvalue(), "executionResult": repr(value)}


def main(folder: str) -> None:
    requests, answers = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "w")
    namespace: dict[str, object] = {"__name__": "__main__"}
    mounted = Path(DATA).is_dir() and Path(DATA).samefile(folder)
    for line in requests:
        code = json.loads(line)
        if not mounted:  # this machine does not allow it
            code = code.replace(f'"data": "{DATA}"', f'"data": "{folder}"')
        print(json.dumps(executed(code, namespace)), file=answers, flush=True)


main(sys.argv[1])
