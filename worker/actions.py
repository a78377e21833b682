"""Custom actions: Python functions that an operator registers, offered to assistants by name as function tools.

A module named by the setting ACTIONS marks its functions with `@action`; the worker calls them when a model asks for a
function tool of that name, and no client is asked. Parameters and description come from the signature and docstring.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import importlib
import inspect
import json
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

log = logging.getLogger(__name__)
F = TypeVar("F", bound=Callable[..., Any])
MARK = "__assistants_action__"
MOST_HANGING = 32  # threads of one action whose time is up, and which cannot be ended: beyond that it is not called
OUTPUT_LIMIT = 256 * 1024  # characters of an output that the model gets to see


def action(function: F) -> F:
    """Register a function, plain or async, as an action. A plain one runs in a thread."""
    setattr(function, MARK, True)
    return function


class Hanging(Exception):
    """Too many calls of the action have not returned."""


class Actions:
    """The registered functions, by name. `hanging` counts the threads whose time is up and that still run, by name."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]], timeout: float = 60) -> None:
        """`timeout` in seconds, of each call."""
        self.hanging: Counter[str] = Counter()
        self._adapters = {
            name: TypeAdapter(cast("Any", _checked(function, self.hanging))) for name, function in functions.items()
        }
        self._functions, self._timeout = dict(functions), timeout
        self.definitions: dict[str, dict[str, Any]] = {
            name: _definition(function, self._adapters[name]) for name, function in functions.items()
        }

    @classmethod
    def load(cls, module: str | None, timeout: float = 60) -> Actions:
        """Raises ValueError, in one line, if the module cannot be imported, or has no actions or unusable ones."""
        if not module:
            return cls({}, timeout)
        if str(Path.cwd()) not in sys.path:  # an installed command does not look where it is started
            sys.path.append(str(Path.cwd()))
        try:
            loaded = importlib.import_module(module)
        except (Exception, SystemExit) as error:
            raise ValueError(f"ACTIONS names '{module}', which cannot be imported: {error!r}") from error
        found = {name: thing for name, thing in vars(loaded).items() if getattr(thing, MARK, False)}
        if not found:
            raise ValueError(f"ACTIONS names '{module}', which has no function marked with @worker.actions.action")
        try:
            return cls(found, timeout)
        except Exception as error:  # a signature that cannot be described, such as an annotation of an unknown name
            raise ValueError(f"ACTIONS names '{module}', which has an action that cannot be used: {error!r}") from error

    def __contains__(self, name: str) -> bool:
        return name in self._functions

    async def call(self, name: str, arguments: str) -> str:
        """The output for the model: what the function returns, as text or JSON, or what went wrong."""
        try:
            async with asyncio.timeout(self._timeout) as time:
                return _text(await self._adapters[name].validate_json(arguments or "{}"))[:OUTPUT_LIMIT]
        except Hanging:
            return f"Error: {name} is not available now: {MOST_HANGING} calls of it have not returned."
        except TimeoutError as error:
            if time.expired():
                return f"Error: {name} did not answer within {self._timeout:g} seconds."
            return f"Error: TimeoutError: {error}"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # the worker's own
            return f"Error: {name} was cancelled."
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
            return f"Error: the arguments do not fit {name}: {problems}"
        except KeyError as error:
            return f"Error: {name} is not available here." if name not in self._functions else f"Error: {error!r}"
        except Exception as error:
            return f"Error: {type(error).__name__}: {error}"


def _checked(function: Callable[..., Any], hanging: Counter[str]) -> Callable[..., Any]:
    """The function as a coroutine function, for pydantic to check the arguments of."""
    if inspect.iscoroutinefunction(function):
        return function

    async def threaded(*args: Any, **kwargs: Any) -> Any:
        return await _in_thread(function.__name__, functools.partial(function, *args, **kwargs), hanging)

    threaded.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    threaded.__annotations__ = inspect.get_annotations(function, eval_str=True)
    threaded.__name__ = function.__name__
    return threaded


async def _in_thread(name: str, function: Callable[[], Any], hanging: Counter[str]) -> Any:
    """Run it in a thread of its own, which nobody waits for at the end: one that hangs keeps no other call waiting, and
    no process alive. A thread cannot be ended, so those that hang are counted. Raises Hanging if they are too many."""
    if hanging[name] >= MOST_HANGING:
        raise Hanging
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def tell(result: Any, error: Exception | None) -> None:
        if done.done():  # its time was up
            hanging[name] -= 1
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def work() -> None:
        result, failure = None, None
        try:
            result = function()
        except Exception as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is gone: the process ends
            loop.call_soon_threadsafe(tell, result, failure)

    threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
    try:
        return await done
    except asyncio.CancelledError:
        if done.cancelled():  # not if it returned at this very moment
            hanging[name] += 1
            log.warning("action %s does not return: %d calls of it hang, of %d", name, hanging[name], MOST_HANGING)
        raise


def _definition(function: Callable[..., Any], adapter: TypeAdapter[Any]) -> dict[str, Any]:
    schema = adapter.json_schema()
    schema.pop("additionalProperties", None)
    return {
        "name": function.__name__,
        "description": inspect.getdoc(function) or "",
        "parameters": {"properties": {}, **schema, "type": "object"},
    }


def _text(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(result, default=str, ensure_ascii=False)
