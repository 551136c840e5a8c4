"""Several processes make the update one would make: losses, norms and weights, fresh, resumed, and on another number of ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from h1r.errors import CheckpointError, ConfigError
from h1r.model import load
from h1r.train import checkpoint
from h1r.train.ranks import Ranks, join
from h1r.types import Row
from launch import launch

PROGRAM = """
import os, sys
sys.path.insert(0, {here!r})
from conftest import build_tiny
import numpy as np, torch
from h1r.train import LoraConfig, OptimConfig, SftConfig, sft
from h1r.train.ranks import ShardConfig, join
from h1r.types import Row

def row(i):
    rng = np.random.default_rng(i)
    length = int(rng.integers(3, 40))
    weights = rng.random(length, np.float32)
    weights[: 1 + length // 3] = 0
    return Row(token_ids=tuple(int(t) for t in rng.integers(3, 64, length)), streams={{"ce": weights}}, id=str(i))

torch.set_num_threads(1)
ranks = join(ShardConfig(context={context}, weights={weights!r}))
lora = LoraConfig(rank=2) if {lora} else None
config = SftConfig(steps=6, rows=5, length=64, save_every=2, workers=1, lora=lora, optim=OptimConfig(lr=0.01))
steps = sft.run(build_tiny(), sft.Indexed(row), config, {out!r}, ranks=ranks, done=lambda t: t.export({out!r} + "/model"))
for metrics in steps:
    if metrics["step"] == {stop}:
        os._exit(9)
ranks.wait()
"""


def run(
    out: Path, size: int, stop: int = 0, lora: bool = False, context: int = 1, weights: str = "whole"
) -> list[dict[str, float]]:
    """Metrics after `size` processes trained; all die at step `stop`."""
    program = PROGRAM.format(
        here=str(Path(__file__).parent), out=str(out), stop=stop, lora=lora, context=context, weights=weights
    )
    for code, err in launch(["-c", program], size):
        assert code == (9 if stop else 0) or (stop and size > 1), err
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint, which is whole, and of the model that was exported, which is the same."""
    newest = checkpoint.latest(out / "checkpoints")
    assert newest is not None and newest.name == "step-00000006"
    exported, model = load(out / "model")[0], load(out / "model")[0]
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    try:
        checkpoint.load(newest, model)
    except CheckpointError:  # adapters
        return load_file(newest / "model.safetensors")
    for (name, a), b in zip(model.named_parameters(), exported.parameters(), strict=True):
        assert torch.equal(a, b), name
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    return run(out, 1), weights(out)


def alike(got, want, values, wanted):
    assert [m["step"] for m in got] == [m["step"] for m in want]
    for a, b in zip(got, want, strict=True):
        for name in ("loss", "grad_norm"):
            assert abs(a[name] - b[name]) <= 1e-6 * abs(b[name]), (a["step"], name)
        assert (a["tokens"], a["targets"], a["rows"]) == (b["tokens"], b["targets"], b["rows"])
    for name, value in wanted.items():
        assert (values[name] - value).abs().max() <= 2e-5 * value.abs().max().clamp(min=1e-3), name


@pytest.mark.slow  # tests/train/test_shard.py has two ranks in the default run
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_train_what_one_process_trains(size, tmp_path, alone):
    alike(run(tmp_path, size), alone[0], weights(tmp_path), alone[1])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param((2, 1, "whole"), (1, 1, "whole"), marks=pytest.mark.slow),
        pytest.param((2, 1, "sharded"), (1, 1, "whole"), marks=pytest.mark.slow),
        pytest.param((2, 2, "sharded"), (3, 1, "sharded"), marks=pytest.mark.slow),
        pytest.param((1, 1, "whole"), (2, 2, "sharded"), marks=pytest.mark.slow),
        pytest.param((1, 1, "sharded"), (4, 2, "sharded"), marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_however_ranks_share_it_then(before, after, tmp_path, alone):
    for (size, context, how), stop in ((before, 5), (after, 0)):
        metrics = run(tmp_path, size, stop=stop, context=context, weights=how)
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert (newest / checkpoint.SHARDS).is_dir() == (after[2] == "sharded")
    alike(metrics, alone[0], weights(tmp_path), alone[1])


@pytest.mark.slow
def test_adapters_on_two_ranks(tmp_path):
    one, two = run(tmp_path / "one", 1, lora=True), run(tmp_path / "two", 2, lora=True)
    alike(two, one, weights(tmp_path / "two"), weights(tmp_path / "one"))


def test_every_row_goes_to_one_rank_and_the_tokens_are_level():
    rng = np.random.default_rng(0)
    rows = [Row(token_ids=(1,) * int(n), streams={}, id=str(i)) for i, n in enumerate(rng.integers(1, 4000, 64))]
    shares = [Ranks(rank, 4).share(rows) for rank in range(4)]
    assert sorted(int(r.id) for share in shares for r in share) == list(range(64))
    tokens = [sum(len(r.token_ids) for r in share) for share in shares]
    assert max(tokens) - min(tokens) < 0.02 * sum(tokens)
    assert Ranks().share(rows) == rows


def test_without_a_launcher_there_is_one_rank_and_half_a_launcher_is_refused(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert join() == Ranks(0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="torchrun"):
        join()
