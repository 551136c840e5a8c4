"""A group: all traces of one problem, their scores, and the rewards shaped from them. No torch, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from h1r.data.curate import foreign_share
from h1r.errors import ConfigError
from h1r.types import Problem, Score, StopReason, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """uid names the group for ever: step.round.place. version: of the weights that wrote its traces.

    rewards are the scores after shaping; None where a trace is unscored: it neither trains nor counts in the baseline.
    """

    uid: str
    problem: Problem
    traces: tuple[Trace, ...]
    scores: tuple[Score, ...]
    rewards: tuple[float | None, ...]
    version: int

    @property
    def tokens(self) -> int:
        """Tokens drawn in all traces."""
        return sum(trace.drawn for trace in self.traces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaping:
    """What is added to a score to make a reward.

    format_penalty  taken off a trace without both a reasoning and an answer
    language_penalty  taken off a trace more than 5 % of whose letters are of another script than its problem's
    overlong        tokens before max_tokens over which a penalty grows from 0 to 1 (DAPO eq. 13); 0 is off
    max_tokens      the length at which a trace is cut
    """

    format_penalty: float = 0.0
    language_penalty: float = 0.0
    overlong: int = 0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if min(self.format_penalty, self.language_penalty) < 0 or not 0 <= self.overlong <= self.max_tokens:
            raise ConfigError(
                f"format_penalty={self.format_penalty} and language_penalty={self.language_penalty} must be 0 or more, "
                f"overlong={self.overlong} between 0 and max_tokens={self.max_tokens}"
            )


def reward(trace: Trace, score: Score, shaping: Shaping, problem: Problem | None = None) -> float | None:
    """The shaped reward of one trace; None when it is unscored or did not end by itself or by length."""
    if score.value is None or not trace.token_ids or trace.stop is StopReason.ABORT:
        return None
    value = float(score.value)
    if shaping.format_penalty and not formatted(trace):
        value -= shaping.format_penalty
    if shaping.language_penalty and problem is not None and mixed(trace, problem):
        value -= shaping.language_penalty
    return value - overlong_penalty(len(trace.token_ids), trace.stop, shaping)


def formatted(trace: Trace) -> bool:
    """Whether the trace holds a reasoning and, outside it, an answer or a tool call."""
    return bool(trace.reasoning.strip()) and bool(trace.content.strip() or trace.tool_calls)


def mixed(trace: Trace, problem: Problem, limit: float = 0.05) -> bool:
    """Whether the trace strays from its problem's script: Latin and Greek (formulas) on one side, all others on the other."""
    asked = foreign_share(" ".join(str(m.get("content") or "") for m in problem.messages))
    written = foreign_share(trace.text or f"{trace.reasoning} {trace.content}")
    return written > limit if asked <= limit else written < asked - 0.5


def overlong_penalty(tokens: int, stop: StopReason, shaping: Shaping) -> float:
    """DAPO eq. 13: 0 up to max_tokens - overlong, 1 for a trace that was cut, linear in between."""
    if not shaping.overlong:
        return 0.0
    if stop is StopReason.LENGTH:
        return 1.0
    return min(1.0, max(0.0, (tokens - (shaping.max_tokens - shaping.overlong)) / shaping.overlong))


def trivial(rewards: Sequence[float | None]) -> bool:
    """Whether a group teaches nothing: fewer than two scored traces, or largest == smallest reward, exactly."""
    known = [r for r in rewards if r is not None]
    return len(known) < 2 or max(known) == min(known)


def centred(rewards: Sequence[float | None], baseline: str = "mean") -> list[float]:
    """Advantages of one group; 0 for an unscored trace, which is left out of the statistics.

    mean: r - mean. std: that, over the unbiased standard deviation + 1e-6. loo: r - mean of the others.
    """
    known = np.array([r for r in rewards if r is not None], np.float64)
    if len(known) < 2:
        return [0.0] * len(rewards)
    scale = {"mean": 1.0, "std": 1.0 / (known.std(ddof=1) + 1e-6), "loo": len(known) / (len(known) - 1)}[baseline]
    mean = known.mean()
    return [0.0 if r is None else float((r - mean) * scale) for r in rewards]
