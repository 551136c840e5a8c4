"""report: rows and numbers to one self-contained HTML file that works from file://, in light and dark, on large
screens and on phones. A report is a list of sections given to `page`.

    html = page("Quickstart", [Section(title="Headline", blocks=[tiles(...), table(...)]), ...])
    write("runs/quickstart/report.html", html)
"""

from h1r.report.blocks import Cell, code, data, kv, note, table, text, tiles
from h1r.report.charts import bars, lines, points, stacks
from h1r.report.figure import Series
from h1r.report.heat import heat
from h1r.report.machine import machine
from h1r.report.markup import Estimate, Html, embed, escape
from h1r.report.page import Section, page, stylesheet, write
from h1r.report.picture import picture
from h1r.report.samples import Sample, browser

__all__ = [
    "Cell",
    "Estimate",
    "Html",
    "Sample",
    "Section",
    "Series",
    "bars",
    "browser",
    "code",
    "data",
    "embed",
    "escape",
    "heat",
    "kv",
    "lines",
    "machine",
    "note",
    "page",
    "picture",
    "points",
    "stacks",
    "stylesheet",
    "table",
    "text",
    "tiles",
    "write",
]
