"""The code of a call, from whatever a model sends, cut anywhere."""

from __future__ import annotations

import json

import pytest

from assistants_service.core.tools.code_interpreter.arguments import as_json, code_of, code_so_far

CODE = "import math\n\n# Größe: \"π\" \\ \t 😀\nprint(f'{math.pi:.2f}')\r\n{1, 2}"
FENCED = f"```python\n{CODE}\n```"
CALLS = [
    (json.dumps({"code": CODE}), CODE),
    (json.dumps({"code": CODE}, ensure_ascii=False, indent=2), CODE),
    (json.dumps({"language": "python", "more": [1, {"code": "no"}, 2.5], "code": CODE, "after": None}), CODE),
    (json.dumps({"code": CODE.replace("\n", "⏎")}, ensure_ascii=False).replace("⏎", "\n"), CODE),  # not quite JSON
    (json.dumps({"code": FENCED}), CODE),
    (json.dumps({"code": f"\n```\n{CODE}\n```  \n"}), CODE),
    (json.dumps({"source": CODE}), CODE),
    (json.dumps(CODE), CODE),
    (CODE, CODE),
    (f"\n{CODE}", f"\n{CODE}"),
    (FENCED, CODE),
    (f"```\n{CODE}", CODE),
    (f"```py\n{CODE}\n```\nThis prints it.", f"{CODE}\n```\nThis prints it."),
    ('"""What this does."""\nprint(1)', '"""What this does."""\nprint(1)'),
    ("{1, 2} | {3}", "{1, 2} | {3}"),
    ('{"a": 1}["a"]', '{"a": 1}["a"]'),
    ("{}", ""),
    ("{}.get(1)", "{}.get(1)"),
    ('{"code": 5}', ""),
    ('{"code": "print(1)', "print(1)"),
    ('{"code": "a\\ud83d"}', "a?"),  # half a character
    ('{"code": "a\\\\ud83d\\\\"}', "a\\ud83d\\"),
    ("", ""),
    ("  ", "  "),
]


@pytest.mark.parametrize(("arguments", "code"), CALLS)
def test_the_code_of_a_call_and_of_each_of_its_beginnings(arguments: str, code: str) -> None:
    assert code_of(arguments) == code
    shown = ""
    for end in range(len(arguments) + 1):
        so_far = code_so_far(arguments[:end])
        assert so_far.startswith(shown), f"what was streamed is taken back after {arguments[:end]!r}"
        shown = so_far
    assert code.startswith(shown)


def test_code_is_streamed_as_it_comes() -> None:
    """Nothing is held back but what may still become something else."""
    arguments = json.dumps({"code": CODE})
    lags = [len(arguments[:end]) - len('{"code": "') - len(code_so_far(arguments[:end])) for end in range(10, 60)]
    assert max(lags) < 30, "escapes aside, what came is shown"
    assert [code_so_far(json.dumps({"code": "😀"})[:end]) for end in (10, 15, 16, 18, 21, 22)] == [""] * 5 + ["😀"]
    assert code_so_far("print(") == "print("


def test_models_are_told_of_json_objects_alone() -> None:
    assert as_json('{"code": "1"}') == '{"code": "1"}'
    assert json.loads(as_json("```\nprint(1)\n```")) == {"code": "print(1)"}
    assert json.loads(as_json('{"code": "print(1)')) == {"code": "print(1)"}
    assert json.loads(as_json("[1]")) == {"code": "[1]"}


def test_a_model_that_repeats_itself_costs_no_more_than_it_says() -> None:
    """Linear: what is quadratic would take minutes."""
    for text in ("```\n" + "\n" * 200_000 + "x", "```\n" + "`" * 200_000 + "x", '{"code": "' + "\\" * 200_000):
        assert code_of(text).startswith(code_so_far(text))


def test_what_is_nested_too_deeply_is_python() -> None:
    deep = '{"a": ' + "[" * 100_000
    assert code_of(deep) == deep
    assert code_so_far(deep) == ""
