"""The preflight of a training run: sound configs pass, and each kind of wrong training is told before it begins."""

from __future__ import annotations

import importlib
import re

import numpy as np
import pytest

from h1r.doctor import clone, first_rows, preflight
from h1r.doctor.clone import small
from h1r.model import PRESETS
from h1r.ops import Layout
from h1r.train import LoraConfig, TrainerConfig
from h1r.types import Row

module = importlib.import_module("h1r.doctor.clone")  # the package's `clone` is the function


def failed(checks):
    return {c.name for c in checks if not c.ok}


@pytest.mark.parametrize("preset", ["quickstart", "tiny-90m", "7b", "34b"])
def test_every_preset_passes_in_small_with_its_own_multipliers(preset):
    config = PRESETS[preset]
    assert small(config).lm_head_multiplier == config.lm_head_multiplier
    assert small(config).mamba_rms_norm == config.mamba_rms_norm
    assert not failed(clone(config, TrainerConfig()))
    assert not failed(clone(config, TrainerConfig(lora=LoraConfig(rank=2), checkpointing=True)))


def test_a_head_that_drops_its_multiplier_is_seen(monkeypatch):
    plain = module.score

    def dropped(model, batch):
        with monkeypatch.context() as here:  # for the loss alone: the logits it is compared with keep theirs
            here.setattr(type(model), "head", property(lambda self: (self.lm_head.weight, 1.0)))
            return plain(model, batch)

    assert PRESETS["7b"].lm_head_multiplier < 0.1
    monkeypatch.setattr(module, "score", dropped)
    head = clone(PRESETS["7b"], TrainerConfig())[0]
    assert not head.ok and head.name == "head"
    assert float(re.search(r"to (\S+) nats", head.detail)[1]) > 1


def test_state_that_leaks_between_documents_is_seen():
    whole = module.build(small(PRESETS["quickstart"]), 0)
    leaky = module._packed(lambda ids, layout: whole(ids, Layout.of([len(ids)])))
    assert not leaky.ok and leaky.name == "packing"
    assert module._packed(whole).ok


def test_what_no_gradient_reaches_is_named(monkeypatch):
    plain = module.LocalTrainer.forward_backward

    def cut(self, rows, loss):
        self.model.layers[1].self_attn.o_proj.weight.requires_grad_(True).register_hook(lambda g: g * 0)
        return plain(self, rows, loss)

    monkeypatch.setattr(module.LocalTrainer, "forward_backward", cut)
    learns = clone(PRESETS["quickstart"], TrainerConfig())[-1]
    assert not learns.ok and learns.detail == "no gradient reaches layers.1.self_attn.o_proj.weight"


def row(ids, weights, name="r"):
    return Row(token_ids=tuple(ids), streams={"ce": np.array(weights, np.float32)}, id=name)


def test_rows_are_looked_at():
    good = row([5, 6, 7, 2], [0, 0, 1, 1])
    assert not failed(first_rows([good], 0, (2,), 10))
    assert failed(first_rows([row([5, 6, 7, 8], [0, 0, 1, 1])], 0, (2,), 10)) == {"stop tokens"}
    assert failed(first_rows([row([5, 6, 7, 2], [0, 0, 1, 0])], 0, (2,), 10)) == {"stop tokens"}
    assert failed(first_rows([good, row([5, 2], [0, 0], "bare")], 0, (2,), 10)) == {"loss mask"}
    assert failed(first_rows([good], 0, (2,), 7)) == {"vocabulary"}
    assert failed(first_rows([good], 9, (2,), 10)) == {"long rows"}


def test_memory_knows_what_saves_it(tmp_path):
    def need(**given):
        detail = {c.name: c for c in preflight(PRESETS["7b"], out=tmp_path, tokens_per_step=49152, **given)}[
            "memory"
        ].detail
        return float(detail.split()[2])

    plain = need()
    assert need(recompute=True) < 0.7 * plain and need(trained=0.02) < plain - 60
    assert need(ranks=8, recompute=True) < 0.35 * need(recompute=True)
