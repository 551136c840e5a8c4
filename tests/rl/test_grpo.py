"""The GRPO loop on a real tiny model: it learns, it resumes to the bit, it stops when engine and trainer disagree."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from h1r import log
from h1r.errors import ConfigError, DivergenceError, MismatchError, WorkerLost
from h1r.rl import Folding, GrpoConfig, Journal, grpo, inspect
from h1r.train import LocalTrainer
from h1r.train.guard import GuardConfig
from h1r.types import Score

CHILD = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("conftest", sys.argv[2])
toy = module_from_spec(spec)
spec.loader.exec_module(toy)
from h1r.rl import grpo
generator, trainer = toy.parts()
for metrics in grpo.run(
    generator, toy.LowIds(), trainer, toy.PROBLEMS, toy.render, toy.CONFIG, sys.argv[1], sync=toy.in_memory
):
    print(int(metrics["step"]), flush=True)
"""


def run(toy, folder, config=None, seed=0, generator=None, grader=None, **given):
    config = config or toy.CONFIG
    made, trainer = toy.parts(config, seed)
    return grpo.run(
        generator or made, grader or toy.LowIds(), trainer, toy.PROBLEMS, toy.render, config, folder,
        **{"sync": toy.in_memory} | given,
    )  # fmt: skip


def numbers(folder):
    """Every logged number but the clocks."""
    records = log.read(Path(folder) / "metrics.jsonl")
    return [{k: v for k, v in r.items() if not k.startswith("seconds/")} for r in records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, request):
    """An uninterrupted run of the toy recipe."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("toy_conftest", Path(__file__).with_name("conftest.py"))
    toy = module_from_spec(spec)
    spec.loader.exec_module(toy)
    folder = tmp_path_factory.mktemp("whole")
    generator, trainer = toy.parts()
    list(grpo.run(generator, toy.LowIds(), trainer, toy.PROBLEMS, toy.render, toy.CONFIG, folder, sync=toy.in_memory))
    return folder


def test_reward_rises(toy, tmp_path):
    metrics = list(run(toy, tmp_path, toy.config(steps=14)))
    first, last = np.mean([m["reward"] for m in metrics[:3]]), np.mean([m["reward"] for m in metrics[-3:]])
    assert 0.3 < first < 0.7 and last > first + 0.2
    assert max(m["mismatch_kl"] for m in metrics) < 1e-10
    assert all(
        m.get("clip_low", 0) == m.get("clip_high", 0) == 0 for m in metrics
    )  # one update per batch: every ratio is 1
    assert metrics[0]["ess"] == pytest.approx(1, abs=1e-4) and 0 < metrics[0]["entropy"] < np.log(64)


def test_a_step_holds_all_strata_and_counts_its_tokens(whole):
    record = numbers(whole)[0]
    assert {"pass/math", "pass/code", "pass/math/0.1", "pass/math/0.9", "pass/code/0.5"} <= set(record)
    rollout = next(r for r in log.read(whole / "journal.jsonl") if r["kind"] == "rollout")
    assert record["tokens/generated"] == sum(len(t["tokens"]) for g in rollout["groups"] for t in g["traces"])
    assert record["groups/generated"] == 4 and record["groups/trained"] <= 3
    assert record["tokens/trained"] <= record["tokens/generated"]


def test_killed_run_resumes_to_the_bit(toy, tmp_path, whole):
    conftest = Path(__file__).with_name("conftest.py")
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), str(conftest)], stdout=subprocess.PIPE)
    for line in process.stdout:
        if int(line) >= 3:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    list(run(toy, tmp_path, seed=42))
    assert numbers(tmp_path) == numbers(whole)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_stopped_anywhere_resumes_to_the_bit(toy, tmp_path, whole, stop):
    first = run(toy, tmp_path)
    list(itertools.islice(first, stop))
    first.close()
    assert [int(m["step"]) for m in run(toy, tmp_path, seed=7)] == list(range(stop + 1, 7))
    assert numbers(tmp_path) == numbers(whole)


def test_rollouts_in_the_journal_are_not_generated_again(toy, tmp_path, whole):
    # As if killed after step 5 with only the checkpoint of step 2 on disk.
    shutil.copytree(whole, tmp_path / "run")
    for step in (4, 6):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step:08d}", ignore_errors=True)
    if not list((tmp_path / "run" / "checkpoints").iterdir()):
        shutil.rmtree(tmp_path / "run" / "checkpoints")
    generator, trainer = toy.parts()
    generator.generate = None  # every rollout must come from the journal
    list(
        grpo.run(
            generator, toy.LowIds(), trainer, toy.PROBLEMS, toy.render, toy.CONFIG, tmp_path / "run",
            sync=toy.in_memory,
        )
    )  # fmt: skip
    assert numbers(tmp_path / "run") == numbers(whole)


def test_a_wrong_multiplier_in_the_generator_stops_training(toy, tmp_path):
    model = toy.build()
    trainer = LocalTrainer(model, toy.CONFIG.trainer())
    before = [p.detach().clone() for p in model.parameters()]
    wrong = toy.PlainSampler(model, multiplier=1 / 0.6)  # the head's multiplier dropped
    with pytest.raises(MismatchError, match=r"version 0: KL 0\.\d+ is above mismatch_limit=0\.01"):
        list(grpo.run(wrong, toy.LowIds(), trainer, toy.PROBLEMS, toy.render, toy.CONFIG, tmp_path, sync=toy.in_memory))
    assert all((a == b).all() for a, b in zip(before, model.parameters()))
    assert [r["kind"] for r in log.read(tmp_path / "journal.jsonl")] == ["rollout", "score", "mismatch"]


def test_unscored_traces_are_counted_and_never_trained(toy, tmp_path):
    metrics = list(run(toy, tmp_path, toy.config(steps=2), grader=toy.LowIds(broken=range(32))))
    assert metrics[0]["unscored"] > 2
    for group in Journal(tmp_path / "journal.jsonl").groups(lambda i: toy.PROBLEMS[0], lambda s: s == 1).values():
        for trace, score, reward in zip(group.traces, group.scores, group.rewards):
            assert (trace.token_ids[0] < 32) == (score.value is None) == (reward is None)


class AlwaysRight:
    def grade(self, items):
        return [Score(1.0, "") for _ in items]


def test_a_step_without_variance_trains_nothing(toy, tmp_path):
    (metrics,) = run(toy, tmp_path, toy.config(steps=1, max_rounds=3), grader=AlwaysRight())
    assert metrics["groups/generated"] == 12 and metrics["groups/trained"] == 0 and metrics["rows"] == 0
    assert metrics["reward"] == 1 and metrics["loss"] == 0 and metrics["mismatch_kl"] < 1e-9


def test_surplus_is_cached_and_its_staleness_shown(toy, tmp_path):
    config = toy.config(steps=4, train_groups=2, cache_age=1)
    metrics = list(run(toy, tmp_path, config, grader=OnEvenCalls()))
    assert metrics[0]["groups/in_cache"] > 0 and metrics[0]["groups/from_cache"] == 0
    assert metrics[1]["groups/useful"] == 0 and metrics[1]["groups/from_cache"] == 2
    assert metrics[1]["staleness"] == 1 and "mismatch_kl" in metrics[1] and metrics[1]["mismatch_kl"] == 0


class OnEvenCalls:
    """Useful rewards in the first, third, ... step; equal ones in between."""

    def __init__(self):
        self.calls = 0

    def grade(self, items):
        self.calls += 1
        return [Score(float(trace.index % 2) if self.calls % 2 else 0.0, "") for _, trace in items]


def test_several_updates_use_the_old_policy_and_move_the_ratio(toy, tmp_path):
    config = toy.config(steps=3, updates=2, train_groups=4, clip_low=1e-4, clip_high=1e-4)
    metrics = list(run(toy, tmp_path, config))
    assert max(m["clip_low"] + m["clip_high"] for m in metrics) > 0.01


def test_kl_needs_a_reference_and_uses_it(toy, tmp_path):
    with pytest.raises(ConfigError, match="reference"):
        next(run(toy, tmp_path, toy.config(kl=0.1)))
    calls = []

    def reference(rows):
        calls.append(len(rows))
        return [np.full(len(row.token_ids), -4.0, np.float32) for row in rows]

    (one,) = run(toy, tmp_path / "a", toy.config(steps=1, kl=0.5), reference=reference)
    (none,) = run(toy, tmp_path / "b", toy.config(steps=1))
    assert calls == [one["rows"]] and abs(one["loss"] - none["loss"]) > 1e-3


def test_weights_go_through_a_folder_by_default(toy, tmp_path):
    seen = []

    class Reader(toy.PlainSampler):
        def load(self, path, version):
            seen.append((Path(path).name, (Path(path) / "model.safetensors").stat().st_size > 0, version))

    model = toy.build()
    trainer = LocalTrainer(model, toy.CONFIG.trainer())
    list(grpo.run(Reader(model), toy.LowIds(), trainer, toy.PROBLEMS, toy.render, toy.config(steps=2), tmp_path))
    assert seen == [(f"v{i:08d}", True, i) for i in range(3)]
    assert [p.name for p in (tmp_path / "weights").iterdir()] == ["v00000002"]


def test_inspect_recomputes_a_step(whole):
    shown = inspect(whole, 2, folding=Folding(max_tokens=5))
    assert shown["reward"] == pytest.approx(shown["metrics"]["reward"], abs=1e-12)
    assert len(shown["rows"]) == shown["metrics"]["rows"]
    assert len(shown["groups"]) == shown["metrics"]["groups/generated"] + shown["metrics"]["groups/from_cache"]
    for group in shown["groups"]:
        known = [t["advantage"] for t in group["traces"] if t["reward"] is not None]
        assert sum(known) == pytest.approx(0, abs=1e-9)


def test_settings_are_checked():
    for wrong, why in [
        ({"top_p": 0.95}, "support"),
        ({"top_k": 20}, "support"),
        ({"group": 1}, "two traces"),
        ({"loss": "sft"}, "loss"),
        ({"zero_variance": "keep"}, "zero_variance"),
        ({"temperature": 0.0}, "temperature"),
        ({"reduction": "mean"}, "reduction"),
        ({"overlong": 999}, "overlong"),
    ]:
        with pytest.raises(ConfigError, match=why):
            GrpoConfig(**wrong)


@pytest.mark.parametrize("ahead", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_rollouts_ahead_learn_and_resume_from_the_journal(toy, tmp_path, ahead):
    config = toy.config(steps=10, ahead=ahead, save_every=2)

    def copy(trainer, generator, version):
        generator.model.load_state_dict(trainer.model.state_dict())
        generator.load("", version)

    def go():
        list(run(toy, tmp_path, config, generator=toy.PlainSampler(toy.build()), sync=copy))

    go()
    want = numbers(tmp_path)
    assert [r["step"] for r in want] == list(range(1, 11))
    assert max(r["staleness"] for r in want) >= 1
    assert max(r["staleness_max"] for r in want) <= ahead + config.cache_age
    assert max(r["mismatch_kl"] for r in want) < 1e-10  # of the tokens the current weights wrote
    assert np.mean([r["reward"] for r in want[-3:]]) > np.mean([r["reward"] for r in want[:3]])
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000010")
    go()
    assert numbers(tmp_path) == want


def test_a_worker_that_dies_is_done_again_or_ends_the_run(toy, tmp_path):
    class Dying:
        def __init__(self, made):
            self.made, self.calls = made, 0

        def generate(self, prompts, sampling, watches=None):
            self.calls += 1
            if self.calls in (2, 3):
                raise WorkerLost("1 of 2 workers died")
            return self.made.generate(prompts, sampling)

        def load(self, path, version):
            self.made.load(path, version)

    def go(folder, redo):
        config = toy.config(steps=2, redo=redo)
        made, trainer = toy.parts(config)
        dying = Dying(made)
        list(
            grpo.run(
                dying, toy.LowIds(), trainer, toy.PROBLEMS, toy.render, config, folder, sync=toy.in_memory
            )
        )  # fmt: skip
        return dying.calls

    assert go(tmp_path / "redone", 2) >= 4
    list(run(toy, tmp_path / "whole", toy.config(steps=2)))
    assert numbers(tmp_path / "redone") == numbers(tmp_path / "whole")
    with pytest.raises(WorkerLost):
        go(tmp_path / "lost", 1)


def test_a_spike_names_its_groups_and_lost_steps_end_the_run(toy, tmp_path, caplog):
    config = toy.config(steps=8, guard=GuardConfig(warmup=2, factor=5.0, patience=2))
    made, trainer = toy.parts(config)
    step, plain = 0, trainer.optim_step

    def broken():
        nonlocal step
        step += 1
        scale = {4: 1e3, 6: float("nan"), 7: float("nan")}.get(step, 1.0)
        for p in trainer.model.parameters():
            p.grad *= scale
        return plain()

    trainer.optim_step = broken
    parts = (made, toy.LowIds(), trainer, toy.PROBLEMS, toy.render, config, tmp_path)
    with pytest.raises(DivergenceError, match="2 steps in a row"), caplog.at_level("WARNING"):
        list(grpo.run(*parts, sync=toy.in_memory))
    told = [r.getMessage() for r in caplog.records if "norm" in r.getMessage()]
    assert len(told) == 3 and "step 4" in told[0] and "times the usual gradient" in told[0] and "group 4.0." in told[0]
    assert "step 6: skipped" in told[1] and "step 7: skipped" in told[2]
