"""Decoding on the GPU with a state that is written every K tokens; those since lie beside it.

With S the state as it was written, s the sum of dt a since then, and j the k < K tokens since:

    y = exp(s) S c  +  sum_j exp(s - s_j) dt_j (b_j . c) x_j        the newest token among the j

so a step reads S and writes one token's x, b and dt; the K-th token folds them all into S. Reading and writing S is most of what
a step moves for a short sequence, and this nearly halves it. It also rounds a bf16 state once in K tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from h1r.ops.ssd.triton import TILE, WARPS, _softplus

MOST = 16  # K at most: what a program holds beside its part of the state


class Recent(NamedTuple):
    """Tokens since the states were written: rows [slots,K,HP+GN] = x, b; steps [slots,K,H] fp32 = dt after softplus; pending
    [slots] int32 = how many. Of one layer; with a layer dimension in front (pending has none) of all."""

    rows: Tensor
    steps: Tensor
    pending: Tensor


def step(
    mixed: Tensor, dt: Tensor, a: Tensor, dt_bias: Tensor, skip: Tensor, limits: tuple[float, float], state: Tensor,
    recent: Recent, positions: Tensor, slots: Tensor, groups: int, out: Tensor,
) -> None:  # fmt: skip
    """`triton.step` (see there) with the tokens since in `recent`. `advance` counts the token once all layers have read."""
    _, heads, p, n = state.shape
    batch, every = mixed.shape[0], recent.rows.shape[1]
    assert mixed.is_contiguous() and out.is_contiguous() and state[0].is_contiguous() and dt.stride(1) == 1
    assert recent.rows[0].is_contiguous() and recent.steps[0].is_contiguous() and every <= MOST
    block = _block(p, n)
    _recent_step[(batch, heads, triton.cdiv(p, block))](
        mixed, dt, a, dt_bias, skip, state, recent.rows, recent.steps, recent.pending, positions, slots, out, mixed.stride(0),
        dt.stride(0), state.stride(0), recent.rows.stride(0), recent.steps.stride(0), *limits, H=heads, P=p, N=n,
        NP=triton.next_power_of_2(n), G=groups, K=every, BLOCK=block, num_warps=WARPS,
    )  # fmt: skip


def advance(recent: Recent, positions: Tensor, slots: Tensor) -> None:
    """Count one more token of each row that is no padding; a K-th one was written into the state."""
    batch = len(slots)
    _advance[(1,)](
        recent.pending,
        positions,
        slots,
        batch,
        K=recent.steps.shape[-2],
        BLOCK=triton.next_power_of_2(batch),
        num_warps=4,
    )


def settle(state: Tensor, a: Tensor, recent: Recent, slots: Tensor, groups: int) -> None:
    """Fold what is pending into the states [L,slots,H,P,N] of these slots [B] (each once), in all layers; a [L,H]."""
    layers, _, heads, p, n = state.shape
    block, every = _block(p, n), recent.rows.shape[2]
    _settle[(layers * len(slots), heads, triton.cdiv(p, block))](
        state, a, recent.rows, recent.steps, recent.pending, slots, len(slots), state.stride(0), state.stride(1),
        recent.rows.stride(0), recent.rows.stride(1), recent.steps.stride(0), recent.steps.stride(1), H=heads, P=p, N=n,
        NP=triton.next_power_of_2(n), G=groups, K=every, BLOCK=block, num_warps=WARPS,
    )  # fmt: skip
    recent.pending[slots] = 0


def _block(p: int, n: int) -> int:
    """Rows of a state that a program holds."""
    return max(1, min(triton.next_power_of_2(p), TILE // triton.next_power_of_2(n)))


@triton.jit
def _recent_step(
    mixed, dt, a, dt_bias, skip, state, rows, steps, pending, positions, slots, out, mixed_row, dt_row, state_slot, rows_slot,
    steps_slot, low, high, H: tl.constexpr, P: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, G: tl.constexpr,
    K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    position = tl.load(positions + row)
    channel, at = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, NP)
    real, inside = channel < P, at < N
    if position < 0:
        tl.store(out + row * H * P + head * P + channel, tl.zeros((BLOCK,), out.dtype.element_ty), mask=real)
    else:
        slot = tl.load(slots + row).to(tl.int64)
        count = tl.where(position > 0, tl.load(pending + slot), 0)
        group = head // (H // G)
        width: tl.constexpr = H * P + G * N
        # this token
        delta = _softplus(tl.load(dt + row * dt_row + head).to(tl.float32) + tl.load(dt_bias + head))
        delta = tl.minimum(tl.maximum(delta, low), high)
        base = mixed + row * mixed_row
        x_now = tl.load(base + head * P + channel, mask=real, other=0.0)
        b_now = tl.load(base + H * P + group * N + at, mask=inside, other=0.0)
        c = tl.load(base + H * P + (G + group) * N + at, mask=inside, other=0.0).to(tl.float32)
        rate = tl.load(a + head)
        # those since the state was written
        rows += slot * rows_slot
        steps += slot * steps_slot
        j = tl.arange(0, 16)
        size = tl.load(steps + j * H + head, mask=j < count, other=0.0)
        total = tl.sum(size * rate, 0) + delta * rate
        weight = tl.exp(tl.minimum(total - tl.cumsum(size * rate, 0), 0.0)) * size
        known = j[:, None] < count
        bs = tl.load(
            rows + j[:, None] * width + H * P + group * N + at[None, :], mask=known & inside[None, :], other=0.0
        )
        xs = tl.load(rows + j[:, None] * width + head * P + channel[None, :], mask=known & real[None, :], other=0.0)
        x, b = x_now.to(tl.float32), b_now.to(tl.float32)
        weight *= tl.sum(bs.to(tl.float32) * c[None, :], 1)
        y = tl.sum(weight[:, None] * xs.to(tl.float32), 0) + delta * tl.sum(b * c, 0) * x
        mine = state + slot * state_slot + head * P * N + channel[:, None] * N + at[None, :]
        both = real[:, None] & inside[None, :]
        s = tl.load(mine, mask=both & (position > 0), other=0.0).to(tl.float32) * tl.exp(total)
        y += tl.sum(s * c[None, :], 1)
        y += tl.load(skip + head).to(tl.float32) * x
        tl.store(out + row * H * P + head * P + channel, y.to(out.dtype.element_ty), mask=real)
        if count == K - 1:
            s = _fold(s, rows, steps, count, rate, total, head, group, channel, at, H, P, N, width)
            s += (delta * x)[:, None] * b[None, :]
            tl.store(mine, s.to(state.dtype.element_ty), mask=both)
        else:
            here = rows + count * width
            tl.store(here + head * P + channel, x_now, mask=real)
            if block == 0:
                tl.store(steps + count * H + head, delta)
                if head % (H // G) == 0:
                    tl.store(here + H * P + group * N + at, b_now, mask=inside)
            if position == 0:  # the state of a sequence that begins counts as zeros, whatever its slot holds
                tl.store(mine, s.to(state.dtype.element_ty), mask=both)


@triton.jit
def _fold(
    s, rows, steps, count, rate, total, head, group, channel, at, H: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    width: tl.constexpr,
):  # fmt: skip
    """s [BLOCK,NP], decayed already, with the `count` pending tokens of a slot added: exp(total - s_j) dt_j x_j b_j^T."""
    run = 0.0
    for j in range(0, count):
        size = tl.load(steps + j * H + head)
        run += size * rate
        x = tl.load(rows + j * width + head * P + channel, mask=channel < P, other=0.0).to(tl.float32)
        b = tl.load(rows + j * width + H * P + group * N + at, mask=at < N, other=0.0).to(tl.float32)
        s += (tl.exp(tl.minimum(total - run, 0.0)) * size * x)[:, None] * b[None, :]
    return s


@triton.jit
def _advance(pending, positions, slots, batch, K: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.arange(0, BLOCK)
    position = tl.load(positions + row, mask=row < batch, other=-1)
    slot = tl.load(slots + row, mask=row < batch, other=0)
    count = tl.load(pending + slot, mask=position > 0, other=0)
    tl.store(pending + slot, (count + 1) % K, mask=position >= 0)


@triton.jit
def _settle(
    state, a, rows, steps, pending, slots, batch, state_layer, state_slot, rows_layer, rows_slot, steps_layer, steps_slot,
    H: tl.constexpr, P: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, G: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    layer, head = tl.program_id(0) // batch, tl.program_id(1)
    slot = tl.load(slots + tl.program_id(0) % batch).to(tl.int64)
    count = tl.load(pending + slot)
    if count > 0:
        channel, at = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, NP)
        group = head // (H // G)
        width: tl.constexpr = H * P + G * N
        wide = layer.to(tl.int64)
        rows += wide * rows_layer + slot * rows_slot
        steps += wide * steps_layer + slot * steps_slot
        rate, j = tl.load(a + layer * H + head), tl.arange(0, 16)
        total = tl.sum(tl.load(steps + j * H + head, mask=j < count, other=0.0), 0) * rate
        mine = state + wide * state_layer + slot * state_slot + head * P * N + channel[:, None] * N + at[None, :]
        both = (channel < P)[:, None] & (at < N)[None, :]
        s = tl.load(mine, mask=both, other=0.0).to(tl.float32) * tl.exp(total)
        s = _fold(s, rows, steps, count, rate, total, head, group, channel, at, H, P, N, width)
        tl.store(mine, s.to(state.dtype.element_ty), mask=both)
