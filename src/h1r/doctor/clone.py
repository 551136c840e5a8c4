"""Preflight of a training run: its very model in small, and its first rows. Seconds now instead of a day's wrong training.

for check in clone(config, train=TrainerConfig(...)): ...        # same switches and multipliers, two layers, small widths
for check in first_rows(rows, dropped, stop_ids, vocabulary): ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
import torch

from h1r.doctor.check import Check
from h1r.model import Model, build
from h1r.model.config import Config, H1Config
from h1r.ops import Layout
from h1r.train import LocalTrainer, TrainerConfig, lora
from h1r.train.pack import pack
from h1r.train.step import score
from h1r.types import Row

VOCABULARY, TOLERANCE = 96, 2e-5


def small(config: Config) -> Config:
    """The same model, switches and multipliers included, two layers deep and a few dozen wide."""
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "head_dim": 16,
    }
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "dtype": "float32"}
    kv = min(config.num_key_value_heads, 2)
    heads = {"num_attention_heads": kv * 2, "num_key_value_heads": kv}
    if not isinstance(config, H1Config):
        return dataclasses.replace(config, **common, **heads, **ids)  # type: ignore[arg-type]
    groups = min(config.mamba_n_groups, 2)
    mamba = {"mamba_d_ssm": 32 * groups, "mamba_n_heads": 2 * groups, "mamba_d_head": 16, "mamba_d_state": 16}
    return dataclasses.replace(config, **common, **heads, **ids, **mamba, mamba_n_groups=groups)  # type: ignore[arg-type]


def clone(config: Config, train: TrainerConfig) -> list[Check]:
    """On a small clone: the loss reads the head with its multiplier, a packed document equals one alone, everything learns."""
    model = build(small(config), seed=0)
    checks = [_head(model), _packed(model)]
    settings = dataclasses.replace(train, length=64, steps=2, workers=1, bf16="off", compile=False)
    trainer = LocalTrainer(model, settings)
    trainer.forward_backward([_row(i, 20) for i in range(2)], "sft")
    if settings.lora:
        idle = lora.untrained(model)
        what = f"{len(list(lora.adapters(model)))} adapters"
    else:
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        idle = [n for n, p in named if p.grad is None or not p.grad.abs().max()]
        what = f"{len(named)} parameters"
    detail = f"a gradient reaches {what}" if not idle else f"no gradient reaches {', '.join(idle[:3])}"
    cure = "a multiplier of 0 or an adapter's target cuts it off: correct the config, or train without it"
    return [*checks, Check("everything learns", not idle, detail, cure)]


def first_rows(rows: Sequence[Row], dropped: int, stop_ids: Collection[int], vocabulary: int) -> list[Check]:
    """The rows of the first step: something to train in each, stop tokens among it, ids inside the vocabulary.

    dropped: rows passed over because they were too long.
    """
    trained = [np.flatnonzero(row.streams["ce"]) for row in rows]
    empty = [row.id for row, places in zip(rows, trained, strict=True) if not len(places)]
    tokens, targets = sum(len(r.token_ids) for r in rows), sum(len(t) for t in trained)
    stops = sum(
        bool(len(t)) and row.token_ids[int(t[-1])] in stop_ids for row, t in zip(rows, trained, strict=True)
    )  # fmt: skip
    highest = max(max(row.token_ids) for row in rows)
    mask = f"{targets:,} of {tokens:,} tokens of {len(rows)} rows are trained"
    return [
        Check(
            "loss mask", not empty, mask if not empty else f"row {empty[0]} and {len(empty) - 1} more train nothing",
            "rows must end with an assistant turn; weights of 0 leave nothing (data.weights, data.bands)",
        ),
        Check(
            "stop tokens", stops > 0, f"{stops} of {len(rows)} rows end with a trained stop token",
            "without one the model never learns to end: raise train.length, or use the checkpoint's own tokenizer and template",
        ),
        Check(
            "vocabulary", highest < vocabulary, f"largest id {highest}, vocabulary {vocabulary}",
            "model and tokenizer are not of one checkpoint: give the tokenizer it was trained with",
        ),
        Check(
            "long rows", dropped < max(4, len(rows)), f"{dropped} rows were longer than train.length and left out",
            "raise train.length, or cut them at the right with train.too_long=trim",
        ),
    ]  # fmt: skip


def _row(seed: int, length: int) -> Row:
    rng = np.random.default_rng(seed)
    weights = np.full(length, 1 / length, np.float32)
    weights[0] = 0
    return Row(
        token_ids=tuple(int(t) for t in rng.integers(3, VOCABULARY, length)), streams={"ce": weights}, id=str(seed)
    )


@torch.no_grad()
def _head(model: Model) -> Check:
    """log p of the loss against log_softmax of the logits."""
    batch = pack([_row(0, 24)], 64)[0]
    own = score(model, batch).logp
    full = model.logits(model(batch.token_ids, batch.layout)).log_softmax(-1)
    want = full[:-1].gather(1, batch.token_ids[1:, None])[:, 0]
    gap = float((own - want).abs().max())
    detail = f"loss and logits agree to {gap:.0e} nats, logit multiplier {model.head[1]:g}"
    return Check(
        "head", gap < TOLERANCE, detail, "the loss drops a multiplier of the head: report it with this config.json"
    )


@torch.no_grad()
def _packed(model: Model) -> Check:
    """Hidden states of a document between two others, and alone."""
    rows = [_row(seed, length) for seed, length in ((1, 9), (2, 21), (3, 5))]
    batch = pack(rows, 64)[0]
    packed = dict(zip(batch.documents, model(batch.token_ids, batch.layout).split(batch.layout.lengths), strict=True))
    gaps = []
    for place, row in enumerate(rows):
        alone = model(torch.tensor(row.token_ids), Layout.of([len(row.token_ids)]))
        gaps.append(float((packed[place] - alone).abs().max() / alone.abs().max()))
    detail = f"documents of a packed row equal themselves alone to {max(gaps):.0e}"
    return Check(
        "packing", max(gaps) < TOLERANCE, detail, "state leaks between documents: report it with this config.json"
    )
