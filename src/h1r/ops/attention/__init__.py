"""Causal grouped-query attention of packed documents, with cached keys and values before them, and its decode form."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from h1r.ops.attention import aligned, packed, ring
from h1r.ops.attention.decode import decode
from h1r.ops.attention.rope import Rotation, rotate, rotation
from h1r.ops.layout import Layout

__all__ = ["Rotation", "attention", "decode", "rotate", "rotation"]


def attention(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, past: Sequence[tuple[Tensor, Tensor] | None] | None = None
) -> Tensor:
    """q [T,Hq,d], k, v [T,Kv,d] -> [T,Hq,d]: each token sees its own document up to itself, scale d**-0.5.

    past: for each document None, or the keys and values [L,Kv,d] that stand before it.
    """
    if layout.ring is not None:
        assert past is None, "a row shared by ranks has no cache"
        return ring.attention(q, k, v, layout)
    form = packed if layout.chunk is None else aligned
    return form.attention(q, k, v, layout, past)
