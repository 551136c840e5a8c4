"""The convolution of a whole packed row: one depthwise convolution over all tokens, with the first K-1 tokens of
every document computed apart, so that nothing of a neighbour ever enters them (not even a NaN)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from h1r.ops.conv.reference import Conv
from h1r.ops.layout import Layout


def conv(
    u: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout, state: Tensor | None = None, final: bool = True
) -> Conv:
    """The same function as `reference.conv`; computed in u's dtype."""
    width = weight.shape[1]
    edge, source = layout.memo(("conv", width), lambda: _edges(layout, width))
    weight, bias = weight.to(u.dtype), None if bias is None else bias.to(u.dtype)
    before = None if state is None else state.to(u.dtype).transpose(1, 2).reshape(-1, u.shape[1])  # [S*(K-1),C]
    out = _Shifts.apply(u, weight, bias, before, edge, source)
    return Conv(out, final_state(u, before, layout, width) if final else None)


def _edges(layout: Layout, width: int) -> tuple[Tensor, Tensor]:
    """edge [E]: tokens with fewer than K-1 predecessors in their document. source [E,K]: what each tap of them reads:
    a token t as t, entry j of the carried rows [S*(K-1)] as T + j."""
    device, tokens = layout.device, layout.tokens
    offset = torch.arange(tokens, device=device) - layout.starts[layout.segments]
    edge = (offset < width - 1).nonzero()[:, 0]
    back = torch.arange(width - 1, -1, -1, device=device)  # tap k reads the token `back[k]` before
    place = offset[edge, None] - back
    carried = tokens + layout.segments[edge, None] * (width - 1) + (width - 1) + place
    return edge, torch.where(place >= 0, edge[:, None] - back, carried)


class _Shifts(torch.autograd.Function):
    """u [T,C], weight [C,K], bias [C], before [S*(K-1),C] -> out [T,C]."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor | None, edge: Tensor, source: Tensor
    ) -> Tensor:
        with torch.autocast(u.device.type, enabled=False):
            out = depthwise(u, weight, bias)[: u.shape[0]]
            exact = (_window(u, before, source) * weight.t()).sum(1)
            out[edge] = exact if bias is None else exact + bias
        ctx.save_for_backward(u, weight, before, edge, source)
        ctx.has_bias = bias is not None
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        with torch.autocast(grad.device.type, enabled=False):
            return _Shifts.gradients(ctx, grad)

    @staticmethod
    def gradients(ctx: Any, grad: Tensor) -> Any:
        """d/d u, weight, bias, before."""
        u, weight, before, edge, source = ctx.saved_tensors
        width, tokens = weight.shape[1], u.shape[0]
        at_edge = grad[edge]  # [E,C]
        inner = grad.index_fill(0, edge, 0.0)
        # The gradient of a convolution's input is the convolution with the taps reversed, looking ahead.
        du = depthwise(inner, weight.flip(1), None)[width - 1 :]
        dweight = _correlate(inner, u, width) + (at_edge[:, None] * _window(u, before, source)).sum(0)
        spread = (at_edge[:, None] * weight.t()).flatten(0, 1)  # [E*K,C]
        flat = source.flatten()
        own = (flat < tokens).nonzero()[:, 0]
        du.index_add_(0, flat[own], spread[own])
        dbefore = None
        if before is not None:
            rest = (flat >= tokens).nonzero()[:, 0]
            dbefore = torch.zeros_like(before).index_add_(0, flat[rest] - tokens, spread[rest])
        return du, dweight.t(), grad.sum(0) if ctx.has_bias else None, dbefore, None, None


def depthwise(u: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Every tap over all rows, zeros outside: [T,C] -> [T+K-1,C]; row t is the sum over taps k of u[t-K+1+k]
    weight[:,k].

    A row is a pixel of an image one pixel high, channels last: the layout in which depthwise kernels are fast.
    """
    channels, width = weight.shape
    # Through a view: the strides of dimensions of size 1 decide whether torch sees channels last.
    image = u.contiguous().view(1, 1, -1, channels).permute(0, 3, 1, 2)
    out = F.conv2d(image, weight[:, None, None], bias, padding=(0, width - 1), groups=channels)
    return out[0, :, 0].t()


def _correlate(grad: Tensor, u: Tensor, width: int) -> Tensor:
    """sum_t grad[t] u[t-K+1+k]: [K,C]. In blocks of rows that stay in the processor's cache between product and sum."""
    out = torch.zeros(width, u.shape[1], dtype=u.dtype, device=u.device)
    rows = 512 if u.device.type == "cpu" else u.shape[0]
    for begin in range(0, u.shape[0], rows):
        for tap in range(width):
            back = width - 1 - tap
            g = grad[max(begin, back) : begin + rows]
            first = max(begin - back, 0)
            out[tap] += (g * u[first : first + g.shape[0]]).sum(0)
    return out


def _window(u: Tensor, before: Tensor | None, source: Tensor) -> Tensor:
    """The inputs each tap of the edge tokens reads: [E,K,C]; zeros before a document that carries nothing."""
    tokens = u.shape[0]
    own = source < tokens
    window = u[source.clamp(max=tokens - 1)]
    if before is None:
        return torch.where(own[:, :, None], window, torch.zeros((), dtype=u.dtype, device=u.device))
    return torch.where(own[:, :, None], window, before[(source - tokens).clamp(min=0)])


def final_state(u: Tensor, before: Tensor | None, layout: Layout, width: int) -> Tensor:
    """The last K-1 inputs of each document [S,C,K-1], those of before the document where it is shorter."""
    back = torch.arange(width - 1, 0, -1, device=u.device)
    lengths = layout.memo("lengths", lambda: torch.tensor(layout.lengths, device=layout.device))
    place = lengths[:, None] - back  # [S,K-1] position inside the document, negative: before it
    carried = torch.arange(len(layout.lengths), device=u.device)[:, None] * (width - 1) + (width - 1) + place
    source = torch.where(place >= 0, layout.starts[:, None] + place, layout.tokens + carried)
    return _window(u, before, source).transpose(1, 2)
