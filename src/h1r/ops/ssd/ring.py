"""The scan over ranks: exact by state passing.

y and the state are affine in the state that enters. Each rank scans its share from zero; the ranks exchange, per head, the decay
exp(sum dt a) over their share and the state it leaves behind; a rank's entering state is their exclusive prefix, and adds
exp(s_i) c_i . S_in to the outputs of the document that was cut. A share in which another document begins passes nothing on.
The exchange is H P N numbers per rank, whatever the length. Source: arXiv:2405.21060, section 8.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from h1r.ops.layout import Layout
from h1r.ops.ring import Ring
from h1r.ops.ssd import chunk
from h1r.ops.ssd.reference import Scan


def ssd(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, layout: Layout) -> Scan:
    """The same function as `reference.ssd` over the whole row, each rank with its share; no final state."""
    ring = layout.ring
    assert ring is not None, "a ring form needs a layout with a ring"
    scan = chunk.ssd(x, dt, a, b, c, layout, final=True)
    assert scan.state is not None
    work = scan.state.dtype
    log_decay = dt.to(work) * a.to(work)  # [n,H]
    whole = log_decay.split(layout.lengths)[-1].sum(0)
    entering = enter(scan.state[-1], whole, ring)
    if not ring.past:
        return Scan(scan.y + 0 * entering.sum().to(scan.y.dtype), None)
    n, heads, _ = scan.y[: layout.lengths[0]].shape
    groups = b.shape[1]
    reach = log_decay[:n].cumsum(0).clamp(-87.0, 0.0).exp()  # [n,H]
    by_group = entering.unflatten(0, (groups, heads // groups))  # [G,R,P,N]
    with torch.autocast(x.device.type, enabled=False):
        added = torch.einsum("tgn,grpn->tgrp", c[:n].to(work), by_group).flatten(1, 2) * reach[..., None]
    return Scan(torch.cat([(scan.y[:n].to(work) + added).to(scan.y.dtype), scan.y[n:]]), None)


def enter(state: Tensor, log_decay: Tensor, ring: Ring) -> Tensor:
    """The state [H,P,N] that enters this rank's first document, from each rank's last state and its log decay [H]."""
    heads = log_decay.shape[0]
    all_ = ring.collect(torch.cat([state.flatten(), log_decay]))  # [R,HPN+H]
    states, logs = all_[:, :-heads].unflatten(1, state.shape), all_[:, -heads:]
    out = torch.zeros_like(state)
    for r in range(ring.rank):
        carried = ring.continues[r] and ring.single[r]
        out = states[r] + (logs[r].clamp(-87.0, 0.0).exp()[:, None, None] * out if carried else 0.0)
    return out if ring.past else 0 * all_[0, : state.numel()].view_as(state)
