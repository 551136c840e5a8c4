"""The event journal of an RL run: rollouts, scores and steps, on disk before they are used.

    {"kind": "rollout", "step": 3, "round": 0, "key": "...", "groups": [{"uid", "problem", "prompt", "traces", ...}]}
    {"kind": "score",   "step": 3, "round": 0, "groups": [{"uid", "scores": [[value, why], ...], "rewards": [...]}]}
    {"kind": "step",    "step": 3, "trained": [uids], "cache": [uids], "sampler": {...}, "metrics": {...}, ...}

A resumed run loads the trainer's newest checkpoint (step k), takes sampler and cache from the journal's record of step
k, and reads rollouts and scores of later steps instead of generating them again. Token ids are plain lists; per-token
floats are base64 of little-endian f32, exact to the bit. A later record of one step and round replaces an earlier one.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from h1r import log
from h1r.errors import DataError
from h1r.rl.group import Group
from h1r.types import Floats, Problem, Prompt, Score, StopReason, Trace


class Replay(NamedTuple):
    """What a resumed run needs: the record of its step, the cached groups, later rounds by (step, round).

    rounds hold (key, groups); the key says which problems and settings made them.
    """

    record: Mapping[str, Any]
    cache: list[Group]
    rounds: dict[tuple[int, int], tuple[str, list[Group]]]


class Journal:
    """An append-only file; every method returns after the record has reached the disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()

    def _append(self, record: Mapping[str, Any]) -> None:
        with self._lock:  # rollouts are written while a step is
            log.append(self.path, record)

    def rollout(self, step: int, round: int, key: str, groups: Sequence[Group]) -> None:
        record = {"kind": "rollout", "step": step, "round": round, "key": key}
        self._append(record | {"groups": [_group_out(group) for group in groups]})

    def score(self, step: int, round: int, groups: Sequence[Group]) -> None:
        scored = [
            {"uid": g.uid, "scores": [[s.value, s.why] for s in g.scores], "rewards": list(g.rewards)} for g in groups
        ]
        self._append({"kind": "score", "step": step, "round": round, "groups": scored})

    def step(self, step: int, **fields: Any) -> None:
        self._append({"kind": "step", "step": step} | fields)

    def mismatch(self, step: int, **fields: Any) -> None:
        self._append({"kind": "mismatch", "step": step} | fields)

    def steps(self) -> list[int]:
        """Numbers of the optimizer steps recorded."""
        return sorted({r["step"] for r in log.read(self.path) if r["kind"] == "step"})

    def replay(self, step: int, problem_of: Callable[[str], Problem]) -> Replay:
        """Everything needed to continue after `step` (0: from the beginning)."""
        record: Mapping[str, Any] = {"cache": []} if step == 0 else self.record(step)
        wanted = record["cache"]
        groups = self.groups(problem_of, lambda s: s > step, wanted)
        rounds: dict[tuple[int, int], tuple[str, list[Group]]] = {}
        for r in log.read(self.path):
            if r["kind"] == "rollout" and r["step"] > step:
                uids = [g["uid"] for g in r["groups"]]
                if all(uid in groups for uid in uids):
                    rounds[r["step"], r["round"]] = (r["key"], [groups[uid] for uid in uids])
        if missing := [uid for uid in wanted if uid not in groups]:
            raise DataError(f"{self.path}: cached groups {missing[:3]} are gone; start a new run folder")
        return Replay(record, [groups[uid] for uid in wanted], rounds)

    def record(self, step: int) -> dict[str, Any]:
        """The latest record of an optimizer step. Raises DataError when there is none."""
        found = None
        for r in log.read(self.path):
            if r["kind"] == "step" and r["step"] == step:
                found = r
        if found is None:
            raise DataError(f"{self.path}: no record of step {step}; steps are numbered from 1")
        return found

    def groups(
        self, problem_of: Callable[[str], Problem], of_step: Callable[[int], bool], uids: Collection[str] = ()
    ) -> dict[str, Group]:
        """Scored groups by uid: of the steps `of_step` accepts, and those named by `uids`."""
        written: dict[str, dict[str, Any]] = {}
        out: dict[str, Group] = {}
        named = set(uids)
        for r in log.read(self.path):
            if r["kind"] not in ("rollout", "score"):
                continue
            for g in r["groups"]:
                if not (of_step(r["step"]) or g["uid"] in named):
                    continue
                if r["kind"] == "rollout":
                    written[g["uid"]] = g
                    out.pop(g["uid"], None)
                elif g["uid"] in written:
                    out[g["uid"]] = _group_in(written[g["uid"]], g, problem_of)
        return out


def _group_out(group: Group) -> dict[str, Any]:
    traces = [
        {
            "tokens": list(t.token_ids),
            "stop": t.stop.value,
            "text": t.text,
            "reasoning": t.reasoning,
            "content": t.content,
            "tool_calls": list(t.tool_calls),
            "logprobs": _floats_out(t.logprobs),
            "confidence": _floats_out(t.confidence),
            "forced": list(t.forced),
            "versions": [list(run) for run in _runs(t.token_versions)],
        }
        | ({"turns": t.turns, "refused": t.refused} if t.turns > 1 else {})
        for t in group.traces
    ]
    prompt = list(group.traces[0].prompt.token_ids) if group.traces else []
    return {"uid": group.uid, "problem": group.problem.id, "version": group.version, "prompt": prompt, "traces": traces}


def _group_in(written: Mapping[str, Any], scored: Mapping[str, Any], problem_of: Callable[[str], Problem]) -> Group:
    prompt = Prompt(token_ids=tuple(written["prompt"]))
    traces = tuple(
        Trace(
            prompt=prompt,
            token_ids=tuple(t["tokens"]),
            stop=StopReason(t["stop"]),
            text=t["text"],
            reasoning=t["reasoning"],
            content=t["content"],
            tool_calls=tuple(t["tool_calls"]),
            logprobs=_floats_in(t["logprobs"]),
            confidence=_floats_in(t["confidence"]),
            forced=tuple(t.get("forced", ())),
            index=i,
            version=t["versions"][-1][0] if t.get("versions") else written["version"],
            token_versions=tuple(v for v, count in t.get("versions", ()) for _ in range(count)),
            turns=t.get("turns", 1),
            refused=t.get("refused", 0),
        )
        for i, t in enumerate(written["traces"])
    )
    return Group(
        uid=written["uid"],
        problem=problem_of(written["problem"]),
        traces=traces,
        scores=tuple(Score(value, why) for value, why in scored["scores"]),
        rewards=tuple(scored["rewards"]),
        version=written["version"],
    )


def _runs(versions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Versions as (version, how many tokens in a row)."""
    return ((version, len(list(same))) for version, same in groupby(versions))


def _floats_out(values: Floats) -> str:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def _floats_in(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
