"""How hard each problem is: one table for SFT weights, the RL filter and the curriculum.

The table is an append-only JSONL of entries {id, difficulty, pass_rate, n, source}; the last entry of an id counts.
Difficulty is one minus the pass rate of n attempts, or the rank of the trace's length in its domain, or a given label.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from h1r import log
from h1r.data.curate import share
from h1r.errors import ConfigError, DataError
from h1r.types import Problem

BANDS = ("easy", "medium", "hard")
LABELS = {"easy": 0.0, "medium": 0.5, "hard": 1.0}


class Entry(NamedTuple):
    """What is known of one problem: difficulty 0 to 1, and its pass rate over n attempts where it was tried.

    agreed     attempts that gave the commonest answer, right or wrong;  truncated  attempts that ran out of tokens
    """

    difficulty: float
    pass_rate: float | None = None
    n: int = 0
    source: str = ""
    agreed: int = 0
    truncated: int = 0


class Attempt(NamedTuple):
    """One rollout of a problem: its answer (None when it gave none), whether right, whether it ran out of tokens."""

    answer: str | None
    correct: bool
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BandConfig:
    """Band edges on difficulty and each band's weight (Falcon-H1R: hard 1.25 to 1.75, medium 1, easy 0.5 or 0)."""

    easy_below: float = 0.25
    hard_from: float = 0.75
    easy: float = 0.5
    medium: float = 1.0
    hard: float = 1.5

    def __post_init__(self) -> None:
        if not 0 <= self.easy_below <= self.hard_from <= 1:
            raise ConfigError(f"easy_below={self.easy_below}, hard_from={self.hard_from}: must rise from 0 to 1")
        if min(self.easy, self.medium, self.hard) < 0:
            raise ConfigError("band weights: must be 0 (dropped) or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class RlFilterConfig:
    """The report's filter before RL. keep: share kept of unsolved problems whose answers differ or never came."""

    majority: int = 4
    keep: float = 0.2
    seed: int = 0


def read(path: str | Path) -> dict[str, Entry]:
    """The table at `path`; empty when there is none yet."""
    table: dict[str, Entry] = {}
    for number, r in enumerate(log.read(path), 1):
        try:
            counts = {key: int(r.get(key, 0)) for key in ("n", "agreed", "truncated")}
            entry = Entry(float(r["difficulty"]), r.get("pass_rate"), source=str(r.get("source", "")), **counts)
            table[str(r["id"])] = entry
        except (KeyError, TypeError, ValueError) as e:
            raise DataError(f"{path}, line {number}, field {e}: not a difficulty entry; remove the line") from None
    return table


def append(path: str | Path, entries: Mapping[str, Entry]) -> None:
    """Add entries to the table at `path`."""
    log.append(path, *({"id": name, **entry._asdict()} for name, entry in entries.items()))


def measure(
    problems: Iterable[Problem],
    attempt: Callable[[Sequence[Problem]], Sequence[Sequence[Attempt]]],
    path: str | Path,
    *,
    batch: int = 16,
    source: str = "",
) -> Iterator[tuple[Problem, Entry]]:
    """Pass rates by rollouts. `attempt` answers a batch of problems, some attempts each.

    Problems already in the table at `path` are skipped, and each batch is on disk before it is yielded, so a killed run
    loses one batch at most.
    """
    known = set(read(path))
    waiting: list[Problem] = []

    def flush() -> Iterator[tuple[Problem, Entry]]:
        entries = {p.id: from_attempts(a, source) for p, a in zip(waiting, attempt(waiting), strict=True)}
        append(path, entries)
        yield from ((p, entries[p.id]) for p in waiting)

    for problem in problems:
        if problem.id in known:
            continue
        known.add(problem.id)
        waiting.append(problem)
        if len(waiting) == batch:
            yield from flush()
            waiting = []
    if waiting:
        yield from flush()


def from_attempts(attempts: Sequence[Attempt], source: str = "") -> Entry:
    """Difficulty = 1 - pass rate."""
    if not attempts:
        raise DataError("a problem without attempts has no pass rate; generate at least one")
    rate = sum(a.correct for a in attempts) / len(attempts)
    given = Counter(a.answer for a in attempts if a.answer is not None)
    agreed = given.most_common(1)[0][1] if given else 0
    return Entry(1 - rate, rate, len(attempts), source, agreed, sum(a.truncated for a in attempts))


def from_lengths(lengths: Mapping[str, int], domains: Mapping[str, str]) -> dict[str, Entry]:
    """Difficulty = rank of the trace's length in its domain, 0 shortest, 1 longest; equal lengths share a rank."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in lengths:
        groups[domains.get(name, "")].append(name)
    table = {}
    for names in groups.values():
        ordered = sorted(lengths[name] for name in names)
        last = max(1, len(ordered) - 1)
        first: dict[int, int] = {}
        for rank, length in enumerate(ordered):
            first.setdefault(length, rank)
        counts = Counter(ordered)
        for name in names:
            n = lengths[name]
            table[name] = Entry((first[n] + (counts[n] - 1) / 2) / last if len(ordered) > 1 else 0.5, source="length")
    return table


def from_labels(labels: Mapping[str, str | float]) -> dict[str, Entry]:
    """Given labels: a number from 0 to 1, or easy, medium, hard."""
    table = {}
    for name, label in labels.items():
        value = LABELS.get(label.lower(), -1.0) if isinstance(label, str) else float(label)
        if not 0 <= value <= 1:
            raise DataError(f"difficulty of {name!r}: {label!r} is neither easy, medium, hard nor a number from 0 to 1")
        table[name] = Entry(value, source="label")
    return table


def of(problem: Problem, table: Mapping[str, Entry]) -> float | None:
    """A problem's difficulty: from the table, else its own."""
    entry = table.get(problem.id)
    return entry.difficulty if entry else problem.difficulty


def band(difficulty: float | None, config: BandConfig) -> str:
    """easy, medium or hard; what is unknown counts as medium."""
    if difficulty is None or config.easy_below <= difficulty < config.hard_from:
        return "medium"
    return "easy" if difficulty < config.easy_below else "hard"


def weight(difficulty: float | None, config: BandConfig) -> float:
    """The band's training weight; 0 means dropped."""
    return float(getattr(config, band(difficulty, config)))


def rl_filter(name: str, entry: Entry, config: RlFilterConfig) -> str:
    """Why a problem is no use for RL, "" when it is (Falcon-H1R, arXiv:2601.02346 section 3.1, with 8 attempts).

    All right: nothing to learn. Some right: kept. None right: when every attempt ran out of tokens, or when answers
    disagree, a seeded share stays; when `majority` of them agree on a wrong answer, the gold is suspect.
    Raises DataError for a problem that was never tried.
    """
    if entry.pass_rate is None or not entry.n:
        raise DataError(f"{name}: no pass rate in the difficulty table; measure it: h1r data difficulty --model M")
    if entry.pass_rate >= 1:
        return "always solved"
    if entry.pass_rate > 0:
        return ""
    lucky = share(name, config.seed) < config.keep
    if entry.truncated == entry.n:
        return "" if lucky else "always truncated"
    if entry.agreed >= config.majority:
        return "consistently wrong"
    return "" if lucky else "never solved"
