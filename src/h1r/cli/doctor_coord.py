"""`h1r doctor --coord`: the coordinate check as a table and, with --html, as charts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from h1r import report
from h1r.doctor.coord import PARTS, CoordConfig, Coordinate, coordinates, slopes
from h1r.evals import plain

FLAT = 0.25
"""A slope below this is flat: sizes differ by less than a fifth from one width to the next."""


def run(config: CoordConfig, html: str) -> bool:
    """Print the check; True when every part is flat after the last step."""
    found = list(coordinates(config))
    for c in found:
        if c.step == config.steps:
            print(f"width {c.width}: loss {c.loss:.3f} after {c.step} steps", flush=True)
    told = [slopes(found, step) for step in (0, 1, config.steps)]
    heads = ["part", "slope at first", "after 1 step", f"after {config.steps} steps", ""]
    rows = [[name, *(f"{t[name]:+.2f}" for t in told), _word(told[-1][name])] for name in PARTS]
    print(plain([heads, *rows]))
    if html:
        print(report.write(Path(html), page(found, config)))
    return all(abs(slope) <= FLAT for slope in told[-1].values())


def page(found: Sequence[Coordinate], config: CoordConfig) -> str:
    """One chart per part: size over width, a line per step."""
    charts = []
    for name in PARTS:
        series = []
        for step in sorted({0, 1, config.steps // 2, config.steps}):
            at = [c for c in found if c.step == step]
            series.append(
                report.Series(name=f"step {step}", x=[c.width for c in at], y=[c.sizes[name] for c in at])
            )  # fmt: skip
        charts.append(report.lines(series, title=name, x_label="width", y_label="mean size", log_x=True, log_y=True))
    how = "every multiplier 1" if config.plain else "the family's multipliers"
    words = report.text(
        f"{how}, learning rate {config.lr:g} for every matrix, {config.layers} layers. Flat lines transfer."
    )
    return report.page("Coordinate check", [report.Section(title="Sizes over width", blocks=[words, *charts])])


def _word(slope: float) -> str:
    return "flat" if abs(slope) <= FLAT else "grows with width" if slope > 0 else "shrinks with width"
