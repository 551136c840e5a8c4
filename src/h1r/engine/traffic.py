"""Bytes a step has to move at least: weights once, the state of every sequence in memory in and out, its keys and values
in. What a step achieved is this over its time; the machine's bandwidth is the bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

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
        self.bytes += self._weights + tokens * each(runner.cache, PAGED, 3) + 2 * len(resident) * each(
            runner.cache, SLOTTED, 2
        )  # fmt: skip
        self.seconds += seconds


def weights(model: Any) -> int:
    """Bytes of a model's weights, an embedding that is a gather included."""
    if isinstance(model, NativeModel):
        return int(model.nbytes)
    held = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in held.values())


def each(cache: Any, names: tuple[str, ...], dims: int) -> int:
    """Bytes of one slot, [layers, slots, ...], or of one token, [layers, pages, page_size, ...]."""
    tensors = [t for name in names if isinstance(t := getattr(cache, name, None), Tensor)]
    return sum(t.element_size() * t.shape[0] * t[0].flatten(0, dims - 2)[0].numel() for t in tensors if t.numel())
