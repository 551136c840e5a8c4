"""`h1r think`: what is printed is what was written, brackets and all, and a wrong setting is told before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from h1r.cli import wire
from h1r.cli.app import app
from h1r.types import Prompt, SamplingParams, StopReason, Trace

REASONING, ANSWER = "a list[int] of [/dim] numbers in [bold]", "x in [a, b)"


class Model:
    path = Path(".")

    def recommended(self) -> SamplingParams:
        return SamplingParams(max_tokens=8)

    def prompt(self, prompt: Prompt) -> Prompt:
        return prompt

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams, watches: object) -> list[list[Trace]]:
        return [
            [
                Trace(
                    prompt=prompts[0], token_ids=(1,) * 8, index=i, stop=StopReason.STOP, reasoning=REASONING,
                    content=rf"\boxed{{{ANSWER}}}", confidence=np.full(8, 9.0, np.float32),
                )
                for i in range(sampling.n)
            ]
        ]  # fmt: skip


def test_brackets_in_thoughts_and_answers_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "load_llm", lambda path: Model())
    done = CliRunner().invoke(app, ["think", "m", "Which x?", "--traces", "4", "--warmup", "2", "--window", "4"])
    assert done.exit_code == 0, done.exception
    assert REASONING in done.output and f"answer {ANSWER}" in done.output
    assert done.output.count(ANSWER) == 3  # the winner in the table, as the answer, and as the majority's


def test_a_wrong_setting_is_told_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "load_llm", lambda path: pytest.fail("a model was loaded"))
    done = CliRunner().invoke(app, ["think", "m", "Which x?", "--keep", "7"])
    assert done.exit_code != 0 and "keep_fraction" in str(done.exception)
