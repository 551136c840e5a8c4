"""Token maps: the shade is the value's place between the layer's ends; what is not finite is unshaded."""

from __future__ import annotations

import math

import pytest

from h1r.report import heat


def test_shades_follow_the_values_and_text_is_escaped():
    html = heat(["a<b", " c", "d"], {"log p": [-3.0, -1.0, math.nan], "flat": [2.0, 2.0, 2.0]}, title="t", caption="c")
    assert html.count('class="token"') == 5 and "a&lt;b" in html and "a<b" not in html
    assert 'style="--u: 1.00" title="\u22123' in html and 'style="--u: 0.00" title="\u22121' in html
    assert "log p: strong \u22123, pale \u22121" in html and "flat: strong 2, pale 2" in html
    with pytest.raises(AssertionError, match="2 values for 1 pieces"):
        heat(["a"], {"x": [1.0, 2.0]})
