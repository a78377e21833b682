"""What a cell shows: figures of matplotlib, and whatever has a picture of itself, as PNG."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any, Final

MOST_BYTES: Final = 10 * 1024**2  # of one image

PNG: Final = b"\x89PNG\r\n\x1a\n"

Emit = Callable[[bytes], None]


class Figures:
    """The figures of one cell after another. `notes` are those of the present one."""

    def __init__(self, emit: Emit, most: int) -> None:
        self._emit, self._most = emit, most
        self.begin()

    def begin(self) -> None:
        self._shown = self._left_out = self._too_large = 0

    def attach(self) -> None:
        """Makes plt.show() and figure.show() show, whatever the backend; it is `agg`."""

        def show(*_: object, **__: object) -> None:  # a function, to which matplotlib gives the backend's signature
            self.show_open()

        if pyplot := sys.modules.get("matplotlib.pyplot"):
            pyplot.show = show  # type: ignore[attr-defined]
            pyplot.Figure.show = lambda figure, *_, **__: self._show_figure(figure)

    def show_open(self) -> None:
        """All open figures, which it closes, as a notebook does."""
        if (pyplot := sys.modules.get("matplotlib.pyplot")) is None:
            return
        try:
            for number in pyplot.get_fignums():
                self._show_figure(pyplot.figure(number))
        finally:
            pyplot.close("all")

    def display(self, *objects: Any) -> None:
        """Shows a value in cells, as in a notebook: an image, or the repr on stdout."""
        for each in objects:
            if not self.show(each):
                print(each if isinstance(each, str) else repr(each))  # noqa: T201

    def show(self, value: Any) -> bool:
        """Whether it has a picture of itself."""
        kind = getattr(sys.modules.get("matplotlib.figure"), "Figure", None)
        if kind and isinstance(value, kind):
            self._show_figure(value)
            return True
        if isinstance(value, type) or not callable(getattr(value, "_repr_png_", None)):
            return False
        data = value._repr_png_()
        is_png = isinstance(data, bytes) and data.startswith(PNG)
        if is_png:
            self._add(data)
        return is_png

    def notes(self) -> list[str]:
        notes = []
        if self._left_out:
            notes.append(f"Only the first {self._most} images are shown; {self._left_out} were left out.")
        if self._too_large:
            notes.append(
                f"Images of more than {MOST_BYTES // 1024**2} MiB are not shown; {self._too_large} were left out."
            )
        return notes

    def _show_figure(self, figure: Any) -> None:
        file = io.BytesIO()
        figure.savefig(file, format="png", bbox_inches="tight")
        self._add(file.getvalue())
        if pyplot := sys.modules.get("matplotlib.pyplot"):
            pyplot.close(figure)

    def _add(self, data: bytes) -> None:
        if len(data) > MOST_BYTES:
            self._too_large += 1
        elif self._shown >= self._most:
            self._left_out += 1
        else:
            self._shown += 1
            self._emit(data)
