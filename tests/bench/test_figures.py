"""The documents' charts are those that bench/figures.py draws of the recorded figures, and a part that failed leaves no line."""

from __future__ import annotations

import importlib.util
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from h1r.report.axis import Axis

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("figures", TOP / "bench" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recorded() -> dict:
    return json.loads((TOP / "docs" / "figures" / "h200.json").read_text())


def test_the_documents_have_the_charts_that_are_drawn(figures, recorded):
    for name, drawn in (
        ("h200", figures.decoding(recorded)), ("deepconf", figures.deepconf()), ("twin", figures.twin()),
    ):  # fmt: skip
        assert (TOP / "docs" / "figures" / f"{name}.svg").read_text() == drawn + "\n"
        assert ET.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"


def test_a_rate_is_the_batch_over_the_step(figures):
    row = {
        "model": "7b",
        "batch": 64,
        "weights": "bf16",
        "state": "bfloat16",
        "depths": [1000, 3000],
        "step_ms": [8, 16],
    }
    failed = {"failed": "OutOfMemoryError"}
    drawn = figures.decoding({"device": "NVIDIA H200", "decode": [row], "baseline": failed})
    assert "64 sequences, bf16" in drawn and "Qwen3" not in drawn
    low, high, start, end, _ = re.search(r'data-y="([^"]+)"', drawn).group(1).split()
    axis = Axis(float(low), float(high), float(start), float(end), False)
    marks = re.findall(r'<circle cx="[^"]+" cy="([^"]+)" r="5" class="mark c0" tabindex', drawn)
    assert [float(m) for m in marks] == pytest.approx([axis.at(8000), axis.at(4000)], abs=0.01)
    others = {**row, "state": "float32"}, {**row, "state_every": 16}, {"model": "7b", "batch": 128, "fits": False}
    assert figures.decoding({"device": "H200", "decode": [row, *others]}).count("bf16</text>") == 1
