"""A chart as one SVG file, for documents that cannot hold a page: the drawing of `points` with its title, legend and colours."""

from __future__ import annotations

from collections.abc import Sequence

from h1r.report.charts import cloud
from h1r.report.figure import Series, colour, marker
from h1r.report.markup import Html, element
from h1r.report.page import stylesheet

RULES = ("svg ", ".line", ".dash", ".band", ".c0")
"""Beginnings of the style sheet's lines that a drawing needs."""
LETTER = 7.3  # pixels that a letter of the legend takes on average
TITLE, LEGEND = "font-size:15px;font-weight:600;fill:var(--text);text-anchor:start", "font-size:13px;text-anchor:start"


def picture(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    connect: bool = True,
    from_zero: bool = False,
    width: int = 820,
    height: int = 420,
) -> str:
    """The text of an SVG file that needs nothing beside it and follows the reader's light or dark theme."""
    more = [
        element("style", _style()),
        element("text", title, x=16, y=24, style=TITLE),
    ]
    left, line = 22.0, 48
    for i, s in enumerate(series):
        wide = 28 + LETTER * len(s.name)
        if left + wide > width and left > 22:
            left, line = 22.0, line + 22
        more.append(marker(i, left, line - 4, class_=f"mark c{colour(s, i)}"))
        more.append(element("text", s.name, x=left + 10, y=line, style=LEGEND))
        left += wide
    more.append(element("text", y_label, x=16, y=line + 26, class_="y-name", style="text-anchor:start"))
    drawing = cloud(
        series, width, height, title=title, x_label=x_label, y_label=y_label, log_x=log_x, connect=connect,
        from_zero=from_zero, top=line + 42, more=more,
    )  # fmt: skip
    return str(drawing).replace("<svg", f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"', 1)


def _style() -> Html:
    """The style sheet's colours, light and dark, and its rules for drawings."""
    sheet = stylesheet()
    colours = sheet[: sheet.index("*, *::before")]
    rules = [line for line in sheet.splitlines() if line.startswith(RULES)]
    return Html("\n".join([colours, *rules, "svg { background: var(--surface); }"]))
