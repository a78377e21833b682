"""The code of a call, from whatever a model sends, cut anywhere."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    # Escapes that JSON does not know keep their backslash: models forget to double it.
    (r"""{"code": "re.findall(r'\d+', '\w')"}""", r"re.findall(r'\d+', '\w')"),
    (r"""{"code": "'it\'s' + \"\x41\u00e\U0001F600\"\n1"}""", "'it\\'s' + \"\\x41\\u00e\\U0001F600\"\n1"),
    (r"""{"about": "all \d", "more": ["\d"], "code": "r'\d'"}""", r"r'\d'"),
    (r"""{"source": "r'\d'"}""", r"r'\d'"),
    (r'''"print(r'\d')"''', r"print(r'\d')"),
    (r"""{"code": "r'\\d'"}""", r"r'\d'"),
    ('{"code": "a\\\n + 1"}', "a\\\n + 1"),  # the end of a line
    ('"a,b".split(",")', '"a,b".split(",")'),
    (r""""\d".join(a)""", r""""\d".join(a)"""),
]

# What models send: a string, in an object or not, as JSON or nearly, in a fence or not, with what may follow it.
_TEXTS = st.text(st.sampled_from("ab1 \\\"'`\n\r\t{}[]:,.😀\ud83d\x00u0d8c()")) | st.sampled_from(
    [CODE, FENCED, '"""a"""\n1']
)
_WRITTEN = st.sampled_from((json.dumps, lambda text: json.dumps(text, ensure_ascii=False), '"{}"'.format))
_SENT = st.one_of(
    _TEXTS,
    st.builds(
        lambda write, text, after: write(text) + after,
        _WRITTEN,
        _TEXTS,
        st.sampled_from(("", "\n", ".a", "}")) | _TEXTS,
    ),
    st.builds(
        lambda write, texts, after: f"{{{', '.join(f'{write(key)}: {write(text)}' for key, text in texts)}{after}",
        _WRITTEN,
        st.lists(st.tuples(st.sampled_from(("code", "input", "a")), _TEXTS), max_size=3),
        st.sampled_from(("}", "", " }\n", "}[0]")),
    ),
    st.builds(lambda fence, text: f"{fence}{text}\n```", st.sampled_from(("```\n", "\n```python\n")), _TEXTS),
)


@pytest.mark.parametrize(("arguments", "code"), CALLS)
def test_the_code_of_a_call_and_of_each_of_its_beginnings(arguments: str, code: str) -> None:
    assert code_of(arguments) == code
    shown = ""
    for end in range(len(arguments) + 1):
        so_far = code_so_far(arguments[:end])
        assert so_far.startswith(shown), f"what was streamed is taken back after {arguments[:end]!r}"
        shown = so_far
    assert code.startswith(shown)


@settings(max_examples=200, deadline=None)
@given(_SENT)
def test_what_is_streamed_of_a_call_is_the_beginning_of_its_code(arguments: str) -> None:
    code, shown = code_of(arguments), ""
    for end in range(len(arguments) + 1):
        so_far = code_so_far(arguments[:end])
        assert so_far.startswith(shown), f"what was streamed is taken back after {arguments[:end]!r}"
        assert code_of(arguments[:end]).startswith(so_far), "a call may end there"
        shown = so_far
    assert code.startswith(shown)
    assert isinstance(json.loads(as_json(arguments)), dict)


@given(_TEXTS.filter(lambda text: text.isascii() and "`" not in text))
def test_code_in_json_is_code(text: str) -> None:
    assert code_of(json.dumps({"code": text})) == text
    assert code_of(json.dumps({"input": text})) == text


def test_code_that_begins_with_a_string_is_streamed() -> None:
    assert code_so_far('"""Totals') == '"""Totals'
    assert [code_so_far(text) for text in ('"a', '"a"', '"a"\n', '"a"\nb')] == ["", "", "", '"a"\nb']


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
    assert json.loads(as_json('{"code": "a\nb"}')) == {"code": "a\nb"}
    assert json.loads(as_json(r'{"code": "\d"}')) == {"code": r"\d"}


def test_a_model_that_repeats_itself_costs_no_more_than_it_says() -> None:
    """Linear: what is quadratic would take minutes."""
    for text in ("```\n" + "\n" * 200_000 + "x", "```\n" + "`" * 200_000 + "x", '{"code": "' + "\\" * 200_000):
        assert code_of(text).startswith(code_so_far(text))


def test_what_is_nested_too_deeply_is_python() -> None:
    deep = '{"a": ' + "[" * 100_000
    assert code_of(deep) == deep
    assert code_so_far(deep) == ""
