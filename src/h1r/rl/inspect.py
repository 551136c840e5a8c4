"""Recompute a step from the journal: its groups, rewards, advantages and weights, beside the metrics it logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from h1r.rl.advantage import Folding, advantages
from h1r.rl.group import Group, centred, trivial
from h1r.rl.journal import Journal
from h1r.types import Problem


def steps(run_dir: str | Path) -> list[int]:
    """Numbers of the steps the journal records."""
    return Journal(Path(run_dir) / "journal.jsonl").steps()


def inspect(
    run_dir: str | Path, step: int, *, problems: Mapping[str, Problem] | None = None, folding: Folding | None = None
) -> dict[str, Any]:
    """One step as plain data: step, metrics (logged), reward (recomputed), groups sorted by reward spread, rows.

    problems   by id, to show their text; without them a problem is its id
    folding    the run's; by default the recipe's. Per row: total policy weight and tokens
    Raises DataError when the journal has no such step.
    """
    journal = Journal(Path(run_dir) / "journal.jsonl")
    record = journal.record(step)
    known = problems or {}

    def problem_of(id: str) -> Problem:
        return known.get(id) or Problem(id=id, messages=(), kind="unknown")

    groups = journal.groups(problem_of, lambda s: s == step, record["trained"])
    own = [group for uid, group in groups.items() if uid.split(".")[0] == str(step)]
    trained = [groups[uid] for uid in record["trained"]]
    folding = folding or Folding()
    rewards = [r for group in own for r in group.rewards if r is not None]
    rows = advantages(trained, folding, record["version"])
    return {
        "step": step,
        "version": record["version"],
        "temperature": record.get("temperature", 1.0),
        "metrics": record["metrics"],
        "reward": float(np.mean(rewards)) if rewards else 0.0,
        "groups": [
            _group(group, set(record["trained"]), folding) for group in _ordered([*own, *_others(trained, own)])
        ],
        "rows": [
            {"id": row.id, "tokens": len(row.token_ids), "weight": float(row.streams["policy"].sum(dtype=np.float64))}
            for row in rows
        ],
    }


def _group(group: Group, trained: set[str], folding: Folding) -> dict[str, Any]:
    values = centred(group.rewards, folding.baseline)
    return {
        "uid": group.uid,
        "problem": group.problem.id,
        "messages": list(group.problem.messages),
        "version": group.version,
        "trained": group.uid in trained,
        "trivial": trivial(group.rewards),
        "traces": [
            {
                "text": trace.text,
                "tokens": len(trace.token_ids),
                "token_ids": list(trace.token_ids),
                "prompt_ids": list(trace.prompt.token_ids),
                "forced": list(trace.forced),
                "turns": trace.turns,
                "stop": trace.stop.value,
                "score": score.value,
                "why": score.why,
                "reward": reward,
                "advantage": advantage,
                "logprobs": trace.logprobs.tolist(),
                "confidence": trace.confidence.tolist(),
            }
            for trace, score, reward, advantage in zip(group.traces, group.scores, group.rewards, values)
        ],
    }


def _others(trained: Sequence[Group], own: Sequence[Group]) -> list[Group]:
    """Groups trained in this step but written in an earlier one."""
    uids = {group.uid for group in own}
    return list({group.uid: group for group in trained if group.uid not in uids}.values())


def _ordered(groups: Sequence[Group]) -> list[Group]:
    def spread(group: Group) -> float:
        known = [r for r in group.rewards if r is not None]
        return max(known) - min(known) if known else 0.0

    return sorted(groups, key=lambda group: (-spread(group), [int(part) for part in group.uid.split(".")]))
