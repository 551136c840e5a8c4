"""Twenty kills at random moments: no checkpoint is torn or lost, and the losses are those of a run nobody killed, to the bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from h1r import log
from h1r.train import OptimConfig, SftConfig, checkpoint, sft
from h1r.train.ranks import ShardConfig, join

HERE = Path(__file__)
CONFIG = SftConfig(steps=240, tokens=120, length=64, save_every=2, workers=1, optim=OptimConfig(lr=3e-3, warmup=2))


def module(name: str):
    spec = spec_from_file_location(name, HERE.with_name(f"{name}.py"))
    out = module_from_spec(spec)
    spec.loader.exec_module(out)
    return out


def run(folder: str, weights: str) -> None:
    """What the child does until it is killed."""
    steps = sft.run(
        module("conftest").build_tiny(), sft.Indexed(module("test_sft").row_at), CONFIG, folder,
        ranks=join(ShardConfig(weights=weights)),
    )  # fmt: skip
    for metrics in steps:
        print(int(metrics["step"]), flush=True)


CHILD = f"""
import sys, torch
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("test_kills", {str(HERE)!r})
here = module_from_spec(spec)
spec.loader.exec_module(here)
torch.set_num_threads(1)
here.run(sys.argv[1], sys.argv[2])
"""


def child(folder: Path, weights: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), weights], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )  # fmt: skip


def losses(folder: Path) -> list[tuple[float, float, float]]:
    return [(r["step"], r["loss"], r["grad_norm"]) for r in log.read(folder / "metrics.jsonl")]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("weights", ["whole", "sharded"])
def test_twenty_kills_lose_nothing(tmp_path, weights):
    whole = child(tmp_path / "whole", weights)
    _, err = whole.communicate()
    assert whole.returncode == 0, err.decode()[-2000:]
    want = losses(tmp_path / "whole")
    moments, folder, furthest, kills = random.Random(weights), tmp_path / "killed", 0, 0
    while kills < 20:
        process = child(folder, weights)
        process.stdout.readline()  # it trains
        # about a twentieth of the run, so that twenty kills fall all over it, in the middle of steps and of checkpoints
        time.sleep(moments.random() * 0.6)
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
        newest = checkpoint.latest(folder / "checkpoints")
        if newest is not None:
            step = int(newest.name.removeprefix("step-"))
            assert checkpoint.extra(newest)["step"] == step >= furthest, "a checkpoint that was there is gone"
            furthest = step
    assert kills == 20 or furthest > 100, f"only {kills} kills"
    rest = child(folder, weights)
    _, err = rest.communicate()
    assert rest.returncode == 0, err.decode()[-2000:]
    assert losses(folder) == want and len(want) == CONFIG.steps
