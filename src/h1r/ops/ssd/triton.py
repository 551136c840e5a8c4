"""The scan on the GPU: one token with the states read and written in their slots, and the chunked forward of a packed row.

The chunked form is `chunk.py`'s (its letters too) in four kernels: what each chunk adds to the state; the recurrence over
chunks; the pairs of tokens, which all heads of a group share; the outputs. Every document begins a chunk of its own, so a chunk
has one document and no mask but the causal one. Products take operands in x's dtype and add in fp32; states and decays are fp32.
The backward is `triton_backward.py`'s.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from h1r.ops.layout import Layout
from h1r.ops.ssd.reference import Scan

CHUNK = 128
TILE, WARPS = 8192, 4  # numbers of a state that a program of `step` holds


def step(
    mixed: Tensor, dt: Tensor, a: Tensor, dt_bias: Tensor, skip: Tensor, limits: tuple[float, float], state: Tensor,
    positions: Tensor, slots: Tensor, groups: int, out: Tensor,
) -> None:  # fmt: skip
    """One token of each of B sequences: step sizes, state update, output and skip connection.

    mixed [B,HP+2GN] = x, b, c; dt [B,H] before softplus (any row stride); a, dt_bias, skip [H]; state [slots,H,P,N]
    -> out [B,HP] = S c + skip x. positions [B]: -1 for padding (its slot is left alone), 0 where the state counts as zeros.
    """
    _, heads, p, n = state.shape
    batch = mixed.shape[0]
    assert mixed.is_contiguous() and out.is_contiguous() and state[0].is_contiguous() and dt.stride(1) == 1
    block = min(p, max(1, TILE // triton.next_power_of_2(n)))
    block = 1 << (block.bit_length() - 1)
    _step[(batch, heads, triton.cdiv(p, block))](
        mixed, dt, a, dt_bias, skip, state, positions, slots, out, mixed.stride(0), dt.stride(0), state.stride(0), *limits,
        H=heads, P=p, N=n, NP=triton.next_power_of_2(n), G=groups, BLOCK=block, num_warps=WARPS,
    )  # fmt: skip


@triton.jit
def _step(
    mixed, dt, a, dt_bias, skip, state, positions, slots, out, mixed_row, dt_row, slot_stride, low, high,
    H: tl.constexpr, P: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, G: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    position = tl.load(positions + row)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    at = tl.arange(0, NP)
    inside = (channel < P)[:, None] & (at < N)[None, :]
    delta = _softplus(tl.load(dt + row * dt_row + head).to(tl.float32) + tl.load(dt_bias + head))
    delta = tl.minimum(tl.maximum(delta, low), high)
    base = mixed + row * mixed_row
    x = tl.load(base + head * P + channel, mask=channel < P, other=0.0).to(tl.float32)
    group = H * P + (head // (H // G)) * N
    b = tl.load(base + group + at, mask=at < N, other=0.0).to(tl.float32)
    c = tl.load(base + group + G * N + at, mask=at < N, other=0.0).to(tl.float32)
    mine = state + tl.load(slots + row).to(tl.int64) * slot_stride + head * P * N
    mine = mine + channel[:, None] * N + at[None, :]
    s = tl.load(mine, mask=inside & (position > 0), other=0.0).to(tl.float32)
    s = s * tl.exp(delta * tl.load(a + head)) + (delta * x)[:, None] * b[None, :]
    tl.store(mine, s.to(state.dtype.element_ty), mask=inside & (position >= 0))
    y = tl.sum(s * c[None, :], 1) + tl.load(skip + head).to(tl.float32) * x
    tl.store(out + row * H * P + head * P + channel, y.to(out.dtype.element_ty), mask=channel < P)


@triton.jit
def _softplus(x):
    return tl.where(x > 20.0, x, tl.log(1.0 + tl.exp(tl.minimum(x, 20.0))))


class Cut(NamedTuple):
    """A row's chunks: first token [n], tokens [n]; first chunk of each document [S+1]; all int32. places [T] int64: of each token
    among the n Q of all chunks."""

    start: Tensor
    size: Tensor
    first: Tensor
    places: Tensor


def cuts_of(layout: Layout) -> Cut:
    """A row's chunks, made once for a layout."""
    out: Cut = layout.memo(("ssd triton", CHUNK), lambda: cut(layout))
    return out


def cut(layout: Layout, size: int = CHUNK) -> Cut:
    """Cut every document at multiples of `size` tokens from its start."""
    start, sizes, first, token = [], [], [0], 0
    for length in layout.lengths:
        for begin in range(0, length, size):
            start.append(token + begin)
            sizes.append(min(size, length - begin))
        token += length
        first.append(len(start))
    begins, counts, firsts = (torch.tensor(t, dtype=torch.int32, device=layout.device) for t in (start, sizes, first))
    offset = torch.arange(token, device=layout.device) - layout.starts[layout.segments]
    return Cut(begins, counts, firsts, firsts[layout.segments].long() * size + offset)


def ssd(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, layout: Layout, state: Tensor | None = None,
    final: bool = True,
) -> Scan:  # fmt: skip
    """The same function as `reference.ssd`; `final=False`: no state is given back."""
    y, out = _Scan.apply(x, dt, a, b, c, state, layout)
    return Scan(y, out if final else None)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor | None, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, dt, a, b, c, state)
        ctx.layout = layout
        return forward(x, dt, a, b, c, layout, state)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> Any:
        from h1r.ops.ssd.triton_backward import backward

        x, dt, a, b, c, state = ctx.saved_tensors
        return (*backward(x, dt, a, b, c, ctx.layout, state, dy, dlast), None)


def forward(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, layout: Layout, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """y [T,H,P] in x's dtype, final states [S,H,P,N] fp32."""
    tokens, heads, p = x.shape
    groups, n = b.shape[1:]
    cuts = cuts_of(layout)
    dt, a = dt.float().contiguous(), a.float().contiguous()
    sums, states, last = enter(x, dt, a, b, cuts, state)
    y = torch.empty(tokens, heads, p, dtype=x.dtype, device=x.device)
    np, pp = max(16, triton.next_power_of_2(n)), max(16, triton.next_power_of_2(p))
    dots = scores(b, c, cuts)
    _outputs[(len(cuts.start), heads, CHUNK // 64 * triton.cdiv(p, pp))](
        x, dt, c, cuts.start, cuts.size, sums, states, dots, y, x.stride(0), c.stride(0), c.stride(1),
        H=heads, P=p, N=n, R=heads // groups, Q=CHUNK, PP=pp, BM=64, BJ=64, BK=min(np, 64), num_warps=4,
    )  # fmt: skip
    return y, last


def enter(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, cuts: Cut, state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """s of each token of the chunks [n,H,Q] fp32, the states that enter them [n,H,P,N] in x's dtype (products take them so),
    those after each document [S,H,P,N] fp32. dt and a must be fp32."""
    _, heads, p = x.shape
    n, documents = b.shape[2], len(cuts.first) - 1
    given = None if state is None else state.float().contiguous()
    sums = torch.empty(len(cuts.start), heads, CHUNK, dtype=torch.float32, device=x.device)
    added = local(x, dt, a, b, cuts, sums)
    states = torch.empty(added.shape, dtype=x.dtype, device=x.device)
    last = torch.empty(documents, heads, p, n, dtype=torch.float32, device=x.device)
    block = min(1024, triton.next_power_of_2(p * n))
    _carry[(documents, heads, triton.cdiv(p * n, block))](
        sums, cuts.first, added, states, given, last, H=heads, SIZE=p * n, Q=CHUNK, BLOCK=block,
        GIVEN=given is not None, num_warps=4,
    )  # fmt: skip
    return sums, states, last


def scores(b: Tensor, c: Tensor, cuts: Cut) -> Tensor:
    """c_i . b_j of the chunks' tokens [n,G,Q,Q] fp32, 0 where j > i; blocks of 64 tokens above or behind are not written.

    All heads of a group have the same; computing them once saves a quarter of the forward's products where 24 heads share."""
    groups, n = b.shape[1:]
    assert b.stride(2) == 1 and c.stride(2) == 1
    out = torch.empty(len(cuts.start), groups, CHUNK, CHUNK, dtype=torch.float32, device=b.device)
    _scores[(len(cuts.start), groups, (CHUNK // 64) ** 2)](
        b, c, cuts.start, cuts.size, out, b.stride(0), b.stride(1), c.stride(0), c.stride(1),
        N=n, Q=CHUNK, BM=64, BK=min(max(16, triton.next_power_of_2(n)), 64), num_warps=4,
    )  # fmt: skip
    return out


def local(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, cuts: Cut, sums: Tensor | None) -> Tensor:
    """What each chunk adds to the state [n,H,P,N]: sum_j exp(s_Q - s_j) dt_j x_j b_j^T, with its exponents written to sums.

    Without `sums` what it adds to the gradient of the state that enters it, given dy and c: sum_i exp(s_i) dy_i c_i^T.
    """
    _, heads, p = x.shape
    groups, n = b.shape[1:]
    assert x.stride(2) == 1 and x.stride(1) == p and b.stride(2) == 1
    out = torch.empty(len(cuts.start), heads, p, n, dtype=torch.float32, device=x.device)
    np, pp = max(16, triton.next_power_of_2(n)), max(16, triton.next_power_of_2(p))
    bn, bp = min(np, 128), min(pp, 64)
    _local[(len(cuts.start), heads, triton.cdiv(p, bp) * triton.cdiv(n, bn))](
        x, dt, a, b, cuts.start, cuts.size, sums, out, x.stride(0), b.stride(0), b.stride(1),
        H=heads, P=p, N=n, R=heads // groups, Q=CHUNK, BP=bp, BN=bn, BK=32, GRADIENT=sums is None, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _local(
    x, dt, a, b, start, size, sums, states, x_row, b_row, b_group, H: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    R: tl.constexpr, Q: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    GRADIENT: tl.constexpr,
):  # fmt: skip
    """sums: s of each token of the chunk (the last one's repeated behind it); states: what the chunk adds [P,N]."""
    number, head = tl.program_id(0), tl.program_id(1)
    columns = tl.cdiv(N, BN)
    channel = tl.program_id(2) // columns * BP + tl.arange(0, BP)
    at = tl.program_id(2) % columns * BN + tl.arange(0, BN)
    begin, count = tl.load(start + number), tl.load(size + number)
    token = tl.arange(0, Q)
    steps = tl.load(dt + (begin + token) * H + head, mask=token < count, other=0.0) * tl.load(a + head)
    total = tl.cumsum(steps, 0)
    mine = (number * H + head).to(tl.int64)
    if not GRADIENT:  # noqa: SIM102 - decided by the compiler, the other is not
        if tl.program_id(2) == 0:
            tl.store(sums + mine * Q + token, total)
    end = tl.sum(steps, 0)
    acc = tl.zeros((BP, BN), tl.float32)
    before = 0.0
    for first in range(0, count, BK):
        j = first + tl.arange(0, BK)
        real = j < count
        delta = tl.load(dt + (begin + j) * H + head, mask=real, other=0.0)
        moved = delta * tl.load(a + head)
        s = before + tl.cumsum(moved, 0)
        before += tl.sum(moved, 0)
        if GRADIENT:
            weight = tl.exp(s)
        else:
            weight = tl.exp(tl.minimum(end - s, 0.0)) * delta
        xs = tl.load(
            x + (begin + j).to(tl.int64)[None, :] * x_row + head * P + channel[:, None],
            mask=real[None, :] & (channel < P)[:, None], other=0.0,
        )  # fmt: skip
        bs = tl.load(
            b + (begin + j).to(tl.int64)[:, None] * b_row + (head // R) * b_group + at[None, :],
            mask=real[:, None] & (at < N)[None, :], other=0.0,
        )  # fmt: skip
        xs = (xs.to(tl.float32) * weight[None, :]).to(x.dtype.element_ty)
        acc += tl.dot(xs, bs, input_precision="ieee")
    target = states + mine * P * N + channel[:, None] * N + at[None, :]
    tl.store(target, acc, mask=(channel < P)[:, None] & (at < N)[None, :])


@triton.jit
def _carry(
    sums, first, added, states, given, last, H: tl.constexpr, SIZE: tl.constexpr, Q: tl.constexpr, BLOCK: tl.constexpr,
    GIVEN: tl.constexpr,
):  # fmt: skip
    """From what each chunk adds, what enters each (states) and what is there after each document (last)."""
    document, head = tl.program_id(0), tl.program_id(1)
    at = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = at < SIZE
    s = tl.zeros((BLOCK,), tl.float32)
    if GIVEN:
        s = tl.load(given + (document * H + head).to(tl.int64) * SIZE + at, mask=inside, other=0.0)
    for number in range(tl.load(first + document), tl.load(first + document + 1)):
        mine = (number * H + head).to(tl.int64)
        decay = tl.exp(tl.load(sums + mine * Q + Q - 1))
        tl.store(states + mine * SIZE + at, s.to(states.dtype.element_ty), mask=inside)
        more = tl.load(added + mine * SIZE + at, mask=inside, other=0.0)
        s = s * decay + more
    tl.store(last + (document * H + head).to(tl.int64) * SIZE + at, s, mask=inside)


@triton.jit
def _scores(
    b,
    c,
    start,
    size,
    out,
    b_row,
    b_group,
    c_row,
    c_group,
    N: tl.constexpr,
    Q: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
):
    number, group = tl.program_id(0), tl.program_id(1)
    low, side = tl.program_id(2) // (Q // BM), tl.program_id(2) % (Q // BM)
    begin, count = tl.load(start + number), tl.load(size + number)
    if side <= low and low * BM < count:
        i, j = low * BM + tl.arange(0, BM), side * BM + tl.arange(0, BM)
        here, there = i < count, j < count
        rows, columns = (begin + i).to(tl.int64), (begin + j).to(tl.int64)
        dot = tl.zeros((BM, BM), tl.float32)
        for first in range(0, N, BK):
            at = first + tl.arange(0, BK)
            inside = at < N
            mask, other = here[:, None] & inside[None, :], there[None, :] & inside[:, None]
            cs = tl.load(c + rows[:, None] * c_row + group * c_group + at[None, :], mask=mask, other=0.0)
            bs = tl.load(b + columns[None, :] * b_row + group * b_group + at[:, None], mask=other, other=0.0)
            dot += tl.dot(cs, bs, input_precision="ieee")
        place = out + (number * tl.num_programs(1) + group).to(tl.int64) * Q * Q + i[:, None] * Q + j[None, :]
        tl.store(place, tl.where(i[:, None] >= j[None, :], dot, 0.0))


@triton.jit
def applied(
    state, rows, here, P: tl.constexpr, N: tl.constexpr, BM: tl.constexpr, PP: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """A state [P,N] applied to BM rows of b or c, given where each begins -> [BM,PP] fp32; zeros where not `here`."""
    channel = tl.arange(0, PP)
    acc = tl.zeros((BM, PP), tl.float32)
    for first in range(0, N, BK):
        at = first + tl.arange(0, BK)
        inside = at < N
        left = tl.load(rows[:, None] + at[None, :], mask=here[:, None] & inside[None, :], other=0.0)
        mask = (channel < P)[None, :] & inside[:, None]
        right = tl.load(state + channel[None, :] * N + at[:, None], mask=mask, other=0.0)
        acc += tl.dot(left, right.to(left.dtype), input_precision="ieee")
    return acc


@triton.jit
def _outputs(
    x, dt, c, start, size, sums, states, scores, y, x_row, c_row, c_group, H: tl.constexpr, P: tl.constexpr,
    N: tl.constexpr, R: tl.constexpr, Q: tl.constexpr, PP: tl.constexpr, BM: tl.constexpr, BJ: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    number, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    begin, count = tl.load(start + number), tl.load(size + number)
    i = block * BM + tl.arange(0, BM)
    if block * BM < count:
        here = i < count
        mine = (number * H + head).to(tl.int64)
        s = tl.load(sums + mine * Q + i)
        channel = tl.arange(0, PP)
        whole = channel < P
        rows = (begin + i).to(tl.int64)
        acc = applied(states + mine * P * N, c + rows * c_row + (head // R) * c_group, here, P, N, BM, PP, BK)
        acc *= tl.exp(s)[:, None]
        tile = (number * (H // R) + head // R).to(tl.int64) * Q * Q
        for low in range(0, tl.minimum((block + 1) * BM, count), BJ):
            j = low + tl.arange(0, BJ)
            there = j < count
            sources = (begin + j).to(tl.int64)
            dot = tl.load(scores + tile + i[:, None] * Q + j[None, :])
            sj = tl.load(sums + mine * Q + j)
            delta = tl.load(dt + sources * H + head, mask=there, other=0.0)
            decay = tl.exp(tl.minimum(s[:, None] - sj[None, :], 0.0)) * delta[None, :]
            weights = dot * decay  # dot is 0 where j > i
            xs = tl.load(
                x + sources[:, None] * x_row + head * P + channel[None, :],
                mask=there[:, None] & whole[None, :],
                other=0.0,
            )
            acc += tl.dot(weights.to(x.dtype.element_ty), xs, input_precision="ieee")
        tl.store(
            y + rows[:, None] * H * P + head * P + channel[None, :], acc.to(y.dtype.element_ty),
            mask=here[:, None] & whole[None, :],
        )  # fmt: skip
