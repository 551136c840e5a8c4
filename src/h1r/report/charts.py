"""Charts as plain SVG and HTML: lines, points with intervals, grouped bars, stacks. Each has its numbers as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from h1r.report.axis import Axis, fit
from h1r.report.blocks import Cell, numbers
from h1r.report.figure import Series, colour, figure, marker, path, px, svg
from h1r.report.markup import Estimate, Html, element, estimate_text, number

MOST_POINTS = 400  # per line; more than a screen has pixels to tell apart


def lines(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = False,
    smooth: int = 0,
    rules: Sequence[tuple[float, str]] = (),
    caption: str = "",
    wide: bool = False,
    height: int = 270,
) -> Html:
    """Lines over x: training curves. smooth: moving mean of that many points drawn over the faint original.

    rules: horizontal marks, (value, words) each. low and high of a series become a band.
    """
    series = [thinned(s) for s in series]
    means = [moving_mean(s.y, smooth) if smooth > 1 else list(s.y) for s in series]
    all_y = [v for s in series for v in (*s.y, *s.low, *s.high)] + [v for v, _ in rules]

    def draw(width: int) -> Html:
        x, x_ticks = fit((v for s in series for v in s.x), 52, width - 14, log=log_x, ticks_wanted=width // 90)
        y, y_ticks = fit(all_y, height - 42, 10, log=log_y, zero=from_zero)
        marks: list[Html] = []
        for value, words in rules:
            marks.append(element("line", x1=x.start, x2=x.end, y1=px(y.at(value)), y2=px(y.at(value)), class_="rule"))
            marks.append(element("text", words, x=x.end - 4, y=px(y.at(value) - 5), class_="rule-label"))
        for i, s in enumerate(series):
            c = f"c{colour(s, i)}"
            at = [(_place(x, v), v) for v in s.x]
            if s.low and s.high:
                marks += _bands(s, x, y, c)
            points = [(a, _place(y, v)) for (a, _), v in zip(at, s.y)]
            if smooth > 1:
                marks.append(element("path", d=path(points), class_=f"line faint {c}"))
                points = [(a, _place(y, v)) for (a, _), v in zip(at, means[i])]
            marks.append(element("path", d=path(points), class_=f"line {c} dash{i % 3}"))
            if len(s.x) <= 12:
                marks += [marker(0, a, b, class_=f"mark small {c}") for a, b in points if math.isfinite(a + b)]
        marks.append(element("line", y1=y.end, y2=y.start, x1=x.start, x2=x.start, class_="cross"))
        return svg(width, height, x, y, x_ticks, y_ticks, *marks, x_label=x_label, description=f"Line chart: {title}")

    columns = ["series", f"first {x_label or 'x'}", "first", "lowest", "highest", "last"]
    rows = [_summary(s) for s in series]
    payload = {
        "x_label": x_label,
        "series": [
            {"name": s.name, "c": colour(s, i), "x": _short(s.x), "y": _short(m)}
            for i, (s, m) in enumerate(zip(series, means))
        ],
    }
    return figure(
        title=title, drawings=draw, y_label=y_label, caption=caption, wide=wide, data=payload, kind="lines",
        legend=[(s.name, colour(s, i)) for i, s in enumerate(series)], after=numbers(columns, rows),
    )  # fmt: skip


def points(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    connect: bool = True,
    from_zero: bool = False,
    caption: str = "",
    wide: bool = False,
    height: int = 320,
) -> Html:
    """Points with error bars, connected in order of x unless told otherwise: accuracy against tokens."""

    def draw(width: int) -> Html:
        return cloud(
            series, width, height, title=title, x_label=x_label, y_label=y_label, log_x=log_x, connect=connect,
            from_zero=from_zero,
        )  # fmt: skip

    columns = ["series", "point", x_label or "x", y_label or "y", "interval"]
    rows: list[list[Cell]] = [
        [s.name, s.labels[j] if s.labels else "", s.x[j], s.y[j], _interval(s, j)]
        for s in series
        for j in range(len(s.x))
    ]
    return figure(
        title=title, drawings=draw, y_label=y_label, caption=caption, wide=wide, kind="points",
        legend=[(s.name, colour(s, i)) for i, s in enumerate(series)], after=numbers(columns, rows),
    )  # fmt: skip


def cloud(
    series: Sequence[Series], width: int, height: int, *, title: str, x_label: str, y_label: str, log_x: bool,
    connect: bool, from_zero: bool, top: int = 12, more: Sequence[Html] = (),
) -> Html:  # fmt: skip
    """The drawing of `points`, below `top` pixels that are left to `more`."""
    everything_y = [v for s in series for v in (*s.y, *s.low, *s.high)]
    x, x_ticks = fit((v for s in series for v in s.x), 52, width - 18, log=log_x, ticks_wanted=width // 90)
    y, y_ticks = fit(everything_y, height - 42, top, zero=from_zero)
    marks: list[Html] = []
    for i, s in enumerate(series):
        c = f"c{colour(s, i)}"
        order = sorted(range(len(s.x)), key=lambda j: s.x[j])
        if connect and len(order) > 1:
            curve = path([(_place(x, s.x[j]), _place(y, s.y[j])) for j in order])
            marks.append(element("path", d=curve, class_=f"line thin {c} dash{i % 3}"))
        for j in order:
            a, b = _place(x, s.x[j]), _place(y, s.y[j])
            if not math.isfinite(a + b):
                continue
            if s.low and s.high and math.isfinite(s.low[j] + s.high[j]):
                marks += _error_bar(a, y.at(s.low[j]), y.at(s.high[j]), c)
            tip = _tip(s, j, x_label, y_label)
            marks.append(marker(i, a, b, class_=f"mark {c}", tabindex="0", data_tip=tip, aria_label=tip, role="img"))
    return svg(
        width, height, x, y, x_ticks, y_ticks, *more, *marks, x_label=x_label, description=f"Scatter plot: {title}"
    )


def bars(
    categories: Sequence[str],
    groups: Sequence[tuple[str, Sequence[Estimate | None]]],
    *,
    title: str,
    caption: str = "",
    remarks: Sequence[str] = (),
    wide: bool = False,
) -> Html:
    """Horizontal bars with intervals: for each category one bar per group, such as before and after.

    groups: (name, one Estimate or None per category); remarks: words beside each category, such as "+9.1, p = 0.002"
    """
    for name, estimates in groups:
        assert len(estimates) == len(categories), f"{name}: {len(estimates)} bars, {len(categories)} categories"
    found = [e for _, estimates in groups for e in estimates if e is not None]
    ends = [v for e in found for v in (e.value, e.low, e.high) if math.isfinite(v)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    if found and all(e.unit == "%" for e in found) and low == 0:
        high = 100.0
    span = (high - low) or 1.0

    def percent(v: float) -> float:
        return 100 * (v - low) / span

    body = []
    for i, category in enumerate(categories):
        head: list[object] = [element("span", category, class_="bar-name")]
        if remarks and remarks[i]:
            head.append(element("span", remarks[i], class_="bar-remark"))
        tracks = [_track(name, estimates[i], g, percent, low < 0) for g, (name, estimates) in enumerate(groups)]
        body.append(element("div", element("div", *head, class_="bar-head"), *tracks, class_="bar-row"))
    drawing = element("div", *body, class_="bars", role="img", aria_label=f"Bar chart: {title}")
    rows: list[list[Cell]] = [[c, *[estimates[i] for _, estimates in groups]] for i, c in enumerate(categories)]
    return figure(
        title=title, drawings=drawing, caption=caption, wide=wide, kind="bar-chart",
        legend=[(name, g) for g, (name, _) in enumerate(groups)], after=numbers(["", *[n for n, _ in groups]], rows),
    )  # fmt: skip


def stacks(
    categories: Sequence[str],
    parts: Sequence[tuple[str, Sequence[float]]],
    *,
    title: str,
    colours: Sequence[str] = (),
    caption: str = "",
    wide: bool = False,
) -> Html:
    """Shares of a whole, one horizontal bar per category: what became of the traces (correct, wrong, truncated …).

    parts: (name, one count or share per category). colours: words of `good bad warn mute c0 … c5`, one per part.
    """
    totals = [sum(values[i] for _, values in parts) for i in range(len(categories))]
    tones = list(colours) or [f"c{i}" for i in range(len(parts))]
    body = []
    for i, category in enumerate(categories):
        pieces = []
        for (name, values), tone in zip(parts, tones):
            share = 100 * values[i] / totals[i] if totals[i] else 0.0
            if share > 0:
                tip = f"{category} · {name}: {number(values[i])} ({share:.1f} %)"
                words = f"{share:.0f} %" if share >= 9 else ""
                pieces.append(element("span", words, class_=f"piece {tone}", style=f"width:{share:.3f}%", data_tip=tip))
        head = element("div", element("span", category, class_="bar-name"), class_="bar-head")
        body.append(element("div", head, element("div", *pieces, class_="stack"), class_="bar-row"))
    drawing = element("div", *body, class_="bars", role="img", aria_label=f"Stacked bars: {title}")
    keys = element(
        "ul",
        *[element("li", element("i", class_=f"swatch {t}"), n) for (n, _), t in zip(parts, tones)],
        class_="legend",
    )
    rows: list[list[Cell]] = [[c, *[values[i] for _, values in parts]] for i, c in enumerate(categories)]
    return figure(
        title=title, drawings=Html(keys + drawing), caption=caption, wide=wide, kind="bar-chart",
        after=numbers(["", *[n for n, _ in parts]], rows),
    )  # fmt: skip


def moving_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of each value and its `width - 1` predecessors (fewer at the start), non-finite values left out."""
    out = []
    for i in range(len(values)):
        near = [v for v in values[max(0, i - width + 1) : i + 1] if math.isfinite(v)]
        out.append(sum(near) / len(near) if near else math.nan)
    return out


def thinned(s: Series) -> Series:
    """At most MOST_POINTS points: each stretch of the line keeps its lowest and its highest, so spikes stay visible."""
    if len(s.x) <= MOST_POINTS or s.low:
        return s
    stretches = MOST_POINTS // 2
    keep: set[int] = {0, len(s.x) - 1}
    for k in range(stretches):
        first, last = k * len(s.x) // stretches, (k + 1) * len(s.x) // stretches
        finite = [j for j in range(first, last) if math.isfinite(s.y[j])]
        if finite:
            keep |= {min(finite, key=lambda j: s.y[j]), max(finite, key=lambda j: s.y[j])}
    order = sorted(keep)
    return Series(
        name=s.name, x=[s.x[j] for j in order], y=[s.y[j] for j in order], colour=s.colour,
        labels=[s.labels[j] for j in order] if s.labels else (),
    )  # fmt: skip


def _place(axis: Axis, value: float) -> float:
    return axis.at(value) if math.isfinite(value) and (value > 0 or not axis.log) else math.nan


def _short(values: Sequence[float]) -> list[float]:
    return [float(f"{v:.5g}") for v in values]


def _bands(s: Series, x: Axis, y: Axis, c: str) -> list[Html]:
    """One polygon per unbroken stretch of the interval."""
    out: list[Html] = []
    stretch: list[tuple[float, float, float]] = []
    for v, lo, hi in [*zip(s.x, s.low, s.high), (math.nan, math.nan, math.nan)]:
        place = (_place(x, v), _place(y, lo), _place(y, hi))
        if math.isfinite(sum(place)):
            stretch.append(place)
        elif stretch:
            ring = [(a, b) for a, b, _ in stretch] + [(a, t) for a, _, t in reversed(stretch)]
            out.append(element("polygon", points=" ".join(f"{px(a)},{px(b)}" for a, b in ring), class_=f"band {c}"))
            stretch = []
    return out


def _error_bar(x: float, low: float, high: float, c: str) -> list[Html]:
    stroke = f"M{px(x)} {px(low)}L{px(x)} {px(high)}M{px(x - 4)} {px(low)}L{px(x + 4)} {px(low)}"
    return [element("path", d=f"{stroke}M{px(x - 4)} {px(high)}L{px(x + 4)} {px(high)}", class_=f"error {c}")]


def _interval(s: Series, j: int) -> str:
    return f"[{number(s.low[j])}, {number(s.high[j])}]" if s.low and s.high else ""


def _tip(s: Series, j: int, x_label: str, y_label: str) -> str:
    head = f"{s.name}{' · ' + s.labels[j] if s.labels else ''}"
    return f"{head}\n{y_label or 'y'}: {number(s.y[j])} {_interval(s, j)}\n{x_label or 'x'}: {number(s.x[j])}"


def _summary(s: Series) -> list[Cell]:
    finite = [v for v in s.y if math.isfinite(v)]
    if not finite:
        return [s.name, None, None, None, None, None]
    return [s.name, s.x[0], finite[0], min(finite), max(finite), finite[-1]]


def _track(name: str, e: Estimate | None, g: int, percent: Callable[[float], float], signed: bool) -> Html:
    if e is None:
        return element(
            "div", element("div", class_="track"), element("span", "–", class_="bar-value"), class_="bar-line"
        )
    head, interval = estimate_text(e)
    a, b = sorted((percent(0.0), percent(e.value)))
    pieces = [element("i", class_=f"fill c{g}", style=f"left:{a:.2f}%;width:{b - a:.2f}%")]
    if interval:
        low, high = percent(e.low), percent(e.high)
        pieces.append(element("i", class_="interval-bar", style=f"left:{low:.2f}%;width:{high - low:.2f}%"))
    if signed:
        pieces.append(element("i", class_="zero-mark", style=f"left:{percent(0.0):.2f}%"))
    return element(
        "div", element("div", *pieces, class_="track"), element("span", head, class_="bar-value"),
        class_="bar-line", data_tip=f"{name}: {head} {interval}",
    )  # fmt: skip
