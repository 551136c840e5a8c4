"""Bytes a step has to move at least: weights once, the state of every sequence in memory in and out, its keys and values
in. What a step achieved is this over its time; the machine's bandwidth is the bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from h1r.engine.cuda import nbytes
from h1r.engine.native.model import NativeModel
from h1r.engine.runner import PAGED, SLOTTED


@dataclass(slots=True)
class Traffic:
    """Sums over the steps so far."""

    bytes: int = 0
    seconds: float = 0.0
    _model: Any = None
    _weights: int = 0

    def add(self, engine: Any, seconds: float) -> None:
        """One more step of `engine`, which took `seconds`."""
        runner = engine.runner
        if self._model is not runner.model:
            self._model, self._weights = runner.model, weights(runner.model)
        resident = engine.scheduler.resident
        tokens = sum(s.length for s in resident)
        moved = tokens * token_bytes(runner.cache) + 2 * len(resident) * slot_bytes(runner.cache)
        self.bytes += self._weights + moved
        self.seconds += seconds


def weights(model: Any) -> int:
    """Bytes of a model's weights, an embedding that is a gather included."""
    if isinstance(model, NativeModel):
        return int(model.nbytes)
    return nbytes(model)


def token_bytes(cache: Any) -> int:
    """Bytes of one token's keys and values, all layers."""
    return sum(t.element_size() * t.numel() // (t.shape[1] * cache.page_size) for t in _tensors(cache, PAGED))


def slot_bytes(cache: Any) -> int:
    """Bytes of one sequence's states, all layers."""
    return sum(t.element_size() * t.numel() // t.shape[1] for t in _tensors(cache, SLOTTED))


def _tensors(cache: Any, names: tuple[str, ...]) -> list[Tensor]:
    found = (getattr(cache, name, None) for name in names)
    return [t for t in found if isinstance(t, Tensor) and t.numel()]
