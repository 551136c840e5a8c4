"""The causal depthwise convolution before the scan: reference, packed form, single step."""

from __future__ import annotations

import torch
from torch import Tensor

from h1r.ops import kernels
from h1r.ops.conv import aligned, packed, ring
from h1r.ops.conv.reference import Conv
from h1r.ops.conv.step import step
from h1r.ops.layout import Layout

__all__ = ["Conv", "conv", "step"]


def conv(
    u: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout, state: Tensor | None = None, final: bool = True
) -> Conv:
    """u [T,C], weight [C,K], bias [C] or None, state [S,C,K-1] or None (zeros)
    -> out [T,C] before the activation, state [S,C,K-1]; `final=False` skips the state (None).
    """
    if layout.ring is not None:
        assert state is None and not final, "a row shared by ranks neither starts from a state nor ends in one"
        return ring.conv(u, weight, bias, layout)
    if layout.chunk is None and kernels.fit(u) and not torch.compiler.is_compiling():
        from h1r.ops.conv import triton

        if not torch.is_grad_enabled():
            return triton.conv(u, weight, bias, layout, state, final)
        if state is None and not final:
            return Conv(triton.trained(u, weight, bias, layout), None)
    form = packed if layout.chunk is None else aligned
    return form.conv(u, weight, bias, layout, state, final)
