"""GRPO over Ray: actors die in the middle of a run, and the run gives the numbers it gives when none dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from h1r import config, log
from h1r.cli.grpo import GrpoRecipe
from h1r.cli.grpo_ray import practise_on_ray
from h1r.cli.sft import SftRecipe, _on_ray, placed, train
from h1r.errors import ConfigError

pytest.importorskip("ray")
SMALL = ["data.count=64", "rl.steps=4", "rl.prompts_per_step=4", "rl.group=4", "rl.max_tokens=48", "rl.save_every=2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("sft")
    settings = [f"out={out}", "train.steps=25", "data.sample=600", "train.tokens=2048"]
    train(config.read("quickstart-sft", SftRecipe, settings))
    return str(out / "model")


def run(model: str, out: Path, *settings: str) -> list[dict]:
    """Every number of the run but its clocks."""
    recipe = config.read("quickstart-grpo", GrpoRecipe, [f"model={model}", f"out={out}", *SMALL, *settings])
    practise_on_ray(recipe, "test", "", False)
    records = log.read(out / "metrics.jsonl")
    return [{k: v for k, v in r.items() if not k.startswith("seconds/")} for r in records]


def actors() -> list[int]:
    """Process ids of Ray's actors here that hold something of ours."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::_Holder" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return sorted(found)


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory) -> list[dict]:
    return run(model, tmp_path_factory.mktemp("whole"), "scale.generators=2")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("transport", ["folder", "broadcast"])
def test_a_run_whose_generator_and_grader_die_is_the_run_of_which_none_died(model, undisturbed, tmp_path, transport):
    want = undisturbed
    killed: list[int] = []

    def kill() -> None:
        while not (tmp_path / "killed" / "metrics.jsonl").exists():
            time.sleep(0.05)
        for pid in actors():  # every actor: both generators and the grader
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            time.sleep(1.0)

    thread = threading.Thread(target=kill)
    thread.start()
    got = run(model, tmp_path / "killed", "scale.generators=2", "scale.redo=3", f"scale.transport={transport}")
    assert (tmp_path / "killed" / "weights").exists() == (transport == "folder")
    thread.join()
    assert len(killed) == 3
    assert [r["step"] for r in got] == [1, 2, 3, 4]
    for a, b in zip(got, want, strict=True):
        assert a["unscored"] == 0 and a.keys() == b.keys()
        for name, value in b.items():
            assert a[name] == pytest.approx(value, rel=1e-4, abs=1e-6), (a["step"], name)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sharded_trainers_and_rollouts_ahead_finish_within_their_staleness(model, tmp_path):
    got = run(model, tmp_path, "scale.trainers=2", "scale.weights=sharded", "scale.transport=broadcast", "rl.ahead=1")
    assert [r["step"] for r in got] == [1, 2, 3, 4]
    assert all(0 <= r["staleness"] <= 5 and r["mismatch_kl"] < 1e-3 and r["unscored"] == 0 for r in got)
    assert got[0]["staleness"] == 0 and max(r["staleness"] for r in got) >= 1
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert {r["kind"] for r in log.read(tmp_path / "journal.jsonl")} >= {"rollout", "score", "step"}


@pytest.mark.slow
def test_more_actors_than_a_cluster_holds_are_refused_before_any_starts(tmp_path, monkeypatch):
    from h1r import scale

    monkeypatch.setattr(scale.pool, "ray", lambda: pytest.fail("an actor was started"))
    with pytest.raises(ConfigError, match=r"the Ray cluster has .* CPU, the recipe asks for 9"):
        run(str(Path(__file__).parents[2] / "models" / "nano"), tmp_path, "scale.generators=8", "scale.cpus=1")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sft_on_two_ranks_of_ray_is_sft_on_one(tmp_path):
    small = ["train.steps=4", "data.sample=400", "train.tokens=1024", "shard.context=2"]
    alone = [*small[:3], f"out={tmp_path}/alone"]
    train(config.read("quickstart-sft", SftRecipe, alone))
    recipe = config.read("quickstart-sft", SftRecipe, [*small, f"out={tmp_path}/ray"])
    _on_ray(recipe.scale, partial(train, placed(recipe)))
    got, want = (list(log.read(tmp_path / name / "metrics.jsonl")) for name in ("ray", "alone"))
    for a, b in zip(got, want, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5) and a["tokens"] == b["tokens"]
    assert (tmp_path / "ray" / "model" / "model.safetensors").is_file()
