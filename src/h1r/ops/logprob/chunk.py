"""Head and softmax chunk by chunk over tokens; the backward computes each chunk's logits again.

With z the scaled logits, p = softmax(z), and g, h the gradients of logp and entropy E:
    dz = g (onehot - p) - h p (log p + E)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from h1r.ops.logprob.reference import LogProb

# Logits of one chunk: 16 MB in fp32 on a CPU, whose cache they should meet; 512 MB on a GPU, where a chunk reads the whole head
# and few rows would leave the processors idle.
ENTRIES, GPU_ENTRIES = 1 << 22, 1 << 27


def logprob(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    multiplier: float,
    temperature: float,
    chunk: int | None,
    entropy: bool,
) -> LogProb:
    """The same function as `reference.logprob`."""
    assert temperature > 0, f"temperature {temperature}: log-probabilities need one above 0"
    rows = chunk or max(1, (GPU_ENTRIES if hidden.is_cuda else ENTRIES) // head.shape[0])
    if torch.is_autocast_enabled(hidden.device.type):
        low = torch.get_autocast_dtype(hidden.device.type)
        hidden, head = hidden.to(low), head.to(low)
    with torch.autocast(hidden.device.type, enabled=False):
        logp, spread = _Head.apply(hidden, head, targets, multiplier / temperature, rows, entropy)
    return LogProb(logp, spread)


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, scale: float, rows: int, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        work = torch.promote_types(hidden.dtype, torch.float32)
        logp = torch.empty(hidden.shape[0], dtype=work, device=hidden.device)
        spread = torch.empty_like(logp) if entropy else None
        total = torch.empty_like(logp)
        for begin in range(0, hidden.shape[0], rows):
            span = slice(begin, begin + rows)
            z = _logits(hidden[span], head, scale, work)
            total[span] = torch.logsumexp(z, -1)
            logp[span] = z.gather(-1, targets[span, None])[:, 0] - total[span]
            if spread is not None:
                p = torch.sub(z, total[span, None]).exp_()
                spread[span] = total[span] - torch.linalg.vecdot(p, z)
        ctx.save_for_backward(hidden, head, targets, total, spread)
        ctx.scale, ctx.rows = scale, rows
        ctx.set_materialize_grads(False)
        return logp, spread

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, h: Tensor | None) -> Any:
        with torch.autocast(ctx.saved_tensors[0].device.type, enabled=False):
            return _Head.gradients(ctx, g, h)

    @staticmethod
    def gradients(ctx: Any, g: Tensor | None, h: Tensor | None) -> Any:
        """d/d hidden, head."""
        hidden, head, targets, total, spread = ctx.saved_tensors
        dhidden = torch.zeros_like(hidden)
        dhead = torch.zeros(head.shape, dtype=total.dtype, device=head.device)
        for begin in range(0, hidden.shape[0], ctx.rows):
            span = slice(begin, begin + ctx.rows)
            z = _logits(hidden[span], head, ctx.scale, total.dtype).sub_(total[span, None])  # log p
            p = z.exp()
            if h is not None and spread is not None:
                # h p (log p + E), taken from p g
                weight = z.add_(spread[span, None]).mul_(h[span, None])
                dz = p.mul_(weight.add_(g[span, None]) if g is not None else weight).neg_()
            else:
                assert g is not None
                dz = p.mul_(-g[span, None])
            if g is not None:
                dz.scatter_add_(-1, targets[span, None], g[span, None])
            dz = dz.mul_(ctx.scale).to(hidden.dtype)
            torch.mm(dz, head, out=dhidden[span])
            dhead += dz.t() @ hidden[span]
        return dhidden, dhead.to(head.dtype), None, None, None, None


def _logits(hidden: Tensor, head: Tensor, scale: float, work: torch.dtype) -> Tensor:
    return (hidden @ head.t()).to(work).mul_(scale)
