"""Attention of a packed row: documents of similar length are padded to one length and go through one fused kernel call.

Padding stands on the right, where the causal mask hides it from every real token. A document with keys and values
before it takes a call of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from h1r.ops.layout import Layout

# Documents share a call while the shortest is at least this share of the longest: padding wastes at most the rest.
SIMILAR = 0.8


class Buckets(NamedTuple):
    """rows [sum of b*L]: source token of each padded place (padding repeats the document's last token);
    places [T]: where each token went; shapes: (documents b, length L) of each call."""

    rows: Tensor
    places: Tensor
    real: Tensor
    shapes: tuple[tuple[int, int], ...]


def attention(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, past: Sequence[tuple[Tensor, Tensor] | None] | None = None
) -> Tensor:
    """The same function as `reference.attention`."""
    if past is not None and any(p is not None and len(p[0]) for p in past):
        return _one_by_one(q, k, v, layout, past)
    if len(layout.lengths) == 1:
        return _causal(q[None], k[None], v[None])[0]
    buckets = layout.memo("attention", lambda: make_buckets(layout))
    sizes = [documents * length for documents, length in buckets.shapes]
    # split, not slices: the gradient of a split is one join, that of a slice a whole tensor of zeros.
    taken = [_Take.apply(t, buckets).split(sizes) for t in (q, k, v)]
    outs = []
    for shape, *parts in zip(buckets.shapes, *taken, strict=True):
        outs.append(_causal(*(t.unflatten(0, shape) for t in parts)).flatten(0, 1))
    return _Give.apply(torch.cat(outs), buckets)


def make_buckets(layout: Layout) -> Buckets:
    """Sort documents by length and cut the sorted list where lengths stop being similar."""
    order = sorted(range(len(layout.lengths)), key=lambda s: layout.lengths[s], reverse=True)
    groups: list[list[int]] = []
    for s in order:
        if groups and layout.lengths[s] >= SIMILAR * layout.lengths[groups[-1][0]]:
            groups[-1].append(s)
        else:
            groups.append([s])
    rows = []
    for group in groups:
        length = layout.lengths[group[0]]
        sizes = torch.tensor([layout.lengths[s] for s in group], device=layout.device)
        place = torch.arange(length, device=layout.device).minimum(sizes[:, None] - 1)
        rows.append((layout.starts[torch.tensor(group, device=layout.device)][:, None] + place).flatten())
    flat = torch.cat(rows)
    real = torch.ones_like(flat, dtype=torch.bool)
    real[1:] = flat[1:] != flat[:-1]
    places = torch.empty(layout.tokens, dtype=torch.int64, device=layout.device)
    places[flat[real]] = real.nonzero()[:, 0]
    return Buckets(flat, places, real, tuple((len(g), layout.lengths[g[0]]) for g in groups))


class _Take(torch.autograd.Function):
    """[T,...] -> padded places. Padding receives no gradient under a causal mask, so each token's is the one at its
    place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, buckets: Buckets) -> Tensor:
        ctx.buckets = buckets
        return x.index_select(0, buckets.rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad.index_select(0, ctx.buckets.places), None


class _Give(torch.autograd.Function):
    """Padded places -> [T,...]; the gradient of padding is 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, buckets: Buckets) -> Tensor:
        ctx.buckets = buckets
        return x.index_select(0, buckets.places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        out = grad.new_zeros(ctx.buckets.rows.shape[0], *grad.shape[1:])
        return out.index_copy_(0, ctx.buckets.places, grad), None


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [b,L,Hq,d], k, v [b,L,Kv,d] -> [b,L,Hq,d]."""
    q, k, v = (_aligned(t).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2)


def _one_by_one(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, past: Sequence[tuple[Tensor, Tensor] | None]
) -> Tensor:
    outs = []
    pieces = zip(q.split(layout.lengths), k.split(layout.lengths), v.split(layout.lengths), past, strict=True)
    for qs, ks, vs, before in pieces:
        if before is None or not len(before[0]):
            outs.append(_causal(qs[None], ks[None], vs[None])[0])
            continue
        ks, vs = torch.cat([before[0].to(ks.dtype), ks]), torch.cat([before[1].to(vs.dtype), vs])
        rows, columns = len(qs), len(ks)
        if qs.is_cuda:
            outs.append(_flash(qs, ks, vs))
            continue
        seen = None
        if rows > 1:
            seen = torch.ones(rows, columns, dtype=torch.bool, device=q.device).tril(columns - rows)
        out = F.scaled_dot_product_attention(
            qs.transpose(0, 1)[None], ks.transpose(0, 1)[None], vs.transpose(0, 1)[None],
            attn_mask=seen, enable_gqa=qs.shape[1] != ks.shape[1],
        )  # fmt: skip
        outs.append(out[0].transpose(0, 1))
    return torch.cat(outs)


def _aligned(t: Tensor) -> Tensor:
    """t, or on a GPU a copy of it where its rows do not lie at multiples of 16 bytes: fused kernels then gave wrong numbers,
    silently (PyTorch 2.11, H200, values that begin in the middle of a projection's row)."""
    apart = (s * t.element_size() % 16 for s in t.stride()[:-1])
    if not t.is_cuda or (t.data_ptr() % 16 == 0 and not any(apart)):
        return t
    return t.contiguous()


def _flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The last tokens [Lq,Hq,d] of a document over all its keys [L,Kv,d], without a mask in memory (GPUs)."""
    from torch.nn.attention.bias import causal_lower_right

    repeat = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(repeat, 1).transpose(0, 1)[None] for t in (k, v))
    seen = causal_lower_right(q.shape[0], k.shape[2])
    out = F.scaled_dot_product_attention(_aligned(q[None]).transpose(1, 2), k, v, attn_mask=seen)
    return out[0].transpose(0, 1)
