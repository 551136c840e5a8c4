"""Weights cut over all ranks: PyTorch's FSDP2 (`fully_shard`), one unit per layer, gradients summed and never averaged.

    shard(model, ranks, bf16=True)          # before the optimizer is made; every rank holds 1/size of each matrix
    full = gather(model, ranks)             # the whole model again, on the first rank's processor; None elsewhere

Matrices are cut; vectors (norms, biases, A_log, D, dt_bias: one number in ten thousand) stay whole and in fp32 on every rank:
the scan's decays do not survive bf16. With bf16 a layer's matrices travel and multiply in bf16 while masters, gradient sums and
moments stay fp32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from h1r.errors import ConfigError
from h1r.model import Model, empty, weights
from h1r.train.ranks import Ranks


def mesh(device: str) -> DeviceMesh:
    """All ranks in a line: data and context ranks hold the same weights, so both share them."""
    return init_device_mesh(device, (dist.get_world_size(),))


def shard(model: Model, ranks: Ranks, *, bf16: bool, device: str) -> None:
    """Cut the matrices of every layer, and those around the layers, over all ranks. In place, before an optimizer sees them."""
    if not ranks.sharded:
        return
    line = mesh(device)
    for layer in model.layers:
        if not isinstance(layer, FSDPModule):
            shard_module(layer, line, bf16=bf16, device=device)
    shard_module(model, line, bf16=bf16, device=device)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # a loss here is a sum whose weights are already divided by the whole step's total
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def shard_module(module: Any, line: DeviceMesh, *, bf16: bool, device: str) -> None:
    """One unit: its matrices arrive before it computes and leave after it (those around the layers stay for the head)."""
    vectors = {p for p in module.parameters() if p.ndim < 2 and not isinstance(p, DTensor)}
    for owner in module.modules():
        for name, p in owner.named_parameters(recurse=False):
            if p in vectors and p.device.type != device:
                setattr(owner, name, nn.Parameter(p.detach().to(device), requires_grad=p.requires_grad))
    vectors = {p for p in module.parameters() if p.ndim < 2 and not isinstance(p, DTensor)}
    dtype = torch.bfloat16 if bf16 else None
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32 if bf16 else None)
    fully_shard(module, mesh=line, mp_policy=policy, ignored_params=vectors)


def gather(model: Model, ranks: Ranks) -> Model | None:
    """The whole model on the first rank's processor, one tensor at a time; None on the others. Every rank must call it."""
    with torch.device("meta"):
        out = empty(model.config)
    for name, value in weights.named(model):
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if ranks.first:
            weights.place(out, name, whole.detach().to("cpu", copy=True))
    return out if ranks.first else None


def refuse(loss: str, correction: str, ranks: Ranks) -> None:
    """ConfigError for what reads a whole document, of which a context rank holds a part."""
    if ranks.context > 1 and (loss == "gspo" or (loss != "sft" and correction.startswith("sequence"))):
        raise ConfigError(
            f"loss={loss}, correction={correction}: the ratio of a whole document needs shard.context=1; or choose another"
        )
