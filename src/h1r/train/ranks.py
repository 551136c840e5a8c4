"""Several processes, one update: rows are dealt out, gradients summed, so the loss is the exact mean over all of them.

    ranks = join()                     # under torchrun; one process alone otherwise
    mine = ranks.share(rows)           # this rank's rows; every rank sees all rows and deals them alike
    ranks.sum_gradients(model)         # before the update, which every rank then makes identically
    totals = ranks.sum(totals)

Weights and optimizer are whole on every rank. Because a row's weights are divided by the whole step's total before they are dealt
out (balanced token normalisation, Falcon-H1R, arXiv:2601.02346 section 2.3), summing is all that is left to do.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from h1r.errors import ConfigError
from h1r.types import Row

logger = logging.getLogger(__name__)

BUCKET = 32 << 20
"""Bytes of gradients summed at once."""


class Ranks(NamedTuple):
    """This process among `size`; the first writes files and speaks."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, rows: Sequence[Row]) -> list[Row]:
        """This rank's rows: longest first, each to the rank that holds the fewest tokens so far."""
        if self.size == 1:
            return list(rows)
        held = [0] * self.size
        mine = []
        for i in sorted(range(len(rows)), key=lambda i: (-len(rows[i].token_ids), i)):
            to = held.index(min(held))
            held[to] += len(rows[i].token_ids)
            if to == self.rank:
                mine.append(i)
        return [rows[i] for i in sorted(mine)]

    def sum_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its sum over the ranks; a rank without one counts as zero."""
        if self.size == 1:
            return
        trained = [p for p in model.parameters() if p.requires_grad]
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


def join() -> Ranks:
    """The ranks torchrun started (WORLD_SIZE, RANK), joined by gloo, and by NCCL for what lies on GPUs."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Ranks()
    if "MASTER_ADDR" not in os.environ or "RANK" not in os.environ:
        raise ConfigError(
            f"WORLD_SIZE={size} without RANK and MASTER_ADDR: start with torchrun --nproc_per_node={size} -m h1r ..."
        )
    if not dist.is_initialized():
        gpus = torch.cuda.is_available()
        if gpus:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    if not ranks.first:
        logging.getLogger("h1r").setLevel(logging.ERROR)
    return ranks
