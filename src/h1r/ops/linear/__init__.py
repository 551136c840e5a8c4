"""One matrix product with several outputs, or of several inputs, without the copies that splitting and joining would make."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from h1r.ops.linear import parts, reference

__all__ = ["fan", "join"]


def fan(x: Tensor, weight: Tensor, bias: Tensor | None, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """x [T,D], weight [sum of sizes, D] -> one [T,size] for each. torch.compile is given the definition."""
    return (reference if torch.compiler.is_compiling() else parts).fan(x, weight, bias, sizes)


def join(h: Tensor, pieces: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    """h [T,D] plus the product of the pieces [T,n_i], side by side, with weight [D, sum of n_i]."""
    return (reference if torch.compiler.is_compiling() else parts).join(h, pieces, weight, bias)
