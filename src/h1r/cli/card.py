"""The model card beside an exported model: what it is, what it was trained on and how, and what was measured, with intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from h1r import log

MARK = "<!-- h1r: measured -->"
"""Results stand below this line; `results` replaces what follows it."""


def write(folder: Path, recipe: Any, stage: str, base: str, data: Sequence[str]) -> Path:
    """folder/README.md of a model that `stage` (sft or grpo) has trained by `recipe`, a dataclass. Results are added later."""
    metrics = list(log.read(Path(recipe.out) / "metrics.jsonl"))
    shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    last = metrics[-1] if metrics else {}
    tokens = sum(m.get("tokens", m.get("tokens/trained", 0.0)) for m in metrics)
    head = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["falcon_h1", "hybrid", "open-h1r", stage],
    }
    lines = ["---", *[f"{key}: {json.dumps(value)}" for key, value in head.items()]]
    lines += [f"base_model: {json.dumps(base)}"] if base else []
    lines += ["---", "", f"# {Path(recipe.out).name}", ""]
    lines += [
        f"A Falcon-H1 hybrid (attention and Mamba-2 side by side) of {shape['num_hidden_layers']} layers and width "
        f"{shape['hidden_size']}, trained with open-h1r ({stage.upper()})"
        + (f" from `{base}`." if base else " from random weights."),
        "",
        "## Data",
        "",
        *[f"- {name}" for name in data],
        "",
        "## Training",
        "",
        f"{int(last.get('step', 0)):,} steps, {int(tokens):,} tokens; " + _outcome(stage, last),
        "",
        "```json",
        json.dumps(asdict(recipe), indent=1, default=log.jsonable),
        "```",
        "",
        "## Results",
        "",
        MARK,
        "Not measured yet: `h1r eval` measures it.",
        "",
    ]
    path = folder / "README.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def results(folder: Path, rows: Mapping[str, tuple[float, float, float, str]]) -> None:
    """Put measured shares into the card: name -> (value, low, high, how). Nothing happens to a folder without a card of ours."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if MARK not in text:
        return
    table = ["| what | value | 95 % interval | how |", "|---|---|---|---|"]
    table += [
        f"| {name} | {100 * v:.1f} % | {100 * lo:.1f} to {100 * hi:.1f} | {how} |"
        for name, (v, lo, hi, how) in rows.items()
    ]
    path.write_text(text[: text.index(MARK)] + MARK + "\n" + "\n".join(table) + "\n", encoding="utf-8")


def _outcome(stage: str, last: Mapping[str, float]) -> str:
    if stage == "sft":
        return f"loss {last.get('loss', float('nan')):.4f} at the end."
    return f"mean reward {last.get('reward', float('nan')):.3f}, mean length {last.get('length', 0):.0f} tokens at the end."
