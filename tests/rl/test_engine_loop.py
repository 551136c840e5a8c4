"""The loop with the real engine: its log-probabilities are the trainer's, through the exported folder and in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from h1r.cli.grpo import in_memory
from h1r.engine import LLM
from h1r.errors import MismatchError
from h1r.model import fold
from h1r.rl import grpo
from h1r.train import LocalTrainer
from h1r.types import Prompt, SamplingParams


@pytest.mark.parametrize("through", ["folder", "memory"])
def test_engine_and_trainer_agree_while_training(toy, tmp_path, through):
    config = toy.config(steps=3, prompts_per_step=6, max_tokens=12, group=6)
    trainer = LocalTrainer(toy.build(), config.trainer())
    trainer.export(str(tmp_path / "start"))
    llm = LLM(tmp_path / "start", tokenizer=False, dtype="float32", memory_bytes=1 << 25)
    sync = None if through == "folder" else in_memory(trainer.model, llm)
    metrics = list(grpo.run(llm, toy.LowIds(), trainer, toy.PROBLEMS, toy.render, config, tmp_path / "run", sync=sync))
    assert llm.version == 3
    assert max(m["mismatch_kl"] for m in metrics) < 1e-9 and max(m["mismatch_abs"] for m in metrics) < 2e-5
    assert all(m["grad_norm"] > 0 for m in metrics)


@pytest.mark.parametrize(
    "options", [{"dtype": "bfloat16", "kernel": "torch"}, {"dtype": "int8", "kernel": "torch"}, {"dtype": "int8"}]
)
def test_weights_are_synced_in_the_engines_own_precision(toy, tmp_path, options):
    """What the engine scores after a sync is what it scores when it reads the exported folder."""
    trainer = LocalTrainer(toy.build(), toy.CONFIG.trainer())
    trainer.export(str(tmp_path / "start"))
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(1.1)
    trainer.export(str(tmp_path / "next"))
    one, two = (LLM(tmp_path / name, tokenizer=False, memory_bytes=1 << 25, **options) for name in ("start", "next"))
    in_memory(trainer.model, one)(trainer, one, 1)
    ids = [Prompt(token_ids=(5, 6, 7, 8))]
    greedy = SamplingParams(temperature=0.0, max_tokens=8)
    (got,), (want,) = one.generate(ids, greedy)[0], two.generate(ids, greedy)[0]
    assert got.token_ids == want.token_ids
    np.testing.assert_allclose(got.logprobs, want.logprobs, atol=1e-6)


def test_weights_synced_in_memory_are_the_engines_own(toy, tmp_path):
    trainer = LocalTrainer(toy.build(), toy.CONFIG.trainer())
    trainer.export(str(tmp_path / "start"))
    llm = LLM(tmp_path / "start", tokenizer=False, dtype="float32", memory_bytes=1 << 25)
    ids = [[5, 6, 7, 8, 9, 10]]
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(1.1)
    old = llm.score(ids)[0]
    in_memory(trainer.model, llm)(trainer, llm, 1)
    new = llm.score(ids)[0]
    assert np.abs(new - old)[1:].max() > 1e-4
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(llm.score(ids)[0], new)


def test_an_engine_with_another_multiplier_is_caught(toy, tmp_path):
    trainer = LocalTrainer(toy.build(), toy.CONFIG.trainer())
    trainer.export(str(tmp_path / "start"))
    llm = LLM(tmp_path / "start", tokenizer=False, dtype="float32", memory_bytes=1 << 25)

    def forgetful(trainer, generator, version):
        model = fold(trainer.model)
        model.config = replace(model.config, lm_head_multiplier=1.0)
        generator.loop.call(lambda engine: engine.swap(model, version))

    with pytest.raises(MismatchError, match="usual causes: a multiplier"):
        list(
            grpo.run(llm, toy.LowIds(), trainer, toy.PROBLEMS, toy.render, toy.CONFIG, tmp_path / "run", sync=forgetful)
        )
