"""Procedural problems in six domains with worked traces: seeded, unlimited, addressed by index.

    sample(17, seed=3, split="train")                   the seventeenth problem of stream 3, always the same
    problems(split="held_out", domains=("math",))       an endless iterator over such a stream
    distinct(600, split="held_out")                     that many different problems, domains in turn

Train and held-out are disjoint by construction: the hash of an instance's canonical key (its numbers and words without
the wording, equal for 3 + 4 and 4 + 3) decides its side, whatever the seed. One instance in five is held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from itertools import count
from random import Random
from typing import Any, NamedTuple

from h1r.data.procedural import chat, code, math, safety, science, tools
from h1r.data.procedural.draft import LEVELS, Draft, Make
from h1r.errors import ConfigError
from h1r.types import DOMAINS, Message, Problem

__all__ = ["LEVELS", "SYSTEM", "Family", "distinct", "families", "problems", "sample", "side"]

SYSTEM = "Think, then answer."
"""System message of every procedural problem; short, because a long one would be most of the tokens."""

HELD_OUT = 51
"""Of 256: keys whose first hash byte is below this are held out."""


PLAYED = ("tools/result",)
"""Families whose problems carry a world, in which their tools really answer (`world`)."""


class Family(NamedTuple):
    """One kind of problem: its name is domain/family."""

    name: str
    domain: str
    make: Make


def families() -> tuple[Family, ...]:
    """Every family, in the order of DOMAINS."""
    rooms = {"math": math, "code": code, "science": science, "chat": chat, "tools": tools, "safety": safety}
    return tuple(Family(f"{d}/{name}", d, make) for d in DOMAINS for name, make in rooms[d].FAMILIES.items())


def side(key: str) -> str:
    """The split an instance belongs to: "train" or "held_out"."""
    return "held_out" if hashlib.sha256(key.encode()).digest()[0] < HELD_OUT else "train"


def sample(
    index: int,
    *,
    seed: int = 0,
    split: str = "train",
    domains: Collection[str] | None = None,
    weights: Mapping[str, float] | None = None,
    levels: Collection[int] | None = None,
) -> Problem:
    """Problem number `index` of the stream (seed, split, domains, weights, levels); costs the same for every index.

    weights   by domain ("math") or by family ("math/add"): relative frequency, 1 where not given. A domain's share is
              divided among its families.
    levels    the levels drawn from, 0 (easy) to LEVELS - 1; all by default
    """
    if split not in ("train", "held_out"):
        raise ConfigError(f"split={split!r}: must be 'train' or 'held_out'")
    choices, chances = _chances(domains, weights or {})
    allowed = _levels(levels)
    r = Random(f"{seed} {split} {index}")
    family = r.choices(choices, chances)[0]
    level = r.choice(allowed)
    for _ in range(10_000):
        draft = family.make(r, level)
        if side(draft.key) == split:
            return _problem(draft, family, level, f"{split}/{seed}/{index}")
    raise AssertionError(f"{family.name} level {level} has no instance on side {split}")


def problems(
    *,
    split: str = "train",
    seed: int = 0,
    domains: Collection[str] | None = None,
    weights: Mapping[str, float] | None = None,
    levels: Collection[int] | None = None,
    start: int = 0,
) -> Iterator[Problem]:
    """Endless `sample`s from index `start` on."""
    for index in count(start):
        yield sample(index, seed=seed, split=split, domains=domains, weights=weights, levels=levels)


def distinct(
    n: int,
    *,
    split: str = "held_out",
    seed: int = 0,
    domains: Collection[str] | None = None,
    levels: Collection[int] | None = None,
) -> list[Problem]:
    """`n` problems of which no two are the same instance; domains and levels take turns, so their shares are equal.

    Raises ConfigError when a domain and level runs out of instances.
    """
    names = tuple(d for d in DOMAINS if domains is None or d in domains)
    _chances(domains, {})
    cells = [(d, level) for level in _levels(levels) for d in names]
    seen: set[str] = set()
    out: list[Problem] = []
    streams = {
        cell: problems(split=split, seed=seed, domains=(cell[0],), levels=(cell[1],), start=i * 10**9)
        for i, cell in enumerate(cells)
    }
    for i in range(n):
        cell = cells[i % len(cells)]
        for attempt, problem in enumerate(streams[cell]):
            if problem.meta["key"] not in seen:
                break
            if attempt > 2_000:
                raise ConfigError(f"n={n}: domain {cell[0]} level {cell[1]} has too few different {split} problems")
        seen.add(problem.meta["key"])
        out.append(problem)
    return out


def _levels(levels: Collection[int] | None) -> list[int]:
    allowed = sorted(range(LEVELS) if levels is None else levels)
    if not allowed or not 0 <= allowed[0] <= allowed[-1] < LEVELS:
        raise ConfigError(f"levels={allowed}: must name levels from 0 to {LEVELS - 1}")
    return allowed


def _chances(domains: Collection[str] | None, weights: Mapping[str, float]) -> tuple[list[Family], list[float]]:
    every = families()
    known = {f.domain for f in every} | {f.name for f in every}
    for name in [*(domains or ()), *weights]:
        if name not in known:
            raise ConfigError(f"unknown domain or family {name!r}; known: {', '.join(sorted(known))}")
    chosen = [f for f in every if domains is None or f.domain in domains or f.name in domains]
    within = {d: sum(weights.get(f.name, 1.0) for f in chosen if f.domain == d) for d in DOMAINS}
    chances = [
        weights.get(f.domain, 1.0) * weights.get(f.name, 1.0) / within[f.domain] if within[f.domain] else 0.0
        for f in chosen
    ]
    if min(weights.values(), default=1.0) < 0 or sum(chances) <= 0:
        raise ConfigError("weights: must be 0 or more, and at least one of the chosen domains above 0")
    return chosen, chances


def _problem(draft: Draft, family: Family, level: int, name: str) -> Problem:
    final: dict[str, Any] = {"role": "assistant", "reasoning_content": draft.think, "content": draft.answer}
    if draft.calls:
        final["tool_calls"] = list(draft.calls)
    messages: tuple[Message, ...] = (
        {"role": "system", "content": SYSTEM},
        *draft.before,
        {"role": "user", "content": draft.ask},
        *draft.after,
    )
    return Problem(
        id=name,
        messages=messages,
        kind=draft.kind,
        gold=draft.gold,
        tests=draft.tests,
        tools=draft.tools,
        domain=family.domain,
        difficulty=level / (LEVELS - 1),
        solution=(final,),
        meta={**draft.meta, "family": family.name, "level": level, "key": draft.key},
    )
