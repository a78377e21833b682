"""What the model is told: of the function that it may call, and of a call that is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from assistants_service.core.files.outputs import KeptFile
from assistants_service.core.ports.models import Function
from assistants_service.core.ports.sandbox import CellResult
from assistants_service.core.tools.code_interpreter.arguments import KEY
from assistants_service.core.tools.code_interpreter.interpreters import SECONDS

FOLDER: Final = "/mnt/data/"
LINK: Final = f"sandbox:{FOLDER}"
MAX_MODEL_OUTPUT: Final = 16 * 1024  # characters of an output that the model is told
MOST_LOGS: Final = 64 * 1024  # characters of the logs that clients see
MOST_LISTED: Final = 50  # files
MOST_LINES: Final = 4 * 1024  # characters of the list of files
MOST_NOTE: Final = 500  # characters of a note
MOST_NOTES: Final = 20

RESTARTED: Final = (
    "[A new Python process was started: variables, imports and functions of earlier calls are gone. The files in"
    f" {FOLDER} are as the last finished call left them, without those that could not be kept.]"
)
LOST: Final = (
    "Error: Python ended during this call: {reason}. Variables are gone, and so are the files that this call wrote; the"
    f" other files in {FOLDER} are as they were before it."
)
PRINTED: Final = "Before that it printed:"
NO_CODE: Final = "Error: the call had no code."
TOO_LONG: Final = (
    "Error: the code has {} characters, and {} are the most. Nothing was executed. Write data to a file in several"
    " calls."
)
FULL: Final = (
    "Nothing that this call wrote or showed was stored: the project stores as much as it may. Its files will be lost,"
    " and its images are not shown. Tell the user that something must be deleted first."
)
BUSY: Final = (
    "Error: no Python process could be started at the moment. Nothing was executed. Try again, or answer without."
)
FAILED: Final = f"Error: Python failed. Variables are gone; the files in {FOLDER} are as they were before this call."
OFF: Final = "Error: Python is not available. Nothing was executed. Answer without it."
NOTHING: Final = "(The code has printed nothing, and its last line is no expression with a value.)"

PARAMETERS: Final = {
    "type": "object",
    "properties": {KEY: {"type": "string", "description": "The Python code."}},
    "required": [KEY],
}
_DESCRIPTION: Final = (
    "Executes Python code in a process that keeps its variables from call to call, like a notebook. Returns what the"
    " code prints, and the value of its last line if that is an expression. Use it to compute, to read and write files"
    f" and to plot. The folder {FOLDER} has the user's files, and whatever is to be kept must be written there. Figures"
    " that are shown (plt.show()) reach the user as images. There is no internet, no other process can be started, and"
    f" a call may take {{seconds:g}} seconds. To hand a file over, link it in your answer as [name]({LINK}name)."
)


def function_of(name: str, files: Mapping[str, str], seconds: float = SECONDS) -> Function:
    """`files` are the user's: by their names in the folder, those that they were uploaded as. `seconds` is how long a
    call may take."""
    listed = [f"{FOLDER}{name}{_as(name, filename)}" for name, filename in list(files.items())[:MOST_LISTED]]
    more = [f"and {len(files) - MOST_LISTED} more"] if len(files) > MOST_LISTED else []
    those = f"\n\nThe user's files:\n{_lines([*listed, *more])}" if files else ""
    return Function(name, f"{_DESCRIPTION.format(seconds=seconds)}{those}", PARAMETERS)


def output_of(
    result: CellResult, images: Sequence[KeptFile], files: Sequence[KeptFile], notes: Sequence[str], *, restarted: bool
) -> str:
    """The output of the function."""
    printed = "\n".join(part.rstrip("\n") for part in (result.logs, result.value, result.error) if part)
    image_note = [f"[{len(images)} image{'s' * (len(images) > 1)} shown to the user.]"] if images else []
    paths = [f"{FOLDER}{file.path} ({file.bytes} bytes)" for file in files[:MOST_LISTED]]
    more = [f"and {len(files) - MOST_LISTED} more"] if len(files) > MOST_LISTED else []
    written = [f"[Files written:\n{cut_to(_lines([*paths, *more]), MOST_LINES)}]"] if files else []
    cut = cut_to(printed, MAX_MODEL_OUTPUT)
    output_lines = [cut] if cut else [] if image_note or written else [NOTHING]
    return "\n".join(
        [
            *([RESTARTED] if restarted else []),
            *output_lines,
            *image_note,
            *written,
            *(f"[{cut_to(note, MOST_NOTE)}]" for note in notes[:MOST_NOTES]),
            *([f"[and {len(notes) - MOST_NOTES} more of these notes]"] if len(notes) > MOST_NOTES else []),
        ]
    )


def lost(reason: str, logs: str) -> str:
    """The output of a call whose interpreter ended. `logs` is what it had printed."""
    printed = cut_to(logs.rstrip("\n"), MAX_MODEL_OUTPUT)
    return "\n".join([LOST.format(reason=reason), *([PRINTED, printed] if printed else [])])


def list_paths(paths: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    few = ", ".join(path[:100] for path in paths[:3])
    return f"{few} and {len(paths) - 3} more" if len(paths) > 3 else few


def cut_to(text: str, limit: int) -> str:
    """Head and tail of a text that is longer, with a line between them that says so. (A sandbox may have cut it before,
    and put such a line there.)"""
    left_out = f"\n[... {len(text) - limit} or more characters are left out here ...]\n"
    if len(text) <= limit + len(left_out):
        return text
    return f"{text[: limit // 2]}{left_out}{text[len(text) - limit + limit // 2 :]}"


def storable(text: str) -> str:
    """The text without halves of characters (surrogates), which no JSON in UTF-8 can have."""
    return text.encode(errors="replace").decode()


def _as(name: str, filename: str) -> str:
    return "" if name == filename else f" (uploaded as {filename})"


def _lines(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
