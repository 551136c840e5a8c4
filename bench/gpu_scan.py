"""The scan and the convolution of the 7B's mixer on a GPU, forward and backward, beside their PyTorch forms and a floor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gpu_subject import DEVICE, limits, seconds

from h1r.model import PRESETS, H1Config
from h1r.ops import Layout
from h1r.ops.conv import packed
from h1r.ops.conv import triton as conv_kernels
from h1r.ops.ssd import chunk
from h1r.ops.ssd import triton as ssd_kernels


def scan(results: dict[str, Any], quick: bool) -> list[dict[str, Any]]:
    """Milliseconds of a row of documents of 1,000 tokens and of a single document, and the share of the floor: the largest of the
    bytes that must move at the copy's speed and the operations at the product's."""
    here = limits(results)
    config = PRESETS["7b"]
    assert isinstance(config, H1Config)
    rows = []
    for tokens, document in ((8192, 8192), (32768, 1000)) if quick else ((8192, 8192), (32768, 1000), (32768, 32768)):
        lengths = [document] * (tokens // document) + [tokens % document][: bool(tokens % document)]
        layout = Layout.of(lengths, device=DEVICE)
        heads, p, n, groups = config.mamba_n_heads, config.mamba_d_head, config.mamba_d_state, config.mamba_n_groups
        wide = torch.randn(tokens, config.conv_channels, device=DEVICE, dtype=torch.bfloat16)
        x, b, c = wide.split([heads * p, groups * n, groups * n], 1)
        given = [x.unflatten(1, (heads, p)), torch.rand(tokens, heads, device=DEVICE) * 0.1,
                 -torch.rand(heads, device=DEVICE) * 8 - 1, b.unflatten(1, (groups, n)), c.unflatten(1, (groups, n))]  # fmt: skip
        taps, bias = (
            torch.randn(config.conv_channels, 4, device=DEVICE),
            torch.randn(config.conv_channels, device=DEVICE),
        )
        row: dict[str, Any] = {"tokens": tokens, "document": document}
        forms: dict[str, tuple[Callable[..., Any], list[torch.Tensor]]] = {
            "scan": (lambda *t, at=layout: ssd_kernels.ssd(*t, at, final=False).y, given),
            "scan torch": (lambda *t, at=layout: chunk.ssd(*t, at, final=False).y, given),
            "conv": (lambda *t, at=layout: conv_kernels.trained(*t, at), [wide, taps, bias]),
            "conv torch": (lambda *t, at=layout: packed.conv(*t, at, final=False).out, [wide, taps, bias]),
        }
        for name, (form, arguments) in forms.items():
            leaves = [t.detach().requires_grad_() for t in arguments]
            grad = torch.randn_like(form(*leaves))
            with torch.no_grad():
                row[f"{name} forward ms"] = 1e3 * seconds(lambda f=form, at=leaves: f(*at), 5)
            row[f"{name} both ms"] = 1e3 * seconds(
                lambda f=form, at=leaves, g=grad: torch.autograd.grad(f(*at), at, g), 5
            )
        floor = floors(config, tokens, here["copy"], here["peak"])
        row["floor forward ms"], row["floor both ms"] = (1e3 * t for t in floor)
        row["share of the floor, both"] = floor[1] * 1e3 / row["scan both ms"]
        rows.append(row)
    return rows


def floors(config: H1Config, tokens: int, copy: float, peak: float) -> tuple[float, float]:
    """Seconds that a chunked scan needs at least, forward, and forward with backward.

    Operations: products with states 2 N P a token and head, twice forward (in and out) and four times backward; half of a
    chunk's pairs, 2 P once forward and twice backward for each head, 2 N once and twice for each group. Bytes: x, b, c read and
    y written; backward the same with dy and the gradients. Nothing is counted for states that wait in memory between kernels.
    """
    heads, p, n, groups = config.mamba_n_heads, config.mamba_d_head, config.mamba_d_state, config.mamba_n_groups
    pairs = ssd_kernels.CHUNK / 2
    inner = 2 * n * p * heads
    seen = pairs * (2 * p * heads + 2 * n * groups)
    forward = tokens * (2 * inner + seen) / peak, tokens * 2 * (2 * heads * p + 2 * groups * n) / copy
    backward = tokens * (4 * inner + 2 * seen) / peak, tokens * 2 * (3 * heads * p + 4 * groups * n) / copy
    return max(forward), max(forward) + max(backward)
