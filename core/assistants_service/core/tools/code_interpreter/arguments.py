"""The code in the arguments of a call, while they come and when they are whole.

Models send `{"code": "..."}`, as they are asked to. Those that were trained on the original's tool send bare Python
instead, and some wrap it in a Markdown fence, in JSON or not. In JSON, they may forget to double the backslashes of
the code: then those that begin no escape of JSON are backslashes of the code.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

KEY: Final = "code"
_DECODER: Final = json.JSONDecoder(strict=False)  # strict=False: line ends within strings, as some models write them
_BODY: Final = r'"([^"\\]*(?:\\.[^"\\]*)*)'  # of a JSON string, up to its closing quote or to the end of what came
_NAME: Final = re.compile(rf'[\s,]*{_BODY}"\s*:\s*', re.DOTALL)
_STRING: Final = re.compile(_BODY, re.DOTALL)
_KNOWN: Final = r'(["\\/bfnrt]|u[0-9a-fA-F]{4})?'  # what follows the backslash of an escape that JSON knows
_ESCAPE: Final = re.compile(rf"\\{_KNOWN}")
# The end of what came, if it is the beginning of an escape: of one character, or of the two halves of one. A backslash
# before it may be the first of two, which then stays alone.
_CUT: Final = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z|\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?\Z")
_JSON_BEGUN: Final = re.compile(r'\s*(?:\{\s*(?:"|\}|\Z)|")')
_FENCE: Final = re.compile(r"\s*```[^\n`]*\n")
_FENCE_BEGUN: Final = re.compile(r"\s*(?:`{0,2}|```[^\n`]*)")


def code_of(arguments: str) -> str:
    """The code of a whole call."""
    found = _in_object(arguments, whole=True) if arguments.lstrip()[:1] == "{" else None
    return _unfenced(_otherwise(arguments) if found is None else found, whole=True)


def code_so_far(arguments: str) -> str:
    """What is certain of the code, after these arguments, which may be the beginning of a call's. It only grows, and
    `code_of` begins with it."""
    found: str | None = arguments
    if _JSON_BEGUN.match(arguments):
        found = _in_object(arguments, whole=False) if arguments.lstrip()[:1] == "{" else _after_string(arguments)
    return _unfenced(found or "", whole=False)


def as_json(arguments: str) -> str:
    """The arguments in later prompts: servers refuse arguments that are not a JSON object."""
    try:
        if isinstance(json.loads(arguments), dict):
            return arguments
    except (ValueError, RecursionError):
        pass
    return json.dumps({KEY: code_of(arguments)})


def _in_object(text: str, *, whole: bool) -> str | None:
    """The value of `code` in a JSON object, as far as it came. None if it did not come, or is no string."""
    text = _mended(text, whole=whole)
    at = text.index("{") + 1
    while name := _NAME.match(text, at):
        if _unescaped(name[1]) == KEY:
            value = _STRING.match(text, name.end())
            return _unescaped(value[1]) if value else None
        try:
            _, at = _DECODER.raw_decode(text, name.end())
        except (ValueError, RecursionError):
            return None
    return None


def _after_string(text: str) -> str | None:
    """Python that begins with a string, such as a docstring. None if it may still become a JSON string."""
    string = _STRING.search(text)
    return text if string and text[string.end() + 1 :].strip() else None


def _otherwise(text: str) -> str:
    """What is no object with `code`: one with another string, a JSON string, or Python itself."""
    decoded = _decoded(text)
    if isinstance(decoded, dict):
        strings = [value for value in decoded.values() if isinstance(value, str)]
        return _clean(strings[0]) if len(strings) == 1 else ""
    return _clean(decoded) if isinstance(decoded, str) else text


def _decoded(text: str) -> Any:
    try:
        return json.loads(_mended(text, whole=True), strict=False)
    except (ValueError, RecursionError):
        return None


def _mended(text: str, *, whole: bool) -> str:
    """JSON whose backslashes all begin a valid escape. Unless the text is `whole`, one that is cut off is left out."""
    if "\\" not in text:
        return text
    if not whole:
        text = _CUT.sub("", text)
    return _ESCAPE.sub(lambda escape: escape[0] if escape[1] else r"\\", text)


def _unescaped(body: str) -> str:
    return _clean(_DECODER.decode(f'"{body}"'))


def _clean(text: str) -> str:
    """The code without halves of characters (surrogates), which could not be stored."""
    return text.encode(errors="replace").decode()


def _unfenced(text: str, *, whole: bool) -> str:
    if fence := _FENCE.match(text):
        code = text[fence.end() :]
        stripped = code.rstrip()
        ticks = min(3, len(stripped) - len(stripped.rstrip("`")))
        if whole and ticks < 3:
            return code
        return stripped[: len(stripped) - ticks].removesuffix("\n").removesuffix("\r")
    if not whole and _FENCE_BEGUN.fullmatch(text):
        return ""
    return text
