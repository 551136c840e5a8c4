"""Matrices in 8-bit codes, fp8 (e4m3) or int8: a scale per output row of the weight, and one per token of the input, found as
it comes.

    w ~ codes * scale[:,None],  scale = largest of the row / largest code;      y = (x / s) codes^T * s scale

On a GPU the product is `torch._scaled_mm` for fp8, where the device multiplies it, and `torch._int_mm` for int8; elsewhere its
definition, in fp32. Rounding to int8 is floor(x + 1/2), in the kernels too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
FORMATS = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
MULTIPLE = 16  # rows and columns of a matrix that the device's products take
FEW = 32  # rows that torch._int_mm is given at least; it refuses 16


class Coded(NamedTuple):
    """codes [n',k] float8_e4m3fn or int8, scale [1,n'] fp32: n rows and zeros up to a multiple of 16."""

    codes: Tensor
    scale: Tensor
    rows: int


def pack(weight: Tensor, dtype: torch.dtype = torch.float8_e4m3fn) -> Coded:
    """weight [n,k] -> its codes. k must be a multiple of 16."""
    n, k = weight.shape
    assert k % MULTIPLE == 0, f"8-bit codes need inputs of a multiple of {MULTIPLE} channels, not {k}"
    w = F.pad(weight.detach().float(), (0, 0, 0, -n % MULTIPLE))
    codes, scale = quantise(w, dtype)
    return Coded(codes, scale.t().contiguous(), n)


def quantise(x: Tensor, dtype: torch.dtype = torch.float8_e4m3fn) -> tuple[Tensor, Tensor]:
    """x [T,k] -> codes [T,k] and scale [T,1] fp32; a row of zeros has scale 1."""
    work, largest = x.float(), LARGEST[dtype]
    top = work.abs().amax(-1, keepdim=True)
    scale = torch.where(top > 0, top / largest, 1.0)
    value = work / scale
    value = (value + 0.5).floor() if dtype == torch.int8 else value
    return value.clamp(-largest, largest).to(dtype), scale


def product(x: Tensor, weight: Coded) -> Tensor:
    """x [T,k] -> x w^T [T,n] in x's dtype."""
    codes, scale = quantise(x, weight.codes.dtype)
    return scaled(codes, scale, weight, x.dtype)[:, : weight.rows]


def scaled(codes: Tensor, scale: Tensor, weight: Coded, dtype: torch.dtype) -> Tensor:
    """codes [T,k], scale [T,1] -> [T,n']: padded outputs included."""
    if codes.is_cuda and codes.dtype == torch.int8:
        rows = len(codes)
        whole = torch._int_mm(F.pad(codes, (0, 0, 0, max(0, FEW - rows))), weight.codes.t())[:rows]
        return (whole.float() * scale * weight.scale).to(dtype)
    if codes.is_cuda:
        return torch._scaled_mm(codes, weight.codes.t(), scale, weight.scale, out_dtype=dtype, use_fast_accum=True)
    return ((codes.float() @ weight.codes.float().t()) * scale * weight.scale).to(dtype)


def dequantise(weight: Coded) -> Tensor:
    """The matrix its codes stand for [n,k], fp32."""
    return (weight.codes.float() * weight.scale.t())[: weight.rows]
