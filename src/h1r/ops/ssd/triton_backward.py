"""The backward of the chunked scan on the GPU; letters and chunks as in `triton.py`.

With E_ij = exp(s_i - s_j) (c_i . b_j) (dy_i . dt_j x_j) the part of the loss's change that goes from token j to token i of a
chunk, and D the gradient of the state that leaves it, the gradient of step k's exponent dt_k a is all that crosses the step:

    sum_{i>=k>j} E_ij  +  sum_{i>=k} exp(s_i) dy_i . S_in c_i  +  sum_{j<k} exp(s_Q - s_j) dt_j x_j . D b_j  +  exp(s_Q) D . S_in

The first sum is a running sum of E's rows minus its columns, without the diagonal, which crosses nothing. Both are added from
the same fp32 numbers, so that what cancels leaves nothing behind; a y rounded to bf16 would leave its rounding there. States
are computed again, not kept: they weigh P N / Q numbers a token and head. Nothing is added by atomics: the same row gives the
same bits.

Five kernels: what a chunk adds to D (`triton._local`, on dy and c) and the recurrence of D over chunks; pairs of tokens (E's
sums, the gradient of c_i . b_j); the gradients of c and of b (one kernel, called twice); the gradient of x. Products take
operands in x's dtype and add in fp32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from h1r.ops.layout import Layout
from h1r.ops.ssd import triton as forward
from h1r.ops.ssd.triton import CHUNK, applied

M = 64  # tokens of a block; a chunk has two


class Grads(NamedTuple):
    """Of x [T,H,P], dt [T,H], a [H], b, c [T,G,N] and, where one was given, state [S,H,P,N]."""

    x: Tensor
    dt: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    state: Tensor | None


class Parts(NamedTuple):
    """fp32 sums [n,H,.,Q] of the tokens of the chunks, columns and left without their factor dt: E's rows by block of columns,
    its columns by block of rows, both without its diagonal [n,H,Q]; what S_in gave to each output, and each token to S_Q, by
    block of N. through [n,H,.]: D . S_in, by block of the state."""

    rows: Tensor
    columns: Tensor
    diagonal: Tensor
    entered: Tensor
    left: Tensor
    through: Tensor


def backward(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, layout: Layout, state: Tensor | None, dy: Tensor,
    dlast: Tensor | None,
) -> Grads:  # fmt: skip
    """Gradients of `triton.forward`; dy [T,H,P], dlast [S,H,P,N] or None (zeros)."""
    heads, p = x.shape[1:]
    groups, n = b.shape[1:]
    dy = dy.to(x.dtype).contiguous()
    dt32, a32 = dt.float().contiguous(), a.float().contiguous()
    cuts = forward.cuts_of(layout)
    sums, states, _ = forward.enter(x, dt32, a32, b, cuts, state)
    added = forward.local(dy, dt32, a32, c, cuts, None)
    leaving = torch.empty(added.shape, dtype=x.dtype, device=x.device)
    chunks, device = len(cuts.start), x.device
    shape = {"H": heads, "P": p, "N": n, "R": heads // groups, "Q": CHUNK}

    def room(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(size, dtype=dtype, device=device)

    block = min(1024, triton.next_power_of_2(p * n))
    through = room(chunks, heads, triton.cdiv(p * n, block))
    first = None if state is None else room(len(layout.lengths), heads, p, n)
    last = None if dlast is None else dlast.float().contiguous()
    _carry_back[(len(layout.lengths), heads, triton.cdiv(p * n, block))](
        sums, cuts.first, states, added, leaving, last, first, through, H=heads, SIZE=p * n, Q=CHUNK, BLOCK=block,
        LAST=last is not None, FIRST=first is not None, num_warps=4,
    )  # fmt: skip
    blocks = CHUNK // M
    scores, dscores = forward.scores(b, c, cuts), room(chunks, groups, CHUNK, CHUNK, dtype=x.dtype)
    rows, columns = (torch.zeros(chunks, heads, blocks, CHUNK, device=device) for _ in range(2))
    diagonal = torch.zeros(chunks, heads, CHUNK, device=device)
    pp, np = max(16, triton.next_power_of_2(p)), max(16, triton.next_power_of_2(n))
    _pairs[(chunks, groups, blocks * blocks)](
        x, dt32, dy, cuts.start, cuts.size, sums, scores, dscores, rows, columns, diagonal, x.stride(0),
        H=heads, P=p, R=heads // groups, Q=CHUNK, PP=pp, BM=M, num_warps=8,
    )  # fmt: skip
    bn, wide = min(np, 128), 1 if x.element_size() < 4 else 2
    strips = triton.cdiv(n, bn)
    entered, left = (torch.zeros(chunks, heads, strips, CHUNK, device=device) for _ in range(2))
    db, dc = room(*b.shape, dtype=b.dtype), room(*c.shape, dtype=c.dtype)
    for z, own, other, matrix, out, told, later in (
        (dy, c, b, states, dc, entered, False), (x, b, c, leaving, db, left, True),
    ):  # fmt: skip
        _shares[(chunks, groups, blocks * strips)](
            z, dt32, own, other, cuts.start, cuts.size, sums, matrix, dscores, out, told, z.stride(0), own.stride(0),
            own.stride(1), other.stride(0), other.stride(1), **shape, BM=M, BN=bn, BK=min(pp, 64 // wide), LATER=later,
            num_warps=4 if bn < 128 else 8,
        )  # fmt: skip
    dx = room(*x.shape, dtype=x.dtype)
    _inputs[(chunks, heads, blocks * triton.cdiv(p, pp))](
        dt32, b, cuts.start, cuts.size, sums, leaving, scores, dy, dx, b.stride(0), b.stride(1),
        **shape, PP=pp, BM=M, BK=min(np, 64 // wide), num_warps=4 * wide,
    )  # fmt: skip
    ddt, da = _steps(dt32, a32, sums, cuts.places, Parts(rows, columns, diagonal, entered, left, through))
    return Grads(
        dx, ddt.to(dt.dtype), da.to(a.dtype), db, dc, None if state is None or first is None else first.to(state.dtype)
    )


def _steps(dt: Tensor, a: Tensor, sums: Tensor, places: Tensor, parts: Parts) -> tuple[Tensor, Tensor]:
    """Gradients of dt [T,H] and a [H]. places [T]: of each token among the chunks' n Q."""
    n, heads, q = sums.shape
    columns, left = parts.columns.sum(2), parts.left.sum(2)  # [n,H,Q]
    direct = parts.diagonal + columns + left  # the gradient of dt where it stands beside x
    size = torch.zeros(n * q, heads, device=dt.device).index_copy_(0, places, dt).view(n, q, heads).transpose(1, 2)
    after = parts.rows.sum(2) - columns * size + parts.entered.sum(2)
    before = left * size
    crossing = after.flip(2).cumsum(2).flip(2) + before.cumsum(2) - before
    crossing = crossing + (parts.through.sum(2) * sums[:, :, -1].exp())[:, :, None]
    ddt, exponent = (t.transpose(1, 2).reshape(n * q, heads)[places] for t in (direct, crossing))
    return ddt + exponent * a, (exponent * dt).sum(0)


@triton.jit
def _carry_back(
    sums, first, states, added, leaving, last, given, through, H: tl.constexpr, SIZE: tl.constexpr, Q: tl.constexpr,
    BLOCK: tl.constexpr, LAST: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """From what each chunk adds to the gradient of the state that enters it: D of each chunk (leaving), the gradient of each
    document's first state (given), D . S_in (through)."""
    document, head = tl.program_id(0), tl.program_id(1)
    at = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = at < SIZE
    d = tl.zeros((BLOCK,), tl.float32)
    if LAST:
        d = tl.load(last + (document * H + head).to(tl.int64) * SIZE + at, mask=inside, other=0.0)
    begin, end = tl.load(first + document), tl.load(first + document + 1)
    for back in range(0, end - begin):
        mine = ((end - 1 - back) * H + head).to(tl.int64)
        decay = tl.exp(tl.load(sums + mine * Q + Q - 1))
        tl.store(leaving + mine * SIZE + at, d.to(leaving.dtype.element_ty), mask=inside)
        more = tl.load(added + mine * SIZE + at, mask=inside, other=0.0)
        s = tl.load(states + mine * SIZE + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(through + mine * tl.num_programs(2) + tl.program_id(2), tl.sum(tl.where(inside, d * s, 0.0), 0))
        d = d * decay + more
    if FIRST:
        tl.store(given + (document * H + head).to(tl.int64) * SIZE + at, d, mask=inside)


@triton.jit
def _pairs(
    x, dt, dy, start, size, sums, scores, dscores, rows, columns, diagonal, x_row, H: tl.constexpr, P: tl.constexpr,
    R: tl.constexpr, Q: tl.constexpr, PP: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """The gradient of c_i . b_j [n,G,Q,Q] (zero where j > i), and E's sums, of one block of tokens i against one of tokens j."""
    number, group = tl.program_id(0), tl.program_id(1)
    low, side = tl.program_id(2) // (Q // BM), tl.program_id(2) % (Q // BM)
    begin, count = tl.load(start + number), tl.load(size + number)
    if side <= low and low * BM < count:
        i, j = low * BM + tl.arange(0, BM), side * BM + tl.arange(0, BM)
        here, there = i < count, j < count
        targets, sources = (begin + i).to(tl.int64), (begin + j).to(tl.int64)
        seen = (i[:, None] >= j[None, :]) & here[:, None]
        tile = (number * tl.num_programs(1) + group).to(tl.int64) * Q * Q + i[:, None] * Q + j[None, :]
        dot = tl.load(scores + tile)
        channel = tl.arange(0, PP)
        whole = channel < P
        slope = tl.zeros((BM, BM), tl.float32)
        for r in range(R):
            head = group * R + r
            mine = (number * H + head).to(tl.int64)
            dys = tl.load(
                dy + targets[:, None] * H * P + head * P + channel[None, :],
                mask=here[:, None] & whole[None, :],
                other=0.0,
            )
            xs = tl.load(
                x + sources[None, :] * x_row + head * P + channel[:, None],
                mask=there[None, :] & whole[:, None],
                other=0.0,
            )
            si, sj = tl.load(sums + mine * Q + i), tl.load(sums + mine * Q + j)
            delta = tl.load(dt + sources * H + head, mask=there, other=0.0)
            moved = tl.where(seen, tl.exp(tl.minimum(si[:, None] - sj[None, :], 0.0)), 0.0)
            moved = moved * tl.dot(dys, xs, input_precision="ieee")
            slope += moved * delta[None, :]
            if side == low:
                own = tl.sum(tl.where(i[:, None] == j[None, :], moved * dot, 0.0), 0)
                tl.store(diagonal + mine * Q + j, own)
            e = tl.where(i[:, None] > j[None, :], moved * dot, 0.0)
            tl.store(rows + (mine * (Q // BM) + side) * Q + i, tl.sum(e * delta[None, :], 1))
            tl.store(columns + (mine * (Q // BM) + low) * Q + j, tl.sum(e, 0))
        tl.store(dscores + tile, slope.to(dscores.dtype.element_ty))


@triton.jit
def _shares(
    z, dt, own, other, start, size, sums, matrix, dscores, out, told, z_row, own_row, own_group, other_row, other_group,
    H: tl.constexpr, P: tl.constexpr, N: tl.constexpr, R: tl.constexpr, Q: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, LATER: tl.constexpr,
):  # fmt: skip
    """The gradient of c (z = dy, matrix = S_in, other = b: earlier tokens) or, LATER, of b (z = x, matrix = D, other = c: later
    tokens), and by head its product with c or b itself, without dt."""
    number, group = tl.program_id(0), tl.program_id(1)
    strips = tl.cdiv(N, BN)
    block, strip = tl.program_id(2) // strips, tl.program_id(2) % strips
    begin, count = tl.load(start + number), tl.load(size + number)
    if block * BM < count:
        i, at = block * BM + tl.arange(0, BM), strip * BN + tl.arange(0, BN)
        here, wide = i < count, at < N
        tokens = (begin + i).to(tl.int64)
        tile = (number * tl.num_programs(1) + group).to(tl.int64) * Q * Q
        acc = tl.zeros((BM, BN), tl.float32)
        low, high = 0, block * BM + BM
        if LATER:
            low, high = block * BM, count
        for first in range(low, high, BM):
            k = first + tl.arange(0, BM)
            known = k < count
            if LATER:
                slope = tl.load(dscores + tile + k[None, :] * Q + i[:, None], mask=known[None, :], other=0.0)
            else:
                slope = tl.load(dscores + tile + i[:, None] * Q + k[None, :], mask=known[None, :], other=0.0)
            others = tl.load(
                other + (begin + k).to(tl.int64)[:, None] * other_row + group * other_group + at[None, :],
                mask=known[:, None] & wide[None, :], other=0.0,
            )  # fmt: skip
            acc += tl.dot(slope, others, input_precision="ieee")
        mask = here[:, None] & wide[None, :]
        owns = tl.load(own + tokens[:, None] * own_row + group * own_group + at[None, :], mask=mask, other=0.0)
        owns = owns.to(tl.float32)
        for r in range(R):
            head = group * R + r
            mine = (number * H + head).to(tl.int64)
            share = tl.zeros((BM, BN), tl.float32)
            for first in range(0, P, BK):
                channel = first + tl.arange(0, BK)
                real = channel < P
                seen, kept = here[:, None] & real[None, :], real[:, None] & wide[None, :]
                zs = tl.load(z + tokens[:, None] * z_row + head * P + channel[None, :], mask=seen, other=0.0)
                ms = tl.load(matrix + mine * P * N + channel[:, None] * N + at[None, :], mask=kept, other=0.0)
                share += tl.dot(zs, ms.to(z.dtype.element_ty), input_precision="ieee")
            s = tl.load(sums + mine * Q + i)
            if LATER:
                share *= tl.exp(tl.minimum(tl.load(sums + mine * Q + Q - 1) - s, 0.0))[:, None]
            else:
                share *= tl.exp(s)[:, None]
            tl.store(told + (mine * strips + strip) * Q + i, tl.sum(tl.where(mask, share * owns, 0.0), 1))
            if LATER:
                share *= tl.load(dt + tokens * H + head, mask=here, other=0.0)[:, None]
            acc += share
        groups = tl.num_programs(1)
        tl.store(out + (tokens[:, None] * groups + group) * N + at[None, :], acc.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _inputs(
    dt, b, start, size, sums, leaving, scores, dy, dx, b_row, b_group, H: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    R: tl.constexpr, Q: tl.constexpr, PP: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """dx_j = dt_j (sum_{i>=j} exp(s_i - s_j) (c_i . b_j) dy_i + exp(s_Q - s_j) D b_j)."""
    number, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    begin, count = tl.load(start + number), tl.load(size + number)
    if block * BM < count:
        j = block * BM + tl.arange(0, BM)
        here = j < count
        mine, group = (number * H + head).to(tl.int64), head // R
        tokens = (begin + j).to(tl.int64)
        channel = tl.arange(0, PP)
        whole = channel < P
        s = tl.load(sums + mine * Q + j)
        acc = applied(leaving + mine * P * N, b + tokens * b_row + group * b_group, here, P, N, BM, PP, BK)
        acc *= tl.exp(tl.minimum(tl.load(sums + mine * Q + Q - 1) - s, 0.0))[:, None]
        tile = (number * (H // R) + group).to(tl.int64) * Q * Q
        for first in range(block * BM, count, BM):
            i = first + tl.arange(0, BM)
            later = i < count
            dot = tl.load(scores + tile + i[None, :] * Q + j[:, None], mask=later[None, :], other=0.0)
            si = tl.load(sums + mine * Q + i)
            weights = dot * tl.exp(tl.minimum(si[None, :] - s[:, None], 0.0))
            weights = tl.where((i[None, :] >= j[:, None]) & later[None, :], weights, 0.0)
            dys = tl.load(
                dy + (begin + i).to(tl.int64)[:, None] * H * P + head * P + channel[None, :],
                mask=later[:, None] & whole[None, :], other=0.0,
            )  # fmt: skip
            acc += tl.dot(weights.to(dy.dtype.element_ty), dys, input_precision="ieee")
        acc *= tl.load(dt + tokens * H + head, mask=here, other=0.0)[:, None]
        tl.store(
            dx + tokens[:, None] * H * P + head * P + channel[None, :], acc.to(dx.dtype.element_ty),
            mask=here[:, None] & whole[None, :],
        )  # fmt: skip
