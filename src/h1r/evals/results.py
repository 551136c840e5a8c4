"""What an evaluation found: items (one scored sample each), results (a suite), breakdowns, comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from h1r import log
from h1r.evals import statistics
from h1r.evals.statistics import Interval, Paired
from h1r.types import Problem, Score, StopReason, Trace

OUTCOMES = ("correct", "wrong", "no answer", "unclosed think", "truncated", "unscored")
"""What became of a sample: each has exactly one outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One scored sample, without its words.

    value    0..1, None when unscored; why and detail as the scorer gave them
    outcome  one of OUTCOMES; fallback: the answer was found by a pattern other than the one asked for
    """

    problem: str
    sample: int
    key: str
    value: float | None
    why: str
    outcome: str
    tokens: int
    stop: str
    fallback: bool = False
    domain: str = ""
    difficulty: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A suite's figures. average is about "such problems", this_set about exactly these (nan with one sample each)."""

    name: str
    group: str
    problems: int
    samples: int
    average: Interval
    this_set: Interval
    tokens: int
    outcomes: Mapping[str, int]
    fallbacks: int
    items: tuple[Item, ...]

    def rate(self, outcome: str) -> float:
        """Share of all samples with this outcome."""
        return self.outcomes[outcome] / self.samples if self.samples else 0.0


class Stratum(NamedTuple):
    """A paired comparison on one slice; adjusted: p after Holm over all slices."""

    key: str
    value: str
    paired: Paired
    adjusted: float


class Comparison(NamedTuple):
    """Two runs on the same problems, whole and by slice."""

    whole: Paired
    strata: tuple[Stratum, ...]


def item(problem: Problem, sample: int, key: str, trace: Trace, score: Score) -> Item:
    """A trace and its verdict as an item."""
    return Item(
        problem=problem.id,
        sample=sample,
        key=key,
        value=None if score.value is None else float(score.value),
        why=score.why,
        outcome=outcome(trace, score),
        tokens=len(trace.token_ids),
        stop=trace.stop.value,
        fallback=bool(score.detail.get("fallback")),
        domain=problem.domain,
        difficulty=problem.difficulty,
        detail=score.detail,
    )


def outcome(trace: Trace, score: Score) -> str:
    """Which of OUTCOMES this is. A scorer says "no ..." when it found nothing to compare."""
    if score.value is None:
        return "unscored"
    if score.value == 1.0:
        return "correct"
    if trace.stop == StopReason.LENGTH:
        return "truncated"
    if "</think>" not in trace.text and ("<think>" in trace.text or (trace.reasoning and not trace.content.strip())):
        return "unclosed think"
    if score.why.startswith("no ") or not (trace.content.strip() or trace.tool_calls):
        return "no answer"
    return "wrong"


def result(name: str, items: Iterable[Item], *, group: str = "") -> Result:
    """The figures of a suite, or of any slice of one."""
    kept = tuple(items)
    grouped = groups(kept)
    counts = dict.fromkeys(OUTCOMES, 0)
    for i in kept:
        counts[i.outcome] += 1
    return Result(
        name=name,
        group=group,
        problems=len({i.problem for i in kept}),
        samples=len(kept),
        average=statistics.average(list(grouped.values())),
        this_set=statistics.average(list(grouped.values()), about="this set"),
        tokens=sum(i.tokens for i in kept),
        outcomes=counts,
        fallbacks=sum(i.fallback for i in kept),
        items=kept,
    )


def groups(items: Iterable[Item]) -> dict[str, list[float]]:
    """Problem id -> values of its scored samples, in order of sample; a problem without any is left out."""
    out: dict[str, list[float]] = {}
    for i in sorted(items, key=lambda i: (i.problem, i.sample)):
        if i.value is not None:
            out.setdefault(i.problem, []).append(i.value)
    return out


def difficulty_band(item: Item) -> str:
    """Difficulty as a level: tenths, "" when unknown."""
    return "" if item.difficulty is None else f"{item.difficulty:.1f}"


SLICES: Mapping[str, Callable[[Item], str]] = {"domain": lambda i: i.domain, "difficulty": difficulty_band}


def second_verdict(items: Iterable[Item], key: str) -> list[Item]:
    """The same samples by another verdict that detail[key] holds, of the mode that counted (strict or loose). A verdict of None
    (that grader's sandbox broke) is unscored."""
    out = []
    for i in items:
        told = i.detail.get(key)
        if isinstance(told, Mapping) and i.value is not None:
            verdict = told[str(i.detail["mode"])]
            if verdict is None:
                out.append(replace(i, value=None, outcome="unscored"))
                continue
            right = bool(verdict)
            missed = "wrong" if i.outcome == "correct" else i.outcome
            out.append(replace(i, value=float(right), outcome="correct" if right else missed))
        elif i.value == 0.0:  # nothing to judge (no reply, no program): wrong by either verdict
            out.append(i)
    return out


def by(items: Iterable[Item], key: str | Callable[[Item], str], *, group: str = "") -> dict[str, Result]:
    """Results of the slices of `key` (domain, difficulty, or a function), in order of name; nameless items left out."""
    pick = SLICES[key] if isinstance(key, str) else key
    slices: dict[str, list[Item]] = {}
    for i in items:
        if name := pick(i):
            slices.setdefault(name, []).append(i)
    return {name: result(name, slices[name], group=group) for name in sorted(slices)}


def compare(a: Sequence[Item], b: Sequence[Item], keys: Sequence[str] = ("domain", "difficulty")) -> Comparison:
    """b minus a, whole and by slice; Holm's correction runs over all slices of all keys together."""
    whole = statistics.paired(groups(a), groups(b))
    found: list[tuple[str, str, Paired]] = []
    for key in keys:
        left, right = by(a, key), by(b, key)
        for name in sorted(left.keys() & right.keys()):
            one, other = groups(left[name].items), groups(right[name].items)
            if one.keys() & other.keys():
                found.append((key, name, statistics.paired(one, other)))
    adjusted = statistics.holm([p.p for _, _, p in found])
    return Comparison(whole, tuple(Stratum(k, n, p, q) for (k, n, p), q in zip(found, adjusted)))


class Flip(NamedTuple):
    """A problem whose mean over samples is another in a second run."""

    problem: str
    domain: str
    before: float
    after: float


def flips(a: Sequence[Item], b: Sequence[Item]) -> list[Flip]:
    """Problems of both runs whose mean changed, the largest change first."""
    before, after = groups(a), groups(b)
    domains = {i.problem: i.domain for i in a}
    means = [
        Flip(p, domains[p], sum(before[p]) / len(before[p]), sum(after[p]) / len(after[p]))
        for p in before.keys() & after.keys()
    ]
    return sorted((f for f in means if f.before != f.after), key=lambda f: (-abs(f.after - f.before), f.problem))


def save(path: str | Path, items: Iterable[Item]) -> None:
    """Append items to a score file."""
    log.append(path, *[{name: getattr(i, name) for name in Item.__slots__} for i in items])


def load(path: str | Path) -> list[Item]:
    """Items of a score file; of a key scored twice, the later."""
    return list({r["key"]: Item(**r) for r in log.read(path)}.values())
