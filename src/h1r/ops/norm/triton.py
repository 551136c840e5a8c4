"""The norms of decoding on the GPU, one program a row: residual added, row normalised, in one pass over memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from h1r.ops.linear.triton import codes_of


class Sums(NamedTuple):
    """A product that is still in parts [S,B,D] fp32; to be multiplied by scale [B,1] and weight_scale [1,D] where given."""

    parts: Tensor
    scale: Tensor | None
    weight_scale: Tensor | None


class Codes(NamedTuple):
    """Rows in 8-bit codes: codes [B,D] float8_e4m3fn or int8, and a scale for each [B,1] fp32."""

    codes: Tensor
    scale: Tensor


def rms(h: Tensor, more: Tensor | Sums | None, weight: Tensor | None, eps: float, out: Tensor | Codes) -> None:
    """h [B,D] += more [B,D] (None: nothing), in place, then out [B,D] = h rsqrt(mean h^2 + eps) weight [D] (None: ones)."""
    rows, width = h.shape
    splits, scale, weight_scale = 0, None, None
    if isinstance(more, Sums):
        more, scale, weight_scale = more
        splits = more.shape[0]
    target, found = out if isinstance(out, Codes) else (out, None)
    assert h.is_contiguous() and target.is_contiguous() and (more is None or more.is_contiguous())
    _rms[(rows,)](
        h, more, scale, weight_scale, weight, target, found, eps, rows, width, BLOCK=triton.next_power_of_2(width),
        MORE=more is not None, SPLITS=splits, SCALED=scale is not None, WEIGHT=weight is not None,
        CODES=found is not None, INT=target.dtype == torch.int8, num_warps=8,
    )  # fmt: skip


@triton.jit
def _rms(
    h, more, scale, weight_scale, weight, out, found, eps, rows, width, BLOCK: tl.constexpr, MORE: tl.constexpr,
    SPLITS: tl.constexpr, SCALED: tl.constexpr, WEIGHT: tl.constexpr, CODES: tl.constexpr,
    INT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    x = tl.load(h + row * width + at, mask=inside, other=0.0).to(tl.float32)
    if MORE:
        if SPLITS > 0:
            total = tl.zeros((BLOCK,), tl.float32)
            for split in tl.static_range(SPLITS):
                total += tl.load(more + (split * rows + row) * width + at, mask=inside, other=0.0)
            if SCALED:
                total = total * tl.load(scale + row) * tl.load(weight_scale + at, mask=inside, other=0.0)
            x += total
        else:
            x += tl.load(more + row * width + at, mask=inside, other=0.0).to(tl.float32)
        x = x.to(h.dtype.element_ty)
        tl.store(h + row * width + at, x, mask=inside)
        x = x.to(tl.float32)
    x = x * tl.rsqrt(tl.sum(x * x) / width + eps)
    if WEIGHT:
        x = x * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    if CODES:
        x, s = codes_of(x, INT)
        tl.store(found + row, s)
    tl.store(out + row * width + at, x.to(out.dtype.element_ty), mask=inside)


def gated(y: Tensor, gate: Tensor, eps: float, groups: int, norm_before_gate: bool, norm: bool, out: Tensor) -> None:
    """y [B,C], gate [B,C] (any row stride) -> out [B,C] (any row stride); `norm=False`: y silu(gate) alone."""
    rows, channels = y.shape
    size = channels // groups
    assert y.is_contiguous() and gate.stride(1) == 1 and out.stride(1) == 1
    _gated[(rows, groups)](
        y, gate, out, eps, size, channels, gate.stride(0), out.stride(0), BLOCK=triton.next_power_of_2(size),
        BEFORE=norm_before_gate, NORM=norm, num_warps=8,
    )  # fmt: skip


@triton.jit
def _gated(
    y, gate, out, eps, size, channels, gate_row, out_row, BLOCK: tl.constexpr, BEFORE: tl.constexpr, NORM: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * size + tl.arange(0, BLOCK)
    inside = tl.arange(0, BLOCK) < size
    x = tl.load(y + row * channels + at, mask=inside, other=0.0).to(tl.float32)
    z = tl.load(gate + row * gate_row + at, mask=inside, other=0.0).to(tl.float32)
    z = z * tl.sigmoid(z)
    if not BEFORE:
        x = x * z
    if NORM:
        x = x * tl.rsqrt(tl.sum(x * x) / size + eps)
    if BEFORE:
        x = x * z
    tl.store(out + row * out_row + at, x.to(out.dtype.element_ty), mask=inside)
