"""The model card says what was trained, on what, how, and what was measured."""

from __future__ import annotations

import json
from dataclasses import dataclass

import yaml

from h1r import log
from h1r.cli import card


@dataclass(frozen=True)
class Recipe:
    out: str
    steps: int = 2


def test_card_and_results(tmp_path):
    folder = tmp_path / "run" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": 9, "hidden_size": 192}))
    log.append(
        tmp_path / "run" / "metrics.jsonl",
        {"step": 1, "tokens": 1000.0, "loss": 3.0},
        {"step": 2, "tokens": 500.0, "loss": 2.0},
    )
    card.write(folder, Recipe(str(tmp_path / "run")), "sft", "base/model", ["math.jsonl"])
    text = (folder / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["base_model"] == "base/model" and "falcon_h1" in head["tags"] and head["library_name"] == "transformers"
    assert "9 layers and width 192" in text and "2 steps, 1,500 tokens; loss 2.0000" in text and "- math.jsonl" in text
    assert "Not measured yet" in text
    card.results(folder, {"pass@1": (0.5, 0.4, 0.6, "10 problems")})
    card.results(folder, {"pass@1": (0.75, 0.7, 0.8, "20 problems")})
    text = (folder / "README.md").read_text()
    assert (
        "| pass@1 | 75.0 % | 70.0 to 80.0 | 20 problems |" in text
        and "50.0 %" not in text
        and "Not measured" not in text
    )


def test_another_readme_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    card.results(tmp_path, {"x": (1.0, 1.0, 1.0, "")})
    assert (tmp_path / "README.md").read_text() == "mine"
