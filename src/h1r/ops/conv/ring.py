"""The convolution over ranks: a rank reads the last K-1 inputs before its share from those that hold them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from h1r.ops.conv import packed
from h1r.ops.conv.reference import Conv
from h1r.ops.layout import Layout
from h1r.ops.ring import Ring


def conv(u: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout) -> Conv:
    """The same function as `reference.conv` over the whole row, each rank with its share; no final state."""
    ring = layout.ring
    assert ring is not None, "a ring form needs a layout with a ring"
    back = weight.shape[1] - 1
    tail = u[-back:]
    tails = ring.collect(F.pad(tail, (0, 0, back - tail.shape[0], 0))).flatten(0, 1)  # [R*(K-1),C]
    place, real = layout.memo(("halo", back), lambda: halo(ring, back, u.device))
    before = torch.where(real[:, None], tails[place], torch.zeros((), dtype=u.dtype, device=u.device))  # [K-1,C]
    rest = before.new_zeros(len(layout.lengths) - 1, u.shape[1], back)
    return packed.conv(u, weight, bias, layout, torch.cat([before.t()[None], rest]), final=False)


def halo(ring: Ring, back: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the `back` tokens before this share stand among the ranks' tails, and which belong to its first document."""
    places, real = [], []
    for token in range(ring.begin - back, ring.begin):
        own = ring.begin - token <= ring.past
        owner = next((r for r in range(ring.size) if ring.bounds[r] <= token < ring.bounds[r + 1]), 0)
        places.append(owner * back + back - (ring.bounds[owner + 1] - token) if own else 0)
        real.append(own)
    return torch.tensor(places, device=device), torch.tensor(real, device=device)
