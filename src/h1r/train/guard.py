"""Is this run going wrong? Steps without a finite gradient, steps whose gradient is far larger than usual, and which rows did it.

    guard = Guard(GuardConfig(), norms_so_far)
    if guard.unusual(norm):
        print(guard.times(norm), suspects(trainer, rows))
    guard.watch(norm)                          # remember it

The usual norm is the median of the last `window` finite ones, so one spike does not hide the next.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple, Protocol

import numpy as np

from h1r.errors import ConfigError, DivergenceError
from h1r.types import Floats, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardConfig:
    """factor: a gradient norm so many times the median of the last `window` is a spike (told, not undone: clipping bounds it);
    warmup: norms that must be known first; patience: steps in a row without a finite gradient that end the run, 0 for never."""

    factor: float = 5.0
    window: int = 64
    warmup: int = 16
    patience: int = 20

    def __post_init__(self) -> None:
        if self.factor <= 1 or self.window < 1 or self.warmup < 1 or self.patience < 0:
            raise ConfigError(
                f"guard: factor={self.factor} must be above 1, window={self.window} and warmup={self.warmup} 1 or more, "
                f"patience={self.patience} 0 or more"
            )


class Suspect(NamedTuple):
    """A row and its weighted mean of -log p; not finite where the row by itself breaks the step."""

    id: str
    loss: float


class Scorer(Protocol):
    """The part of a trainer that is asked which rows stand out."""

    def logprobs(self, rows: Sequence[Row]) -> list[Floats]: ...


class Guard:
    """The norms of a run; a resumed run gives those it has written down."""

    def __init__(self, config: GuardConfig, norms: Iterable[float] = ()) -> None:
        self.config = config
        self.lost = 0  # steps in a row without a finite gradient
        self._norms: deque[float] = deque(maxlen=config.window)
        for norm in norms:
            self._take(norm)

    def times(self, norm: float) -> float:
        """How many times the usual norm this one is; 0.0 while too few are known, inf for one that is not finite."""
        if not math.isfinite(norm):
            return math.inf
        usual = median(self._norms) if len(self._norms) >= self.config.warmup else 0.0
        return norm / usual if usual > 0 else 0.0

    def unusual(self, norm: float) -> bool:
        """Whether this norm is a spike."""
        return self.times(norm) >= self.config.factor

    def watch(self, norm: float) -> None:
        """Remember a step's norm. Raises DivergenceError when `patience` steps in a row had no finite one."""
        self._take(norm)
        if self.config.patience and self.lost >= self.config.patience:
            raise DivergenceError(
                f"{self.lost} steps in a row have no finite gradient, nothing was learned from them: lower optim.lr or set "
                "bf16=off; the rows are named above and the last checkpoint holds finite weights"
            )

    def _take(self, norm: float) -> None:
        if math.isfinite(norm):
            self._norms.append(norm)
            self.lost = 0
        else:
            self.lost += 1


def suspects(trainer: Scorer, rows: Sequence[Row], count: int = 4) -> list[Suspect]:
    """The rows whose tokens the model finds least likely, those that are not finite first."""
    found = []
    for row, logp in zip(rows, trainer.logprobs(rows)):
        weights = row.streams["ce"][1:].astype(np.float64) if "ce" in row.streams else np.ones(len(row.token_ids) - 1)
        scored = weights != 0
        if scored.any():
            total = float(np.sum(weights[scored] * -logp[1:][scored]))
            found.append(Suspect(row.id or "(unnamed)", total / float(np.sum(weights[scored]))))
    return sorted(found, key=lambda s: s.loss if math.isfinite(s.loss) else math.inf, reverse=True)[:count]
