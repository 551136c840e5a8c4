"""Metrics reach TensorBoard's files as they are in metrics.jsonl; a tracker that is not there is told before anything runs."""

from __future__ import annotations

import sys
import types

import pytest

from h1r.cli.trackers import checked, tracked
from h1r.errors import ConfigError
from h1r.model import PRESETS
from h1r.model.presets import flops_per_token

STEPS = [{"step": 1.0, "loss": 2.5, "pass/math": 0.25}, {"step": 2.0, "loss": 1.5, "pass/math": 0.5}]


def test_tensorboard_reads_back_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert list(tracked(["tensorboard"], tmp_path, {}, iter(STEPS))) == STEPS
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    for name in ("loss", "pass/math"):
        assert [(e.step, e.value) for e in read.Scalars(name)] == [(int(s["step"]), s[name]) for s in STEPS]


def test_wandb_gets_every_step_and_is_finished_even_when_the_run_fails(tmp_path, monkeypatch):
    told = []
    run = types.SimpleNamespace(log=lambda m, step: told.append((step, m["loss"])), finish=lambda: told.append("end"))
    fake = types.SimpleNamespace(init=lambda **settings: told.append(settings["id"]) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)

    def failing():
        yield from STEPS
        raise RuntimeError("step 3")

    with pytest.raises(RuntimeError, match="step 3"):
        list(tracked(["wandb"], tmp_path / "run7", {"a": 1}, failing()))
    assert told[0].startswith("run7-") and told[1:] == [(1, 2.5), (2, 1.5), "end"]
    list(tracked(["wandb"], tmp_path / "elsewhere" / "run7", {}, iter(STEPS)))
    assert told[4] != told[0]  # folders of one name are two runs


def test_unknown_and_missing_trackers_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="--log mlflow: must be one of tensorboard, wandb"):
        checked(["mlflow"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"open-h1r\[track\]"):
        checked(["wandb"])


def test_the_7b_costs_what_its_weights_say():
    flops = flops_per_token(PRESETS["7b"])
    assert 43.1e9 < flops < 44.5e9  # 6 x 7.19 billion, and the scan
    assert flops_per_token(PRESETS["7b"], 32768) - flops == pytest.approx(12 * 44 * 1536 * 16384)
