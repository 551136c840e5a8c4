"""Report blocks carry the figures of the results, and nothing of a gated benchmark."""

import numpy as np
import pytest

from h1r import evals
from h1r.evals import Item, Result, compare, figures, result
from h1r.report import Section, page
from h1r.types import Problem, Prompt, StopReason, Trace


def run_of(values: dict[str, list[float]], domain: str = "math") -> list[Item]:
    return [
        Item(problem=p, sample=i, key=f"{p} {i}", value=v, why="", outcome="correct" if v == 1 else "wrong", tokens=7,
             stop="stop", domain=domain)
        for p, group in values.items() for i, v in enumerate(group)
    ]  # fmt: skip


BEFORE = run_of({f"p{i}": [0, 0] for i in range(12)}) + run_of({f"q{i}": [1, 0] for i in range(4)}, "code")
AFTER = run_of({f"p{i}": [1, 1] for i in range(12)}) + run_of({f"q{i}": [0, 1] for i in range(4)}, "code")


def test_estimates_are_percent():
    assert figures.estimate(figures.Interval(0.5, 0.25, 0.75)) == (50, 25, 75, "%", 1, False)


def test_breakdown_says_what_changed_and_what_did_not():
    html = figures.breakdown([("before", BEFORE), ("after", AFTER)], "domain", title="By domain")
    assert "+100.0, p 0.001, better" in html and "+0.0, p 1.000, within noise" in html
    assert "100.0\u00a0%" in html and "50.0\u00a0%" in html


def test_comparison_table_has_a_row_per_slice():
    html = figures.comparison_table(compare(BEFORE, AFTER))
    assert html.count("<tr") == 1 + 3 and "+75.0\u00a0pts" in html and "domain code" in html


def test_counts_of_always_sometimes_never():
    html = figures.pass_counts([result("after", AFTER)])
    for words in ("always: 12 (75.0 %)", "sometimes: 4 (25.0 %)"):
        assert words in html
    assert "never: " not in html


def test_outcome_chart_and_tables_fit_one_page():
    results: list[Result] = [result("aime24", BEFORE), result("after", AFTER)]
    blocks = [
        figures.score_table(results, published="Falcon-H1R-7B"),
        figures.published_table(results),
        figures.outcome_chart(results),
    ]
    html = page("T", [Section(title="S", blocks=blocks)])
    assert "88.1 %" in html and ">77.9<" in html and "wrong: 28 (87.5 %)" in html and "12.5\u00a0%" in html
    assert html.count("unclosed") == 0


@pytest.mark.parametrize("gated", [False, True])
def test_gated_problems_show_no_words(gated):
    problem = Problem(id="x", messages=({"role": "user", "content": "SECRET q"},), kind="choice", gold="SECRET g",
                      meta={"gated": gated})  # fmt: skip
    trace = Trace(prompt=Prompt(), token_ids=(1, 2), stop=StopReason.STOP, content="SECRET c", reasoning="SECRET r",
                  text="SECRET", confidence=np.float32([3, 4]))  # fmt: skip
    verdict = Item(problem="x", sample=0, key="k", value=0.0, why="SECRET w", outcome="wrong", tokens=2, stop="stop",
                   detail={"letter": "SECRET l"})  # fmt: skip
    shown = figures.sample(problem, verdict, trace, pieces=["SECRET ", "p"])
    assert ("SECRET" in repr(shown)) is not gated
    assert list(shown.confidence) == ([] if gated else [3.0, 4.0]) and shown.verdict == "incorrect"


def test_token_ratio():
    full = np.arange(1.0, 101)
    got = figures.tokens_ratio(full * 0.6, full)
    assert got.value == pytest.approx(60) and got.low == pytest.approx(60)


def test_lengths_flips_and_group_means_on_the_page():
    def made(problem, sample, value, tokens):
        return Item(problem=problem, sample=sample, key=f"{problem}/{sample}", value=value, why="", outcome="correct",
                    tokens=tokens, stop="stop", domain="d")  # fmt: skip

    before = [made("a", 0, 0.0, 10), made("a", 1, 1.0, 20), made("b", 0, 1.0, 30), made("c", 0, 1.0, 5)]
    after = [made("a", 0, 1.0, 10), made("a", 1, 1.0, 20), made("b", 0, 0.0, 30), made("c", 0, 1.0, 5)]
    changed = evals.flips(before, after)
    assert [(f.problem, f.before, f.after) for f in changed] == [("b", 1.0, 0.0), ("a", 0.5, 1.0)]
    table = str(figures.flip_table(changed, ["one", "two"]))
    assert "-100" in table and "+50" in table
    chart = str(figures.lengths(evals.result("s", before)))
    assert "correct (3)" in chart and "not correct (1)" in chart
    math = [evals.result(n, before) for n in evals.GROUPS["math"]]
    whole = str(figures.published_table(math))
    assert "mean: math" in whole and "73.96" in whole and "tau2_telecom" in whole
    assert evals.group_score(math, "math").value == pytest.approx((0.5 + 1 + 1) / 3)
