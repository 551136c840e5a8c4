"""A text token by token, shaded by numbers that belong to the tokens: one paragraph per quantity, the value on pointing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from h1r.report.markup import Html, element, number, rich


def heat(pieces: Sequence[str], layers: Mapping[str, Sequence[float]], *, title: str = "", caption: str = "") -> Html:
    """pieces: the decoded tokens. layers: name -> one float per piece; the strongest shade is the layer's lowest value (where the
    model was least sure), the palest its highest. A NaN is unshaded."""
    parts: list[object] = [element("h3", title)] if title else []
    parts += [element("p", rich(caption))] if caption else []
    for name, values in layers.items():
        assert len(values) == len(pieces), f"{name}: {len(values)} values for {len(pieces)} pieces"
        finite = [float(v) for v in values if math.isfinite(v)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
        spans = [_span(piece, float(v), low, high) for piece, v in zip(pieces, values, strict=True)]
        scale = f"{name}: strong {number(low)}, pale {number(high)}" if finite else f"{name}: nothing measured"
        parts += [element("p", scale, class_="soft"), element("pre", *spans, class_="heat")]
    return element("div", *parts, class_="block")


def _span(piece: str, value: float, low: float, high: float) -> Html:
    if not math.isfinite(value):
        return element("span", piece)
    share = (high - value) / (high - low) if high > low else 0.0
    return element("span", piece, class_="token", style=f"--u: {share:.2f}", title=number(value, 3))
