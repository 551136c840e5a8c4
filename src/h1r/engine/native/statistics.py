"""What sampling needs of the logits, by the kernel: `look`, `thresholds` and `pick` of ops.draw for a CPU.

Letters: B rows, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from h1r.engine.native.library import library, pointer


def look(logits: Tensor, count: int, temperature: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """logits [B,V] fp32, temperature [B] -> log sum exp(logits / temperature) [B], the `count` largest logits [B,count]
    in descending order, the first largest [B] int64."""
    logits = logits.contiguous()
    batch, vocab = logits.shape
    lse, top, best = torch.empty(batch), torch.empty(batch, count), torch.empty(batch, dtype=torch.int64)
    warm = None if temperature is None else temperature.float().contiguous()
    library().h1r_statistics(
        pointer(logits), batch, vocab, count, pointer(warm), pointer(top), pointer(lse), pointer(best),
        torch.get_num_threads(),
    )  # fmt: skip
    return lse, top, best


def thresholds(logits: Tensor, cuts: Any, temperature: Tensor) -> Tensor:
    """The smallest logit / temperature each row keeps. logits [B,V], cuts of `ops.draw.Cuts`, temperature [B] -> [B]."""
    logits = logits.contiguous()
    floor, warm = torch.empty(len(logits)), temperature.float().contiguous()
    top_k, top_p, min_p = (np.ascontiguousarray(c) for c in cuts)
    library().h1r_floors(
        pointer(logits), *logits.shape, pointer(warm), top_k.ctypes.data, top_p.ctypes.data, min_p.ctypes.data,
        pointer(floor), torch.get_num_threads(),
    )  # fmt: skip
    return floor


def pick(logits: Tensor, temperature: Tensor, floor: Tensor | None, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """logits [B,V], temperature, floor [B] fp32, uniform [B] float64 -> tokens [B] int64 and their log-probabilities [B]
    among the tokens with logits / temperature >= floor: inverse CDF in token order."""
    logits = logits.contiguous()
    batch, vocab = logits.shape
    tokens, logp = torch.empty(batch, dtype=torch.int64), torch.empty(batch)
    low = torch.full((batch,), -torch.inf) if floor is None else floor.float().contiguous()
    warm, drawn = temperature.float().contiguous(), uniform.double().contiguous()
    library().h1r_draw(
        pointer(logits), batch, vocab, pointer(warm), pointer(low), pointer(drawn), pointer(tokens), pointer(logp),
        torch.get_num_threads(),
    )  # fmt: skip
    return tokens, logp
