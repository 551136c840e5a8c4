"""Root mean square norms: plain, and gated by SiLU before or after; computed in fp32.

torch.compile is given the definition: it fuses by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from h1r.ops import kernels
from h1r.ops.norm import fused, reference

__all__ = ["gated", "rms"]


def rms(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x [..., D] * rsqrt(mean x^2 + eps) * weight [D] (None: ones), in x's dtype."""
    if kernels.infers(x):
        from h1r.ops.norm import triton

        flat, out = x.reshape(-1, x.shape[-1]).contiguous(), torch.empty(x.shape, dtype=x.dtype, device=x.device)
        triton.rms(flat, None, weight, eps, out.view(flat.shape))
        return out
    return (reference if torch.compiler.is_compiling() else fused).rms(x, weight, eps)


def gated(
    x: Tensor, gate: Tensor, weight: Tensor | None, eps: float, groups: int = 1, norm_before_gate: bool = False
) -> Tensor:
    """x, gate [..., C] -> [..., C]: norm(x silu(gate)) weight, or norm(x) weight silu(gate); the mean runs over
    C/groups."""
    if weight is None and x.dim() == 2 and kernels.infers(x):
        from h1r.ops.norm import triton

        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        triton.gated(x.contiguous(), gate, eps, groups, norm_before_gate, True, out)
        return out
    return (reference if torch.compiler.is_compiling() else fused).gated(x, gate, weight, eps, groups, norm_before_gate)
