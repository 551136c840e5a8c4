"""Duplicates among problems: exact after normalisation, and near by MinHash over word shingles.

MinHash (Broder 1997): the chance that two sets have the same minimum under a random hash is their Jaccard similarity.
A signature of `hashes` minima is cut into bands; two problems that agree in a whole band are compared, and count as
duplicates when the share of equal minima reaches `threshold`. The first of a cluster in stream order stays.
Memory: 4 * hashes bytes per kept problem plus one table entry per band.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from h1r.data.parallel import ordered
from h1r.errors import ConfigError
from h1r.types import Problem

PRIME = (1 << 31) - 1
Signature = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupConfig:
    """threshold 1 keeps near duplicates and drops only exact ones. rows per band = hashes / bands."""

    threshold: float = 0.8
    hashes: int = 128
    bands: int = 32
    shingle: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.hashes < 1 or self.bands < 1 or self.hashes % self.bands:
            raise ConfigError(f"bands={self.bands}: must divide hashes={self.hashes}")
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold={self.threshold}: must be above 0, at most 1")
        if self.shingle < 1:
            raise ConfigError(f"shingle={self.shingle}: must be 1 or more")


def question(problem: Problem) -> str:
    """What is asked: the user's turns."""
    return "\n".join(str(m["content"]) for m in problem.messages if m["role"] == "user")


def normal(text: str) -> str:
    """Lower case, words and numbers only, single spaces."""
    return " ".join(re.findall(r"\w+|[^\w\s]", text.lower()))


def dedup(
    problems: Iterable[Problem],
    config: DedupConfig,
    *,
    text: Callable[[Problem], str] = question,
    tally: Counter[str] | None = None,
    workers: int = 1,
) -> Iterator[Problem]:
    """The first of every cluster of duplicates, in order; `tally` counts "kept", "exact" and "near". Several workers compute
    the signatures (`text` must then be picklable); which is the first is decided in one place."""
    minhash = MinHash(config)
    exact: set[bytes] = set()
    for problem, (digest, signature) in ordered(partial(_marks, MinHash(config), text), problems, workers):
        if digest in exact:
            found = "exact"
        else:
            exact.add(digest)
            found = "near" if signature is not None and minhash.seen(signature) else "kept"
        if tally is not None:
            tally[found] += 1
        if found == "kept":
            yield problem


def _marks(minhash: MinHash, text: Callable[[Problem], str], problem: Problem) -> tuple[bytes, Signature | None]:
    """What a problem is known by: a digest and, where near duplicates count, a signature."""
    said = normal(text(problem))
    digest = hashlib.blake2b(said.encode(), digest_size=12).digest()
    return digest, minhash.signature(said) if minhash.config.threshold < 1 else None


class MinHash:
    """The signatures of what was kept so far, findable by band."""

    def __init__(self, config: DedupConfig) -> None:
        self.config = config
        r = np.random.default_rng(config.seed)
        self._a = r.integers(1, PRIME, config.hashes, dtype=np.uint64)
        self._b = r.integers(0, PRIME, config.hashes, dtype=np.uint64)
        self._kept: list[Signature] = []
        self._bands: dict[bytes, list[int]] = {}

    def signature(self, said: str) -> Signature:
        """Minima of (a h + b) mod 2^31 - 1 over the hashes h of the text's shingles: [hashes] uint32."""
        words = said.split()
        n = min(self.config.shingle, max(1, len(words)))
        grams = {" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}
        h = np.array(
            [int.from_bytes(hashlib.blake2b(g.encode(), digest_size=4).digest(), "big") for g in grams], np.uint64
        )
        # a and h are below 2^31 and 2^32: the product fits in 64 bits
        mixed = (self._a[:, None] * (h % PRIME)[None, :] + self._b[:, None]) % PRIME
        minima: Signature = mixed.min(1).astype(np.uint32)
        return minima

    def seen(self, signature: Signature) -> bool:
        """Whether something near was kept before; otherwise this is kept from now on."""
        keys = [
            bytes([i % 256, i // 256]) + row.tobytes() for i, row in enumerate(signature.reshape(self.config.bands, -1))
        ]
        candidates = {c for key in keys for c in self._bands.get(key, ())}
        if any(float(np.mean(self._kept[c] == signature)) >= self.config.threshold for c in candidates):
            return True
        for key in keys:
            self._bands.setdefault(key, []).append(len(self._kept))
        self._kept.append(signature)
        return False
