"""The convolution on the GPU: a packed row, and the single step that reads and shifts the state in its slot and applies the
activation."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from h1r.ops.conv.packed import final_state
from h1r.ops.conv.reference import Conv
from h1r.ops.layout import Layout


def conv(
    u: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout, state: Tensor | None = None, final: bool = True
) -> Conv:
    """The same function as `reference.conv`, without gradients; u may have any row stride."""
    tokens, channels = u.shape
    width = weight.shape[1]
    assert u.stride(1) == 1
    weight = weight.contiguous()
    out = torch.empty(tokens, channels, dtype=u.dtype, device=u.device)
    rows, block = 16, min(128, triton.next_power_of_2(channels))
    _conv[(triton.cdiv(tokens, rows), triton.cdiv(channels, block))](
        u, weight, bias, state, layout.starts, layout.segments, out, u.stride(0),
        *(state.stride() if state is not None else (0, 0, 0)), tokens, channels, K=width, ROWS=rows, BLOCK=block,
        BIAS=bias is not None, STATE=state is not None, num_warps=4,
    )  # fmt: skip
    if not final:
        return Conv(out, None)
    before = None if state is None else state.to(u.dtype).transpose(1, 2).reshape(-1, channels)
    return Conv(out, final_state(u, before, layout, width))


@triton.jit
def _conv(
    u, weight, bias, state, starts, segments, out, u_row, s_document, s_channel, s_tap, tokens, channels,
    K: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, BIAS: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    token = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < channels
    real = token < tokens
    document = tl.load(segments + token, mask=real, other=0)
    start = tl.load(starts + document, mask=real, other=0)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    if BIAS:
        total += tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)[None, :]
    for k in tl.static_range(K):
        source = token - (K - 1) + k
        own = real & (source >= start)
        value = tl.load(u + source[:, None] * u_row + at[None, :], mask=own[:, None] & inside[None, :], other=0.0)
        value = value.to(tl.float32)
        if STATE and k < K - 1:
            place = document * s_document + (K - 1 + source - start) * s_tap
            given = (real & (source < start))[:, None] & inside[None, :]
            value += tl.load(state + place[:, None] + at[None, :] * s_channel, mask=given, other=0.0).to(tl.float32)
        total += value * tl.load(weight + at * K + k, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(
        out + token[:, None] * channels + at[None, :],
        total.to(out.dtype.element_ty),
        mask=real[:, None] & inside[None, :],
    )


def step(
    u: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, positions: Tensor, slots: Tensor, out: Tensor
) -> None:
    """u [B,C] (any row stride), weight [C,K], bias [C] or None, state [slots,C,K-1] -> out [B,C] = silu(conv).

    positions [B] int64: -1 for padding (its slot is left alone), 0 for a sequence that begins (its state counts as zeros).
    """
    batch, channels = u.shape
    width = weight.shape[1]
    assert u.stride(1) == 1 and out.is_contiguous() and weight.is_contiguous()
    block = min(1024, triton.next_power_of_2(channels))
    _step[(batch, triton.cdiv(channels, block))](
        u, weight, bias, state, positions, slots, out, u.stride(0), state.stride(0), state.stride(1), state.stride(2),
        channels, K=width, BLOCK=block, BIAS=bias is not None, num_warps=4,
    )  # fmt: skip


@triton.jit
def _step(
    u, weight, bias, state, positions, slots, out, u_row, slot_stride, channel_stride, tap_stride, channels,
    K: tl.constexpr, BLOCK: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    position = tl.load(positions + row)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < channels
    new = tl.load(u + row * u_row + at, mask=inside, other=0.0)
    total = new.to(tl.float32) * tl.load(weight + at * K + K - 1, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        total += tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    mine = state + tl.load(slots + row).to(tl.int64) * slot_stride + at * channel_stride
    real = inside & (position >= 0)
    old = inside & (position > 0)
    for k in tl.static_range(K - 1):
        value = tl.load(mine + k * tap_stride, mask=old, other=0.0)
        total += value.to(tl.float32) * tl.load(weight + at * K + k, mask=inside, other=0.0).to(tl.float32)
        if k > 0:
            tl.store(mine + (k - 1) * tap_stride, value, mask=real)
    tl.store(mine + (K - 2) * tap_stride, new.to(state.dtype.element_ty), mask=real)
    tl.store(out + row * channels + at, (total * tl.sigmoid(total)).to(out.dtype.element_ty), mask=inside)
