"""Checkpoints are whole or absent."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from h1r.errors import CheckpointError
from h1r.train import OptimConfig, adamw, checkpoint, update


def model(seed=0, width=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))


def trained(seed=0):
    net = model(seed)
    optimizer = adamw(net, OptimConfig(lr=0.1))
    for _ in range(3):
        net(torch.ones(5, 3)).square().sum().backward()
        update(net, optimizer, lr=0.1)
    return net, optimizer


def test_everything_returns(tmp_path):
    net, optimizer = trained()
    torch.manual_seed(77)
    checkpoint.save(tmp_path / "step-1", net, optimizer, {"step": 3, "data": {"next": 9}})
    want = torch.rand(4)
    other = model(5)
    again = adamw(other, OptimConfig(lr=0.1))
    assert checkpoint.load(tmp_path / "step-1", other, again) == {"step": 3, "data": {"next": 9}}
    assert torch.equal(torch.rand(4), want)
    for a, b in zip(net.parameters(), other.parameters()):
        assert torch.equal(a, b)
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[a][key], again.state[b][key])
    for m, o in ((net, optimizer), (other, again)):
        m(torch.ones(5, 3)).square().sum().backward()
        update(m, o, lr=0.1)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters()))


def test_a_tied_parameter_is_kept_once(tmp_path):
    net = model(width=3)
    net[0] = nn.Linear(3, 3)
    net.append(net[0])
    checkpoint.save(tmp_path / "step-1", net)
    other = model(1, width=3)
    other[0] = nn.Linear(3, 3)
    other.append(other[0])
    checkpoint.load(tmp_path / "step-1", other)
    assert torch.equal(other[2].weight, net[0].weight)


@pytest.mark.parametrize("hurt", ["model.safetensors", "state.safetensors", "checkpoint.json"])
def test_a_torn_checkpoint_is_passed_over_and_refused(tmp_path, hurt):
    net, optimizer = trained()
    good = checkpoint.save(checkpoint.folder(tmp_path, 1), net, optimizer, {"step": 1})
    bad = checkpoint.save(checkpoint.folder(tmp_path, 2), net, optimizer, {"step": 2})
    assert checkpoint.latest(tmp_path) == bad
    os.truncate(bad / hurt, (bad / hurt).stat().st_size - 3)
    assert checkpoint.latest(tmp_path) == good
    with pytest.raises(CheckpointError, match="earlier"):
        checkpoint.load(bad, net, optimizer)


@pytest.mark.parametrize("file", ["model.safetensors", "state.safetensors", "shards/.metadata", "shards/__0_0.distcp"])
def test_damage_that_keeps_the_size_is_named_with_its_cure(tmp_path, file):
    net, optimizer = trained()
    path = tmp_path / "step-00000001"
    if "shards" in file:
        (tmp_path / "aside").mkdir()
        dcp.save(checkpoint.state(net, optimizer), checkpoint_id=str(tmp_path / "aside" / "shards"), no_dist=True)
        checkpoint.seal(tmp_path / "aside", path, {"step": 1})
    else:
        checkpoint.save(path, net, optimizer, {"step": 1})
    other, fresh = trained(1)
    assert checkpoint.load(path, other, fresh) == {"step": 1}
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and torch.equal(optimizer.state[a]["exp_avg"], fresh.state[b]["exp_avg"])
    damaged = path / file
    for seed in range(50):  # read as a pickle, garbage raises many things
        damaged.write_bytes(random.Random(seed).randbytes(damaged.stat().st_size))
        with pytest.raises(CheckpointError, match=r"step-00000001: cannot be read .* remove the folder"):
            checkpoint.load(path, other, fresh)


def test_another_model_is_refused(tmp_path):
    net, optimizer = trained()
    checkpoint.save(tmp_path / "step-1", net, optimizer)
    with pytest.raises(CheckpointError, match=r"shape \(4, 3\), the model \(5, 3\)"):
        checkpoint.load(tmp_path / "step-1", model(width=5))
    with pytest.raises(CheckpointError, match="another model"):
        checkpoint.load(tmp_path / "step-1", nn.Linear(3, 2))


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 5, 20, 100):
        checkpoint.save(checkpoint.folder(tmp_path, step), model())
    (tmp_path / ".step-00000101.7.tmp").mkdir()
    checkpoint.prune(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000020", "step-00000100"]


WRITER = """
import itertools, sys, torch
from h1r.train import checkpoint
net = torch.nn.Linear(400, 400)
for step in itertools.count(1):
    with torch.no_grad():
        net.weight.fill_(step)
    checkpoint.save(checkpoint.folder(sys.argv[1], step), net, None, {"step": step})
    checkpoint.prune(sys.argv[1], 2)
    print(step, flush=True)
"""


@pytest.mark.parametrize("delay", [0.007])
def test_a_writer_killed_at_any_moment_leaves_a_whole_newest_checkpoint(tmp_path, delay):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, env=env)
    done = 0
    while done < 3:
        done = int(process.stdout.readline())
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    rest = process.communicate()[0].split()
    done = max([done, *(int(line) for line in rest)])
    newest = checkpoint.latest(tmp_path)
    net = nn.Linear(400, 400)
    step = checkpoint.load(newest, net)["step"]
    assert step in (done, done + 1)
    assert (net.weight == step).all()
