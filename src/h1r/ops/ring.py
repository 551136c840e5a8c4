"""Context parallelism: one packed row over several ranks, each holding a run of its tokens, in order.

    layout = shard((5, 90, 33), group, rank, size)      # this rank's documents; positions go on where the rank before ends
    ring.gather(k)                                      # [n,...] of every rank -> [T,...] on each, with its gradient

Exact for any number of ranks and any documents. What crosses ranks, per layer: the state and the decay of a document that a cut
runs through, the last K-1 inputs of the convolution, and all keys and values (two heads of them in the 7B: about 1 KB a token).
Every rank takes part in every exchange, forward and backward, also where nothing of it is needed: so they stay in step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from h1r.ops.layout import Layout


@dataclass(frozen=True, eq=False)
class Ring:
    """This rank's place among the R that share a packed row of T tokens.

    group      their process group, in the order of their tokens
    bounds     [R+1] first token of each rank's share; the last is T
    continues  [R] whether a rank's first document began on an earlier rank
    single     [R] whether a rank holds tokens of one document only
    past       tokens of this rank's first document that lie on earlier ranks
    """

    group: Any
    rank: int
    bounds: tuple[int, ...]
    continues: tuple[bool, ...]
    single: tuple[bool, ...]
    past: int

    @property
    def size(self) -> int:
        """R."""
        return len(self.bounds) - 1

    @property
    def begin(self) -> int:
        """First token of this rank."""
        return self.bounds[self.rank]

    @property
    def end(self) -> int:
        """One past this rank's last token."""
        return self.bounds[self.rank + 1]

    def gather(self, x: Tensor) -> Tensor:
        """The shares of all ranks in order: [n,...] -> [T,...]; the gradient of a share is the sum of all ranks'."""
        out: Tensor = _Gather.apply(x, self, tuple(b - a for a, b in pairwise(self.bounds)))
        return out

    def collect(self, x: Tensor) -> Tensor:
        """One tensor of the same shape from each rank: [...] -> [R,...], with its gradient."""
        out: Tensor = _Gather.apply(x[None], self, (1,) * self.size)
        return out


def shard(lengths: Sequence[int], group: Any, rank: int, size: int, device: torch.device | str | None = None) -> Layout:
    """The layout of this rank's share of a packed row whose documents have these lengths; shares differ by a token at most."""
    total = sum(lengths)
    assert total >= size, f"{total} tokens cannot be shared by {size} ranks"
    bounds = tuple(total * r // size for r in range(size + 1))
    starts = [0]
    for n in lengths:
        starts.append(starts[-1] + n)
    parts: list[list[int]] = []
    pasts = []
    for begin, end in pairwise(bounds):
        held = [s for s in range(len(lengths)) if starts[s] < end and starts[s + 1] > begin]
        parts.append([min(starts[s + 1], end) - max(starts[s], begin) for s in held])
        pasts.append(begin - min(starts[held[0]], begin))
    own = Ring(
        group, rank, bounds, tuple(p > 0 for p in pasts), tuple(len(p) == 1 for p in parts), pasts[rank]
    )  # fmt: skip
    offsets = [pasts[rank], *[0] * (len(parts[rank]) - 1)]
    return Layout.of(parts[rank], offsets, device, ring=own)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ring: Ring, sizes: tuple[int, ...]) -> Tensor:
        ctx.ring, ctx.sizes = ring, sizes
        longest = max(sizes)
        padded = x.new_zeros(longest, *x.shape[1:])
        padded[: x.shape[0]] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=ring.group)
        return torch.cat([part[:n] for part, n in zip(parts, sizes)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        # summed in fp32 or wider: every rank's share of a bf16 gradient would be rounded otherwise
        wide = grad.to(torch.promote_types(grad.dtype, torch.float32))
        longest = max(ctx.sizes)
        parts = []
        for part in wide.split(ctx.sizes):
            padded = wide.new_zeros(longest, *wide.shape[1:])
            padded[: part.shape[0]] = part
            parts.append(padded)
        out = torch.empty_like(parts[0])
        dist.reduce_scatter(out, parts, group=ctx.ring.group)
        return out[: ctx.sizes[ctx.ring.rank]].to(grad.dtype), None, None
