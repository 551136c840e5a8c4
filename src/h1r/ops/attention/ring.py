"""Attention over ranks: keys and values are gathered from all of them; queries stay where they are.

With few key/value heads (two in the 7B) that is about 1 KB a token and layer, far less than moving queries or outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from h1r.ops.attention import packed
from h1r.ops.layout import Layout

BLOCK = 2048
"""Queries that meet their keys in one call."""


def attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """The same function as `reference.attention` over the whole row, each rank with its share."""
    ring = layout.ring
    assert ring is not None, "a ring form needs a layout with a ring"
    # own keys and values are read back from the gathered ones, so every rank's gradient passes through the exchange
    k, v = ring.gather(torch.cat([k, v], 1)).chunk(2, 1)
    if not ring.past:
        return packed.attention(q, k[ring.begin : ring.end], v[ring.begin : ring.end], layout)
    n = layout.lengths[0]
    seen = slice(ring.begin - ring.past, ring.begin + n)
    first = _after_past(q[:n], k[seen], v[seen])
    if len(layout.lengths) == 1:
        return first
    rest = layout.memo("rest", lambda: Layout.of(layout.lengths[1:], device=q.device))
    others = slice(ring.begin + n, ring.end)
    return torch.cat([first, packed.attention(q[n:], k[others], v[others], rest)])


def _after_past(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [n,Hq,d], the last n of k, v [L,Kv,d] -> [n,Hq,d]; BLOCK queries at a time, so that no mask grows with n L."""
    past, grouped = k.shape[0] - q.shape[0], q.shape[1] != k.shape[1]
    q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
    outs = []
    for begin in range(0, q.shape[2], BLOCK):
        block = q[:, :, begin : begin + BLOCK]
        rows, seen = block.shape[2], past + begin + block.shape[2]
        mask = torch.ones(rows, seen, dtype=torch.bool, device=q.device).tril(seen - rows)
        outs.append(F.scaled_dot_product_attention(block, k[:, :, :seen], v[:, :, :seen], mask, enable_gqa=grouped))
    return torch.cat(outs, 2)[0].transpose(0, 1)
