"""At which temperature should rollouts be drawn? As hot as accuracy allows.

Falcon-H1R took 0.85 from such a sweep (arXiv:2601.02346, section 3.5) by POLARIS' rule: accuracy is level over low temperatures,
then declines gently while answers grow more various, then collapses; rollouts belong where the gentle decline begins.

    points = list(sweep(generator, grader, problems, render, SweepConfig(temperatures=(0.6, 0.85, 1.0))))
    print(choose(points))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from h1r.errors import ConfigError
from h1r.rl.turns import Turns
from h1r.types import Generator, Grader, Problem, Prompt, SamplingParams, StopReason, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig:
    """temperatures, traces per problem at each, tokens of a trace at most; drop: accuracy given up for variety, of the best."""

    temperatures: tuple[float, ...] = (0.4, 0.6, 0.7, 0.85, 1.0, 1.2, 1.4)
    n: int = 8
    max_tokens: int = 256
    drop: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if (
            len(self.temperatures) < 2
            or min(self.temperatures) <= 0
            or len(set(self.temperatures)) < len(self.temperatures)
        ):
            raise ConfigError(f"temperatures={self.temperatures}: give two or more, all different and above 0")
        if self.n < 2 or not 0 <= self.drop < 1:
            raise ConfigError(f"n={self.n}: must be 2 or more; drop={self.drop}: in [0, 1)")


class Point(NamedTuple):
    """One temperature: mean score and its standard error over problems, different answers per problem, share of problems whose
    traces differ in score (what GRPO learns from), mean length and share of cut traces."""

    temperature: float
    accuracy: float
    error: float
    answers: float
    useful: float
    length: float
    truncated: float


def sweep(
    generator: Generator,
    grader: Grader,
    problems: Sequence[Problem],
    render: Callable[[Problem], Prompt],
    config: SweepConfig,
    answer_of: Callable[[Trace], str | None] = lambda trace: trace.content.strip() or None,
    turns: Turns | None = None,
) -> Iterator[Point]:
    """A point per temperature, in rising order, on the same problems; `turns` plays what ends in calls. Unscored traces are left
    out."""
    if not problems:
        raise ConfigError("no problems to sweep over")
    prompts = [render(problem) for problem in problems]
    for temperature in sorted(config.temperatures):
        sampling = SamplingParams(
            temperature=temperature, max_tokens=config.max_tokens, n=config.n, seed=config.seed
        )  # fmt: skip
        groups = generator.generate(prompts, sampling)
        groups = turns.finish(generator, problems, groups, sampling) if turns else groups
        items = [(p, t) for p, traces in zip(problems, groups, strict=True) for t in traces]
        scores = iter(grader.grade(items))
        values = [[s.value for s in (next(scores) for _ in traces) if s.value is not None] for traces in groups]
        means = [float(np.mean(v)) for v in values if v]
        traces = [t for _, t in items]
        yield Point(
            temperature, float(np.mean(means)), float(np.std(means, ddof=1) / len(means) ** 0.5) if len(means) > 1 else 0.0,
            float(np.mean([len({answer_of(t) for t in group} - {None}) for group in groups])),
            float(np.mean([max(v) > min(v) for v in values if v])),
            float(np.mean([len(t.token_ids) for t in traces])),
            float(np.mean([t.stop is StopReason.LENGTH for t in traces])),
        )  # fmt: skip


def choose(points: Sequence[Point], drop: float = 0.05) -> float:
    """The highest temperature up to which accuracy stays within `drop` (a share) of the best."""
    best = max(p.accuracy for p in points)
    chosen = points[0].temperature
    for point in sorted(points):
        if point.accuracy < best * (1 - drop) and point.temperature > max(points, key=lambda p: p.accuracy).temperature:
            break
        chosen = point.temperature
    return chosen
