"""The convolution with every token computed alike: the carried inputs stand before each document, so that no token
takes the separate path of `packed` for the beginning of a document. What `Layout.chunk` asks for; differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from h1r.ops.conv.packed import depthwise, final_state
from h1r.ops.conv.reference import Conv
from h1r.ops.layout import Layout


def conv(
    u: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout, state: Tensor | None = None, final: bool = True
) -> Conv:
    """The same function as `reference.conv`; computed in u's dtype."""
    width, channels = weight.shape[1], u.shape[1]
    weight, bias = weight.to(u.dtype), None if bias is None else bias.to(u.dtype)
    documents = len(layout.lengths)
    before = u.new_zeros(documents, width - 1, channels) if state is None else state.to(u.dtype).transpose(1, 2)
    parts = [t for pair in zip(before, u.split(layout.lengths), strict=True) for t in pair]
    own = layout.memo(
        ("conv aligned", width),
        lambda: torch.arange(layout.tokens, device=layout.device) + (layout.segments + 1) * (width - 1),
    )
    out = depthwise(torch.cat(parts), weight, bias)[own]
    carried = before.reshape(-1, channels)
    return Conv(out, final_state(u, carried, layout, width) if final else None)
