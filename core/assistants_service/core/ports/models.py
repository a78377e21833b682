"""The port of model providers, with prompts and replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from assistants_service.core.protocol.response_formats import ResponseFormat


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call as the model requested it; `arguments` is JSON text, not validated (as on the wire)."""

    id: str
    name: str
    arguments: str


class Image(NamedTuple):
    """`url` is https:, data:, or `file:` and a file's id, which the worker replaces with the file's data before calling
    a model."""

    url: str
    detail: str = "auto"


@dataclass(frozen=True, slots=True)
class Thought:
    """Reasoning that preceded function calls. `data` is JSON that only the provider's adapter reads; the provider
    expects it back with the outputs of the calls. Up to 1 MiB, and never shown to clients."""

    provider: str
    data: str


CountTokens = Callable[[str], int]  # of a text
TurnContent = str | tuple[str | Image, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One entry of the conversation, oldest first.

    role `user`: `content` is a text or, with images, a sequence of texts and images. role `assistant`: it is a text,
    and there may be `calls`, and the `thought` that preceded them. role `tool`: it is the output of the call `call_id`.
    """

    role: str
    content: TurnContent = ""
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    thought: Thought | None = None

    @property
    def parts(self) -> tuple[str | Image, ...]:
        """The non-empty parts."""
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
    """The definition of a function that is offered to a model. `parameters` is a JSON schema. None: not given."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that are given, by the names that providers know."""
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
    """One model call. None means not set: the provider's default applies."""

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
    """The answer of a model of `provider`. `finish`: stop, tool_calls, length or content_filter."""

    text: str = ""
    refusal: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish: str = "stop"
    tokens: Tokens = Tokens()
    thought: Thought | None = None
    provider: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class CallDeltas:
    """A function call whose arguments are still arriving, in non-empty pieces."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)

    @property
    def so_far(self) -> ToolCall:
        return ToolCall(self.id, self.name, "".join(self.arguments))


@dataclass(slots=True)
class Deltas:
    """A streamed reply while it arrives: the one place that collects it. The provider's adapter adds pieces that can be
    stored and sent as they are; the worker reads them, and the complete reply is made from them.

    `added` is called after each addition: it is cheap, and never waits for a reader. `final`: a client may see a piece
    as soon as it was added, so none can be taken back.
    """

    added: Callable[[], None] = lambda: None
    final: bool = True
    texts: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    calls: list[CallDeltas] = field(default_factory=list)

    @property
    def speaks(self) -> bool:
        """Whether there is text or a refusal."""
        return bool(self.texts or self.refusals)

    def text(self, value: str) -> None:
        self.texts.append(value)
        self.added()

    def refusal(self, value: str) -> None:
        self.refusals.append(value)
        self.added()

    def call(self, call_id: str, name: str, arguments: str = "") -> int:
        """Begin a function call. Returns its index."""
        self.calls.append(CallDeltas(call_id, name, [arguments] if arguments else []))
        self.added()
        return len(self.calls) - 1

    def extend(self, index: int, arguments: str) -> None:
        """Add arguments to a call."""
        self.calls[index].arguments.append(arguments)
        self.added()

    def take(self, withheld: Deltas) -> None:
        """Add the text and the refusal of others."""
        self.texts += withheld.texts
        self.refusals += withheld.refusals
        if withheld.speaks:
            self.added()

    def restart(self) -> bool:
        """The reply was interrupted and may be requested again: discard what has arrived. False if it is final."""
        if self.final and (self.speaks or self.calls):
            return False
        for pieces in (self.texts, self.refusals, self.calls):
            pieces.clear()
        return True

    def reply(self, finish: str, tokens: Tokens) -> Reply:
        """The complete reply."""
        calls = tuple(call.so_far for call in self.calls)
        return Reply("".join(self.texts), "".join(self.refusals), calls, finish, tokens)


class ModelError(Exception):
    """The provider failed, after its retries. `code`: server_error, rate_limit_exceeded or invalid_prompt.

    `message` is for users, and may quote the prompt. `provider`, the HTTP `status` and the `reason` are for the log:
    they contain no content, and are empty if unknown."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.provider, self.reason = "", ""
        self.status: int | None = None


class Refused(ModelError):
    """The provider returned an error. `error_text`: its text and the fields that it names, not for the log."""

    error_text = ""


class BrokenOff(ModelError):
    """The connection ended or stalled in the middle of a streamed reply."""


class ContextExceeded(ModelError):
    """The prompt has more tokens than the model accepts. `window`: the limit, if the provider reports it."""

    def __init__(self, code: str, message: str, window: int | None = None) -> None:
        super().__init__(code, message)
        self.window = window


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """`full` is PROVIDER/MODEL; runs accept it as well as the id."""

    id: str
    created: int
    owned_by: str
    full: str = ""


class NoSuchModel(ValueError):
    """No provider has a model of this name. The message lists the providers."""


class Models(Protocol):
    async def reply(self, prompt: Prompt, deltas: Deltas | None) -> Reply:
        """Call the model once; streamed into `deltas` if given. Raises ModelError."""

    async def check(self, model: str) -> None:
        """Raises NoSuchModel for a name that no provider has, as far as this is known without a model call."""

    def window(self, model: str) -> int:
        """The maximum number of tokens of prompt and answer together, as far as known."""

    async def list(self) -> Sequence[ModelInfo]:
        """The available models. A provider that does not respond is left out."""

    async def close(self) -> None: ...


class Tokenizer(Protocol):
    """Counts tokens approximately, as each model has its own tokenizer. No text has more tokens than UTF-8 bytes."""

    def count(self, text: str) -> int:
        """Recent counts are cached. Thread-safe."""
