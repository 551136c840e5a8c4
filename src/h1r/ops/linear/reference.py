"""The products and the gate in plain torch: the definition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def fan(x: Tensor, weight: Tensor, bias: Tensor | None, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """x [T,D], weight [sum of sizes, D] -> one [T,size] for each."""
    return F.linear(x, weight, bias).split(list(sizes), -1)


def join(h: Tensor, parts: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    """h [T,D] plus the product of the parts [T,n_i], side by side, with weight [D, sum of n_i]."""
    return h + F.linear(torch.cat(list(parts), -1), weight, bias)


def glu(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up [T,F] -> silu(gate) up [T,F]."""
    return F.silu(gate) * up
