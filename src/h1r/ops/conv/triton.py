"""The convolution on the GPU: a packed row and its backward, and the single step that reads and shifts the state in its slot and
applies the activation."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from h1r.ops.conv.packed import final_state
from h1r.ops.conv.reference import Conv
from h1r.ops.layout import Layout

SPAN, ROWS = 256, 16  # tokens of a program of the backward, and those it holds at once


def trained(u: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout) -> Tensor:
    """`conv` without states, with gradients: u [T,C] (any row stride), weight [C,K], bias [C] or None -> [T,C]."""
    out: Tensor = _Trained.apply(u, weight, bias, layout)
    return out


class _Trained(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout) -> Tensor:
        ctx.save_for_backward(u, weight, bias)
        ctx.layout = layout
        return conv(u, weight, bias, layout, final=False).out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        u, weight, bias = ctx.saved_tensors
        return (*backward(u, weight, bias, ctx.layout, grad), None)


def backward(
    u: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of u [T,C], weight [C,K] and bias [C], given that of the output [T,C]; sums over tokens in fp32, in one order."""
    tokens, channels = u.shape
    width, grad = weight.shape[1], grad.contiguous()
    weight, du = weight.contiguous(), torch.empty(tokens, channels, dtype=u.dtype, device=u.device)
    spans, block = triton.cdiv(tokens, SPAN), min(128, triton.next_power_of_2(channels))
    sums = torch.empty(spans, width + 1, channels, dtype=torch.float32, device=u.device)
    _backward[(spans, triton.cdiv(channels, block))](
        u, weight, layout.segments, grad, du, sums, u.stride(0), tokens, channels, K=width,
        TAPS=triton.next_power_of_2(width + 1), ROWS=ROWS, SPAN=SPAN, BLOCK=block, num_warps=4,
    )  # fmt: skip
    total = sums.sum(0)
    dbias = None if bias is None else total[width].to(bias.dtype)
    return du, total[:width].t().to(weight.dtype), dbias


@triton.jit
def _backward(
    u, weight, segments, grad, du, sums, u_row, tokens, channels, K: tl.constexpr, TAPS: tl.constexpr, ROWS: tl.constexpr,
    SPAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """du, and by span of tokens the sums for each tap and (last) the bias."""
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < channels
    place = sums + tl.program_id(0) * (K + 1) * channels + at
    tap = tl.arange(0, TAPS)
    total = tl.zeros((TAPS, BLOCK), tl.float32)
    for first in range(0, SPAN, ROWS):
        token = (tl.program_id(0) * SPAN + first + tl.arange(0, ROWS)).to(tl.int64)
        real = token < tokens
        document = tl.load(segments + token, mask=real, other=-1)
        mask = real[:, None] & inside[None, :]
        g = tl.load(grad + token[:, None] * channels + at[None, :], mask=mask, other=0.0).to(tl.float32)
        total += tl.where(tap[:, None] == K, tl.sum(g, 0)[None, :], 0.0)
        given = tl.zeros((ROWS, BLOCK), tl.float32)
        for k in tl.static_range(K):
            away = K - 1 - k
            source, target = token - away, token + away
            before = real & (source >= 0)
            before = before & (tl.load(segments + source, mask=before, other=-2) == document)
            read = tl.load(u + source[:, None] * u_row + at[None, :], mask=before[:, None] & inside[None, :], other=0.0)
            total += tl.where(tap[:, None] == k, tl.sum(g * read.to(tl.float32), 0)[None, :], 0.0)
            after = target < tokens
            after = after & (tl.load(segments + target, mask=after, other=-2) == document)
            later = tl.load(
                grad + target[:, None] * channels + at[None, :], mask=after[:, None] & inside[None, :], other=0.0
            )
            given += later.to(tl.float32) * tl.load(weight + at * K + k, mask=inside, other=0.0).to(tl.float32)[None, :]
        tl.store(du + token[:, None] * channels + at[None, :], given.to(du.dtype.element_ty), mask=mask)
    tl.store(place[None, :] + tap[:, None] * channels, total, mask=(tap <= K)[:, None] & inside[None, :])


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
