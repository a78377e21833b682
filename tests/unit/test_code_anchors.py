"""A noted piece of code is found in a source that was edited since; and it is an error if it may be two, or is gone."""

from __future__ import annotations

import ast
import re
from textwrap import dedent

import pytest

from code_anchors import replaced

SOURCE = '''
class Queue:
    async def take(self, count: int, *, pause: float = 1.0) -> list[Item]:
        """The next ones."""
        found = await self.store.receive(count, timeout=pause)
        if found is None:
            return []  # nothing there
        log.info(f"{len(found)} of {count} taken")
        return [item for item in found if not item.done]

    async def put(self, item: Item) -> None:
        if item is None:
            return
        await self.store.send(item, "INSERT INTO queue VALUES (?, ?)")
'''


def equal(one: str, other: str) -> bool:
    return ast.dump(ast.parse(one)) == ast.dump(ast.parse(other))


@pytest.mark.parametrize(
    ("old", "new"),
    {
        "a statement": ("if found is None:\n            return []", "if not found:\n            raise Empty(found)"),
        "a piece of a line": ("found if not item.done", "found"),
        "brackets that stay open": (".receive(count, timeout=", ".receive(1, timeout="),
        "a piece of a string": ("INSERT INTO", "DELETE FROM"),
        "no code at all": (" if not item.done", ""),
        "an f-string": ('f"{len(found)} of {count} taken"', 'f"{len(found)} of {0} taken"'),
        "whole lines": ("        if item is None:\n            return\n        await", "        await"),
    }.values(),
)
def test_a_piece_that_did_not_change_is_replaced_as_text_is(old: str, new: str) -> None:
    assert SOURCE.count(old) == 1
    assert equal(replaced(SOURCE, old, new), SOURCE.replace(old, new))


@pytest.mark.parametrize("name", ["found", "count", "pause", "self", "item", "take", "done", "store"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("found = await self.store.receive(count, timeout=pause)", "found = await self.store.peek(count)"),
        ("if found is None:\n            return []", "if not found:\n            raise Empty(found)"),
        ("[item for item in found if not item.done]", "[item for item in found]"),
        ('log.info(f"{len(found)} of {count} taken")', 'log.info(f"{len(found)} of {0} taken")'),
    ],
)
def test_names_may_change(name: str, old: str, new: str) -> None:
    edited, expected = (re.sub(rf"\b{name}\b", f"{name}_2", text) for text in (SOURCE, SOURCE.replace(old, new)))
    assert equal(replaced(edited, old, new), expected)


def test_a_name_that_is_an_attribute_too_may_change_alone() -> None:
    source = "held = self.held\nreturn_(held, self.held, held=held)\n"
    edited = "view = self.held\nreturn_(view, self.held, held=view)\n"
    assert replaced(source, "return_(held, self.held", "return_(held, None") == source.replace(", self.held", ", None")
    assert replaced(edited, "return_(held, self.held", "return_(held, None") == edited.replace(", self.held", ", None")


def test_line_breaks_indentation_and_comments_may_change() -> None:
    edited = dedent(
        """
        async def take(
            queue: Queue,
            count: int,
        ) -> list[Item]:
            while True:
                found = await queue.store.receive(
                    count,
                    timeout=1,
                )
                # See whether there are some.
                if found is None:
                    return []
        """
    )
    done = replaced(edited, ".receive(count, timeout=1)", ".receive(count)")
    done = replaced(
        done, "        if found is None:  # none\n            return []", "        if not found:\n            pass"
    )
    expected = edited.replace("timeout=1,\n", "").replace("found is None", "not found").replace("return []", "pass")
    assert equal(done, expected)


def test_what_is_replaced_by_less_deep_lines_leaves_the_block() -> None:
    source = "    def f():\n            if x:\n                return 1\n            return 2\n"
    old, new = "    if x:\n        return 1\n    return 2", "    return 2"
    assert replaced(source, old, new) == "    def f():\n            return 2\n"
    old, new = "        return 1\n    return 2", "    return 2"
    assert replaced(f"    y\n{source}", old, new).endswith("if x:\n            return 2\n")


def test_a_place_like_another_one_is_told_by_its_function() -> None:
    first = "def f(a):\n    if not a:\n        return\n"
    source = f"{first}\n\nclass C:\n    def f(self, b):\n        if not b:\n            return\n"
    with pytest.raises(ValueError, match="several places: lines 2, 8"):
        replaced(source, "if not seen:", "if True:")
    assert replaced(source, "if not seen:", "if seen:", within="C.f") == source.replace("not b", "b")
    assert replaced(source, "if not a:", "if True:", within="gone") == source.replace("not a", "True")


@pytest.mark.parametrize(
    ("old", "why"),
    [
        ("return None", "fits nowhere"),
        ("if store is None:\n            return found", "fits nowhere"),
        ("found = await item.receive(item, item)", "fits nowhere"),  # two names would be one, and one would be two
        ("left = right.of.this(here, timeout=there)", "fits nowhere"),  # of the same shape, but of other things
        (" is None:", "several places"),
        ("store", "several places"),
        ("?", "occurs 2 times"),
    ],
)
def test_what_has_no_place_or_two_is_an_error(old: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        replaced(SOURCE, old, "pass")
