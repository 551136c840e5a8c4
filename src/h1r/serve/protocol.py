"""What clients may ask: request bodies of the OpenAI API with the extensions we honour, read strictly.

A field is honoured, or refused with a 400 that names it; only the fields in formats.HARMLESS, which change no token, are let
through unread. A null is the same as absence.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from h1r.errors import ConfigError
from h1r.serve.formats import Form, NamedTool, ResponseFormat, Strict, StructuredOutputs
from h1r.types import Grammar, SamplingParams

Ids = list[Annotated[int, Field(ge=0)]]


class StreamOptions(Strict):
    """include_usage: a last chunk with the counts; continuous_usage_stats: every chunk has those of its choice so far."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Sampling(Strict):
    """Fields that chat and plain completions share."""

    model: str = ""
    max_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    n: int = Field(1, ge=1, le=1024)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    stop: str | list[str] | None = None
    stop_token_ids: Ids = Field(default_factory=list)
    ignore_eos: bool = False
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    logit_bias: dict[str, float] = Field(default_factory=dict)
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    return_trace: bool = False
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    thinking_token_budget: int | None = Field(None, ge=0)
    thinking_budget: int | None = Field(None, ge=0)
    thinking_landing: int = Field(0, ge=0)
    answer_reserve: int | None = Field(None, ge=0)
    loop_breaker: bool = False

    @property
    def form(self) -> Form | None:
        """What the answer is held to."""
        if self.structured_outputs is not None:
            return self.structured_outputs.form
        return self.response_format.form if self.response_format is not None else None

    @property
    def budget(self) -> int | None:
        """Tokens of thought at most."""
        return self.thinking_budget if self.thinking_token_budget is None else self.thinking_token_budget

    @property
    def stops(self) -> tuple[str, ...]:
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(s for s in given if s)

    @model_validator(mode="after")
    def _bias(self) -> Sampling:
        for token, bias in self.logit_bias.items():
            if not token.isdigit():
                raise ValueError(f"logit_bias: {token!r} is not a token id")
            if not -100 <= bias <= 100:
                raise ValueError(f"logit_bias: {bias} for token {token} is outside [-100, 100]")
        return self

    @model_validator(mode="after")
    def _bounds(self) -> Sampling:
        if self.structured_outputs is not None and self.response_format is not None:
            raise ValueError("structured_outputs: not together with response_format")
        if self.form is not None and self.ignore_eos:
            raise ValueError("ignore_eos: an answer that is held to a form ends where the form does")
        if self.thinking_token_budget is not None and self.thinking_budget is not None:
            raise ValueError("thinking_budget: another name of thinking_token_budget; give one")
        if self.thinking_landing and self.budget is None:
            raise ValueError("thinking_landing: needs thinking_token_budget")
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def counts_always(self) -> bool:
        return self.stream_options is not None and self.stream_options.continuous_usage_stats


class Turn(BaseModel):
    """One message. Keys that belong to the wire alone (refusal, annotations, audio: null, ...) are not read."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _text_only(self) -> Turn:
        parts = self.content if isinstance(self.content, list) else []
        for part in parts:
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ValueError(f"content part of type {part.get('type')!r}: this model reads text alone")
        for call in self.tool_calls or []:
            function = call.get("function")
            if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
                raise ValueError("tool_calls: each needs a function with a name")
        return self


class DeepConf(Strict):
    """How many traces think, and which of them vote; `deepconf` of a chat. Absent: the checkpoint's own warmup,
    keep_fraction and window; no consensus."""

    traces: int = Field(32, ge=2, le=1024)
    warmup: int | None = Field(None, ge=1)
    keep_fraction: float | None = Field(None, gt=0, le=1)
    window: int | None = Field(None, ge=1)
    consensus: float | None = Field(None, gt=0.5, le=1)
    vote: str = "min_window"
    rolling: bool = True


ALONE = (
    "n", "logprobs", "tools", "stop", "response_format", "structured_outputs", "confidence", "return_token_ids",
    "return_trace",
)  # fmt: skip
"""Fields that mean one trace, or bind it: not together with `deepconf`."""


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: list[Turn] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: Literal["auto", "none", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool = True
    modalities: list[Literal["text"]] | None = None
    chat_template_kwargs: dict[Literal["enable_thinking", "thinking"], bool] = Field(default_factory=dict)
    include_reasoning: bool = True
    confidence: bool = False
    deepconf: DeepConf | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: needs logprobs: true")
        for tool in self.tools:
            function = tool.get("function")
            if (
                tool.get("type", "function") != "function"
                or not isinstance(function, Mapping)
                or not isinstance(function.get("name"), str)
            ):
                raise ValueError("tools: each must be {type: function, function: {name, parameters}}")
        if self.deepconf is not None:
            for name in ALONE:
                if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                    raise ValueError(f"{name}: not together with deepconf")
        names = [tool["function"]["name"] for tool in self.tools]
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice: no tool is called {self.tool_choice.function.name!r}")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice: required needs tools")
        if self.ignore_eos and self.tool_choice not in ("auto", "none"):
            raise ValueError("ignore_eos: a required call ends the answer")
        if self.max_tokens == 0:
            raise ValueError("max_tokens: must be 1 or more")
        return self

    @property
    def thinking(self) -> bool:
        return self.chat_template_kwargs.get("enable_thinking", self.chat_template_kwargs.get("thinking", True))

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int:
        """Likeliest tokens to gather per position."""
        return (self.top_logprobs or 0) if self.logprobs else 0


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: str | Ids | list[str] | list[Ids]
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False
    best_of: int | None = None
    suffix: Literal[""] = ""
    add_special_tokens: bool = True
    skip_special_tokens: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> CompletionRequest:
        if self.best_of not in (None, self.n):
            raise ValueError(f"best_of: {self.best_of} differs from n={self.n}; ask for n and choose yourself")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 makes sense with echo alone")
        if self.echo and self.stream:
            raise ValueError("echo: not together with stream")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """One entry per prompt. Raises ConfigError when there is none."""
        given: Any = self.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            given = [given]
        if not given or any(p == [] for p in given):
            raise ConfigError("prompt: empty; give text or token ids")
        return list(given)


class TokenizeRequest(Strict):
    """POST /tokenize: text, or messages put through the chat template."""

    model: str = ""
    prompt: str | None = None
    messages: list[Turn] | None = None
    tools: list[dict[str, Any]] = Field(default_factory=list)
    add_special_tokens: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(Strict):
    """POST /detokenize."""

    model: str = ""
    tokens: Ids


class DeepThinkRequest(DeepConf):
    """POST /v1/deepthink: many traces of one question, weak ones stopped early, a weighted vote."""

    model: str = ""
    messages: list[Turn] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.6, ge=0, le=100)
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    stream: bool = False
    return_traces: bool = False


class WeightsRequest(Strict):
    """POST /admin/weights: swap the weights for those of a checkpoint folder."""

    path: str
    version: int = Field(ge=0)


def sampling(
    request: ChatRequest | CompletionRequest, defaults: SamplingParams, room: int, grammar: Grammar | None = None
) -> SamplingParams:
    """The request as SamplingParams; `defaults` fill what it leaves open. room: tokens left in the context."""
    chat = isinstance(request, ChatRequest)
    limit = request.limit if isinstance(request, ChatRequest) else request.max_tokens
    top = request.top if isinstance(request, ChatRequest) else request.logprobs or 0

    def or_default(value: Any, name: str) -> Any:
        return getattr(defaults, name) if value is None else value

    return SamplingParams(
        temperature=or_default(request.temperature, "temperature"),
        top_p=or_default(request.top_p, "top_p"),
        top_k=max(0, or_default(request.top_k, "top_k")),
        min_p=or_default(request.min_p, "min_p"),
        max_tokens=max(1, limit if limit is not None else (room if chat else 16)),
        n=request.n,
        seed=request.seed,
        stop=request.stops,
        stop_ids=tuple(request.stop_token_ids),
        ignore_eos=request.ignore_eos,
        logprobs=top,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=or_default(request.repetition_penalty, "repetition_penalty"),
        logit_bias={int(token): bias for token, bias in request.logit_bias.items()},
        thinking_budget=request.budget,
        thinking_landing=request.thinking_landing,
        answer_reserve=request.answer_reserve,
        loop_breaker=request.loop_breaker,
        grammar=grammar,
    )


def messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Turns as the template reads them: absent keys left out."""
    return [turn.model_dump(exclude_none=True) for turn in turns]


def characters(said: Sequence[Mapping[str, Any]]) -> int:
    """Of all that messages say."""
    return sum(len(str(value)) for message in said for value in message.values())


def explain(errors: Sequence[Mapping[str, Any]], known: Sequence[str]) -> tuple[str, str | None]:
    """(sentence, field) for pydantic's findings about a body."""
    first = errors[0]
    path = [str(p) for p in first["loc"] if p != "body"]
    # a union's loc goes on with the branch that failed: the field is what the client can act on
    name = path[0] if path else None
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], known, 1, cutoff=0.7)
        cure = f"did you mean {near[0]!r}?" if near else "this server does not know it; leave it out"
        return f"{'.'.join(path)}: unknown field; {cure}", name
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {(first.get('ctx') or {}).get('error', first['msg'])}", None
    words = str(first["msg"]).removeprefix("Value error, ")
    if name is None and words.partition(":")[0] in known:
        name = words.partition(":")[0]
    if name and not words.startswith(name):
        words = f"{'.'.join(path)}: {words}"
    return words, name
