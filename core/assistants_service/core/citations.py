"""What the tools of a run find in an answer that cites them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from assistants_service.core.protocol.runs.resources import Step
from assistants_service.core.threads.state import RunState, ThreadState
from assistants_service.core.tools.registry import TOOLS
from assistants_service.core.tools.tool import Citer, Piece


def citations_of(state: ThreadState, run_state: RunState, earlier: Iterable[Step] = ()) -> Citations:
    """Of the next answer of a run. `earlier` are steps of earlier runs whose outputs its model is told again."""
    steps = [*earlier, *(step for step in run_state.steps if step.status == "completed")]
    citers = (tool.citer(state, steps) for tool in TOOLS)
    return Citations([citer for citer in citers if citer])


class Citations:
    """A Citer of several: each looks at what those before it left as text."""

    def __init__(self, citers: Sequence[Citer] = ()) -> None:
        self._citers = citers

    def feed(self, text: str) -> Iterator[Piece]:
        return self._through(0, [(text, None)] if text else [])

    def close(self) -> Iterator[Piece]:
        for depth, citer in enumerate(self._citers):
            yield from self._through(depth + 1, citer.close())

    def skip(self, text: str) -> None:
        for citer in self._citers:
            citer.skip(text)

    def _through(self, depth: int, pieces: Iterable[Piece]) -> Iterator[Piece]:
        if depth == len(self._citers):
            yield from pieces
            return
        citer = self._citers[depth]
        for piece in pieces:
            if piece[1] is None:
                yield from self._through(depth + 1, citer.feed(piece[0]))
            else:  # no citation of this one goes on beyond it
                yield from self._through(depth + 1, citer.close())
                citer.skip(piece[0])
                yield from self._through(depth + 1, [piece])
