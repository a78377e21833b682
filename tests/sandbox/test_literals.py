"""/mnt/data where it can be neither a link nor a mount: literals of a cell name the folder that is there."""

from __future__ import annotations

import ast

import pytest

from assistants_service.infra.sandbox.cell import _Literals


@pytest.mark.parametrize(
    ("cell", "replaced"),
    [
        ("open('/mnt/data/a.csv')", "open('/tmp/x/data/a.csv')"),
        ("os.listdir('/mnt/data')", "os.listdir('/tmp/x/data')"),
        ("open(f'/mnt/data/{name}.csv')", "open(f'/tmp/x/data/{name}.csv')"),
        ("connect('sqlite:////mnt/data/a.db')", "connect('sqlite:////tmp/x/data/a.db')"),
        ("open(b'/mnt/data/a')", "open(b'/tmp/x/data/a')"),
        ("b'/mnt/database'", "b'/mnt/database'"),
        ("'/mnt/database', '/mnt/data-2', '/mnt/data.csv'", "('/mnt/database', '/mnt/data-2', '/mnt/data.csv')"),
        ("mnt / data", "mnt / data"),
    ],
)
def test_literals_are_replaced(cell: str, replaced: str) -> None:
    assert ast.unparse(_Literals("/tmp/x/data").visit(ast.parse(cell))) == replaced
