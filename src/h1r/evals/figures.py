"""Results as blocks of a report page: tables, outcomes, breakdowns before and after, samples (gated words withheld)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from h1r.evals import statistics
from h1r.evals.episodes import Episode
from h1r.evals.lab import interval_of
from h1r.evals.published import GROUPS, PUBLISHED, group_mean
from h1r.evals.results import OUTCOMES, Comparison, Flip, Item, Result, Stratum, by, compare, groups
from h1r.evals.statistics import Interval
from h1r.evals.tables import group_score, percent, verdict
from h1r.report import Cell, Estimate, Html, Sample, Series, bars, points, stacks, table
from h1r.types import Problem, Trace

OUTCOME_COLOURS = ("good", "bad", "warn", "c3", "c4", "mute")
WITHHELD = "(withheld: this benchmark asks not to show its problems)"


def estimate(i: Interval, *, signed: bool = False) -> Estimate:
    """A share as an Estimate in percent, a difference of shares (signed) in percentage points."""
    return Estimate(100 * i.value, 100 * i.low, 100 * i.high, "pts" if signed else "%", signed=signed)


def score_table(results: Sequence[Result], *, published: str = "", caption: str = "Scores") -> Html:
    """Scores with both intervals, lengths and failure rates; a published model's scores beside, where it has any."""
    reference = PUBLISHED[published] if published else {}
    columns = ["Suite", "Score", "This set", "Problems", "Samples", "Tokens per sample"]
    columns += ["Truncated", "No answer", "Unscored"]
    rows = []
    for r in results:
        row: list[Cell] = [r.name, estimate(r.average)]
        row += [
            "–" if math.isnan(r.this_set.low) else f"{percent(r.this_set.low)}\u00a0–\u00a0{percent(r.this_set.high)}"
        ]
        row += [r.problems, r.samples, round(r.tokens / r.samples) if r.samples else None]
        row += [f"{percent(r.rate(o))} %" for o in ("truncated", "no answer", "unscored")]
        rows.append(row + ([f"{reference[r.name]:.1f} %" if r.name in reference else None] if published else []))
    foot = "Score: mean over problems, 95 % for such problems. This set: sampling noise alone."
    return table([*columns, *([published] if published else [])], rows, caption=caption, foot=foot)


def published_table(results: Sequence[Result], name: str = "this run") -> Html:
    """The published models' scores by group, and this run's where it has them."""
    found = {r.name: r for r in results}
    rows: list[list[Cell]] = []
    means: list[int] = []
    listed = {n for names in GROUPS.values() for n in names}
    for group, names in GROUPS.items():
        extra = [n for n in PUBLISHED[next(iter(PUBLISHED))] if n not in listed and group == "code & agentic"]
        for benchmark in (*names, *extra):
            ours = estimate(found[benchmark].average) if benchmark in found else None
            rows.append([benchmark, ours, *[f"{scores[benchmark]:.1f}" for scores in PUBLISHED.values()]])
        mean = group_score(results, group)
        theirs = [group_mean(scores, group) for scores in PUBLISHED.values()]
        means.append(len(rows))
        rows.append([f"mean: {group}", estimate(mean) if mean else None, *[f"{m:.2f}" if m else None for m in theirs]])
    foot = (
        "arXiv:2601.02346. A group's mean is printed when every suite of it was run; "
        f"code & agentic is the mean of {', '.join(GROUPS['code & agentic'])}."
    )
    return table(
        ["Benchmark", name, *PUBLISHED], rows, caption="Beside the published table, percent", foot=foot, strong=means
    )


def protocol_table(records: Sequence[Mapping[str, Any]]) -> Html:
    """What each suite followed and how the run departed from it (`protocol.record`)."""
    rows: list[list[Cell]] = []
    for r in records:
        sampling = r.get("sampling", r)
        drawn = f"{r['samples'] or '–'} × {sampling['max_tokens']}, T {sampling['temperature']}, p {sampling['top_p']}"
        said = "; ".join(r["deviations"]) or "none"
        rows.append([r["suite"], r["protocol"], drawn, r.get("judged_by") or "–", said, r["note"]])
    columns = ["Suite", "Protocol", "Samples × tokens", "Judge", "Deviations", "Note"]
    sources = sorted({f"{r['protocol']}: {r['source']}" for r in records})
    return table(columns, rows, caption="Protocol and deviations", foot=". ".join(sources) + ".")


def outcome_chart(results: Sequence[Result], *, title: str = "What became of the samples") -> Html:
    """One stacked bar per result."""
    used = [o for o in OUTCOMES if any(r.outcomes[o] for r in results)]
    colours = [OUTCOME_COLOURS[OUTCOMES.index(o)] for o in used]
    parts = [(o, [r.outcomes[o] for r in results]) for o in used]
    return stacks([r.name for r in results], parts, title=title, colours=colours)


def breakdown(runs: Sequence[tuple[str, Sequence[Item]]], key: str, *, title: str, caption: str = "") -> Html:
    """Scores of each slice of `key` (domain, difficulty) for one run or several; two runs get their paired difference
    with Holm's p, corrected over all slices of domain and difficulty."""
    slices = [(name, by(items, key)) for name, items in runs]
    names = sorted({n for _, found in slices for n in found})
    remarks = [""] * len(names)
    if len(runs) == 2:
        told = {s.value: s for s in compare(runs[0][1], runs[1][1]).strata if s.key == key}
        remarks = [_remark(told[n]) if n in told else "" for n in names]
    bar_groups = [(name, [estimate(found[n].average) if n in found else None for n in names]) for name, found in slices]
    return bars(names, bar_groups, title=title, caption=caption, remarks=remarks)


def _remark(s: Stratum) -> str:
    return f"{100 * s.paired.difference:+.1f}, p {s.adjusted:.3f}, {verdict(s.paired, adjusted=s.adjusted)}"


def comparison_table(c: Comparison, *, caption: str = "Paired difference") -> Html:
    """The whole and every slice: difference with interval, p, Holm's p, and what it amounts to."""
    w = c.whole
    first: list[Cell] = ["all", estimate(Interval(*w[:3]), signed=True), w.problems, f"{w.p:.4f}", None]
    rows: list[list[Cell]] = [[*first, f"{100 * w.detectable:.1f}", verdict(w)]]
    for s in c.strata:
        p = s.paired
        cells: list[Cell] = [estimate(Interval(*p[:3]), signed=True), p.problems, f"{p.p:.4f}", f"{s.adjusted:.4f}"]
        rows.append([f"{s.key} {s.value}", *cells, f"{100 * p.detectable:.1f}", verdict(p, adjusted=s.adjusted)])
    columns = ["Slice", "Difference", "Problems", "p", "p, Holm", "Detectable", "Verdict"]
    return table(columns, rows, caption=caption, strong=[0])


def vote_table(told: Mapping[str, Any]) -> Html:
    """Ways to answer over the same stored traces (`lab.record_of`)."""
    rows: list[list[Cell]] = [
        [v["name"], estimate(interval_of(v["accuracy"])), round(v["tokens"]), round(v["voters"], 1)]
        for v in told["votes"]
    ]
    foot = "95 % over problems. Online is replayed from stored traces; nothing was generated for it."
    return table(["Answer", "Accuracy", "Tokens per problem", "Voters"], rows, caption=str(told["suite"]), foot=foot)


def pareto_chart(told: Mapping[str, Any]) -> Html:
    """Accuracy against tokens: each keep fraction at several budgets, and the majority of as many traces."""

    def series(name: str, own: Sequence[Mapping[str, Any]], key: str, tokens: str) -> Series:
        found = [[100 * (v if v is not None else math.nan) for v in f[key]] for f in own]
        y, low, high = ([row[i] for row in found] for i in range(3))
        return Series(name=name, x=[f[tokens] for f in own], y=y, low=low, high=high)

    keeps = sorted({f["keep_fraction"] for f in told["front"]})
    by_keep = {k: [f for f in told["front"] if f["keep_fraction"] == k] for k in keeps}
    curves = [series(f"keep {k:.0%}", own, "accuracy", "tokens") for k, own in by_keep.items()]
    curves.append(series("majority", by_keep[keeps[0]], "majority", "full_tokens"))
    return points(
        curves, title=f"{told['suite']}: accuracy against tokens", x_label="tokens per problem", y_label="accuracy, %",
        log_x=True,
    )  # fmt: skip


def pass_counts(results: Sequence[Result], *, title: str = "How often a problem is solved") -> Html:
    """Share of problems solved never, sometimes and always: what a mean hides."""
    counted = []
    for r in results:
        means = [sum(g) / len(g) for g in groups(r.items).values()]
        counted.append((sum(m == 0 for m in means), sum(0 < m < 1 for m in means), sum(m == 1 for m in means)))
    parts = [(name, [c[i] for c in counted]) for i, name in ((2, "always"), (1, "sometimes"), (0, "never"))]
    return stacks([r.name for r in results], parts, title=title, colours=["good", "c4", "mute"])


def lengths(r: Result, *, points_drawn: int = 24) -> Html:
    """How long right and wrong samples are: the share of each that has at most so many tokens."""
    curves = []
    for name, colour, own in (
        ("correct", 2, [i.tokens for i in r.items if i.value == 1.0]),
        ("not correct", 1, [i.tokens for i in r.items if i.value is not None and i.value < 1.0]),
    ):
        if own:
            shares = [k / (points_drawn - 1) for k in range(points_drawn)]
            ordered = sorted(own)
            at = [max(1.0, float(ordered[min(len(ordered) - 1, int(s * (len(ordered) - 1)))])) for s in shares]
            curves.append(Series(name=f"{name} ({len(own)})", x=at, y=[100 * s for s in shares], colour=colour))
    return points(
        curves,
        title=f"{r.name}: lengths",
        x_label="tokens of a sample",
        y_label="samples up to this length, %",
        log_x=True,
    )


def flip_table(changed: Sequence[Flip], names: Sequence[str], *, more: int = 0) -> Html:
    """Problems whose mean changed, the largest changes first."""
    rows: list[list[Cell]] = [
        [
            f.problem,
            f.domain or None,
            f"{percent(f.before)} %",
            f"{percent(f.after)} %",
            f"{100 * (f.after - f.before):+.0f}",
        ]
        for f in changed
    ]
    foot = f"{more} more that changed less." if more else "All problems whose mean over samples changed."
    columns = ["Problem", "Domain", names[0], names[1], "Change"]
    return table(columns, rows, caption="Problems that changed", foot=foot)


def episode_sample(problem: Problem, item: Item, episode: Episode, *, stage: str = "") -> Sample:
    """An episode for the browser: the whole conversation, who said what."""
    lines = []
    for m in episode.messages:
        who = str(m.get("who") or m.get("role"))
        calls = "".join(f"\n{c['function']['name']}({c['function']['arguments']})" for c in m.get("tool_calls") or ())
        lines.append(f"[{who}] {m.get('content') or ''}{calls}".strip())
    first = problem.meta.get("task", {})
    scenario = first.get("user_scenario", {}).get("instructions", {}) if isinstance(first, Mapping) else {}
    asked = scenario.get("reason_for_call") if isinstance(scenario, Mapping) else None
    return Sample(
        id=f"{problem.id} #{item.sample}",
        question=str(asked or problem.messages[-1]["content"]),
        verdict="unscored" if item.value is None else "correct" if item.value == 1.0 else "incorrect",
        why=item.why,
        content="\n\n".join(lines),
        stage=stage,
        domain=problem.domain,
        stop=episode.ended,
        facts=(("turns", str(episode.turns)), ("tokens", str(episode.tokens)), ("outcome", item.outcome)),
    )


def sample(problem: Problem, item: Item, trace: Trace, *, pieces: Sequence[str] = (), stage: str = "") -> Sample:
    """A trace for the browser. pieces: its tokens decoded one by one, for shading. A gated problem shows no words."""
    gated = bool(problem.meta.get("gated"))
    shaded = bool(pieces) and not gated and len(pieces) == len(trace.confidence)
    asked = next((str(m.get("content", "")) for m in reversed(problem.messages) if m.get("role") == "user"), "")
    detail = item.detail
    return Sample(
        id=f"{problem.id} #{item.sample}",
        question=WITHHELD if gated else asked,
        verdict="unscored" if item.value is None else "correct" if item.value == 1.0 else "incorrect",
        why=WITHHELD if gated else item.why,
        gold=WITHHELD if gated else "" if problem.gold is None else str(problem.gold),
        answer="" if gated else str(detail.get("extracted") or detail.get("letter") or ""),
        reasoning="" if gated else trace.reasoning,
        content=WITHHELD if gated else trace.content,
        pieces=pieces if shaded else (),
        confidence=[float(c) for c in trace.confidence] if shaded else (),
        stage=stage,
        domain=problem.domain,
        difficulty="" if problem.difficulty is None else f"{problem.difficulty:.1f}",
        stop=str(trace.stop),
        facts=(("tokens", str(item.tokens)), ("outcome", item.outcome)),
    )


def tokens_ratio(used: Sequence[float], full: Sequence[float]) -> Estimate:
    """Tokens spent as a share of another way's, per problem, with a bootstrap interval over problems."""
    ratio = statistics.bootstrap(lambda a, b: float(a.sum() / b.sum()), used, full)
    return estimate(ratio)
