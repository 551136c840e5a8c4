"""Several processes, one update: how they share rows, a row's tokens, and the weights.

    ranks = join(ShardConfig(context=2))     # under torchrun; one process alone otherwise
    mine = ranks.share(rows)                 # this rank's rows; every rank sees all rows and deals them alike
    ranks.sum_gradients(model)               # before the update, which every rank then makes identically
    totals = ranks.sum(totals)

`context` neighbouring ranks hold a run of the tokens of each packed row (ops.ring); such groups share the rows among them.
Because a row's weights are divided by the whole step's total before they are dealt out (balanced token normalisation, Falcon-H1R,
arXiv:2601.02346 section 2.3), summing is all that is left to do, over data and context ranks alike.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.tensor import DTensor

from h1r.errors import ConfigError
from h1r.train.pack import PackedBatch, idle, split
from h1r.types import Floats, Row

logger = logging.getLogger(__name__)

BUCKET = 32 << 20
"""Bytes of gradients summed at once."""
PATIENCE = timedelta(minutes=30)
"""How long ranks wait for each other: the first one writes checkpoints and trains tokenizers meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardConfig:
    """How the processes torchrun starts share the work.

    context  neighbouring ranks that hold a run of the tokens of each packed row; must divide the number of ranks
    weights  whole: every rank holds them all; sharded: each matrix, its gradient and its moments are cut over all ranks (FSDP2)
    """

    context: int = 1
    weights: str = "whole"

    def __post_init__(self) -> None:
        if self.context < 1:
            raise ConfigError(f"shard.context={self.context}: must be 1 or more")
        if self.weights not in ("whole", "sharded"):
            raise ConfigError(f"shard.weights={self.weights!r}: must be whole or sharded")


class Ranks(NamedTuple):
    """This process among `size`; the first writes files and speaks.

    context, ring  ranks that share a packed row, and their process group
    sharded        weights are cut over all ranks
    aside          a process group for what runs beside training (checkpoints)
    """

    rank: int = 0
    size: int = 1
    context: int = 1
    sharded: bool = False
    ring: Any = None
    aside: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def together(self) -> bool:
        """Whether every rank must compute as many packed rows as every other: they exchange something in each."""
        return self.context > 1 or (self.sharded and self.size > 1)

    def share(self, rows: Sequence[Row]) -> list[Row]:
        """This rank's rows (its context group's): longest first, each to the group that holds the fewest tokens so far."""
        groups, own = self.size // self.context, self.rank // self.context
        if groups == 1:
            return list(rows)
        held = [0] * groups
        mine = []
        for i in sorted(range(len(rows)), key=lambda i: (-len(rows[i].token_ids), i)):
            to = held.index(min(held))
            held[to] += len(rows[i].token_ids)
            if to == own:
                mine.append(i)
        return [rows[i] for i in sorted(mine)]

    def deal(self, batches: Sequence[PackedBatch], device: torch.device) -> list[PackedBatch]:
        """What this rank computes of its group's packed rows: its share of each, and as many as every other group has."""
        if not self.together:
            return list(batches)
        most = torch.tensor(len(batches))
        if self.size > self.context:
            dist.all_reduce(most, dist.ReduceOp.MAX)
        short = max(2, self.context)
        even = [*batches, *(idle(short, device) for _ in range(int(most) - len(batches)))]
        return [self.part(batch) for batch in even]

    def part(self, batch: PackedBatch) -> PackedBatch:
        """This rank's share of a packed row's tokens."""
        if self.context == 1:
            return batch
        if batch.layout.tokens < self.context:
            raise ConfigError(
                f"a packed row of {batch.layout.tokens} tokens cannot be shared by shard.context={self.context} ranks: "
                "lower shard.context or raise train.tokens"
            )
        return split(batch, self.ring, self.rank % self.context, self.context)

    def fill(self, values: Floats) -> Floats:
        """[T] of which each rank of a packed row knows its share, NaN elsewhere, made whole."""
        if self.context == 1:
            return values
        parts: list[Any] = [None] * self.context
        dist.all_gather_object(parts, values, group=self.ring)
        return np.fmax.reduce(parts)

    def sum_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its sum over the ranks; a rank without one counts as zero. FSDP summed the sharded ones."""
        if self.size == 1:
            return
        trained = [p for p in model.parameters() if p.requires_grad and not isinstance(p, DTensor)]
        begin = 0
        while begin < len(trained):
            end, size = begin, 0
            while end < len(trained) and (end == begin or size + trained[end].nbytes <= BUCKET):
                size += trained[end].nbytes
                end += 1
            part = trained[begin:end]
            flat = torch.cat([(p.new_zeros(p.shape) if p.grad is None else p.grad).reshape(-1) for p in part])
            dist.all_reduce(flat)
            for p, gradient in zip(part, flat.split([p.numel() for p in part]), strict=True):
                p.grad = gradient.view_as(p)
            begin = end

    def sum(self, totals: Mapping[str, float]) -> dict[str, float]:
        """Sums over the ranks, by name; a rank that lacks a name counts as zero."""
        if self.size == 1:
            return dict(totals)
        parts: list[Mapping[str, float]] = [{}] * self.size
        dist.all_gather_object(parts, dict(totals))
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: float(sum(part.get(name, 0.0) for part in parts)) for name in names}

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()


def device() -> torch.device:
    """Where this process trains: its GPU where there is one (join chose it), else the processor."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def join(config: ShardConfig | None = None) -> Ranks:
    """The ranks torchrun started (WORLD_SIZE, RANK), joined by gloo, and by NCCL for what lies on GPUs."""
    config = config or ShardConfig()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size % config.context:
        raise ConfigError(
            f"shard.context={config.context} does not divide the {size} processes: start a multiple of {config.context}, "
            f"torchrun --nproc_per_node={config.context * max(1, size // config.context)} -m h1r ..."
        )
    if size == 1 and config.weights == "whole":
        return Ranks()
    if size > 1 and ("MASTER_ADDR" not in os.environ or "RANK" not in os.environ):
        raise ConfigError(
            f"WORLD_SIZE={size} without RANK and MASTER_ADDR: start with torchrun --nproc_per_node={size} -m h1r ..."
        )
    if not dist.is_initialized():
        gpus = torch.cuda.is_available()
        if gpus:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        if size == 1:
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=PATIENCE)
        else:
            dist.init_process_group(backend, timeout=PATIENCE)
    ring = None
    for begin in range(0, size, config.context) if config.context > 1 else ():
        members = range(begin, begin + config.context)
        group = dist.new_group(members)
        ring = group if dist.get_rank() in members else ring
    sharded = config.weights == "sharded"
    aside = dist.new_group(backend="gloo") if sharded else None
    ranks = Ranks(dist.get_rank(), size, config.context, sharded, ring, aside)
    if not ranks.first:
        logging.getLogger("h1r").setLevel(logging.ERROR)
    return ranks
