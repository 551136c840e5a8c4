"""Opt-in: vLLM writes the traces of a GRPO run, gets every step's weights, dies and comes back.

    H1R_VLLM_PYTHON=/path/to/vllm/bin/python .venv/bin/python -m pytest -m peer tests/scale/test_served.py

names the interpreter of an environment that has vLLM (a CPU build does).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from h1r import model as models
from h1r.cli import grpo as command
from h1r.cli import wire
from h1r.engine import LLM
from h1r.rl import GrpoConfig, grpo
from h1r.scale import Served, Server
from h1r.text import Tokenizer
from h1r.train import LocalTrainer
from h1r.types import Prompt, SamplingParams

PYTHON = os.environ.get("H1R_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.peer,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not PYTHON, reason="H1R_VLLM_PYTHON names no interpreter with vLLM"),
]
NANO = Path(__file__).parents[2] / "models" / "nano"
TOKENIZER = Tokenizer.from_folder(NANO)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Server(
        model=str(NANO), name="policy", python=PYTHON, dtype="float32", max_model_len=1024, eager=True, reasoning_parser="",
        tools=False, prefix_caching=False, environment={"VLLM_CPU_KVCACHE_SPACE": "1"},
    )  # fmt: skip
    made = Served(server, tmp_path_factory.mktemp("vllm") / "log")
    yield made
    made.close()


def test_a_run_learns_from_its_traces(served: Served, tmp_path: Path) -> None:
    """At a temperature other than 1, so that log-probabilities before it would show."""
    config = GrpoConfig(
        steps=3, group=4, prompts_per_step=4, max_tokens=96, length=2048, temperature=0.8, mismatch_limit=1e-3
    )
    model, _ = models.load(NANO, dtype=torch.float32)
    with torch.no_grad():  # another model than the server was started on: its weights must arrive
        for p in model.parameters():
            p.mul_(1.02)
    trainer = LocalTrainer(model, config.trainer(), tokenizer=TOKENIZER.save)
    problems = command.practice(command.ProblemSource(count=40))
    steps = grpo.run(served, wire.grader(), trainer, problems, wire.prompt_of(TOKENIZER), config, tmp_path / "run")
    metrics = list(steps)
    print([(m["mismatch_kl"], m["mismatch_abs"], m["reward"], m["seconds/sync"]) for m in metrics])
    assert max(m["mismatch_kl"] for m in metrics) < 1e-6 and max(m["mismatch_abs"] for m in metrics) < 1e-4
    assert all(m["unscored"] == 0 for m in metrics)
    trainer.export(str(tmp_path / "now"))
    served.load(str(tmp_path / "now"), 3)
    assert greedy(served) == ours(tmp_path / "now")


def greedy(served: Served) -> list[tuple[int, ...]]:
    prompts = [Prompt(token_ids=tuple(range(5, 5 + n))) for n in (1, 7, 40, 300)]
    return [
        g[0].token_ids
        for g in served.generate(prompts, SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True))
    ]


def ours(path: Path) -> list[tuple[int, ...]]:
    llm = LLM(path, dtype="float32", memory_bytes=1 << 27)
    prompts = [Prompt(token_ids=tuple(range(5, 5 + n))) for n in (1, 7, 40, 300)]
    return [
        g[0].token_ids for g in llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True))
    ]


def test_a_server_that_dies_is_started_on_the_newest_weights(served: Served, tmp_path: Path) -> None:
    model, _ = models.load(NANO, dtype=torch.float32)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + 0.05 * np.sin(p.shape[0]))
    LocalTrainer(model, GrpoConfig(length=512).trainer(), tokenizer=TOKENIZER.save).export(str(tmp_path / "other"))
    served.load(str(tmp_path / "other"), 9)
    before = served.lost
    found = subprocess.run(
        ["pgrep", "-f", "vllm.entrypoints.openai.api_server"], capture_output=True, text=True, check=True
    )
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    assert greedy(served) == ours(tmp_path / "other")
    assert served.lost == before + 1
