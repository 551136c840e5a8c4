"""Several processes give what one gives, in the same order."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from h1r.data import DedupConfig, FilterConfig, curate, procedural
from h1r.data import contamination as room
from h1r.data.dedup import dedup, question
from h1r.data.parallel import ALONE, ordered


def problems(count: int) -> list:
    return list(zip(range(count), procedural.problems(split="train", seed=0)))


def where(item: int) -> tuple[int, int]:
    if item == 700:
        raise ValueError("the 700th")
    return item * item, os.getpid()


def test_order_and_errors_do_not_depend_on_processes():
    got = list(ordered(where, range(600), 2))
    assert [i for i, _ in got] == list(range(600)) and all(r[0] == i * i for i, r in got)
    assert {r[1] for _, r in got[:ALONE]} == {os.getpid()} and os.getpid() not in {r[1] for _, r in got[ALONE:]}
    seen: list[int] = []
    with pytest.raises(ValueError, match="the 700th"):
        seen.extend(i for i, _ in ordered(where, range(900), 2))
    assert seen == list(range(len(seen))) and ALONE < len(seen) < 700
    assert list(ordered(where, range(3), 2)) == [(i, where(i)) for i in range(3)]


def test_filter_dedup_and_contamination_are_the_same_by_two_processes():
    made = [p for _, p in problems(500)]
    made += made[:60]
    index = room.build({"held": [question(p) for p in made[:300:10]]})
    results = []
    for workers in (1, 2):
        tally: Counter[str] = Counter()
        kept = [p.id for p in curate(made, FilterConfig(max_tokens=40), tally=tally, workers=workers)]
        firsts = [p.id for p in dedup(made, DedupConfig(), workers=workers, tally=tally)]
        results.append((kept, firsts, tally, list(index.scan(made, workers=workers))))
    assert results[0] == results[1]
    kept, firsts, tally, hits = results[0]
    assert kept and len(firsts) < 500 and tally["exact"] >= 60 and len(hits) >= 30
