"""Who owns which piece of memory: K/V pages and state slots, as numbers. No tensors here.

Pages hold the keys and values of `page_size` tokens and are shared by reference count; a slot holds one sequence's
convolution and SSM state and is never shared. Pools grow on demand, by doubling, up to their limit.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Pool:
    """Reference-counted numbers 0 .. size-1. The lowest free one is taken first, so that what is in use stays dense."""

    size: int
    limit: int
    refs: list[int] = field(init=False)
    free: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.size = min(self.size, self.limit)
        self.refs = [0] * self.size
        self.free = list(range(self.size))

    @property
    def available(self) -> int:
        """How many can still be taken, growth included."""
        return len(self.free) + self.limit - self.size

    @property
    def used(self) -> int:
        return self.size - len(self.free)

    def take(self, number: int | None = None) -> int:
        """A free number (or that one), now held once. The caller has looked at `available`."""
        if number is None:
            if not self.free:
                self._grow()
            number = heapq.heappop(self.free)
        elif self.free[0] == number:
            heapq.heappop(self.free)
        else:
            self.free.remove(number)
            heapq.heapify(self.free)
        assert self.refs[number] == 0
        self.refs[number] = 1
        return number

    def share(self, number: int) -> int:
        assert self.refs[number] > 0, f"sharing {number}, which nobody holds"
        self.refs[number] += 1
        return number

    def drop(self, number: int) -> None:
        assert self.refs[number] > 0, f"dropping {number}, which nobody holds"
        self.refs[number] -= 1
        if self.refs[number] == 0:
            heapq.heappush(self.free, number)

    def _grow(self) -> None:
        assert self.size < self.limit, "pool exhausted: the scheduler must look at `available` first"
        size = min(self.limit, 2 * self.size)
        self.refs += [0] * (size - self.size)
        self.free = list(range(self.size, size))
        self.size = size


@dataclass(slots=True)
class Memory:
    """The two pools, and the arithmetic between tokens and pages."""

    page_size: int
    pages: Pool
    slots: Pool

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    @property
    def capacity(self) -> int:
        """Tokens one sequence could hold if it were alone."""
        return self.pages.limit * self.page_size

    def check(self, pages: Iterable[int] = (), slots: Iterable[int] = ()) -> None:
        """Idle invariant: only these are held (a page as often as it is named), and every other number is free once."""
        for name, pool, held in (("pages", self.pages, Counter(pages)), ("slots", self.slots, Counter(slots))):
            wrong = [n for n in range(pool.size) if pool.refs[n] != held[n]]
            assert not wrong, f"{name} {wrong[:5]} leaked or lost"
            assert sorted(pool.free) == [n for n in range(pool.size) if not held[n]], f"{name}: the free list is torn"
