"""The charts of docs/: SVG files from recorded figures.

    python bench/figures.py             # docs/figures/*.svg anew
    python bench/gpu.py --out FOLDER    # draws its own

Nothing is measured here; h200.json has the form of gpu.json, the other figures are those of the tables in docs/results.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from h1r.report import Series, picture

FOLDER = Path(__file__).parents[1] / "docs" / "figures"
NAMES = {"7b": "Falcon-H1R-7B", "qwen3-8b": "Qwen3-8B's shape"}


def decoding(results: Mapping[str, Any]) -> str:
    """Of gpu.json: tokens/s while writing, over the tokens in context; a line for each batch and precision."""
    found: dict[str, dict[int, float]] = {}
    for row in [*rows_of(results.get("decode")), *rows_of(results.get("baseline"))]:
        if "step_ms" not in row or row["state"] == "float32" or row.get("state_every", 1) != 1:
            continue
        name = f"{NAMES.get(row['model'], row['model'])}, {row['batch']} sequences, {row['weights']}"
        rates = {d: row["batch"] / ms * 1e3 for d, ms in zip(row["depths"], row["step_ms"], strict=True)}
        found.setdefault(name, {}).update(rates)
    series = [Series(name=name, x=sorted(line), y=[line[d] for d in sorted(line)]) for name, line in found.items()]
    title = f"Decoding on one {results['device'].removeprefix('NVIDIA ')}"
    return picture(series, title=title, x_label="tokens in context", y_label="tokens/s", from_zero=True)


def rows_of(rows: Any) -> Sequence[Mapping[str, Any]]:
    """None of a part that failed or was not run."""
    return rows if isinstance(rows, list) else []


def deepconf() -> str:
    """Nano on 96 held-out problems, 64 traces each."""
    rows = [
        ("one trace", 3960, 76.9, 69.8, 83.9),
        ("majority of 64", 253469, 78.1, 69.7, 86.5),
        ("DeepConf, keep 50 %", 78829, 79.2, 70.9, 87.4),
        ("DeepConf, keep 10 %", 47348, 72.9, 63.9, 82.0),
    ]
    series = [Series(name=name, x=[tokens], y=[mean], low=[low], high=[high]) for name, tokens, mean, low, high in rows]
    return picture(series, title="Accuracy against tokens, nano", x_label="tokens", y_label="accuracy, %", log_x=True)


def twin() -> str:
    """Nano beside the pure Transformer of its size."""
    contexts = [128, 512, 2048, 8192]
    series = [
        Series(name="tokens/s", x=contexts, y=[1.15, 1.57, 2.26, 2.99]),
        Series(name="sequences in the same memory", x=contexts, y=[2.1, 3.3, 3.8, 3.9]),
    ]
    return picture(
        series, title="The hybrid, in multiples of its pure-Transformer twin", x_label="tokens in context",
        y_label="times", log_x=True, from_zero=True,
    )  # fmt: skip


def main() -> None:
    recorded = json.loads((FOLDER / "h200.json").read_text())
    for name, drawn in (("h200", decoding(recorded)), ("deepconf", deepconf()), ("twin", twin())):
        path = FOLDER / f"{name}.svg"
        path.write_text(drawn + "\n")
        print(path.relative_to(FOLDER.parents[1]))


if __name__ == "__main__":
    main()
