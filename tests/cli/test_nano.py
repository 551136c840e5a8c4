"""The model that comes with the repository answers, stops by itself, and is small enough to be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from h1r import LLM, SamplingParams
from h1r.cli import wire
from h1r.data import procedural

NANO = Path(__file__).parents[2] / "models" / "nano"


def test_nano_solves_held_out_problems_of_every_domain():
    llm = LLM(str(NANO))
    render, score = wire.prompt_of(llm.tokenizer), wire.scorer()
    problems = procedural.distinct(60, split="held_out", seed=5)
    groups = llm.generate([render(p) for p in problems], SamplingParams(temperature=0.0, max_tokens=256))
    right = [score(p, t[0]).value for p, t in zip(problems, groups, strict=True)]
    assert sum(right) / len(right) > 0.75  # 0.85 of 720 at temperature 1
    assert all(t[0].stop.value == "stop" for t in groups)
    answer = llm.chat([{"role": "user", "content": "A train travels 45 km in 30 minutes. What is its speed in km/h?"}])
    assert "90" in answer.content and "60/30=2" in answer.reasoning


def test_nano_is_small():
    size = sum(f.stat().st_size for f in NANO.iterdir())
    assert size == pytest.approx(11.1e6, rel=0.02) and size < 16e6
