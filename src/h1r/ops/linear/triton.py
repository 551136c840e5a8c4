"""Decoding's products on the GPU: few rows of x against a large matrix, whose bytes are all the time there is; and the gate
of the MLP."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


def glu(gate: Tensor, up: Tensor, out: Tensor, scale: Tensor | None = None) -> None:
    """gate, up [B,F] (one row stride) -> out [B,F] = silu(gate) up; with `scale` [B,1], out holds codes (fp8 or int8) and scale
    their scales."""
    rows, width = out.shape
    assert gate.stride(1) == up.stride(1) == 1 and gate.stride(0) == up.stride(0) and out.is_contiguous()
    if scale is not None:
        block = triton.next_power_of_2(width)
        _glu[(rows, 1)](
            gate,
            up,
            out,
            scale,
            gate.stride(0),
            width,
            BLOCK=block,
            CODES=True,
            INT=out.dtype == torch.int8,
            num_warps=16,
        )
        return
    block = min(2048, triton.next_power_of_2(width))
    _glu[(rows, triton.cdiv(width, block))](
        gate, up, out, scale, gate.stride(0), width, BLOCK=block, CODES=False, INT=False, num_warps=4
    )


@triton.jit
def _glu(gate, up, out, scale, stride, width, BLOCK: tl.constexpr, CODES: tl.constexpr, INT: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    g = tl.load(gate + row * stride + at, mask=inside, other=0.0).to(tl.float32)
    value = g * tl.sigmoid(g) * tl.load(up + row * stride + at, mask=inside, other=0.0).to(tl.float32)
    if CODES:
        value, s = codes_of(value, INT)
        tl.store(scale + row, s)
    tl.store(out + row * width + at, value.to(out.dtype.element_ty), mask=inside)


def quantise(x: Tensor, codes: Tensor, scale: Tensor) -> None:
    """x [B,D] -> codes [B,D] float8_e4m3fn or int8, scale [B,1] fp32, as `coded.quantise`."""
    rows, width = x.shape
    assert x.is_contiguous() and codes.is_contiguous()
    _quantise[(rows,)](
        x, codes, scale, width, BLOCK=triton.next_power_of_2(width), INT=codes.dtype == torch.int8, num_warps=8
    )


@triton.jit
def codes_of(value, INT: tl.constexpr):
    """A row's numbers over its scale, rounded to whole ones where codes are int8, and the scale."""
    largest = 127.0 if INT else 448.0
    top = tl.max(tl.abs(value))
    s = tl.where(top > 0, top / largest, 1.0)
    value = value / s
    if INT:
        value = tl.floor(value + 0.5)
    return tl.minimum(tl.maximum(value, -largest), largest), s


@triton.jit
def _quantise(x, codes, scale, width, BLOCK: tl.constexpr, INT: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    value = tl.load(x + row * width + at, mask=inside, other=0.0).to(tl.float32)
    value, s = codes_of(value, INT)
    tl.store(codes + row * width + at, value.to(codes.dtype.element_ty), mask=inside)
    tl.store(scale + row, s)


class Tile(NamedTuple):
    """Outputs and bytes of inputs that a program reads at once, and how it runs."""

    outputs: int
    bytes: int
    warps: int
    stages: int


TILES = {1: Tile(64, 128, 4, 4), 2: Tile(64, 128, 4, 4)}  # by bytes of a number
MOST = 128  # rows


def product(
    x: Tensor, weight: Tensor, scale: Tensor | None, weight_scale: Tensor | None, dtype: torch.dtype, join: bool = True
) -> Tensor:
    """x [B,k], weight [n,k] of one dtype -> x w^T [B,n], times scale [B,1] and weight_scale [1,n] where given. B <= MOST.

    Where the outputs alone give too few programs, the inputs are split among several and their sums joined afterwards;
    join=False: the caller joins and scales them, and gets [S,B,n] fp32 where there are several.
    """
    (rows, k), n = x.shape, weight.shape[0]
    size = weight.element_size()
    tile = TILES[size]
    inputs = tile.bytes // size
    assert k % inputs == 0 and x.is_contiguous() and weight.is_contiguous() and rows <= MOST
    tiles, steps = triton.cdiv(n, tile.outputs), k // inputs
    splits = splits_for(tiles, steps, x.device)
    out = torch.empty(rows, n, dtype=dtype, device=x.device)
    part = out if splits == 1 else torch.empty(splits, rows, n, dtype=torch.float32, device=x.device)
    height = 64 if rows <= 64 else 128
    _product[(tiles, splits)](
        x, weight, part, scale, weight_scale, rows, n, k, HEIGHT=height, OUTPUTS=tile.outputs, INPUTS=inputs,
        SPLITS=splits, SCALED=scale is not None, INT=x.dtype == torch.int8, num_warps=tile.warps * height // 64,
        num_stages=tile.stages,
    )  # fmt: skip
    if splits > 1 and not join:
        return part
    if splits > 1:
        block = 1024
        _add[(rows, triton.cdiv(n, block))](
            part, out, scale, weight_scale, rows, n, SPLITS=splits, BLOCK=block, SCALED=scale is not None, num_warps=4
        )
    return out


def splits_for(tiles: int, steps: int, device: torch.device) -> int:
    """Parts of the inputs, so that there are about two programs for each processor, with four steps or more."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
    return max(1, min(2 * processors // tiles, steps // 4, 16))


@triton.jit
def _product(
    x, w, out, scale, weight_scale, rows, n, k, HEIGHT: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
    SPLITS: tl.constexpr, SCALED: tl.constexpr, INT: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    split = tl.program_id(1)
    row, at = tl.arange(0, HEIGHT), tl.arange(0, INPUTS)
    steps = k // INPUTS
    each = tl.cdiv(steps, SPLITS)
    left = x + row[:, None] * k + at[None, :]
    right = w + column[None, :].to(tl.int64) * k + at[:, None]
    acc = tl.zeros((HEIGHT, OUTPUTS), tl.int32 if INT else tl.float32)
    for step in range(split * each, tl.minimum((split + 1) * each, steps)):
        a = tl.load(left + step * INPUTS, mask=(row < rows)[:, None], other=0.0)
        b = tl.load(right + step * INPUTS, mask=(column < n)[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee", out_dtype=tl.int32 if INT else tl.float32)
    acc = acc.to(tl.float32)
    place = row[:, None] * n + column[None, :]
    inside = (row < rows)[:, None] & (column < n)[None, :]
    if SPLITS == 1:
        if SCALED:
            acc = acc * tl.load(scale + row, mask=row < rows, other=0.0)[:, None]
            acc = acc * tl.load(weight_scale + column, mask=column < n, other=0.0)[None, :]
        tl.store(out + place, acc.to(out.dtype.element_ty), mask=inside)
    else:
        tl.store(out + split.to(tl.int64) * rows * n + place, acc, mask=inside)


@triton.jit
def _add(part, out, scale, weight_scale, rows, n, SPLITS: tl.constexpr, BLOCK: tl.constexpr, SCALED: tl.constexpr):
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < n
    total = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(part + (split * rows + row).to(tl.int64) * n + column, mask=inside, other=0.0)
    if SCALED:
        total = total * tl.load(scale + row) * tl.load(weight_scale + column, mask=inside, other=0.0)
    tl.store(out + row * n + column, total.to(out.dtype.element_ty), mask=inside)
