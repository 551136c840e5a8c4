"""One optimizer step: forward and backward over packed rows, then clip and update.

totals = forward_backward(model, batches, "sft")     # gradients accumulate, one host synchronisation for all rows
update(model, optimizer, clip=1.0)                   # or, together: step(model, optimizer, batches, "sft")
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from threading import Barrier

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from h1r.model import Model
from h1r.ops.logprob import LogProb, logprob
from h1r.train.loss import LOSSES, Policy, Terms, terms
from h1r.train.optim import learn_gain
from h1r.train.pack import PackedBatch

Metrics = dict[str, float]


def score(
    model: Model, batch: PackedBatch, temperature: float = 1.0, autocast: bool = False, entropy: bool = False
) -> LogProb:
    """log p and, if asked for, entropy [M] f32 of the batch's targets, of logits / temperature.

    Only those positions reach the head: prompts cost no logits.
    """
    with torch.autocast(batch.token_ids.device.type, torch.bfloat16, enabled=autocast):
        hidden = model(batch.token_ids[: batch.layout.tokens], batch.layout)
        weight, multiplier = model.head
        chosen = batch.token_ids[batch.targets]
        # index_select, not indexing: its backward adds in one pass
        source = hidden.index_select(0, batch.targets - 1)
        return logprob(source, weight, chosen, multiplier=multiplier, temperature=temperature, entropy=entropy)


def forward_backward(
    model: Model,
    batches: Sequence[PackedBatch],
    loss: str,
    *,
    policy: Policy | None = None,
    temperature: float = 1.0,
    autocast: bool = False,
    pool: Executor | None = None,
    together: bool = False,
) -> Metrics:
    """Accumulate the gradient of `loss` over all batches; sums: loss, its parts, tokens read, targets scored.

    With a pool (see `workers`) batches are computed side by side and their gradients added in the order of the batches.
    together: other ranks compute with this one, so batches without targets are computed like the rest.
    """
    policy = policy or Policy()
    parameters = [p for p in model.parameters() if p.requires_grad]

    def part(batch: PackedBatch) -> Terms:
        logp, entropy = score(model, batch, temperature, autocast, entropy=LOSSES.get(loss) is not None)
        streams = {name: values[batch.targets] for name, values in batch.streams.items()}
        out = terms(loss, logp, entropy, streams, batch.layout.segments[batch.targets - 1], policy)
        # a share without targets still takes part in every exchange of the backward pass
        return out._replace(loss=out.loss + 0.0 * logp.sum()) if together else out

    def apart(batch: PackedBatch) -> tuple[tuple[Tensor | None, ...], dict[str, Tensor]]:
        out = part(batch)
        return torch.autograd.grad(out.loss, parameters, allow_unused=True), out.metrics

    names: dict[str, Tensor] = {}

    def count(metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            names[name] = names[name] + value if name in names else value

    live = [batch for batch in batches if together or len(batch.targets)]
    if pool is None or len(live) < 2:
        for batch in live:
            out = part(batch)
            torch.autograd.backward(out.loss)
            count(out.metrics)
    else:
        for gradients, metrics in pool.map(apart, live):
            _accumulate(parameters, gradients)
            count(metrics)
    values = torch.stack(list(names.values())).tolist() if names else []
    counts = {
        "tokens": float(sum(b.layout.tokens for b in batches if b.documents)),
        "targets": float(sum(len(b.targets) for b in batches)),
    }
    return {"loss": 0.0} | dict(zip(names, values)) | counts


def workers(count: int) -> Executor:
    """A pool of threads that use one core each. On a CPU and small models, packed rows side by side keep `count` cores
    busier than one row split over them."""
    total = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    together = Barrier(count)
    list(pool.map(lambda _: together.wait(), range(count)))
    # The setting of the last caller is what threads started later begin with.
    torch.set_num_threads(total)
    return pool


def _accumulate(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Add to .grad, as backward does."""
    for parameter, gradient in zip(parameters, gradients):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def update(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, clip: float = 1.0, lr: float | None = None
) -> Metrics:
    """Clip the gradient norm, update, drop the gradients. A NaN or infinite gradient changes nothing: skipped = 1."""
    rate = float(optimizer.param_groups[0]["lr"]) if lr is None else lr
    if lr is not None:
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("scale", 1.0)
    norm = clip_gradients(list(model.parameters()), clip if clip > 0 else math.inf)
    skipped = not math.isfinite(norm)
    if not skipped:
        learnt = [(p, g) for g in optimizer.param_groups if g.get("gain") for p in g["params"] if p.grad is not None]
        slopes = [(p * p.grad).sum().detach() for p, _ in learnt]
        optimizer.step()
        for (p, group), slope in zip(learnt, slopes):
            learn_gain(p, slope, optimizer.state[p], rate * group["gain"], group["betas"])
    optimizer.zero_grad(set_to_none=True)
    return {"grad_norm": norm, "lr": rate, "skipped": float(skipped)}


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> float:
    """Scale all gradients so that their norm is at most `limit`; the norm before. Of a sharded one each rank holds a part."""
    sharded = [p.grad for p in parameters if isinstance(p.grad, DTensor)]
    if not sharded:
        return float(nn.utils.clip_grad_norm_(parameters, limit))
    parts = [g.to_local() for g in sharded]
    whole = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    squares = torch.stack([part.double().square().sum() for part in parts]).sum()
    torch.distributed.all_reduce(squares, group=sharded[0].device_mesh.get_group())
    norm = float((squares + sum(g.double().square().sum() for g in whole)).sqrt())
    if norm > limit:
        for g in (*parts, *whole):
            g.mul_(limit / (norm + 1e-6))
    return norm


def step(
    model: Model,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[PackedBatch],
    loss: str = "sft",
    *,
    policy: Policy | None = None,
    clip: float = 1.0,
    lr: float | None = None,
    autocast: bool = False,
) -> Metrics:
    """Forward, backward and update. Metrics: loss, grad_norm, lr, skipped, tokens, targets, seconds, tokens_per_s."""
    start = time.perf_counter()
    totals = forward_backward(model, batches, loss, policy=policy, autocast=autocast)
    totals |= update(model, optimizer, clip=clip, lr=lr)
    seconds = time.perf_counter() - start
    return totals | {"seconds": seconds, "tokens_per_s": totals["tokens"] / seconds}
