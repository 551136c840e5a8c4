"""Spikes and steps without a finite gradient are told with the rows behind them; a run that learns nothing ends."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from h1r import log
from h1r.errors import ConfigError, DivergenceError
from h1r.train import LocalTrainer, SftConfig, TrainerConfig, sft
from h1r.train.guard import Guard, GuardConfig, suspects


def test_a_spike_is_measured_against_the_median_and_does_not_hide_the_next():
    guard = Guard(GuardConfig(factor=4, window=8, warmup=4))
    for norm in (1.0, 1.2, 0.8):
        assert guard.times(norm) == 0.0
        guard.watch(norm)
    guard.watch(1.0)
    assert guard.times(5.0) == 5.0 and guard.unusual(5.0) and not guard.unusual(3.9)
    guard.watch(50.0)
    assert guard.times(5.0) == 5.0
    assert guard.times(math.nan) == math.inf and guard.unusual(math.inf)
    assert Guard(GuardConfig(factor=4, window=8, warmup=4), (1.0, 1.2, 0.8, 1.0, 50.0)).times(5.0) == 5.0


def test_the_window_forgets():
    guard = Guard(GuardConfig(window=4, warmup=2), [1.0] * 10 + [8.0] * 4)
    assert guard.times(8.0) == 1.0


def test_a_run_without_finite_gradients_ends_and_one_good_step_counts_anew():
    guard = Guard(GuardConfig(patience=3), [math.nan, math.nan])
    guard.watch(1.0)
    guard.watch(math.nan)
    guard.watch(math.inf)
    with pytest.raises(DivergenceError, match="3 steps in a row"):
        guard.watch(math.nan)
    endless = Guard(GuardConfig(patience=0))
    for _ in range(100):
        endless.watch(math.nan)


def test_the_rows_behind_it_are_named_worst_first(tiny, rows):
    trainer, some = LocalTrainer(tiny(), TrainerConfig()), rows(6)
    found = suspects(trainer, some, count=3)
    losses = []
    for row, logp in zip(some, trainer.logprobs(some)):
        w = row.streams["ce"][1:].astype(np.float64)
        losses.append((float((w[w != 0] * -logp[1:][w != 0]).sum() / w.sum()), row.id))
    assert [s.id for s in found] == [name for _, name in sorted(losses, reverse=True)[:3]]
    assert found[0].loss == pytest.approx(max(losses)[0], rel=1e-6)
    some[4].streams["ce"][-1] = np.nan
    assert suspects(trainer, some)[0].id == some[4].id


def test_training_tells_what_it_skipped_and_stops_when_nothing_is_learned(tiny, rows, tmp_path, caplog):
    some = rows(8)
    bad = replace(some[0], id="poison", streams={"ce": some[0].streams["ce"] + np.float32("nan")})
    config = SftConfig(steps=12, rows=4, length=64, save_every=2, guard=GuardConfig(patience=3))
    stream = sft.Indexed(lambda i: bad if i >= 16 and i % 4 == 1 else some[i % 8])
    with pytest.raises(DivergenceError, match="last checkpoint"):
        list(sft.run(tiny(), stream, config, tmp_path))
    assert caplog.text.count("skipped") == 3 and "poison (loss nan)" in caplog.text
    recorded = list(log.read(tmp_path / "metrics.jsonl"))
    assert [r["skipped"] for r in recorded] == [0, 0, 0, 0, 1, 1, 1]


def test_a_spike_in_training_names_its_rows(tiny, rows, tmp_path, caplog):
    some = rows(8)
    config = SftConfig(steps=7, rows=4, length=64, guard=GuardConfig(warmup=3, factor=1.000001, window=3))
    list(sft.run(tiny(), sft.Indexed(lambda i: some[i % 8]), config, tmp_path))
    assert "times the usual gradient" in caplog.text and "rows of largest loss: r" in caplog.text


def test_settings_are_checked():
    for wrong in ({"factor": 1.0}, {"window": 0}, {"warmup": 0}, {"patience": -1}):
        with pytest.raises(ConfigError, match="guard"):
            GuardConfig(**wrong)
