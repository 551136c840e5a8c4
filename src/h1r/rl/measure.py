"""The numbers of a GRPO step: what was generated, what was trained, how far engine and trainer are apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from h1r.rl.backfill import Backfill, Choice
from h1r.rl.group import Group, formatted
from h1r.rl.sampler import environment, stratum
from h1r.types import Floats, Row, StopReason

Metrics = dict[str, float]


def of_groups(
    groups: Sequence[Group], useful: Sequence[Group], choice: Choice, cache: Backfill, version: int
) -> Metrics:
    """Rewards, pass rates by domain and by stratum, lengths, waste and staleness. Unscored traces count in no mean."""
    traces = [trace for group in groups for trace in group.traces]
    rewards = [r for group in groups for r in group.rewards if r is not None]
    ages = [version - group.version for group in choice.groups]
    out = {
        "reward": _mean(rewards),
        "pass": _mean(_values(groups)),
        "length": _mean([t.drawn for t in traces]),
        "truncated": _mean([t.stop is StopReason.LENGTH for t in traces]),
        "formatted": _mean([formatted(t) for t in traces]),
        "unscored": float(sum(r is None for group in groups for r in group.rewards)),
        "groups/generated": float(len(groups)),
        "groups/useful": float(len(useful)),
        "groups/trained": float(len(choice.groups)),
        "groups/from_cache": float(choice.cached),
        "groups/expired": float(choice.expired),
        "groups/in_cache": float(len(cache)),
        "staleness": _mean(ages),
        "staleness_max": float(max(ages, default=0)),
        "tokens/generated": float(sum(group.tokens for group in groups)),
        "tokens/trained": float(sum(group.tokens for group in choice.groups)),
    }
    if any(environment(group.problem) for group in groups) or any(t.turns > 1 for t in traces):
        out |= _of_environments(groups)
    parts: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        for name in dict.fromkeys((group.problem.domain or group.problem.kind, stratum(group.problem))):
            parts[f"pass/{name}"].append(group)
    return out | {name: _mean(_values(of)) for name, of in sorted(parts.items())}


def _of_environments(groups: Sequence[Group]) -> Metrics:
    """Of each environment: mean reward, score and length, share of traces that were cut, traces without a score, and a trace's
    turns and calls that a tool refused."""
    found: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        found[environment(group.problem) or "all"].append(group)
    out: Metrics = {}
    for name, of in sorted(found.items()):
        traces = [trace for group in of for trace in group.traces]
        out[f"env/{name}/reward"] = _mean([r for group in of for r in group.rewards if r is not None])
        out[f"env/{name}/pass"] = _mean(_values(of))
        out[f"env/{name}/length"] = _mean([t.drawn for t in traces])
        out[f"env/{name}/truncated"] = _mean([t.stop is StopReason.LENGTH for t in traces])
        out[f"env/{name}/unscored"] = float(sum(r is None for group in of for r in group.rewards))
        out[f"env/{name}/turns"] = _mean([t.turns for t in traces])
        out[f"env/{name}/refused"] = _mean([t.refused for t in traces])
    return out


def after_training(parts: Sequence[Metrics], rows: Sequence[Row]) -> Metrics:
    """Metrics of a step's optimizer steps, averaged; effective sample size of the importance weights."""
    out = {
        name: _mean([part[name] for part in parts if name in part]) for name in sorted({n for p in parts for n in p})
    }
    for name in ("tokens", "targets", "skipped"):
        if name in out:
            out[name] = float(sum(part[name] for part in parts))
    if out.get("tis_square"):
        out["ess"] = out["tis_mean"] ** 2 / out.pop("tis_square")
    return out | {"rows": float(len(rows))}


def gap(rows: Sequence[Row], logprobs: Sequence[Floats]) -> Metrics:
    """k3 estimate of KL(engine || trainer), the mean absolute gap and its slope over position (nats per 1,000 tokens, least
    squares), under the rows' `mismatch` weights. A gap that grows with position tells of a state that drifts."""
    kl = 0.0
    sums = np.zeros(5)  # weight, and the weighted sums of p, |gap|, p^2, p |gap|; p: position / 1000
    for row, own in zip(rows, logprobs):
        weight = row.streams["mismatch"]
        log_ratio = np.where(weight > 0, own - row.streams["sampled"], 0.0).clip(-20, 20)
        kl += float((weight * (np.expm1(log_ratio) - log_ratio)).sum())
        p, size = np.arange(len(weight)) / 1000.0, np.abs(log_ratio)
        sums += [(weight * t).sum(dtype=np.float64) for t in (1.0, p, size, p * p, p * size)]
    total, at, size, square, product = sums
    spread = total * square - at * at
    slope = (total * product - at * size) / spread if spread > 0 else 0.0
    return {"mismatch_kl": kl, "mismatch_abs": float(size), "mismatch_slope": float(slope)}


def _values(groups: Sequence[Group]) -> list[float]:
    return [score.value for group in groups for score in group.scores if score.value is not None]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
