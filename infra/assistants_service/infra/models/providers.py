"""Routes model names to providers: `name/model` goes to the provider of that name, a bare name to the default one.

A provider is opened by its first call, or by `warm`, in a thread: its imports take more than a second, and must not
block the event loop.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from assistants_service.core.ports.models import BrokenOff, Deltas, ModelError, ModelInfo, NoSuchModel, Prompt, Reply
from assistants_service.core.ports.telemetry import SILENCE, Telemetry
from assistants_service.infra.models import turns
from assistants_service.infra.models.context_windows import known_window
from assistants_service.infra.models.kinds import KINDS
from assistants_service.infra.models.provider_kind import Model, OpenProvider, Provider, ProviderKind
from assistants_service.infra.telemetry.content import prompt_facts, reply_facts

if TYPE_CHECKING:
    from assistants_service.infra.models.upstream import Upstream

logger = logging.getLogger(__name__)

_LIST_CACHE = 60.0  # seconds
_MOST_REMEMBERED = 1_000  # models
_LONGEST_NAME = 100  # characters of a model's name in an error
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds before an interrupted stream is requested again, as in the SDK


class ModelRouter:
    """Models of all providers (ports.models.Models). `timeout` is in seconds, per attempt and between two pieces of a
    stream; `max_retries` are the SDK's, which waits as long as the provider asks, or 0.5 to 8 s. `window` applies to
    models of which nothing is known."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        default: str | None,
        *,
        timeout: float = 600.0,
        max_retries: int = 2,
        window: int = 128_000,
        now: Callable[[], float] = time.monotonic,
        telemetry: Telemetry = SILENCE,
    ) -> None:
        if default is not None and default not in providers:
            known = ", ".join(sorted(providers)) or "none is configured"
            raise ValueError(f"The default model provider '{default}' does not exist: set it to one of these: {known}.")
        self._providers, self._default = dict(providers), default
        self._timeout, self._max_retries, self._now, self._telemetry = timeout, max_retries, now, telemetry
        self._window = window
        self._opened: dict[str, OpenProvider] = {}
        self._opening = asyncio.Lock()
        self._workarounds: dict[tuple[str, str], tuple[turns.Workaround, ...]] = {}  # by provider and model
        self._listed: dict[str, tuple[float, Sequence[ModelInfo]]] = {}
        self._listing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def without_default(self) -> str | None:
        """What happens to model names without a provider, if no server handles them: for operators."""
        if self._default is None:
            return "model names without a provider are refused"
        return self._kind(self._default).notice or None

    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        try:
            name, model = self.route(prompt.model)
        except NoSuchModel as error:
            raise ModelError("server_error", str(error)) from None
        prompt, content = replace(prompt, model=model), self._telemetry.content
        with self._telemetry.span("model", provider=name, model=model, stream=deltas is not None) as span:
            if content:
                span.record(**prompt_facts(prompt))
            try:
                reply = replace(await self._ask(name, prompt, deltas), provider=name)
            except ModelError as error:
                error.provider = name
                raise
            span.record(
                finish=(reply.finish,),
                input_tokens=reply.tokens.prompt,
                output_tokens=reply.tokens.completion,
                cached_tokens=reply.tokens.cached,
                reasoning_tokens=reply.tokens.reasoning,
            )
            if content:
                span.record(**reply_facts(reply))
            return reply

    async def _ask(self, name: str, prompt: Prompt, deltas: Deltas | None) -> Reply:
        """Some models refuse the form or the images of a conversation: it is sent again in a changed form, which is
        remembered for the model if it applies in general. Each change is tried once."""
        model = (self._opened.get(name) or await self._open(name)).model
        workarounds = self._workarounds.get((name, prompt.model), ())
        while True:
            adapted = functools.reduce(lambda given, workaround: workaround.apply(given), workarounds, prompt)
            try:
                reply = await self._whole(model, adapted, deltas)
            except ModelError as error:
                workaround = turns.workaround_for(adapted, error)
                if workaround is None or (deltas is not None and error.status is None and not deltas.restart()):
                    raise
                workarounds = (*workarounds, workaround)
                continue
            self._remember(name, prompt.model, tuple(workaround for workaround in workarounds if workaround.remembered))
            return reply

    def _remember(self, name: str, model: str, workarounds: tuple[turns.Workaround, ...]) -> None:
        if not workarounds or self._workarounds.get((name, model)) == workarounds:
            return
        if len(self._workarounds) >= _MOST_REMEMBERED:  # model names come from clients
            self._workarounds.clear()
        logger.warning(
            "'%s' refuses parts of conversations: these will be rewritten in %d ways", name, len(workarounds)
        )
        self._workarounds[name, model] = workarounds

    async def _whole(self, model: Model, prompt: Prompt, deltas: Deltas | None) -> Reply:
        """The SDK retries until a stream has begun. A stream that breaks off later is requested again the same number
        of times, if no client has seen any of it."""
        for again in range(self._max_retries):
            try:
                return await model.reply(prompt, deltas)
            except BrokenOff:
                if deltas is None or not deltas.restart():
                    raise
            await asyncio.sleep(min(_FIRST_PAUSE * 2**again, _LONGEST_PAUSE))
        return await model.reply(prompt, deltas)

    async def check(self, model: str) -> None:
        """`name/model` requires a provider of that name, or a default one that lists models with that prefix, as
        servers with the models of several vendors do (`meta-llama/...`). If the default provider lists nothing, or the
        name has no slash, the provider itself decides."""
        provider, rest = self.route(model)
        prefix, slash, _ = rest.partition("/")
        if rest != model or not slash:
            return
        listed = await self._listed_by(provider)
        if listed and not any(info.id.startswith(f"{prefix}/") for info in listed):
            raise NoSuchModel(
                f"The requested model '{_short(model)}' does not exist: there is no provider '{_short(prefix)}'."
                f" {self._known()} If provider '{provider}' has a model named '{_short(model)}', write"
                f" '{provider}/{_short(model)}'."
            )

    def window(self, model: str) -> int:
        """The configured window of the model or its provider, or else the known window of models with that name."""
        try:
            name, model = self.route(model)
        except NoSuchModel:
            return self._window
        provider = self._providers[name]
        return provider.windows.get(model) or provider.window or known_window(model) or self._window

    async def list(self) -> Sequence[ModelInfo]:
        lists = await asyncio.gather(*map(self._listed_by, self._providers))
        return [info for infos in lists for info in infos]

    async def _listed_by(self, name: str) -> Sequence[ModelInfo]:
        async with self._listing[name]:  # concurrent callers cause one request
            known = self._listed.get(name)
            if known is None or self._now() - known[0] >= _LIST_CACHE:
                known = self._listed[name] = self._now(), await self._list_one(name)
            return known[1]

    async def warm(self) -> None:
        """Open the default provider, so that the first run does not wait for it. Errors are logged, and the first run
        tries again."""
        try:
            if self._default:
                await self._open(self._default)
        except Exception:
            logger.exception("cannot open the provider %s before the first run", self._default)

    async def close(self) -> None:
        async with self._opening:
            opened, self._opened = self._opened, {}
        await asyncio.gather(*(one.close() for one in opened.values()))

    def route(self, model: str) -> tuple[str, str]:
        """The provider of a model, and the model's name there. Raises NoSuchModel if the name is only a provider's, or
        has no provider and there is no default."""
        name, slash, rest = model.partition("/")
        if slash and name in self._providers:
            if not rest:
                raise NoSuchModel(
                    f"The requested model '{_short(model)}' does not exist: no model name follows the provider"
                    f" '{_short(name)}'."
                )
            return name, rest
        if self._default is None:
            raise NoSuchModel(
                f"The requested model '{_short(model)}' does not exist: it names no provider, and none is the default."
                f" {self._known()}"
            )
        return self._default, model

    def _known(self) -> str:
        known = ", ".join(sorted(self._providers))
        return f"The providers are: {known}." if known else "There are no providers."

    def _kind(self, name: str) -> ProviderKind:
        return KINDS[self._providers[name].api]

    def embeds(self, name: str) -> bool:
        """Whether a provider may have an embeddings endpoint."""
        return self._kind(name).embeds

    async def upstream(self, name: str) -> Upstream:
        """The server of a provider that `embeds`, for requests other than conversations."""
        upstream = (await self._open(name)).upstream
        assert upstream  # noqa: S101
        return upstream

    async def _open(self, name: str) -> OpenProvider:
        async with self._opening:
            if name not in self._opened:
                opening = partial(self._kind(name).open, timeout=self._timeout, max_retries=self._max_retries)
                self._opened[name] = await asyncio.to_thread(opening, name, self._providers[name])
            return self._opened[name]

    async def _list_one(self, name: str) -> Sequence[ModelInfo]:
        fixed = [ModelInfo(model, 0, name) for model in self._providers[name].models]
        prefix = "" if name == self._default else f"{name}/"
        found = fixed or await (await self._open(name)).list()
        return [replace(info, id=prefix + info.id, full=f"{name}/{info.id}") for info in found]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
