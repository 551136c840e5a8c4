"""Weights as small integers with a scale per group of inputs: the definition of what the CPU kernel packs.

    int8   groups of 64: scale = the largest magnitude / 127, rounded up to bf16;  code = round(w / scale), -127 .. 127
    int4   groups of 32: of twelve bf16 scales that put the largest value at -8, each 3 % narrower than the one before, the
           first with the least squared error;  code = round(w / scale), -8 .. 7

Rounding is to nearest even; the last group is filled with zeros.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GROUPS = {"int8": 64, "int4": 32}
LIMITS = {"int8": (-127, 127), "int4": (-8, 7)}


def quantise(weight: Tensor, format: str) -> tuple[Tensor, Tensor]:
    """weight [n,k] -> codes [n, groups, group] int8 and scales [n, groups] bf16."""
    group = GROUPS[format]
    w = F.pad(weight.detach().float(), (0, -weight.shape[1] % group)).unflatten(1, (-1, group))
    at = w.abs().argmax(-1, keepdim=True)
    top = w.gather(-1, at)[..., 0]
    if format == "int8":
        # up to the next bf16: no code is larger than 127
        bits = (top.abs() / 127.0).view(torch.int32)
        scale = (((bits + 0xFFFF) >> 16) << 16).view(torch.float32)
        return _codes(w, scale, format).to(torch.int8), scale.bfloat16()
    best, least = torch.zeros_like(top), torch.full_like(top, torch.inf, dtype=torch.float64)
    for i in range(12):
        scale = (top / -8.0 * ((100 - 3 * i) / 100)).bfloat16().float()
        error = (w.double() - (_codes(w, scale, format) * scale[..., None]).double()).square().sum(-1)
        better = (error < least) & (scale != 0)
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return _codes(w, best, format).to(torch.int8), best.bfloat16()


def dequantise(codes: Tensor, scales: Tensor, k: int) -> Tensor:
    """codes [n, groups, group], scales [n, groups] -> [n,k] fp32."""
    return (codes.float() * scales.float()[..., None]).flatten(1)[:, :k]


def rounded(weight: Tensor, format: str) -> Tensor:
    """weight [n,k] with the values its codes stand for, fp32."""
    return dequantise(*quantise(weight, format), weight.shape[1])


def _codes(w: Tensor, scale: Tensor, format: str) -> Tensor:
    low, high = LIMITS[format]
    safe = torch.where(scale == 0, 1.0, scale)
    return torch.where(scale[..., None] == 0, 0.0, (w / safe[..., None]).round().clamp(low, high))
