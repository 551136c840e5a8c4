"""Matrices in fp8 (e4m3): a scale per output row of the weight, and per token of the input, found as it comes.

    w ~ codes * scale[:,None],  scale = largest of the row / 448;      y = (x / s) codes^T * s scale

On a GPU that multiplies fp8 the product is `torch._scaled_mm`; elsewhere its definition, in fp32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 448.0
DTYPE = torch.float8_e4m3fn
MULTIPLE = 16  # rows and columns of a matrix that the device's product takes


class Fp8(NamedTuple):
    """codes [n',k] float8_e4m3fn, scale [1,n'] fp32: n rows and zeros up to a multiple of 16."""

    codes: Tensor
    scale: Tensor
    rows: int


def pack(weight: Tensor) -> Fp8:
    """weight [n,k] -> its fp8 form. k must be a multiple of 16."""
    n, k = weight.shape
    assert k % MULTIPLE == 0, f"fp8 needs inputs of a multiple of {MULTIPLE} channels, not {k}"
    w = F.pad(weight.detach().float(), (0, 0, 0, -n % MULTIPLE))
    codes, scale = quantise(w)
    return Fp8(codes, scale.t().contiguous(), n)


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [T,k] -> codes [T,k] and scale [T,1] fp32; a row of zeros has scale 1."""
    work = x.float()
    top = work.abs().amax(-1, keepdim=True)
    scale = torch.where(top > 0, top / LARGEST, 1.0)
    return (work / scale).clamp(-LARGEST, LARGEST).to(DTYPE), scale


def product(x: Tensor, weight: Fp8) -> Tensor:
    """x [T,k] -> x w^T [T,n] in x's dtype."""
    codes, scale = quantise(x)
    return scaled(codes, scale, weight, x.dtype)[:, : weight.rows]


def scaled(codes: Tensor, scale: Tensor, weight: Fp8, dtype: torch.dtype) -> Tensor:
    """codes [T,k], scale [T,1] -> [T,n']: padded outputs included."""
    if codes.is_cuda:
        return torch._scaled_mm(codes, weight.codes.t(), scale, weight.scale, out_dtype=dtype, use_fast_accum=True)
    return ((codes.float() @ weight.codes.float().t()) * scale * weight.scale).to(dtype)


def dequantise(weight: Fp8) -> Tensor:
    """The matrix its codes stand for [n,k], fp32."""
    return (weight.codes.float() * weight.scale.t())[: weight.rows]
