"""Best-fit packing: rows into packed rows of at most `length` tokens, without padding.

A packed row is as long as its documents: T varies and nothing is ever filled up. Documents do not see each other (the
Layout says where each starts), and the loss is a sum of per-token weights, so how rows are packed cannot move a number.
Letters: T tokens of a packed row, M positions whose prediction carries a weight.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from h1r.errors import DataError
from h1r.ops.layout import Layout
from h1r.ops.ring import shard
from h1r.types import Row

WEIGHTS = ("ce", "policy", "kl", "entropy", "measure", "mismatch")
"""Streams that are weights: a token where all of them are 0 needs no logits. Every other stream holds values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """One packed row.

    token_ids  [T] int64; a rank's share of a row holds the token after it too
    layout     where documents start
    streams    name -> [T] f32; entry t belongs to the prediction of token t from the tokens before it
    targets    [M] int64, the t whose prediction is needed; hidden state t-1 predicts token t, both in one document
    documents  place of each document in the rows that were packed; empty in a row that only keeps step (idle)
    """

    token_ids: Tensor
    layout: Layout
    streams: dict[str, Tensor]
    targets: Tensor
    documents: tuple[int, ...]


def fit(lengths: Sequence[int], length: int) -> list[list[int]]:
    """Best fit, longest first: indices of `lengths` grouped so that no group sums to more than `length`.

    Each item goes where it leaves the least room. Deterministic: ties go to the earlier group, and a group lists its
    items in their original order.
    """
    groups: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens left, group), sorted
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = bisect_left(rooms, (lengths[index], -1))
        if place == len(rooms):
            groups.append([index])
            left, group = length, len(groups) - 1
        else:
            left, group = rooms.pop(place)
            groups[group].append(index)
        insort(rooms, (left - lengths[index], group))
    return [sorted(group) for group in groups]


def spread(lengths: Sequence[int], count: int) -> list[list[int]]:
    """`count` groups of nearly equal sums: longest first, each to the group that holds least. Empty groups are left out."""
    groups: list[list[int]] = [[] for _ in range(count)]
    held = [(0, group) for group in range(count)]
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        load, group = heapq.heappop(held)
        groups[group].append(index)
        heapq.heappush(held, (load + lengths[index], group))
    return [sorted(group) for group in groups if group]


def pack(
    rows: Sequence[Row], length: int, device: torch.device | str | None = None, parts: int = 1
) -> list[PackedBatch]:
    """Rows as packed rows of at most `length` tokens each.

    With parts > 1 their number is a multiple of it, and they are nearly equal, where `length` allows. A row that
    has none of the WEIGHTS is wanted whole: all its tokens but the first are targets.
    Raises DataError for a row longer than `length`.
    """
    for row in rows:
        if len(row.token_ids) > length:
            raise DataError(
                f"row {row.id or '(unnamed)'} holds {len(row.token_ids)} tokens, more than length={length}: "
                "raise `length`, or drop or trim such rows when the data are made"
            )
    lengths = [len(row.token_ids) for row in rows]
    groups = fit(lengths, length)
    if parts > 1:
        even = spread(lengths, -(-len(groups) // parts) * parts)
        if max(sum(lengths[i] for i in group) for group in even) <= length:
            groups = even
    return [_join(rows, group, device) for group in groups]


def idle(tokens: int, device: torch.device | str | None = None) -> PackedBatch:
    """A packed row that trains nothing, for a rank that has none left while others compute theirs."""
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    ids = torch.zeros(tokens, dtype=torch.int64, device=device)
    return PackedBatch(
        token_ids=ids, layout=Layout.of((tokens,), device=device), streams={}, targets=nothing, documents=()
    )


def split(batch: PackedBatch, group: Any, rank: int, size: int) -> PackedBatch:
    """The share of one of `size` ranks that compute a packed row together (ops.ring): a run of its tokens and the targets
    predicted from them."""
    layout = shard(batch.layout.lengths, group, rank, size, batch.token_ids.device)
    assert layout.ring is not None
    begin, end = layout.ring.begin, layout.ring.end
    mine = batch.targets[(batch.targets > begin) & (batch.targets <= end)]
    return replace(
        batch,
        token_ids=batch.token_ids[begin : end + 1],
        layout=layout,
        streams={name: values[begin : end + 1] for name, values in batch.streams.items()},
        targets=mine - begin,
    )


def _join(rows: Sequence[Row], group: list[int], device: torch.device | str | None) -> PackedBatch:
    lengths = tuple(len(rows[i].token_ids) for i in group)
    starts = np.cumsum([0, *lengths[:-1]])
    streams = {
        name: np.zeros(sum(lengths), np.float32) for name in sorted({name for i in group for name in rows[i].streams})
    }
    needed = np.zeros(sum(lengths), bool)
    for start, i in zip(starts, group):
        row = rows[i]
        part = slice(start, start + len(row.token_ids))
        for name, values in row.streams.items():
            assert len(values) == len(row.token_ids), f"stream {name!r} of row {row.id!r}: {len(values)} entries"
            streams[name][part] = values
        weights = [row.streams[name] for name in WEIGHTS if name in row.streams]
        needed[part] = np.any(weights, axis=0) if weights else True
    needed[starts] = False
    token_ids = np.concatenate([np.asarray(rows[i].token_ids, np.int64) for i in group])
    return PackedBatch(
        token_ids=torch.from_numpy(token_ids).to(device),
        layout=Layout.of(lengths, device=device),
        streams={name: torch.from_numpy(values).to(device) for name, values in streams.items()},
        targets=torch.from_numpy(np.flatnonzero(needed)).to(device),
        documents=tuple(group),
    )
