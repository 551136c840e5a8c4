"""The SFT loop: exact token mean, resume to the bit after SIGKILL, and what it reports."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from h1r import log
from h1r.errors import ConfigError, DataError
from h1r.train import LocalTrainer, OptimConfig, SftConfig, checkpoint, sft
from h1r.train.sft import Indexed, draw_step, normalise, trim
from h1r.types import Row

CONFIG = SftConfig(steps=12, tokens=120, length=64, save_every=3, optim=OptimConfig(lr=3e-3, warmup=2))


def row_at(i):
    """Row i of an endless stream: counting up from a digit, modulo 10."""
    rng = np.random.default_rng(i)
    start, length = int(rng.integers(10)), int(rng.integers(6, 30))
    ids = tuple(3 + (start + k) % 10 for k in range(length))
    return Row(token_ids=ids, streams={"ce": np.r_[0, 0, np.ones(length - 2)].astype(np.float32)}, id=f"r{i}")


def losses_of(run_dir):
    return [(int(r["step"]), r["loss"], r["grad_norm"]) for r in log.read(Path(run_dir) / "metrics.jsonl")]


@pytest.fixture
def uninterrupted(tiny, tmp_path):
    list(sft.run(tiny(), Indexed(row_at), CONFIG, tmp_path / "whole"))
    return losses_of(tmp_path / "whole")


CHILD = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
def module(name):
    spec = spec_from_file_location(name, f"{sys.argv[2]}/{name}.py")
    out = module_from_spec(spec)
    spec.loader.exec_module(out)
    return out
conftest, here = module("conftest"), module("test_sft")
from h1r.train import sft
for metrics in sft.run(conftest.build_tiny(), sft.Indexed(here.row_at), here.CONFIG, sys.argv[1]):
    print(int(metrics["step"]), flush=True)
"""


def test_kill_and_resume_gives_the_same_losses_to_the_bit(tiny, tmp_path, uninterrupted):
    command = [sys.executable, "-c", CHILD, str(tmp_path / "killed"), str(Path(__file__).parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    for line in process.stdout:
        if int(line) >= 5:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    newest = checkpoint.latest(tmp_path / "killed" / "checkpoints")
    assert checkpoint.extra(newest)["step"] in (3, 6, 9)
    rest = list(sft.run(tiny(99), Indexed(row_at), CONFIG, tmp_path / "killed"))
    assert len(rest) < 12 and losses_of(tmp_path / "killed") == uninterrupted


@pytest.mark.parametrize("stop", [1, 4, 11])
def test_stopping_the_iteration_saves_and_resumes(tiny, tmp_path, uninterrupted, stop):
    run = sft.run(tiny(), Indexed(row_at), CONFIG, tmp_path / "stopped")
    list(itertools.islice(run, stop))
    run.close()
    rest = list(sft.run(tiny(5), Indexed(row_at), CONFIG, tmp_path / "stopped"))
    assert [int(m["step"]) for m in rest] == list(range(stop + 1, 13))
    assert losses_of(tmp_path / "stopped") == uninterrupted


def test_it_learns_and_a_finished_run_has_nothing_left(tiny, tmp_path):
    model = tiny()
    metrics = list(sft.run(model, Indexed(row_at), CONFIG, tmp_path))
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]
    assert all(m["tokens"] >= 120 and m["dropped"] == 0 and m["tokens_per_s"] > 0 for m in metrics)
    before = [p.detach().clone() for p in model.parameters()]
    assert list(sft.run(model, Indexed(row_at), CONFIG, tmp_path)) == []
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_the_loss_is_the_weighted_mean_over_the_steps_tokens():
    rows = [row_at(0), row_at(1)]
    heavy = [Row(token_ids=r.token_ids, streams={"ce": r.streams["ce"] * w}) for r, w in zip(rows, (0.5, 1.75))]
    by_weight, by_count = normalise(heavy), normalise(heavy, "count")
    assert sum(r.streams["ce"].sum() for r in by_weight) == pytest.approx(1, abs=1e-6)
    counts = [np.count_nonzero(r.streams["ce"]) for r in rows]
    want = (0.5 * counts[0] + 1.75 * counts[1]) / sum(counts)
    assert sum(r.streams["ce"].sum() for r in by_count) == pytest.approx(want, abs=1e-6)
    assert by_weight[1].streams["ce"][5] / by_weight[0].streams["ce"][5] == pytest.approx(3.5)
    with pytest.raises(DataError, match="mask of these rows is empty"):
        normalise([Row(token_ids=(1, 2), streams={"ce": np.zeros(2, np.float32)})])


def test_a_step_draws_tokens_or_rows_and_counts_what_is_too_long():
    lengths = [len(row_at(i).token_ids) for i in range(60)]
    drawn = draw_step(Indexed(row_at), SftConfig(tokens=100))
    assert sum(lengths[: len(drawn.rows) - 1]) < 100 <= sum(lengths[: len(drawn.rows)])
    assert drawn.state == {"next": len(drawn.rows)}
    drawn = draw_step(Indexed(row_at), SftConfig(rows=7, length=12))
    assert len(drawn.rows) == 7 and drawn.dropped == sum(n > 12 for n in lengths[: drawn.state["next"]]) > 0
    drawn = draw_step(Indexed(row_at), SftConfig(rows=7, length=12, too_long="trim"))
    assert [len(r.token_ids) for r in drawn.rows] == [min(n, 12) for n in lengths[:7]]
    with pytest.raises(DataError, match="more than length=12"):
        draw_step(Indexed(row_at), SftConfig(rows=20, length=12, too_long="error"))
    assert trim(row_at(3), 4).streams["ce"].tolist() == [0, 0, 1, 1]


def test_settings_are_checked():
    for wrong in ({"too_long": "cut"}, {"denominator": "rows"}, {"save_every": 0}, {"steps": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SftConfig(**wrong)


def test_the_best_checkpoint_on_held_out_rows_stays(tiny, tmp_path):
    aside = [row_at(1000 + i) for i in range(6)]
    config = replace(
        CONFIG, steps=9, save_every=1, keep=1, heldout=6, optim=OptimConfig(lr=0.1, warmup=0, schedule="constant")
    )
    metrics = list(sft.run(tiny(), Indexed(row_at), config, tmp_path, heldout=aside))
    told = [m["heldout_loss"] for m in metrics]
    best = int(np.argmin(told)) + 1
    assert best < 9, "the last is meant to be worse than the best"
    found = checkpoint.best(tmp_path / "checkpoints")
    assert found == checkpoint.folder(tmp_path / "checkpoints", best)
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("step-*")) == [f"step-{best:08d}", "step-00000009"]
    trainer = LocalTrainer(tiny(), config.trainer())
    trainer.load(str(found))
    assert sft.mean_loss(trainer, aside) == pytest.approx(min(told), rel=1e-6)
    flat = np.concatenate(
        [-lp[1:][r.streams["ce"][1:] > 0] for lp, r in zip(trainer.logprobs(aside), aside, strict=True)]
    )
    assert sft.mean_loss(trainer, aside) == pytest.approx(float(flat.mean()), rel=1e-5)
