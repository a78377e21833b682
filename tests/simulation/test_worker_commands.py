"""The commands of a worker's commits are pure: a commit that meets another one evaluates its command again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from assistants_service.composition import threads_of
from assistants_service.core.threads import events as e
from assistants_service.core.threads.state import ThreadState
from inprocess_service import InProcess, calls, fails, in_process, says
from scripted_sandbox import CODE, FakeSandbox, python

LINK = "sandbox:/mnt/data/a.txt"


def meet_others(service: InProcess, monkeypatch: pytest.MonkeyPatch) -> list[list[Sequence[e.ThreadEvent]]]:
    """From now on another process writes before each commit, of which the state here knows nothing. Returns for each
    commit the events of all its attempts."""
    commit, other, numbers = service.threads.commit, threads_of(service.parts), itertools.count()
    commits: list[list[Sequence[e.ThreadEvent]]] = []

    async def late(project: str, thread_id: str, command: Any, *given: Any, **more: Any) -> Any:
        attempts: list[Sequence[e.ThreadEvent]] = []
        commits.append(attempts)

        def recorded(state: ThreadState) -> Sequence[e.ThreadEvent]:
            attempts.append(command(state))
            return attempts[-1]

        changed = e.ThreadUpdated(metadata={"number": str(next(numbers))})
        await other.commit(project, thread_id, lambda _: [changed])
        return await commit(project, thread_id, recorded, *given, **more)

    monkeypatch.setattr(service.threads, "commit", late)
    return commits


@pytest.mark.parametrize("end", ["completed", "failed"])
async def test_all_attempts_of_a_commit_have_the_same_ids_and_annotations(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"See {LINK}. And"
    last = says(text) if end == "completed" else fails("server_error", "gone", text)
    script = calls(python("write('a.txt', 'A')"), python("1", "call_2")), last
    async with in_process(*script, sandbox=FakeSandbox()) as service:
        thread, assistant = await service.thread("Hello"), await service.assistant(tools=[CODE])
        commits = meet_others(service, monkeypatch)
        body = {"assistant_id": assistant, "stream": True}
        async with service.api.stream("POST", f"/threads/{thread}/runs", body) as told:
            await told.until(f"thread.run.{end}")
        assert len(commits) > 5
        for first, *others in commits:
            assert others
            assert all(events == first for events in others)
        message = (await service.api.get(f"/threads/{thread}/messages?limit=1"))["data"][0]
        (annotation,) = message["content"][0]["text"]["annotations"]
        assert annotation["text"] == LINK
