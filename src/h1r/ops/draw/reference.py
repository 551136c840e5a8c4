"""From logits to tokens in plain torch: the definition. Letters: B rows, V vocabulary.

A cut keeps tokens by value, never by rank, so equal logits stay together: top-k keeps logits >= the k-th largest; top-p keeps
a token when the mass of strictly likelier ones is below p; min-p keeps p >= min_p * p_max.

The draw is an inverse CDF in token order of one uniform number, which is a hash of (seed, prompt, trace, position): what else is
in the batch cannot change it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

NOTHING = 80.0  # nats below the likeliest token: 1e-35, never drawn
NEAR = 128  # tokens looked at first for a nucleus

U64 = npt.NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Cuts(NamedTuple):
    """Truncation of each row: all [B] float32 but top_k (int64, 0 = off)."""

    top_k: npt.NDArray[np.int64]
    top_p: npt.NDArray[np.float32]
    min_p: npt.NDArray[np.float32]


def mix(x: U64) -> U64:
    """splitmix64's finaliser (Steele, Lea, Flood 2014): a bijection of uint64 whose bits look independent."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key(seed: int, prompt: int, trace: int) -> int:
    """The random stream of one trace: `mix` of the three, one after another, in plain integers."""
    state, whole = 0, 2**64 - 1
    for word in (seed, prompt, trace):
        x = ((state + int(_GOLDEN)) ^ word) & whole
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & whole
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & whole
        state = x ^ (x >> 31)
    return state


def uniforms(keys: U64, positions: U64) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each (stream, position)."""
    bits = mix(mix(keys + (positions + np.uint64(1)) * _GOLDEN))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def ranked(logits: Tensor, count: int) -> Tensor:
    """The `count` largest of each row, descending. On the CPU by numpy, whose vectorised sort is 20 times torch's."""
    if logits.is_cuda:
        return (
            logits.topk(count, dim=-1).values if count < logits.shape[-1] else logits.sort(-1, descending=True).values
        )
    values = logits.numpy()
    if values.shape[-1] > 4096 and count < values.shape[-1] // 8:
        values = np.partition(values, values.shape[-1] - count, axis=-1)[:, -count:]
    return torch.from_numpy(np.sort(values, axis=-1)[:, ::-1][:, :count].copy())


def penalise(
    logits: Tensor, counts: Tensor, prompt: Tensor, repetition: Tensor, presence: Tensor, frequency: Tensor
) -> Tensor:
    """Repetition (CTRL, arXiv:1909.05858) over prompt and output; presence and frequency over the output alone.

    logits, counts, prompt (bool): [B,V]; the strengths: [B].
    """
    seen = (counts > 0) | prompt
    repetition = repetition[:, None]
    logits = torch.where(seen, torch.where(logits > 0, logits / repetition, logits * repetition), logits)
    return logits - frequency[:, None] * counts - presence[:, None] * (counts > 0)


def look(logits: Tensor, count: int, temperature: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """logits [B,V], temperature [B] -> log sum exp(logits / temperature) [B], the `count` largest logits [B,count] in
    descending order, the first largest [B]."""
    warm = logits if temperature is None else logits / temperature[:, None]
    return warm.logsumexp(-1), ranked(logits, count), logits.argmax(-1)


def pick(logits: Tensor, temperature: Tensor, floor: Tensor | None, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw from softmax(logits / temperature) [B,V] cut at `floor` [B]: tokens [B], their log-probabilities [B]."""
    return invert(logits if bool((temperature == 1).all()) else logits / temperature[:, None], floor, uniform)


def thresholds(logits: Tensor, cuts: Cuts, temperature: Tensor | None = None) -> Tensor:
    """The smallest logit / temperature each row keeps. logits [B,V], temperature [B] (None: 1) -> [B].

    Looks at the NEAR likeliest first; only when some row's nucleus, or a tie, reaches past them is everything sorted. Both
    ways give a row the same number.
    """
    size = logits.shape[-1]
    nucleus = bool((cuts.top_p < 1).any())
    reach = min(size, max(int(cuts.top_k.max(initial=1)), NEAR if nucleus else 1))
    whole, values, _ = look(logits, reach, temperature)
    warm = torch.ones_like(whole) if temperature is None else temperature
    floor, complete = _floors(values / warm[:, None], whole, cuts, size)
    if not complete and reach < size:
        floor, _ = _floors(ranked(logits, size) / warm[:, None], whole, cuts, size)
    return floor


def _floors(values: Tensor, whole: Tensor, cuts: Cuts, size: int) -> tuple[Tensor, bool]:
    """`thresholds` from the likeliest `values` [B,R], descending, and the log-sum-exp of the whole rows [B]; and whether
    R was far enough."""
    device = values.device
    top_k = torch.from_numpy(np.where(cuts.top_k > 0, np.minimum(cuts.top_k, size), size)).to(device)
    few = top_k < size
    floor = values.gather(1, (top_k.clamp(max=values.shape[1]) - 1)[:, None])[:, 0].masked_fill(~few, -torch.inf)
    complete = not bool((floor == values[:, -1]).any())
    if (cuts.top_p < 1).any():
        top_p = torch.from_numpy(cuts.top_p).to(device)
        best = values[:, 0]
        p = _exp(values - values[:, :1]).mul_(values >= floor[:, None])
        p /= torch.where(few, p.sum(-1), (whole - best).exp())[:, None]
        before = p.cumsum(-1, dtype=torch.float64) - p
        kept = ((before < top_p[:, None]) & (p > 0)).sum(-1).clamp(min=1)
        last = values.gather(1, kept[:, None] - 1)[:, 0]
        floor = torch.where(top_p < 1, torch.maximum(floor, last), floor)
        complete = complete and not bool(((top_p < 1) & (last == values[:, -1])).any())
    if (cuts.min_p > 0).any():
        floor = torch.maximum(floor, values[:, 0] + torch.from_numpy(cuts.min_p).to(device).log())
    return floor, complete


def invert(logits: Tensor, floor: Tensor | None, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse CDF in token order, of the tokens at or above `floor` [B].

    logits [B,V], uniform [B] float64 in [0, 1) -> tokens [B] and their log-probabilities [B].
    """
    best = logits.amax(-1)
    p = _exp(logits - best[:, None])
    if floor is not None:
        p.mul_(logits >= torch.maximum(floor, best - NOTHING)[:, None])
    cdf = p.cumsum(-1, dtype=torch.float64)
    total = cdf[:, -1:]
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cdf, target, right=True)
    logp = logits.gather(1, tokens)[:, 0] - best - total[:, 0].log().to(logits.dtype)
    return tokens[:, 0], logp


def _exp(shifted: Tensor) -> Tensor:
    """exp of numbers <= 0, at least e^-NOTHING: results too small for normal floats are 50 times slower to compute."""
    return shifted.clamp_(min=-NOTHING).exp_()
