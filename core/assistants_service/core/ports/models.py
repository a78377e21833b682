"""What the domain asks of model providers, and what a prompt and a reply are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from assistants_service.core.protocol.response_formats import ResponseFormat


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call as the model asked for it; `arguments` is JSON text, not validated (as on the wire)."""

    id: str
    name: str
    arguments: str


class Image(NamedTuple):
    """`url` is https:, data:, or `file:` and the id of a file, which the worker replaces by its data before it asks a
    model."""

    url: str
    detail: str = "auto"


@dataclass(frozen=True, slots=True)
class Thought:
    """What a model thought before it called functions. `data` is JSON that only its provider's adapter reads; that one
    provider wants it back with the outputs of the calls. Up to 1 MiB, and never for clients."""

    provider: str
    data: str


Content = str | tuple[str | Image, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One entry of the conversation, oldest first.

    role `user`: `content` is a text or, if it has images, texts and images in their order. role `assistant`: it is a
    text, and there may be `calls`, and the `thought` that led to them. role `tool`: it is the output of the call
    `call_id`.
    """

    role: str
    content: Content = ""
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    thought: Thought | None = None

    @property
    def parts(self) -> tuple[str | Image, ...]:
        """What there is of it: empty texts are left out."""
        parts = (self.content,) if isinstance(self.content, str) else self.content
        return tuple(part for part in parts if part)

    @property
    def text(self) -> str:
        return "\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(part for part in self.parts if isinstance(part, Image))


@dataclass(frozen=True, slots=True)
class Function:
    """What a model is told of a function that it may call. `parameters` is a JSON schema. None: not given."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """Those that are given, by the names that providers know."""
        fields = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": self.strict,
        }
        return {name: value for name, value in fields.items() if value is not None}


class ForcedFunction(NamedTuple):
    """The function that the model is to call."""

    name: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One model call. None means: not set, the provider's default holds."""

    model: str
    instructions: str | None
    turns: tuple[Turn, ...]
    tools: tuple[Function, ...] = ()
    tool_choice: str | ForcedFunction = "auto"  # or none, required
    parallel_tool_calls: bool = True
    temperature: float | None = None
    top_p: float | None = None
    reasoning_effort: str | None = None
    response_format: ResponseFormat = "auto"
    max_completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model of `provider` answered. `finish`: stop, tool_calls, length or content_filter."""

    text: str = ""
    refusal: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish: str = "stop"
    tokens: Tokens = Tokens()
    thought: Thought | None = None
    provider: str = field(default="", compare=False)


class Deltas(Protocol):
    """Where a streamed reply goes while it is made. Cheap, and never waits for a reader."""

    def text(self, value: str) -> None: ...

    def refusal(self, value: str) -> None: ...

    def call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        """A fragment of a function call: id and name come whole with the first fragment, `arguments` grows."""

    def restart(self) -> bool:
        """The reply broke off and may be asked for again: forget what came of it. False if a client may have seen
        something, which cannot be taken back."""


class ModelError(Exception):
    """The provider failed, after its retries. `code`: server_error, rate_limit_exceeded or invalid_prompt.

    `message` is for users, and may quote what was asked. `provider`, the HTTP `status` and the `reason` are for the
    log: there is no content in them. Empty, where they are not known."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.provider, self.reason = "", ""
        self.status: int | None = None


class Refused(ModelError):
    """The provider answered with an error. `said`: its words and the fields that it names, not for the log."""

    said = ""


class BrokenOff(ModelError):
    """The connection ended, or fell silent, in the middle of a streamed reply."""


class ContextExceeded(ModelError):
    """The prompt has more tokens than the model takes. `window`: how many that are, if the provider says it."""

    def __init__(self, code: str, message: str, window: int | None = None) -> None:
        super().__init__(code, message)
        self.window = window


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """`full` is PROVIDER/MODEL, by which a run finds it as well as by its id."""

    id: str
    created: int
    owned_by: str
    full: str = ""


class NoSuchModel(ValueError):
    """No provider has a model of this name. The message says which providers there are."""


class Models(Protocol):
    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        """Ask the model once; streamed into `deltas` if given. Raises ModelError."""

    async def check(self, model: str) -> None:
        """Raises NoSuchModel for a name that no provider has, as far as that is known without asking for an answer."""

    def window(self, model: str) -> int:
        """How many tokens prompt and answer may have together, as far as it is known."""

    async def list(self) -> Sequence[ModelInfo]:
        """The models that are there. A provider that does not answer is left out."""

    async def close(self) -> None: ...


class Tokenizer(Protocol):
    """Counts the tokens of a text, nearly: each model has a tokenizer of its own. No text has more than UTF-8 bytes."""

    def count(self, text: str) -> int:
        """What was counted lately is remembered. May be called from threads."""
