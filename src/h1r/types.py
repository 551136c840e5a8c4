"""The nouns that walk through the corridor, and the protocols between rooms. Plain data, no torch.

Problem -> Prompt -> Trace -> Score / Answer -> Row. Each word has this one meaning everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from h1r.errors import ConfigError

Floats = npt.NDArray[np.float32]
Message = Mapping[str, Any]
"""One chat turn in OpenAI's shape: role, content, and optionally reasoning_content, tool_calls, tool_call_id."""

DOMAINS = ("math", "code", "science", "chat", "tools", "safety")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something to be solved, with the means to tell whether it was.

    id          unique within its source
    messages    the conversation that ends with what is asked
    kind        which verifier scores it (a key of `verify.SCORERS`): math, code, choice, tool, refusal, format, text,
                instructions, judge
    gold        what the verifier compares with (its type belongs to the kind)
    tests       unit tests of a code problem; they never enter a prompt
    tools       JSON schemas offered to the model, OpenAI shape
    domain      one of DOMAINS, or the benchmark's own word
    difficulty  0 (easy) to 1 (hard): one minus a pass rate, or a generator's level; None when unknown
    solution    worked assistant (and tool) turns that answer `messages`, for SFT; empty when there are none
    meta        whatever the source also said
    """

    id: str
    messages: tuple[Message, ...]
    kind: str
    gold: Any = None
    tests: tuple[Any, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    domain: str = ""
    difficulty: float | None = None
    solution: tuple[Message, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a generator continues: messages, and the exact token ids where we hold the tokenizer.

    marks  token counts at which a turn ends, ascending: where a later prompt may part from this one; a hint, not compared
    seed   of this prompt's own random streams, in place of SamplingParams.seed and its place among the prompts; not compared
    """

    messages: tuple[Message, ...] = ()
    token_ids: tuple[int, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    text: str = ""
    marks: tuple[int, ...] = field(default=(), compare=False)
    seed: int | None = field(default=None, compare=False)


class StopReason(StrEnum):
    """Why a trace ended."""

    STOP = "stop"  # a stop id or stop string
    LENGTH = "length"  # max_tokens
    LOW_CONFIDENCE = "low_confidence"  # a Watch's window fell below its bar
    CONSENSUS = "consensus"  # a Watch saw its siblings agree
    LOOP = "loop"  # the loop breaker
    ABORT = "abort"  # the caller cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One chain of thought: what was generated, and how sure the model was.

    token_ids   generated tokens [T], the stop token included when one was sampled
    logprobs    log p(token | before) under the distribution that was sampled from [T]
    raw_logprobs  the same under the raw logits (temperature 1, no truncation) [T]; equal to logprobs when sampling was plain
    confidence  -mean log p over the 20 likeliest tokens of the raw logits [T] (DeepConf, arXiv:2508.15260)
    top         with SamplingParams.logprobs = k: per token the k likeliest (id, log p), raw logits
    text        the decoded tokens without the stop token or stop string; reasoning, content, tool_calls: `text.split` of it. Over
                several turns: text is all that the model wrote, the parts are the last turn's
    forced      positions of tokens that were not drawn but forced (the closing of a thought): no choice to learn from; their
                logprobs are those under the raw logits
    reasoning_stop  why the engine closed the thought: "budget", "reserve" (room for the answer), "loop", or "" if it did not
    version     of the weights that wrote it; token_versions [T] when weights changed on the way
    turns       that the model wrote in it: more than one where tools answered between (their results are forced tokens)
    refused     calls among them that a tool could do nothing with
    """

    prompt: Prompt
    token_ids: tuple[int, ...]
    stop: StopReason
    logprobs: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    raw_logprobs: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    confidence: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    top: tuple[tuple[tuple[int, float], ...], ...] = ()
    text: str = ""
    reasoning: str = ""
    content: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    forced: tuple[int, ...] = ()
    reasoning_stop: str = ""
    index: int = 0
    version: int = 0
    token_versions: tuple[int, ...] = ()
    turns: int = 1
    refused: int = 0

    @property
    def drawn(self) -> int:
        """Tokens that were drawn: the forced ones are nobody's choice, and count in no mean."""
        return len(self.token_ids) - len(self.forced)


class Score(NamedTuple):
    """A verdict: value in [0, 1], or None when nobody can tell (our failure, a bad gold), and why."""

    value: float | None
    why: str
    detail: Mapping[str, Any] = {}


class Vote(NamedTuple):
    """One candidate of a vote: its answer, how many traces gave it, and their summed weight."""

    value: str
    traces: int
    weight: float


class Answer(NamedTuple):
    """A vote's result. value is None when no trace answered; share = weight of the winner / weight of all."""

    value: str | None
    share: float
    votes: tuple[Vote, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training document: token ids [T] and named per-token streams [T] with every reduction already folded in.

    A stream's entry t belongs to the prediction *of* token t from the tokens before it, so entry 0 is always unused.
    The loss is a plain sum over streams: it cannot depend on how rows are packed, batched or sharded.
    """

    token_ids: tuple[int, ...]
    streams: Mapping[str, Floats]
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to draw a trace. temperature 0 is greedy. top_k 0 and top_p 1 are off.

    max_tokens  tokens generated at most, stop token included
    n           traces per prompt; the prompt is computed once
    seed        trace i of prompt j draws from a stream of its own, whatever else is in the batch
    stop        strings that end a trace (not part of its text); stop_ids: token ids, added to the checkpoint's own
    ignore_eos  do not stop at the checkpoint's stop ids
    logprobs    return this many likeliest tokens per position (0 to 20)
    thinking_budget   tokens of thought at most; then </think> is forced and the answer follows. None: no bound
    thinking_landing  over the last so many tokens of the budget, </think> becomes likelier and likelier; 0: a hard end
    answer_reserve    tokens of max_tokens that a thought must leave to the answer; None: with a budget a quarter of them,
                      1024 at most, else 0
    loop_breaker      close a thought that repeats itself; a loop outside a thought ends the trace
    grammar     what the text after a thought must look like; it ends where the grammar may
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 256
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    thinking_budget: int | None = None
    thinking_landing: int = 0
    answer_reserve: int | None = None
    loop_breaker: bool = False
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        def require(ok: bool, what: str) -> None:
            if not ok:
                raise ConfigError(what)

        require(self.temperature >= 0, f"temperature={self.temperature}: must be 0 (greedy) or more")
        require(0 < self.top_p <= 1, f"top_p={self.top_p}: must be in (0, 1]")
        require(0 <= self.top_k < 1 << 31, f"top_k={self.top_k}: must be 0 (off) or more, below 2**31")
        require(0 <= self.min_p <= 1, f"min_p={self.min_p}: must be in [0, 1]")
        require(self.max_tokens >= 1, f"max_tokens={self.max_tokens}: must be 1 or more")
        require(self.n >= 1, f"n={self.n}: must be 1 or more")
        require(0 <= self.logprobs <= 20, f"logprobs={self.logprobs}: must be 0 to 20")
        require(self.repetition_penalty > 0, f"repetition_penalty={self.repetition_penalty}: must be above 0")
        for name in ("presence_penalty", "frequency_penalty"):
            require(-2 <= getattr(self, name) <= 2, f"{name}={getattr(self, name)}: must be in [-2, 2]")
        for name in ("thinking_budget", "thinking_landing", "answer_reserve"):
            require((getattr(self, name) or 0) >= 0, f"{name}={getattr(self, name)}: must be 0 or more")
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))


class Constraint(Protocol):
    """What one trace may write next: `mask` before each token, `accept` after it."""

    def mask(self) -> npt.NDArray[np.bool_]:
        """[V], True where a token may come next: one at least. Raises ConfigError when the grammar is beyond its limits."""
        ...

    def accept(self, token_id: int) -> None:
        """The trace went on with this token."""
        ...


class Grammar(Protocol):
    """A rule for answers, shared by the traces that obey it."""

    def begin(self, opened: bool = False) -> Constraint:
        """The state of one new trace. opened: its prompt ended inside a thought."""
        ...


class Watch(Protocol):
    """A policy that looks on while the traces of one prompt grow, and may end some early."""

    def step(self, traces: Sequence[int], confidences: Sequence[float]) -> Mapping[int, StopReason]:
        """Called once per engine step: trace indices that grew by one token and that token's confidence.
        Returns the traces to end, with the reason."""
        ...

    def finish(self, index: int, trace: Trace) -> None:
        """A trace ended, for whatever reason."""
        ...


class Generator(Protocol):
    """Writes traces: our engine, or any OpenAI-compatible server."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingParams, watches: Sequence[Watch | None] | None = None
    ) -> list[list[Trace]]: ...

    def load(self, path: str, version: int) -> None: ...


class Grader(Protocol):
    """Scores traces. A Score of None is never a reward."""

    def grade(self, items: Sequence[tuple[Problem, Trace]]) -> list[Score]: ...


class Trainer(Protocol):
    """Turns rows into better weights: tinker's verbs, local."""

    def forward_backward(self, rows: Sequence[Row], loss: str) -> Mapping[str, float]: ...

    def optim_step(self) -> Mapping[str, float]: ...

    def logprobs(self, rows: Sequence[Row]) -> list[Floats]: ...

    def export(self, path: str) -> None: ...

    def save(self, path: str) -> None: ...

    def load(self, path: str) -> None: ...
