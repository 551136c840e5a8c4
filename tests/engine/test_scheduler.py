"""The scheduler alone: random requests against a simulated runner that only counts tokens and owners."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h1r.engine.memory import Memory, Pool
from h1r.engine.request import Request, Sequence
from h1r.engine.scheduler import Clear, Copy, Load, Save, Scheduler
from h1r.types import Prompt, SamplingParams


def request(number: int, length: int, n: int, limit: int) -> Request:
    return Request(id=number, prompt=Prompt(token_ids=(1,) * length), sampling=SamplingParams(n=n), seed=0, limit=limit)


class World:
    """What a runner would hold: which token positions each page and slot has, by history of their sequence."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.slots: dict[int, int] = {}  # slot -> tokens its state has seen
        self.pages: dict[int, int] = {}  # page -> tokens written in it

    def step(self) -> list[Sequence]:
        scheduler, size = self.scheduler, self.scheduler.memory.page_size
        plan = scheduler.schedule()
        for move in plan.moves:
            if isinstance(move, Clear):
                self.slots[move.slot] = 0
            elif isinstance(move, Copy):
                if move.slot >= 0:
                    self.slots[move.to_slot] = self.slots[move.slot]
                if move.page >= 0:
                    assert move.used in (0, self.pages.get(move.page))
                    self.pages[move.to_page] = move.used
            elif isinstance(move, Save):
                saved = (self.slots[move.slot], [self.pages[p] for p in move.pages])
                for s in move.heirs or (move.sequence,):
                    s.host = saved
            elif isinstance(move, Load):
                self.slots[move.slot], contents = move.sequence.host
                assert len(contents) == -(-self.slots[move.slot] // size)
                for i, p in enumerate(move.pages):
                    self.pages[p] = contents[i] if i < len(contents) else 0
        assert not plan.empty
        holders: dict[int, int] = {}
        for s in scheduler.resident:
            for p in s.pages:
                holders[p] = holders.get(p, 0) + 1
        assert {p: r for p, r in enumerate(scheduler.memory.pages.refs) if r} == holders
        assert sorted(s.slot for s in scheduler.resident) == [i for i, r in enumerate(scheduler.memory.slots.refs) if r]
        for s, count in plan.prefill + [(s, 1) for s in plan.decode]:
            self.write(s, count)
        for s in plan.decode:
            s.token_ids.append(0)
        return plan.decode

    def write(self, s: Sequence, count: int) -> None:
        size = self.scheduler.memory.page_size
        assert self.slots[s.slot] == s.length, "the state is not that of the sequence"
        for position in range(s.length, s.length + count):
            page = s.pages[position // size]
            assert self.scheduler.memory.pages.refs[page] == 1, "wrote into a shared page"
            if position % size == 0:
                self.pages[page] = 0
            assert self.pages[page] == position % size, "the page is not that of the sequence"
            self.pages[page] += 1
        s.length += count
        self.slots[s.slot] = s.length


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_every_trace_ends_and_memory_comes_back(seed: int) -> None:
    rng = random.Random(seed)
    size, pages, slots = rng.choice([1, 2, 4]), rng.randint(6, 20), rng.randint(1, 5)
    scheduler = Scheduler(Memory(size, Pool(min(2, pages), pages), Pool(1, slots)), chunk=rng.randint(1, 12))
    world, written, expected = World(scheduler), {}, {}
    todo, live = rng.randint(1, 6), []
    for _ in range(3000):
        if todo and rng.random() < 0.4:
            length = rng.randint(1, pages * size - 1)
            r = request(todo, length, rng.randint(1, 4), rng.randint(1, min(12, pages * size - length)))
            r.id = 100 - todo
            scheduler.add(r)
            live += r.traces
            for s in r.traces:
                expected[r.id, s.index] = r.limit
            todo -= 1
        if live and rng.random() < 0.03:
            s = live.pop(rng.randrange(len(live)))
            scheduler.drop(s)
            del expected[s.key]
        if scheduler.idle:
            if not todo:
                break
            continue
        for s in world.step():
            written[s.key] = written.get(s.key, 0) + 1
            if written[s.key] == s.request.limit:
                scheduler.drop(s)
                live.remove(s)
    assert not live and {k: written[k] for k in expected} == expected
    scheduler.check()


def test_prompt_is_computed_once_and_pages_are_shared() -> None:
    memory = Memory(4, Pool(64, 64), Pool(16, 16))
    scheduler = Scheduler(memory, chunk=100)
    scheduler.add(request(0, 12, n=8, limit=5))
    world = World(scheduler)
    assert world.step() == []
    assert len(world.step()) == 8
    # 11 shared tokens: two full pages once, and a third page for each of the eight
    assert memory.pages.used == 2 + 8 and memory.slots.used == 8
    assert sorted(memory.pages.refs, reverse=True)[:3] == [8, 8, 1]


def test_the_oldest_is_never_parked() -> None:
    memory = Memory(1, Pool(20, 20), Pool(4, 4))
    scheduler = Scheduler(memory, chunk=100)
    for number in range(3):
        scheduler.add(request(number, 4, n=1, limit=14))
    world = World(scheduler)
    parked = set()
    order = []
    while not scheduler.idle:
        for s in world.step():
            if s.length - 3 == 14:
                order.append(s.request.id)
                scheduler.drop(s)
        parked |= {s.request.id for s in scheduler.parked}
    assert order == [0, 1, 2] and 0 not in parked and 2 in parked
    scheduler.check()


def test_what_is_in_memory_lies_side_by_side() -> None:
    memory = Memory(64, Pool(16, 200), Pool(16, 64))
    scheduler = Scheduler(memory, chunk=1000)
    rng = random.Random(1)
    world, dense = World(scheduler), 0
    for number in range(60):
        scheduler.add(request(number, rng.randint(1, 20), n=rng.randint(1, 3), limit=rng.randint(1, 30)))
    steps = 0
    while not scheduler.idle:
        decoded = world.step()
        slots, pages = [s.slot for s in decoded], [s.pages[0] for s in decoded]
        for s in decoded:
            if s.length - s.request.prompt_length + 1 == s.request.limit:
                scheduler.drop(s)
        steps += 1
        dense += slots == pages == list(range(len(slots)))
    # What began in this very step may lie apart until the next.
    assert dense > 0.8 * steps
    scheduler.check()


def test_pool_refuses_what_nobody_holds() -> None:
    pool = Pool(2, 8)
    taken = [pool.take() for _ in range(5)]
    assert taken == [0, 1, 2, 3, 4] and pool.size == 8 and pool.available == 3
    pool.share(1)
    pool.drop(1)
    pool.drop(1)
    assert pool.take() == 1
    for bad in (pool.drop, pool.share):
        with pytest.raises(AssertionError, match="nobody holds"):
            bad(7)
