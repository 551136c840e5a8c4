"""The coordinate check: what it measures is what the model computes, and its slopes are those of the sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from h1r.doctor.coord import PARTS, CoordConfig, Coordinate, coordinates, measure, shape, slopes
from h1r.errors import ConfigError
from h1r.model import build
from h1r.ops import Layout


def test_slopes_are_those_of_the_logarithms():
    sizes = {64: 1.0, 128: 2.0, 256: 4.0}
    found = [Coordinate(w, 1, 0.0, dict.fromkeys(PARTS, s) | {"mlp": 3.0, "scan": 1 / s}) for w, s in sizes.items()]
    got = slopes(found, 1)
    assert got["logits"] == pytest.approx(1) and got["mlp"] == pytest.approx(0) and got["scan"] == pytest.approx(-1)


def test_branches_add_up_to_the_layer():
    config = CoordConfig(widths=(32, 64), layers=1)
    model = build(shape(64, config), 0)
    ids = torch.arange(20) % 7
    sizes = measure(model, ids, Layout.of([20]))
    plain = model(ids, Layout.of([20]))
    with torch.no_grad():
        logits = float(model.logits(plain).abs().mean())
    assert sizes["logits"] == pytest.approx(logits, rel=1e-5)
    assert sizes["residual"] <= sum(sizes[name] for name in ("embedding", "scan", "attention", "mlp")) * 1.001
    assert min(sizes.values()) > 0


def test_fresh_models_are_flat_and_every_width_learns():
    found = list(coordinates(CoordConfig(widths=(32, 64, 128), layers=2, steps=2, lr=1e-4)))
    assert len(found) == 9
    assert all(abs(slope) < 0.1 for slope in slopes(found, 0).values())
    assert all(abs(slope) < 0.1 for name, slope in slopes(found, 2).items() if name in ("embedding", "logits"))
    for width in (32, 64, 128):
        losses = [c.loss for c in found if c.width == width]
        assert losses[2] < losses[0] - 0.1 and np.isfinite(losses).all() and losses[0] < 1.3 * math.log(256)


def test_a_narrow_choice_is_refused():
    with pytest.raises(ConfigError, match="two or more multiples of 32"):
        CoordConfig(widths=(48, 64))
