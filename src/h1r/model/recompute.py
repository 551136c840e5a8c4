"""Activation checkpointing: a layer forgets what its forward pass computed and computes it again in the backward pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

aten: Any = torch.ops.aten
KEPT = frozenset(
    {
        aten.mm.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)
"""What is dear to compute and small to keep: the input products and attention. (Products that add in place cannot be kept.)"""


def recompute(layer: nn.Module, how: bool | str, *inputs: Any) -> Tensor:
    """layer(*inputs), to be computed again in the backward pass: all of it (True), or all but KEPT ("selective")."""
    if how == "selective":
        contexts = partial(create_selective_checkpoint_contexts, _policy)
        return checkpoint(layer, *inputs, use_reentrant=False, context_fn=contexts)
    return checkpoint(layer, *inputs, use_reentrant=False)


def _policy(context: Any, op: Any, *inputs: Any, **settings: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
