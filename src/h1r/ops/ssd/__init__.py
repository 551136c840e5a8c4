"""The state space scan of Mamba-2 (arXiv:2405.21060): reference recurrence, chunked form, single step."""

from __future__ import annotations

from torch import Tensor

from h1r.ops import kernels
from h1r.ops.layout import Layout
from h1r.ops.ssd import chunk, ring
from h1r.ops.ssd.reference import Scan
from h1r.ops.ssd.step import step

__all__ = ["Scan", "ssd", "step"]


def ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    layout: Layout,
    state: Tensor | None = None,
    final: bool = True,
) -> Scan:
    """Scan the documents of a packed row; see `reference.ssd` for the definition.

    x [T,H,P], dt [T,H] (after softplus), a [H] (negative), b, c [T,G,N], state [S,H,P,N] or None (zeros)
    -> y [T,H,P] in x's dtype, state [S,H,P,N] fp32. `final=False` skips the final state (None), which training needs
    not. Chunks are of `layout.chunk` tokens where it says so. Over ranks (`layout.ring`) each computes its share. On a GPU
    the kernels of `triton.py` compute.
    """
    if layout.ring is not None:
        assert state is None and not final, "a row shared by ranks neither starts from a state nor ends in one"
        return ring.ssd(x, dt, a, b, c, layout)
    if layout.chunk is None and kernels.fit(x):
        from h1r.ops.ssd import triton

        return triton.ssd(x, dt, a, b, c, layout, state, final)
    return chunk.ssd(x, dt, a, b, c, layout, state, final)
