"""Mathematical answers: three verdicts, symmetric, killable.

    compare(gold, answer, policy) -> Verdict(correct | incorrect | unscored, why, tier, forms)

The calling process looks at strings, and at plain integers, decimals and fractions; everything else is compared by a
worker under a deadline (`pool`). An answer that exhausts a limit is incorrect; unscored is for a gold nobody can read
and for failures of ours. Tiers, in order: string, number, then in the worker structure, exact, residue, numeric,
identity, set, text, symbolic, math-verify.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from h1r.types import Problem, Score, Trace
from h1r.verify import extract
from h1r.verify.policy import Policy
from h1r.verify.pool import Pool, WorkerError, default

PLAIN = re.compile(r"([-+]?)(\d{1,300})(?:\.(\d{1,300}))?(?:/(\d{1,300}))?")
MAX_SENT = 200_000  # characters of one side that are sent to a worker


class Verdict(NamedTuple):
    """A comparison's outcome; forms: the normal forms of gold and answer, where the worker made them."""

    verdict: str
    why: str
    tier: str
    forms: Mapping[str, str] = {}

    @property
    def correct(self) -> bool:
        return self.verdict == "correct"


def plain(text: str) -> tuple[Fraction, bool] | None:
    """(value, written as a decimal) of 12, -3.50, 7/4; None for anything else."""
    match = PLAIN.fullmatch(text)
    if match is None:
        return None
    sign, whole, part, below = match.groups()
    if below is not None and (part is not None or int(below) == 0):
        return None
    value = Fraction(int(whole + (part or "")), 10 ** len(part or "") * int(below or 1))
    return (-value if sign == "-" else value), part is not None


def compare(gold: str, answer: str, policy: Policy | None = None, pool: Pool | None = None) -> Verdict:
    """Compare two answers (no extraction). Never raises for what either text says."""
    policy = policy or Policy()
    gold, answer = gold.strip(), answer.strip()
    if not gold:
        return Verdict("unscored", "the gold is empty", "none")
    if not answer:
        return Verdict("incorrect", "no answer", "none")
    if gold == answer:
        return Verdict("correct", "the same text", "string")
    left, right = plain(gold), plain(answer)
    if left is not None and right is not None:
        if left[0] == right[0]:
            return Verdict("correct", "the same number", "number")
        if not (left[1] or right[1]):
            return Verdict("incorrect", "another number", "number")
    if len(gold) > MAX_SENT:
        return Verdict("unscored", "the gold is too long", "limit")
    if len(answer) > MAX_SENT:
        return Verdict("incorrect", "limit: the answer is too long", "limit")
    try:
        reply = (pool or default()).judge(gold, answer, policy)
    except WorkerError as e:
        return Verdict("unscored", str(e), "worker")
    verdict = "incorrect" if reply["verdict"] == "limit" else reply["verdict"]
    return Verdict(verdict, reply["why"], reply["tier"], {"gold": reply["gold"], "answer": reply["answer"]})


def check(
    gold: str, reply: str, policy: Policy | None = None, pool: Pool | None = None
) -> tuple[Verdict, extract.Span]:
    """Extract the answer of a whole reply (thought included, if any) and compare it."""
    policy = policy or Policy()
    rest = extract.after_think(reply)
    if not rest.closed:
        return Verdict("incorrect", "the thought never closes", "none"), extract.Span("", "none")
    if policy.fallback and rest.text.strip().rstrip(".") == gold.strip():
        return Verdict("correct", "the reply is the gold, word for word", "string"), extract.Span(gold.strip(), "whole")
    span = extract.answer(rest.text, policy.fallback)
    if span.how == "none":
        return Verdict("incorrect", "no answer found", "none"), span
    target = extract.gold(gold)
    verdict = compare(target, span.text, policy, pool)
    if verdict.verdict == "incorrect" and span.parts:  # one value in several forms, each in a box of its own
        forms = [compare(target, part, policy, pool) for part in span.parts]
        verdict = forms[-1] if all(v.correct for v in forms) else verdict
    return verdict, span


def score(problem: Problem, trace: Trace, policy: Policy | None = None) -> Score:
    """1.0 correct, 0.0 incorrect, None unscored. detail: verdict, tier, extracted, how, fallback."""
    if problem.gold is None:
        return Score(None, "the problem has no gold", {"unscored": "bad_gold"})
    verdict, span = check(str(problem.gold), trace.content, policy)
    detail: dict[str, Any] = {
        "verdict": verdict.verdict, "tier": verdict.tier, "extracted": span.text[:300],
        "how": span.how, "fallback": span.fallback,
    }  # fmt: skip
    if verdict.verdict == "unscored":
        return Score(None, verdict.why, {**detail, "unscored": "worker" if verdict.tier == "worker" else "bad_gold"})
    return Score(float(verdict.correct), verdict.why, detail)


def shadow(gold: str, answer: str) -> bool | None:
    """math-verify's opinion of the same pair, from a worker; None when it reads nothing or is not installed."""
    return default().ask({"shadow": True, "gold": gold, "answer": answer}).get("shadow")
