"""Whether Triton's kernels can run: a CUDA tensor and the compiler, or (tests) Triton's interpreter on any tensor.

The interpreter computes in fp32 and fp16 only; kernels therefore lift what they load to fp32 before they compute.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
PRESENT = find_spec("triton") is not None


def fit(x: Tensor) -> bool:
    """The kernels take this tensor."""
    return x.is_cuda and PRESENT and not INTERPRETED


def infers(x: Tensor) -> bool:
    """The same for kernels without a backward."""
    return fit(x) and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
