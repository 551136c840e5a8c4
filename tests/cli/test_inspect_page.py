"""The page of a run: every metric the run has is drawn, groups are ordered by advantage, two checkpoints are compared."""

from __future__ import annotations

import pytest

from h1r import config, log
from h1r.cli import inspect_page
from h1r.cli.grpo import GrpoRecipe, practise
from h1r.cli.sft import SftRecipe, train
from h1r.errors import DataError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    small = ["train.steps=4", "data.sample=400", "train.tokens=1024", "train.save_every=2"]
    train(config.read("quickstart-sft", SftRecipe, [f"out={root}/sft", *small]))
    train(config.read("quickstart-sft", SftRecipe, [f"out={root}/other", "model.seed=1", *small]))
    settings = ["data.count=32", "rl.steps=2", "rl.prompts_per_step=3", "rl.group=3", "rl.max_tokens=24"]
    practise(config.read("quickstart-grpo", GrpoRecipe, [f"model={root}/sft/model", f"out={root}/grpo", *settings]))
    return root


def test_a_grpo_run_as_a_page(runs, tmp_path):
    html = inspect_page.write(runs / "grpo", tmp_path / "run.html").read_text()
    for title in (
        "Reward and pass rate",
        "Engine against trainer",
        "Staleness",
        "Pass rate by domain",
        "Seconds",
        "Groups",
    ):
        assert title in html, title
    journal = [r for r in log.read(runs / "grpo" / "journal.jsonl") if r["kind"] == "rollout"]
    for group in journal[-1]["groups"]:
        assert group["problem"] in html
    assert html.count('class="heat"') >= 2 and "log-probability" in html
    best = [float(row[4]) for row in sorted_rows(runs / "grpo")]
    assert best == sorted(best, reverse=True)


def test_where_engine_and_trainer_part(runs, monkeypatch, tmp_path):
    """Under the checkpoint that wrote the traces nothing but rounding; under another one the gap shows."""
    from h1r.rl.inspect import inspect

    told = inspect(runs / "grpo", 1)
    assert told["temperature"] == 1.0
    groups = told["groups"][:4]
    own = inspect_page.against(str(runs / "sft" / "model"), groups, 1.0)
    other = inspect_page.against(str(runs / "other" / "model"), groups, 1.0)
    assert len(own) >= 4 and max(abs(v) for gap in own.values() for v in gap) < 1e-4
    assert max(abs(v) for gap in other.values() for v in gap) > 0.1
    page = inspect_page.write(runs / "grpo", tmp_path / "run.html", trainer=str(runs / "grpo" / "model")).read_text()
    assert page.count("engine minus trainer") >= 2


def sorted_rows(run):
    found = []
    original = inspect_page.report.table
    try:
        inspect_page.report.table = lambda heads, rows, **k: found.append(rows) or original(heads, rows, **k)
        inspect_page.rollouts(run, [1, 2])
    finally:
        inspect_page.report.table = original
    return found[0]


def test_an_sft_run_as_a_page(runs, tmp_path):
    html = inspect_page.write(runs / "sft", tmp_path / "run.html").read_text()
    assert "Gradient norm" in html and "Learning rate" in html and "Groups of the last steps" not in html


def test_two_checkpoints_on_one_prompt(runs):
    same = inspect_page.compare(f"{runs}/sft/model", f"{runs}/sft/model", "Find x: x + 6 = 54.", 16)
    assert " 0.00 nats less likely" in str(same.blocks[1])
    other = inspect_page.compare(f"{runs}/sft/model", f"{runs}/other/model", "Find x: x + 6 = 54.", 16)
    assert "log p under B minus under A" in str(other.blocks[1]) and " 0.00 nats less" not in str(other.blocks[1])


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no metrics\.jsonl"):
        inspect_page.write(tmp_path, tmp_path / "x.html")
