"""One matrix product with several outputs, or of several inputs, without the copies that splitting and joining would make."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from h1r.ops import kernels
from h1r.ops.linear import coded, parts, reference
from h1r.ops.linear.coded import Coded

__all__ = ["fan", "glu", "join"]


def fan(x: Tensor, weight: Tensor | Coded, bias: Tensor | None, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """x [T,D], weight [sum of sizes, D] -> one [T,size] for each. torch.compile is given the definition."""
    if isinstance(weight, Coded):
        out = coded.product(x, weight)
        return (out if bias is None else out + bias.to(out.dtype)).split(list(sizes), -1)
    return (reference if torch.compiler.is_compiling() else parts).fan(x, weight, bias, sizes)


def join(h: Tensor, pieces: Sequence[Tensor], weight: Tensor | Coded, bias: Tensor | None) -> Tensor:
    """h [T,D] plus the product of the pieces [T,n_i], side by side, with weight [D, sum of n_i]."""
    if isinstance(weight, Coded):
        out = coded.product(torch.cat(list(pieces), -1), weight)
        return h + (out if bias is None else out + bias.to(out.dtype))
    return (reference if torch.compiler.is_compiling() else parts).join(h, pieces, weight, bias)


def glu(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up [T,F] -> silu(gate) up [T,F]."""
    if kernels.infers(gate) and gate.stride() == up.stride() and gate.stride(-1) == 1:
        from h1r.ops.linear import triton

        out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
        triton.glu(gate, up, out)
        return out
    return reference.glu(gate, up)
