"""Attention in calls whose shapes depend on a token's place in its document alone: what `Layout.chunk` asks for.

A document is cut at multiples of the chunk length Q. Each piece of queries is padded to Q, its keys to the end of the
piece, and takes a call of its own, so a token is computed by the same call whether its document is read whole, in
parts after cached keys, or beside others. Slower than `packed`; differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from h1r.ops.layout import Layout


def attention(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, past: Sequence[tuple[Tensor, Tensor] | None] | None = None
) -> Tensor:
    """The same function as `reference.attention`; cached keys must end at a multiple of `layout.chunk`."""
    size = layout.chunk
    assert size is not None, "an aligned layout names its chunk length"
    outs = []
    before = past or [None] * len(layout.lengths)
    for qs, ks, vs, cached in zip(*(t.split(layout.lengths) for t in (q, k, v)), before, strict=True):
        if cached is not None and len(cached[0]):
            assert len(cached[0]) % size == 0, f"{len(cached[0])} cached tokens do not end at a chunk of {size}"
            ks, vs = torch.cat([cached[0].to(ks.dtype), ks]), torch.cat([cached[1].to(vs.dtype), vs])
        behind = len(ks) - len(qs)
        short = -len(qs) % size
        qs, ks, vs = (F.pad(t, (0, 0, 0, 0, 0, short)) for t in (qs, ks, vs))
        parts = [
            _piece(qs[at : at + size], ks[: behind + at + size], vs[: behind + at + size], layout)
            for at in range(0, len(qs), size)
        ]
        outs.append(torch.cat(parts)[: len(qs) - short])
    return torch.cat(outs)


def _piece(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """q [Q,Hq,d], the last Q of k, v [L,Kv,d] its own -> [Q,Hq,d]."""
    rows, columns = len(q), len(k)
    seen = layout.memo(
        ("aligned", rows, columns),
        lambda: torch.ones(rows, columns, dtype=torch.bool, device=q.device).tril(columns - rows),
    )
    q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=q.shape[1] != k.shape[1])
    return out[0].transpose(0, 1)
