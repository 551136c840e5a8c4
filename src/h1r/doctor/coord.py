"""The coordinate check: does one learning rate serve every width?

Models of several widths, the same data, a few Adam steps at one learning rate. Under µP the sizes of activations and of their
changes do not depend on the width: on log-log axes every line is flat. Falcon-H1 carries µP in its forward multipliers, with
learning rates equal for all matrices (arXiv:2507.22448, section 3.2; the check is that of arXiv:2203.03466, appendix D).

    for c in coordinates(CoordConfig(widths=(64, 128, 256))): print(c.width, c.step, c.sizes)
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from h1r.errors import ConfigError
from h1r.model import FalconH1, H1Config, build
from h1r.model.presets import mup
from h1r.ops import Layout, attention
from h1r.train import OptimConfig, adamw, forward_backward, pack, update
from h1r.types import Row

PARTS = ("embedding", "scan", "attention", "mlp", "residual", "logits")
"""Whose mean size is measured: the embedding, each branch's output (mean over layers), the last residual, the logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordConfig:
    """widths (multiples of 32), layers, Adam steps, learning rate; plain: every multiplier 1, to see what fails."""

    widths: tuple[int, ...] = (256, 512, 1024)
    layers: int = 2
    steps: int = 3
    lr: float = 4e-4
    vocabulary: int = 256
    seed: int = 0
    plain: bool = False

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or any(w < 32 or w % 32 for w in self.widths):
            raise ConfigError(f"widths={self.widths}: give two or more multiples of 32")
        if self.layers < 1 or self.steps < 1 or self.lr <= 0:
            raise ConfigError(f"layers={self.layers} and steps={self.steps} must be 1 or more, lr={self.lr} above 0")


class Coordinate(NamedTuple):
    """Mean sizes of PARTS in a model of `width` after `step` updates, and its loss then."""

    width: int
    step: int
    loss: float
    sizes: dict[str, float]


def shape(width: int, config: CoordConfig) -> H1Config:
    """A hybrid of this width: heads grow in number, never in size; multipliers by the family's laws, or all 1."""
    heads, d_ssm, mlp, state = width // 32, width * 3 // 2, width * 2, 32
    multipliers = {} if config.plain else mup(width, heads, 32, d_ssm, state, mlp)
    return H1Config(
        vocab_size=config.vocabulary, hidden_size=width, intermediate_size=mlp, num_hidden_layers=config.layers,
        num_attention_heads=heads, num_key_value_heads=max(1, heads // 2), head_dim=32,
        mamba_d_ssm=d_ssm, mamba_n_heads=d_ssm // 48, mamba_d_head=48, mamba_d_state=state,
        mamba_rms_norm=True, mamba_norm_before_gate=False, **multipliers,
    )  # fmt: skip


def coordinates(config: CoordConfig) -> Iterator[Coordinate]:
    """Width after width, step after step, the first before any update."""
    rng = np.random.default_rng(config.seed)
    rows = []
    for i in range(8):  # counting upwards with a stride: something to learn
        start, stride = rng.integers(0, config.vocabulary, 2)
        ids = (start + stride * np.arange(64)) % config.vocabulary
        weights = np.full(64, 1 / (8 * 63), np.float32)
        weights[0] = 0
        rows.append(Row(token_ids=tuple(int(t) for t in ids), streams={"ce": weights}, id=str(i)))
    batches = pack(rows, 1024)
    for width in config.widths:
        model = build(shape(width, config), config.seed)
        assert isinstance(model, FalconH1)
        optim = OptimConfig(lr=config.lr, weight_decay=0.0, schedule="constant", warmup=0, clip=0.0)
        optimizer = adamw(model, optim)
        for step in range(config.steps + 1):
            sizes = measure(model, batches[0].token_ids, batches[0].layout)
            loss = forward_backward(model, batches, "sft")["loss"]
            yield Coordinate(width, step, loss, sizes)
            update(model, optimizer, clip=0.0, lr=config.lr)


@torch.no_grad()
def measure(model: FalconH1, token_ids: Tensor, layout: Layout) -> dict[str, float]:
    """Mean absolute values of PARTS. A branch's output is what the residual lacks when its output multiplier is 0."""
    h = model._embed(token_ids)
    turn = attention.rotation(layout.positions, model.config.head_dim, model.config.rope_theta)
    out: dict[str, list[float]] = {name: [] for name in PARTS}
    out["embedding"].append(_size(h))
    for layer in model.layers:
        gate = layer.config.mlp_multipliers[0]
        silent: dict[str, Any] = {"mlp_multipliers": (gate, 0.0)}
        mixed = _without(layer, silent, h, turn, layout)
        out["scan"].append(_size(_without(layer, silent | {"attention_out_multiplier": 0.0}, h, turn, layout) - h))
        out["attention"].append(_size(_without(layer, silent | {"ssm_out_multiplier": 0.0}, h, turn, layout) - h))
        h = layer(h, turn, layout)
        out["mlp"].append(_size(h - mixed))
    out["residual"].append(_size(h))
    out["logits"].append(_size(model.logits(model(token_ids, layout))))
    return {name: float(np.mean(values)) for name, values in out.items()}


def _size(t: Tensor) -> float:
    return float(t.abs().mean())


def _without(layer: Any, changes: dict[str, Any], h: Tensor, turn: Any, layout: Layout) -> Tensor:
    other = copy.copy(layer)
    other.config = dataclasses.replace(layer.config, **changes)
    out: Tensor = other(h, turn, layout)
    return out


def slopes(found: Sequence[Coordinate], step: int) -> dict[str, float]:
    """Per part the slope of log size over log width after `step` updates: 0 is flat, 1 grows as the width does."""
    rows = [c for c in found if c.step == step]
    x = [math.log2(c.width) for c in rows]
    return {name: float(np.polyfit(x, [math.log2(c.sizes[name]) for c in rows], 1)[0]) for name in PARTS}
