"""What the engine works on: a request (one prompt, n traces) and its sequences.

Life of a request: waiting -> its *stem* computes the prompt but for the last token -> the stem is forked into n traces,
whose first decoded token is that last prompt token -> each trace decodes until something ends it. A sequence lives in
memory (slot and pages), or parked as a host copy; it never loses what was computed.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from h1r.engine.thinking import Thought
from h1r.types import Constraint, Prompt, SamplingParams, StopReason, Trace, Watch

STEM = -1

Decode = Callable[[Items[int]], str]
"""Token ids to text."""
Split = Callable[[str], Any]
"""A finished text to an object with reasoning, content and tool_calls."""


@dataclass(frozen=True, slots=True)
class Event:
    """One token of a streaming request, or (trace given) the end of a trace.

    text is what this token added once its characters were complete; empty without a `decode`.
    """

    request: int
    index: int
    token_id: int
    logprob: float
    confidence: float
    text: str
    trace: Trace | None


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One prompt and how to continue it.

    id        arrival order; lower is older and is never preempted for a younger one
    row       which random streams it draws from: the prompt's place in its batch
    seed      resolved: never None
    stop_ids  every token id that ends a trace
    marks     prompt lengths whose state is worth keeping: the first and last of the prompt's own marks, and its end
    limit     tokens a trace may have, after max_tokens, the model's context and the memory are taken into account
    stream    yield an Event for every token
    """

    id: int
    prompt: Prompt
    sampling: SamplingParams
    seed: int
    row: int = 0
    stop_ids: tuple[int, ...] = ()
    limit: int
    marks: frozenset[int] = frozenset()
    watch: Watch | None = None
    stream: bool = False
    traces: list[Sequence] = field(default_factory=list)
    stem: Sequence | None = None
    unborn: int = 0  # traces not forked yet: always the last ones

    @property
    def prompt_length(self) -> int:
        return len(self.prompt.token_ids)


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """A stem (index STEM) or a trace.

    length  tokens whose keys, values and state are computed
    slot    state slot, -1 when not in memory; pages: its K/V pages in order
    host    the runner's copy of slot and pages while parked
    dirty   slot or pages changed since the runner last looked
    allowed [V] bool: tokens that may come next under `constraint`; None: all
    """

    request: Request
    index: int
    length: int = 0
    slot: int = -1
    pages: list[int] = field(default_factory=list)
    host: Any = None
    dirty: bool = True
    token_ids: array[int] = field(default_factory=lambda: array("q"))
    logprobs: array[float] = field(default_factory=lambda: array("f"))
    raw_logprobs: array[float] = field(default_factory=lambda: array("f"))
    confidence: array[float] = field(default_factory=lambda: array("f"))
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    versions: list[tuple[int, int]] = field(default_factory=list)  # (first token, version of the weights)
    stop: StopReason | None = None
    text: Text | None = None
    thought: Thought | None = None
    constraint: Constraint | None = None
    allowed: npt.NDArray[np.bool_] | None = None

    @property
    def key(self) -> tuple[int, int]:
        """Age: the oldest sequence has the smallest key."""
        return (self.request.id, self.index)

    @property
    def is_stem(self) -> bool:
        return self.index == STEM

    @property
    def target(self) -> int:
        """Tokens to be computed before the next one: all but the newest, of a stem what its traces share."""
        return self.request.prompt_length - 1 + (0 if self.is_stem else len(self.token_ids))

    @property
    def ready(self) -> bool:
        """Whether they are. A trace is not while it reads itself again, after new weights."""
        return self.length == self.target

    def tokens(self, start: int, end: int) -> list[int]:
        """Tokens [start, end): the prompt's, then its own."""
        prompt = self.request.prompt.token_ids
        return [*prompt[start:end], *self.token_ids[max(start - len(prompt), 0) : max(end - len(prompt), 0)]]

    @property
    def next_token(self) -> int:
        """The token a trace decodes next: the prompt's last, then its own last."""
        return self.token_ids[-1] if self.token_ids else self.request.prompt.token_ids[-1]


Feed = Callable[[int], str]
"""A token in, the characters it completes out."""


def windowed(decode: Decode) -> Feed:
    """A Feed from a plain decode: the last tokens are decoded again with each new one, as context.

    While the tail decodes to U+FFFD (bytes of an unfinished character) it is held back; four bytes make a character, so
    a fifth token is not waited for.
    """
    pending: list[int] = []
    known = 0

    def feed(token: int) -> str:
        nonlocal known
        pending.append(token)
        before, after = decode(pending[:known]), decode(pending)
        if (len(after) <= len(before) or after.endswith("\ufffd")) and len(pending) - known < 5:
            return ""
        del pending[:known]
        known = len(pending)
        return after[len(before) :]

    return feed


@dataclass(slots=True)
class Text:
    """Text of a growing trace, and the search for stop strings, which may begin in one token and end in another.

    Text that could still become a stop string is held back: `push` returns what is safe to show.
    """

    feed: Feed
    stop: tuple[str, ...] = ()
    whole: str = ""
    shown: int = 0
    cut: int = -1  # where a stop string begins in `whole`

    def push(self, token: int) -> str:
        start = max(0, len(self.whole) - max((len(s) for s in self.stop), default=0))
        self.whole += self.feed(token)
        found = [at for s in self.stop if (at := self.whole.find(s, start)) >= 0]
        if found:
            self.cut = min(found)
            return self._show(self.cut)
        return self._show(len(self.whole) - self._held())

    def flush(self) -> str:
        """What was held back, once no stop string can follow."""
        return self._show(len(self.whole) if self.cut < 0 else self.cut)

    def _show(self, end: int) -> str:
        piece = self.whole[self.shown : end]
        self.shown = max(self.shown, end)
        return piece

    def _held(self) -> int:
        """Length of the longest tail that begins a stop string."""
        longest = 0
        for s in self.stop:
            for n in range(min(len(s) - 1, len(self.whole)), longest, -1):
                if self.whole.endswith(s[:n]):
                    longest = n
                    break
        return longest


def trace_of(sequence: Sequence, decode: Decode | None, split: Split | None) -> Trace:
    """The finished Trace of a sequence; its text leaves out the stop token, or the stop string and what follows."""
    request, ids = sequence.request, sequence.token_ids.tolist()
    text = ""
    if decode is not None:
        body = ids[:-1] if ids and ids[-1] in request.stop_ids else ids
        text = decode(body)
        if sequence.text is not None and sequence.text.cut >= 0:
            starts = [at for s in request.sampling.stop if (at := text.find(s)) >= 0]
            text = text[: min(starts)] if starts else sequence.text.whole[: sequence.text.cut]
    versions = sequence.versions or [(0, 0)]
    spread: tuple[int, ...] = ()
    if len(versions) > 1:
        ends = [start for start, _ in versions[1:]] + [len(ids)]
        spread = tuple(v for (start, v), end in zip(versions, ends, strict=True) for _ in range(start, end))
    parts = split(text) if split is not None and decode is not None else None
    assert sequence.stop is not None
    return Trace(
        prompt=request.prompt,
        token_ids=tuple(ids),
        stop=sequence.stop,
        logprobs=np.array(sequence.logprobs, np.float32),
        raw_logprobs=np.array(sequence.raw_logprobs, np.float32),
        confidence=np.array(sequence.confidence, np.float32),
        top=tuple(sequence.top),
        text=text,
        reasoning=parts.reasoning if parts else "",
        content=parts.content if parts else text,
        tool_calls=tuple(parts.tool_calls) if parts else (),
        forced=tuple(sequence.thought.forced) if sequence.thought else (),
        reasoning_stop=sequence.thought.why if sequence.thought else "",
        index=sequence.index,
        version=versions[-1][1],
        token_versions=spread,
    )
