"""Decoding that repeats the trainer's arithmetic: every token is computed by `model.forward` from the last chunk boundary.

The scan's chunked form sums a chunk's tokens in another order than the single-step recurrence, so their log-probabilities
differ by rounding. Here a sequence's slot holds the states at the last multiple of the chunk length, and the tokens since
then are computed again with each new one, in the chunks, paddings and kernel calls of a forward over the whole document
with `Layout.chunk` set. What may remain is what the machine's matrix products make of another number of rows (`h1r bench
replay` measures it). It costs half a chunk of tokens for each token on average.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Any

import torch
from torch import Tensor

from h1r.engine.request import Sequence
from h1r.model.cache import Cache, Sequences
from h1r.model.config import Config, H1Config
from h1r.ops.layout import Layout
from h1r.ops.ssd.chunk import chunk_size

LONG, PLAIN = 1 << 20, 64
ALIKE = 16  # rows from which on the kernels gave a row the same bits, whatever the number of rows (MKL, fp32)


def chunk_of(config: Config) -> int:
    """The chunk length a long training row of this model has; a pure Transformer, which scans nothing, gets PLAIN."""
    return chunk_size(config.mamba_d_head, config.mamba_d_state, LONG) if isinstance(config, H1Config) else PLAIN


def extend(
    model: Any, cache: Cache, sequences: Items[Sequence], ends: Items[int], tables: Sequences, chunk: int
) -> Tensor:
    """Compute sequence i up to `ends[i]` tokens; hidden [B,D] of the last token of each.

    The cache gets all keys and values, and the states at the last boundary not past each end. tables: the sequences'
    slots and pages.
    """
    starts = [s.length - s.length % chunk for s in sequences]
    boundaries = [end - end % chunk for end in ends]
    whole = [i for i, (start, boundary) in enumerate(zip(starts, boundaries, strict=True)) if boundary > start]
    last: dict[int, Tensor] = {}
    if whole:
        hidden = _run(model, cache, sequences, starts, boundaries, tables, whole, chunk)
        last |= dict(zip(whole, hidden, strict=True))
        starts = [max(start, boundary) for start, boundary in zip(starts, boundaries, strict=True)]
    rest = [i for i, (start, end) in enumerate(zip(starts, ends, strict=True)) if end > start]
    if rest:
        kept = _states(cache, tables.slots[rest])
        hidden = _run(model, cache, sequences, starts, ends, tables, rest, chunk)
        last |= dict(zip(rest, hidden, strict=True))
        _restore(cache, tables.slots[rest], kept)
    return torch.stack([last[i] for i in range(len(sequences))])


def _run(
    model: Any, cache: Cache, sequences: Items[Sequence], starts: Items[int], ends: Items[int], tables: Sequences,
    chosen: Items[int], chunk: int,
) -> Items[Tensor]:  # fmt: skip
    """One forward over tokens [start, end) of the chosen sequences; the hidden state of each one's last token."""
    device, count = tables.slots.device, len(chosen)
    # Few rows take other kernels than many: then everything is computed, and written, several times over.
    chosen = list(chosen) * -(-ALIKE // sum(ends[i] - starts[i] for i in chosen))
    ids: list[int] = []
    for i in chosen:
        ids += sequences[i].tokens(starts[i], ends[i])
    lengths, offsets = [ends[i] - starts[i] for i in chosen], [starts[i] for i in chosen]
    layout = Layout.of(lengths, offsets=offsets, device=device, chunk=chunk)
    rows = Sequences(tables.slots[list(chosen)], tables.pages[list(chosen)], torch.tensor(offsets, device=device))
    hidden = model.forward(torch.tensor(ids, device=device), layout, cache, rows)
    ends_at = torch.tensor(lengths, device=device).cumsum(0) - 1
    return list(hidden[ends_at][:count])


def _states(cache: Cache, slots: Tensor) -> list[Tensor]:
    return [t[:, slots].clone() for t in (cache.conv, cache.ssm) if t is not None]


def _restore(cache: Cache, slots: Tensor, kept: Items[Tensor]) -> None:
    for tensor, saved in zip([t for t in (cache.conv, cache.ssm) if t is not None], kept, strict=True):
        tensor[:, slots] = saved
