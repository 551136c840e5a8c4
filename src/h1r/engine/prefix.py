"""Prefixes whose hybrid state is kept: a later prompt that begins with one goes on from there.

A snapshot owns one state slot (the states after its last token), shares the full K/V pages, and owns the last, partly
filled one. It is found by its very tokens, so a hit is exact; the longest one wins. Snapshots live in the pools of the
sequences and are the first to go when those need room, the longest unused one first. Pure bookkeeping, no tensors.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence as Items
from typing import NamedTuple

from h1r.engine.memory import Memory

LEAST = 64  # tokens a snapshot must cover: fewer are computed sooner than a state is copied


class Snapshot(NamedTuple):
    """The state after `tokens`; pages hold their keys and values."""

    tokens: tuple[int, ...]
    slot: int
    pages: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.tokens)


class Prefixes:
    """At most `limit` snapshots. hits: prompts that began with one; tokens: what they did not compute again."""

    def __init__(self, memory: Memory, limit: int) -> None:
        self.memory, self.limit = memory, limit
        self.kept: OrderedDict[tuple[int, ...], Snapshot] = OrderedDict()  # the longest unused first
        self._lengths: Counter[int] = Counter()
        self.hits = self.tokens = 0

    def wanted(self, length: int) -> bool:
        """Whether a prefix of this length is worth a snapshot."""
        return self.limit > 0 and length >= LEAST

    def find(self, ids: Items[int], most: int) -> Snapshot | None:
        """The longest snapshot of at most `most` tokens that `ids` begin with; it counts as used."""
        for length in sorted((n for n in self._lengths if n <= most), reverse=True):
            found = self.kept.get(tuple(ids[:length]))
            if found is not None:
                self.kept.move_to_end(found.tokens)
                return found
        return None

    def touch(self, tokens: tuple[int, ...]) -> bool:
        """Whether these tokens are kept already; if so they count as used."""
        if tokens not in self.kept:
            return False
        self.kept.move_to_end(tokens)
        return True

    def add(self, tokens: tuple[int, ...], slot: int, pages: Items[int]) -> None:
        """Keep a state; slot and pages now belong to the snapshot. The oldest goes when there are too many."""
        assert tokens not in self.kept and len(pages) == self.memory.pages_for(len(tokens))
        self.kept[tokens] = Snapshot(tokens, slot, tuple(pages))
        self._lengths[len(tokens)] += 1
        while len(self.kept) > self.limit:
            self.evict()

    def evict(self, spare: Snapshot | None = None) -> bool:
        """Give up the longest unused snapshot, but never `spare`. False when there is none."""
        tokens = next((t for t, s in self.kept.items() if s is not spare), None)
        if tokens is None:
            return False
        gone = self.kept.pop(tokens)
        self._lengths[gone.length] -= 1
        if not self._lengths[gone.length]:
            del self._lengths[gone.length]
        self.memory.slots.drop(gone.slot)
        for page in gone.pages:
            self.memory.pages.drop(page)
        return True

    def make_room(self, slots: int, pages: int, spare: Snapshot | None = None) -> bool:
        """Evict until so many slots and pages can be taken. Where that would not be enough, nothing goes: False."""
        memory = self.memory
        if memory.slots.available >= slots and memory.pages.available >= pages:
            return True
        mine = [s for s in self.kept.values() if s is not spare]
        if memory.slots.available + len(mine) < slots:
            return False
        held = Counter(p for s in mine for p in s.pages)
        if memory.pages.available + sum(memory.pages.refs[p] == n for p, n in held.items()) < pages:
            return False
        while memory.slots.available < slots or memory.pages.available < pages:
            self.evict(spare)
        return True

    def clear(self) -> None:
        """Forget all: the weights changed, or somebody wants the memory empty."""
        while self.evict():
            pass
