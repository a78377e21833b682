"""Actions: Python functions that an operator registers, offered to assistants by name as function tools.

The module that ACTIONS names marks functions with `@action`; the worker calls them when a model calls a function tool
of that name, without asking the client. Parameters and description come from the signature and docstring.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from assistants_service import ACTION
from assistants_service.core.ports.models import Function
from assistants_service.worker.action_tasks import ActionTasks
from assistants_service.worker.action_threads import THREADS, ActionThreads
from assistants_service.worker.calls import CallOutcome, Hanging

OUTPUT_LIMIT = 256 * 1024  # characters of an output that the model gets


class Actions:
    """The registered functions, by name. Plain ones run in `threads`, async ones in `tasks`."""

    def __init__(
        self, functions: Mapping[str, Callable[..., Any]], timeout: float = 60, threads: int = THREADS
    ) -> None:
        """`timeout` in seconds per call; `threads` is the maximum number of threads."""
        self.threads = ActionThreads(threads)
        self.tasks = ActionTasks(self.threads)
        self._adapters = {name: TypeAdapter(cast("Any", _checked(function))) for name, function in functions.items()}
        self._functions, self._timeout = dict(functions), timeout
        self.definitions: dict[str, Function] = {
            name: _definition(function, self._adapters[name]) for name, function in functions.items()
        }

    @classmethod
    def load(cls, module: str | None, timeout: float = 60, threads: int = THREADS) -> Actions:
        """Raises ValueError, in one line, if the module cannot be imported, or has no actions or unusable ones."""
        if not module:
            return cls({}, timeout, threads)
        if str(Path.cwd()) not in sys.path:  # an installed command does not search its working directory
            sys.path.append(str(Path.cwd()))
        try:
            loaded = importlib.import_module(module)
        except (Exception, SystemExit) as error:
            raise ValueError(f"ACTIONS names '{module}', which cannot be imported: {error!r}") from error
        found = {name: value for name, value in vars(loaded).items() if getattr(value, ACTION, False)}
        if not found:
            raise ValueError(f"ACTIONS names '{module}', which has no function marked with @action")
        try:
            return cls(found, timeout, threads)
        except Exception as error:  # such as a signature with an annotation of an unknown name
            raise ValueError(f"ACTIONS names '{module}', which has an action that cannot be used: {error!r}") from error

    def __contains__(self, name: str) -> bool:
        return name in self._functions

    async def call(self, project: str, name: str, arguments: str) -> str:
        """The output for the model: the function's result as text or JSON, or an error."""
        if name not in self._functions:
            return f"Error: {name} is not available here."
        try:
            async with asyncio.timeout(self._timeout):
                return _said(name, await self._run(project, name, arguments or "{}"))
        except Hanging as error:
            return (
                f"Error: {name} is not available now: calls that have not returned ({error}) leave no room for it. Do"
                " not call it again in this run; say that it does not respond."
            )
        except TimeoutError:  # the service's own; one of the function is an outcome
            return f"Error: {name} did not respond within {self._timeout:g} seconds."
        except ValidationError as error:  # likewise
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
            return f"Error: the arguments do not fit {name}: {problems}"

    async def _run(self, project: str, name: str, arguments: str) -> CallOutcome:
        try:
            call = self._adapters[name].validate_json(arguments)
        except ValidationError:
            raise
        except BaseException as error:  # from a validator in the operator's code
            return None, error
        outcome = await (self.tasks if inspect.iscoroutine(call) else self.threads).run(project, name, call)
        if isinstance(outcome[1], Hanging):  # from a thread that an async function started
            raise outcome[1]
        return outcome


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose arguments pydantic checks: it returns the coroutine, or else the call that a thread is to
    make."""
    if inspect.iscoroutinefunction(function):
        return function

    def prepared(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        return functools.partial(function, *args, **kwargs)

    prepared.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    prepared.__annotations__ = inspect.get_annotations(function, eval_str=True)
    prepared.__name__ = function.__name__
    return prepared


def _definition(function: Callable[..., Any], adapter: TypeAdapter[Any]) -> Function:
    schema = adapter.json_schema()
    schema.pop("additionalProperties", None)
    parameters = {"properties": {}, **schema, "type": "object"}
    return Function(function.__name__, inspect.getdoc(function) or "", parameters)


def _said(name: str, outcome: CallOutcome) -> str:
    result, error = outcome
    if isinstance(error, asyncio.CancelledError):
        return f"Error: {name} was cancelled."
    try:
        text = _failure(error) if error else _text(result)
    except BaseException as unspeakable:  # the result cannot be encoded as JSON, or its conversion to text fails
        text = _failure(unspeakable)
    return text[:OUTPUT_LIMIT].encode("utf-8", "replace").decode()  # a commit cannot contain half of a surrogate pair


def _failure(error: BaseException) -> str:
    try:
        return f"Error: {type(error).__name__}: {error}"
    except BaseException:
        return f"Error: {type(error).__name__}"


def _text(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(result, default=str, ensure_ascii=False)
