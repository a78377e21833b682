"""What the tools of a run add to an answer: citations in its text, attachments, and images before it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from assistants_service.core.protocol.runs.resources import MessageCreation, Step
from assistants_service.core.protocol.threads.resources import AttachedTool, Attachment
from assistants_service.core.threads.state import RunState, ThreadState
from assistants_service.core.tools.offer import ServicesByKind
from assistants_service.core.tools.registry import TOOLS, annotator_of, tool_of
from assistants_service.core.tools.tool import AnswerPiece, Citer
from assistants_service.core.tools.wire import Annotation


async def citations_of(
    project: str, state: ThreadState, run_state: RunState, earlier: Iterable[Step], services: ServicesByKind
) -> Citations:
    """The citations that the next answer of a run can contain. `earlier` are steps of earlier runs whose outputs are in
    its prompt."""
    steps = [*earlier, *(step for step in run_state.steps if step.status == "completed")]
    citers = [await tool.citer(project, state, run_state.run, steps, services[tool.kind]) for tool in TOOLS]
    return Citations([citer for citer in citers if citer])


def images_of(run_state: RunState) -> list[str]:
    """Ids of the images that tools have shown since the last message of the run: the next one begins with them."""
    steps = itertools.takewhile(
        lambda step: not isinstance(step.step_details, MessageCreation), run_state.steps.newest()
    )
    changes = (tool_of(call).file_changes(call) for step in reversed([*steps]) for call in step.calls)
    return [image.file_id for each in changes if each for image in each.images]


def attachments_of(annotations: Iterable[Annotation]) -> tuple[Attachment, ...]:
    """The files that a message has as attachments, since it cites them."""
    found: dict[str, Attachment] = {}
    for annotation in annotations:
        if file_id := annotation.attached:
            tool = annotator_of(annotation)
            found[file_id] = Attachment(file_id=file_id, tools=(AttachedTool(type=tool.kind),))
    return tuple(found.values())


class Citations:
    """Combines several citers: each searches what the ones before it left as text."""

    def __init__(self, citers: Sequence[Citer] = ()) -> None:
        self._citers = citers

    def feed(self, text: str) -> Iterator[AnswerPiece]:
        return self._through(0, [(text, None)] if text else [])

    def close(self) -> Iterator[AnswerPiece]:
        for depth, citer in enumerate(self._citers):
            yield from self._through(depth + 1, citer.close())

    def skip(self, text: str) -> None:
        for citer in self._citers:
            citer.skip(text)

    def _through(self, depth: int, pieces: Iterable[AnswerPiece]) -> Iterator[AnswerPiece]:
        if depth == len(self._citers):
            yield from pieces
            return
        citer = self._citers[depth]
        for piece in pieces:
            if piece[1] is None:
                yield from self._through(depth + 1, citer.feed(piece[0]))
            else:  # no citation of this citer can span it
                yield from self._through(depth + 1, citer.close())
                citer.skip(piece[0])
                yield from self._through(depth + 1, [piece])
