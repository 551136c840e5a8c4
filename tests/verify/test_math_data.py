"""The verifier on published answers. Skipped where the data is absent."""

import json
from pathlib import Path

import pytest

from h1r.verify import compare, run_cases
from h1r.verify.math import check

DATA = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="no ../shared/data beside this checkout")


def rows(name):
    return [json.loads(line) for line in (DATA / name).read_text().splitlines() if line.strip()]


def test_collected_cases_agree(tmp_path):
    cases = rows("math_cases.jsonl")
    out = tmp_path / "verdicts.jsonl"
    counts = run_cases(DATA / "math_cases.jsonl", "math", out)
    assert sum(counts.values()) == len(cases)
    verdicts = {r["id"]: r for r in map(json.loads, out.read_text().splitlines())}
    wrong = [c["id"] for c in cases if (verdicts[c["id"]]["verdict"] == "correct") != c["expected"]]
    assert len(wrong) <= 0.03 * len(cases), wrong
    assert run_cases(DATA / "math_cases.jsonl", "math", out) == counts
    assert len(out.read_text().splitlines()) == len(cases)


def test_math500_golds_against_their_solutions():
    verdicts = {r["unique_id"]: check(r["answer"], r["solution"])[0] for r in rows("math500/test.jsonl")}
    assert len(verdicts) == 500
    assert [(name, v) for name, v in verdicts.items() if not v.correct] == []


@pytest.mark.parametrize(
    "name", ["aime24/matharena_aime24", "aime25/matharena_aime25", "hmmt_feb_2025/matharena_hmmt_feb_2025"]
)
def test_contest_golds_accept_themselves_and_no_other(name):
    golds = [str(r["answer"]) for r in rows(f"{name}.jsonl")]
    assert len(golds) == 30
    for i, gold in enumerate(golds):
        for form in (
            gold,
            f" {gold} ",
            gold.replace("\\frac", "\\dfrac"),
            f"x = {gold}" if "=" not in gold and "," not in gold else gold,
        ):
            assert check(gold, f"Hence $\\boxed{{{form}}}$.")[0].verdict == "correct", (gold, form)
        if gold.isdigit():
            assert check(gold, f"\\boxed{{{gold.zfill(3)}}}")[0].correct
        for other in golds[:i] + golds[i + 1 :]:
            if other != gold:
                assert compare(gold, other).verdict == "incorrect", (gold, other)


def test_amo_reference_answers():
    golds = [g for g in rows("amo_bench/gold_answers.jsonl") if g["parser_based"]]
    responses = {r["question_id"]: r["model_response"] for r in rows("amo_bench/reference_responses.jsonl")}
    assert [g["question_id"] for g in golds if not check(g["gold_text"], responses[g["question_id"]])[0].correct] == []
    assert len(golds) == 39


def test_gsm8k_answers_parse():
    answers = [r["answer"].split("####")[-1].strip() for r in rows("gsm8k/test.jsonl")]
    assert sum(check(a, f"The answer is \\boxed{{{a.replace(',', '')}}}.")[0].correct for a in answers) == 1319
