"""Do training problems repeat benchmark statements? Exact, by word n-grams, and with every number masked.

    index = build({"math500": statements}, salt="…")
    for hit in index.scan(problems): ...
    index.table(scanned)                                  per benchmark: items, items hit, training problems that hit

The index holds salted hashes only, so it may be shipped where the statements may not: `save` and `load`. A statement
shorter than n words matches only as a whole. Masked matching replaces each number by one word and needs the whole
statement to match: the same words with other numbers are a different problem, worth knowing of.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from h1r import log
from h1r.data.dedup import question
from h1r.data.parallel import ordered
from h1r.errors import DataError
from h1r.types import Problem

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


class Hit(NamedTuple):
    """A training problem and the item it repeats. how: exact, ngram or masked; share: of the item's n-grams."""

    id: str
    benchmark: str
    item: str
    how: str
    share: float


class Item(NamedTuple):
    """A benchmark statement as hashes."""

    benchmark: str
    name: str
    exact: int
    masked: int
    grams: frozenset[int]


def words(text: str) -> list[str]:
    """Lower-case words and numbers; punctuation and layout do not count."""
    return re.findall(r"\w+", text.lower())


class Index:
    """Hashed benchmark statements and where each n-gram occurs."""

    def __init__(self, items: Iterable[Item], n: int, salt: str) -> None:
        self.items, self.n, self.salt = tuple(items), n, salt
        self._grams: dict[int, list[int]] = {}
        self._exact: dict[int, int] = {}
        self._masked: dict[int, int] = {}
        for i, item in enumerate(self.items):
            for gram in item.grams:
                self._grams.setdefault(gram, []).append(i)
            self._exact.setdefault(item.exact, i)
            self._masked.setdefault(item.masked, i)

    def check(self, name: str, text: str, threshold: float = 0.5) -> Hit | None:
        """The strongest match of a training text: exact, else the largest n-gram share >= threshold, else masked."""
        said = words(text)
        if (i := self._exact.get(_hash(self.salt, said))) is not None:
            return Hit(name, self.items[i].benchmark, self.items[i].name, "exact", 1.0)
        counts: dict[int, int] = {}
        for gram in {_hash(self.salt, said[k : k + self.n]) for k in range(len(said) - self.n + 1)}:
            for i in self._grams.get(gram, ()):
                counts[i] = counts.get(i, 0) + 1
        if counts:
            best = max(counts, key=lambda i: counts[i] / len(self.items[i].grams))
            shared = counts[best] / len(self.items[best].grams)
            if shared >= threshold:
                return Hit(name, self.items[best].benchmark, self.items[best].name, "ngram", shared)
        if (i := self._masked.get(_hash(self.salt, words(_mask(text))))) is not None:
            return Hit(name, self.items[i].benchmark, self.items[i].name, "masked", 1.0)
        return None

    def scan(self, problems: Iterable[Problem], threshold: float = 0.5, workers: int = 1) -> Iterator[Hit]:
        """Hits of a stream of problems, one at most per problem."""
        for _, hit in ordered(partial(_check, self, threshold), problems, workers):
            if hit:
                yield hit

    def table(self, hits: Iterable[Hit]) -> dict[str, dict[str, int]]:
        """Per benchmark: items, and of these how many were hit in each way; `problems`: training problems that hit."""
        rows = {b: {"items": 0, "exact": 0, "ngram": 0, "masked": 0, "problems": 0} for b in self._names()}
        for item in self.items:
            rows[item.benchmark]["items"] += 1
        found: set[tuple[str, str, str]] = set()
        for hit in hits:
            rows[hit.benchmark]["problems"] += 1
            if (hit.benchmark, hit.item, hit.how) not in found:
                found.add((hit.benchmark, hit.item, hit.how))
                rows[hit.benchmark][hit.how] += 1
        return rows

    def save(self, path: str | Path) -> None:
        """Write the hashes; the statements cannot be read back from them."""
        head = {"n": self.n, "salt": self.salt}
        log.write(path, [head, *({**i._asdict(), "grams": sorted(i.grams)} for i in self.items)])

    def _names(self) -> list[str]:
        return sorted({i.benchmark for i in self.items})


def _check(index: Index, threshold: float, problem: Problem) -> Hit | None:
    return index.check(problem.id, question(problem), threshold)


def build(benchmarks: Mapping[str, Iterable[str]], *, n: int = 13, salt: str = "h1r") -> Index:
    """An index over named benchmarks' statements."""
    items = []
    for benchmark, statements in benchmarks.items():
        for k, statement in enumerate(statements):
            said = words(statement)
            size = min(n, len(said))
            grams = frozenset(_hash(salt, said[i : i + size]) for i in range(max(1, len(said) - size + 1)))
            # a short statement's only gram is found by the exact match
            grams = grams if len(said) >= n else frozenset()
            items.append(Item(benchmark, str(k), _hash(salt, said), _hash(salt, words(_mask(statement))), grams))
    return Index(items, n, salt)


def load(path: str | Path) -> Index:
    """Read a saved index."""
    rows: list[dict[str, Any]] = []
    try:
        with open(path, encoding="utf-8") as f:
            rows = [json.loads(line) for line in f]
        head = rows[0]
        items = [Item(r["benchmark"], r["name"], r["exact"], r["masked"], frozenset(r["grams"])) for r in rows[1:]]
        return Index(items, int(head["n"]), str(head["salt"]))
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as e:
        raise DataError(f"{path}, line {len(rows) + 1}: not a contamination index ({e!r}); build it again") from None


def _mask(text: str) -> str:
    return NUMBER.sub(" number ", text)


def _hash(salt: str, said: list[str]) -> int:
    return int.from_bytes(
        hashlib.blake2b(" ".join(said).encode(), digest_size=7, key=salt.encode()[:64]).digest(), "big"
    )
