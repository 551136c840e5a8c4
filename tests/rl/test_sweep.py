"""The temperature sweep: what it counts, and which temperature it takes."""

from __future__ import annotations

import numpy as np
import pytest

from h1r.errors import ConfigError
from h1r.rl.sweep import Point, SweepConfig, choose, sweep
from h1r.types import Problem, Prompt, Score, StopReason, Trace


def test_the_hottest_before_accuracy_declines():
    def at(*pairs):
        return [Point(t, a, 0.0, 0.0, 0.0, 0.0, 0.0) for t, a in pairs]

    assert choose(at((0.4, 0.78), (0.6, 0.80), (0.85, 0.77), (1.0, 0.70), (1.2, 0.2)), 0.05) == 0.85
    assert choose(at((0.4, 0.70), (0.6, 0.80), (0.85, 0.80)), 0.05) == 0.85
    assert choose(at((0.4, 0.80), (0.6, 0.50), (0.85, 0.79)), 0.05) == 0.4
    assert choose(at((0.85, 0.5), (0.6, 0.6))) == 0.6


def test_points_count_what_was_drawn():
    class Guess:
        """Right with probability 1 - temperature / 2; answers otherwise from 0 to 9."""

        def generate(self, prompts, sampling, watches=None):
            rng = np.random.default_rng(sampling.seed)
            wrong = lambda: str(rng.integers(10))  # noqa: E731
            return [
                [self.trace("right" if rng.random() > sampling.temperature / 2 else wrong()) for _ in range(sampling.n)]
                for _ in prompts
            ]

        def trace(self, said):
            stop = StopReason.LENGTH if said == "0" else StopReason.STOP
            return Trace(prompt=Prompt(), token_ids=(1,) * (2 if said == "right" else 4), stop=stop, content=said)

    class Exact:
        def grade(self, items):
            return [Score(None if t.content == "9" else float(t.content == "right"), "") for _, t in items]

    problems = [Problem(id=str(i), messages=(), kind="text") for i in range(200)]
    config = SweepConfig(temperatures=(1.0, 0.2), n=8)
    cold, hot = sweep(Guess(), Exact(), problems, lambda p: Prompt(), config)
    assert (cold.temperature, hot.temperature) == (0.2, 1.0)
    assert cold.accuracy == pytest.approx(0.9 / 0.99, abs=0.03) and hot.accuracy == pytest.approx(0.5 / 0.95, abs=0.04)
    assert 0 < cold.error < 0.02 and cold.answers < 2 < hot.answers and cold.useful < hot.useful
    assert 2 < cold.length < hot.length < 4 and hot.truncated == pytest.approx(0.05, abs=0.02)


def test_bad_sweeps_are_refused():
    with pytest.raises(ConfigError, match="two or more"):
        SweepConfig(temperatures=(0.6,))
    with pytest.raises(ConfigError, match="no problems"):
        next(sweep(None, None, [], None, SweepConfig()))
