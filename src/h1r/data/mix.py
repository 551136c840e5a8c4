"""A weighted mixture of sources: seeded, addressable by draw number, resumable from that number alone.

Draw i belongs to block i // BLOCK; the block's generator (seed, block) picks a source for each of its draws. The
position within a source is the number of earlier draws from it, passed through a permutation of (seed, source, epoch):
every item of a source is seen once before any is seen again. So draw i depends on nothing but i, and a state is one
number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from h1r.data.difficulty import BANDS, BandConfig, Entry, band, of
from h1r.errors import ConfigError, DataError
from h1r.types import Problem

BLOCK = 4096
Ints = npt.NDArray[np.int64]


class Many(Protocol):
    """Problems by number: a list, or `readers.Indexed`, which reads a line when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Problem: ...


class Source(NamedTuple):
    """Where draws come from. at(k): its k-th problem; length None: endless, never shuffled; weight: relative share."""

    name: str
    at: Callable[[int], Problem]
    length: int | None
    weight: float


class Draw(NamedTuple):
    """One draw of a mixture."""

    number: int
    source: str
    epoch: int
    problem: Problem


def source(name: str, problems: Many, weight: float = 1.0) -> Source:
    """A source over anything with a length and an index: a list, or `readers.Indexed`."""
    return Source(name, problems.__getitem__, len(problems), weight)


class Mixture:
    """An endless iterator of `Draw`s; `state_dict` and `load_state_dict` continue it exactly."""

    def __init__(self, sources: Sequence[Source], seed: int = 0) -> None:
        self.sources = tuple(s for s in sources if s.weight > 0)
        if not self.sources:
            raise ConfigError("mixture: no source has a weight above 0")
        for s in sources:
            if s.weight < 0 or s.length == 0:
                what = f"weight {s.weight} is negative" if s.weight < 0 else "has no problems"
                raise ConfigError(f"mixture: source {s.name!r} {what}")
        self.seed = seed
        self.step = 0
        weights = np.array([s.weight for s in self.sources])
        self._edges = np.cumsum(weights / weights.sum())
        self._before: list[Ints] = [np.zeros(len(self.sources), np.int64)]
        self._block: tuple[int, Ints, Ints] = (-1, np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._orders: dict[int, tuple[int, Ints]] = {}

    def __iter__(self) -> Iterator[Draw]:
        return self

    def __next__(self) -> Draw:
        draw = self.at(self.step)
        self.step += 1
        return draw

    def at(self, index: int) -> Draw:
        """Draw number `index`."""
        picks, ranks = self._of_block(index // BLOCK)
        which, rank = int(picks[index % BLOCK]), int(ranks[index % BLOCK])
        chosen = self.sources[which]
        if chosen.length is None:
            return Draw(index, chosen.name, 0, chosen.at(rank))
        epoch, k = divmod(rank, chosen.length)
        return Draw(index, chosen.name, epoch, chosen.at(int(self._order(which, epoch)[k])))

    def state_dict(self) -> dict[str, Any]:
        """The next draw's number, and what the mixture was, so that another one is refused."""
        return {"step": self.step, "fingerprint": self._fingerprint()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue. Raises DataError when sources, weights or seed are not those the state was taken with."""
        if state.get("fingerprint") != self._fingerprint():
            raise DataError(
                "mixture: sources, weights or seed differ from the saved run; resume with the same recipe and files"
            )
        self.step = int(state["step"])

    def _fingerprint(self) -> str:
        what = [self.seed, BLOCK, *((s.name, s.length, round(s.weight, 12)) for s in self.sources)]
        return hashlib.sha256(repr(what).encode()).hexdigest()[:16]

    def _of_block(self, block: int) -> tuple[Ints, Ints]:
        """For each draw of a block: its source [BLOCK], and its rank within that source [BLOCK]."""
        if self._block[0] != block:
            while len(self._before) <= block:
                done = self._picks(len(self._before) - 1)
                self._before.append(self._before[-1] + np.bincount(done, minlength=len(self.sources)))
            picks = self._picks(block)
            ranks = np.zeros(BLOCK, np.int64)
            for which, before in enumerate(self._before[block]):
                mine = picks == which
                ranks[mine] = before + np.arange(mine.sum())
            self._block = (block, picks, ranks)
        return self._block[1], self._block[2]

    def _picks(self, block: int) -> Ints:
        uniform = np.random.default_rng((self.seed, 0, block)).random(BLOCK)
        picked: Ints = np.minimum(np.searchsorted(self._edges, uniform, side="right"), len(self.sources) - 1).astype(
            np.int64
        )
        return picked

    def _order(self, which: int, epoch: int) -> Ints:
        kept = self._orders.get(which)
        if kept is None or kept[0] != epoch:
            length = self.sources[which].length
            assert length is not None
            kept = (epoch, np.random.default_rng((self.seed, 1, which, epoch)).permutation(length))
            self._orders[which] = kept
        return kept[1]


def stratify(
    problems: Many,
    *,
    domains: Mapping[str, float] | None = None,
    bands: BandConfig | None = None,
    table: Mapping[str, Entry] | None = None,
) -> list[Source]:
    """One source per domain and difficulty band.

    A domain's share of draws is its weight in `domains` (the sum of its problems' band weights when `domains` is None);
    within it a problem is drawn in proportion to its band's weight.
    """
    bands, table = bands or BandConfig(), table or {}
    cells: dict[tuple[str, str], list[int]] = {}
    for i in range(len(problems)):
        problem = problems[i]
        cells.setdefault((problem.domain, band(of(problem, table), bands)), []).append(i)
    for name in domains or {}:
        if name not in {d for d, _ in cells}:
            raise ConfigError(f"domains: {name!r} has no problems; found {', '.join(sorted({d for d, _ in cells}))}")
    out = []
    for domain in sorted({d for d, _ in cells}):
        masses = {b: len(cells.get((domain, b), ())) * float(getattr(bands, b)) for b in BANDS}
        total = sum(masses.values())
        share = total if domains is None else domains.get(domain, 0.0)
        for b, mass in masses.items():
            if mass > 0 and share > 0:
                chosen = _Subset(problems, np.asarray(cells[domain, b], np.int64))
                out.append(Source(f"{domain}/{b}", chosen.at, len(chosen.indices), share * mass / total))
    return out


class _Subset(NamedTuple):
    """Some problems of a sequence, by index."""

    problems: Many
    indices: Ints

    def at(self, k: int) -> Problem:
        return self.problems[int(self.indices[k])]
