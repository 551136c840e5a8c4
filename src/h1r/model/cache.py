"""Cache: what decoding remembers. Keys and values in pages, convolution and scan states in slots.

The engine owns the bookkeeping (which page and slot belongs to which sequence) and hands it over as `Sequences`; the
model only reads and writes through it. A sequence with no cached token starts from zero states, whatever its slot
holds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from h1r.model.config import Config, H1Config
from h1r.ops import Layout, attention


class Sequences(NamedTuple):
    """B cached sequences. slots [B] int64: their state slots; pages [B,max_pages] int64: their pages, in order
    (entries past a sequence's length may hold any valid page); lengths [B] int64: tokens already cached."""

    slots: Tensor
    pages: Tensor
    lengths: Tensor


class Cache:
    """k, v [L,pages,page_size,Kv,d]; conv [L,slots,C,K-1]; ssm [L,slots,H,P,N] (both None in a pure Transformer).

    Where the state is not written every token (`state_every` > 1, decoding by Triton's kernels): recent_rows
    [L,slots,every,HP+GN], recent_steps [L,slots,every,H] and pending [1,slots], see `ops.ssd.triton_recent`; else None.
    """

    def __init__(
        self,
        config: Config,
        pages: int,
        page_size: int,
        slots: int,
        dtype: torch.dtype = torch.float32,
        state_dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        kv_dtype: torch.dtype | None = None,
        state_every: int = 1,
    ) -> None:
        """kv_dtype: of k and v, where not `dtype`. state_every: tokens after which a decode step writes the state."""
        self.page_size = page_size
        shape = (config.num_hidden_layers, pages, page_size, config.num_key_value_heads, config.head_dim)
        self.k = torch.zeros(shape, dtype=kv_dtype or dtype, device=device)
        if kv_dtype == torch.float8_e4m3fn:
            # Tokens of a channel side by side in memory: fp8 products read them so.
            order = (*shape[:2], *shape[3:], page_size)
            self.v = torch.zeros(order, dtype=kv_dtype, device=device).permute(0, 1, 4, 2, 3)
        else:
            self.v = torch.zeros(shape, dtype=kv_dtype or dtype, device=device)
        self.conv: Tensor | None = None
        self.ssm: Tensor | None = None
        self.recent_rows: Tensor | None = None
        self.recent_steps: Tensor | None = None
        self.pending: Tensor | None = None
        if isinstance(config, H1Config):
            layers = config.num_hidden_layers
            # Channels side by side in memory: a decode step then works on whole rows of them.
            self.conv = torch.zeros(
                layers, slots, config.mamba_d_conv - 1, config.conv_channels, dtype=dtype, device=device
            ).transpose(2, 3)
            self.ssm = torch.zeros(
                layers, slots, config.mamba_n_heads, config.mamba_d_head, config.mamba_d_state,
                dtype=state_dtype, device=device,
            )  # fmt: skip
            if state_every > 1:
                width = config.mamba_d_ssm + config.mamba_n_groups * config.mamba_d_state
                self.recent_rows = torch.zeros(layers, slots, state_every, width, dtype=dtype, device=device)
                self.recent_steps = torch.zeros(layers, slots, state_every, config.mamba_n_heads, device=device)
                self.pending = torch.zeros(1, slots, dtype=torch.int32, device=device)


class Prefill:
    """One forward call over documents that continue cached sequences: index tensors made once, used by every layer."""

    def __init__(self, cache: Cache, sequences: Sequences, layout: Layout) -> None:
        assert len(layout.lengths) == len(sequences.slots), "one document per sequence"
        self.cache, self.sequences, self.layout = cache, sequences, layout
        self.slots = _rows(sequences.slots)
        # Positions, not lengths + offset: the layout's offsets are the cached lengths.
        page = layout.positions.div(cache.page_size, rounding_mode="floor")
        self.page, self.offset = sequences.pages[layout.segments, page], layout.positions % cache.page_size
        self.before = [int(n) for n in sequences.lengths.tolist()]
        self.fresh = sequences.lengths == 0

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T,Hq,d], k, v [T,Kv,d] -> [T,Hq,d]; writes k and v."""
        past = None
        if any(self.before):
            past = [self._past(layer, s, n) for s, n in enumerate(self.before)]
        self.cache.k[layer][self.page, self.offset] = _narrow(k, self.cache.k.dtype)
        self.cache.v[layer][self.page, self.offset] = _narrow(v, self.cache.v.dtype)
        return attention.attention(q, k, v, self.layout, past)

    def states(self, layer: int) -> tuple[Tensor | None, Tensor | None]:
        """conv [S,C,K-1] and ssm [S,H,P,N] of the sequences, zeros for fresh ones; None, None when all are fresh."""
        if not any(self.before):
            return None, None
        assert self.cache.conv is not None and self.cache.ssm is not None
        conv = self.cache.conv[layer][self.slots].masked_fill(self.fresh[:, None, None], 0.0)
        return conv, self.cache.ssm[layer][self.slots].masked_fill(self.fresh[:, None, None, None], 0.0)

    def keep(self, layer: int, conv: Tensor, ssm: Tensor) -> None:
        """Write the states after the documents."""
        assert self.cache.conv is not None and self.cache.ssm is not None
        self.cache.conv[layer][self.slots] = conv.to(self.cache.conv.dtype)
        self.cache.ssm[layer][self.slots] = ssm.to(self.cache.ssm.dtype)

    def _past(self, layer: int, sequence: int, tokens: int) -> tuple[Tensor, Tensor] | None:
        if tokens == 0:
            return None
        pages = self.sequences.pages[sequence, : -(-tokens // self.cache.page_size)]
        return tuple(t[layer][pages].flatten(0, 1)[:tokens] for t in (self.cache.k, self.cache.v))  # type: ignore[return-value]


class Decode:
    """One decode call, one token for each of B sequences: index tensors made once, used by every layer."""

    def __init__(self, cache: Cache, sequences: Sequences, positions: Tensor) -> None:
        size = cache.page_size
        self.cache, self.slots = cache, _rows(sequences.slots)
        self.page = sequences.pages.gather(1, (positions // size)[:, None])[:, 0]
        self.offset = positions % size
        self.lengths = positions + 1
        self.longest = int(self.lengths.max())
        table = sequences.pages[:, : -(-self.longest // size)]
        # One page each, side by side in the pool: attention can read the pool itself, without a copy.
        self.pages = _rows(table[:, 0]) if table.shape[1] == 1 else table

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B,Hq,d], k, v [B,Kv,d] -> [B,Hq,d]; writes k and v."""
        keys, values = self.cache.k[layer], self.cache.v[layer]
        keys[self.page, self.offset] = _narrow(k, keys.dtype)
        values[self.page, self.offset] = _narrow(v, values.dtype)
        batch = q.shape[0]
        past_k, past_v = (
            t[self.pages].reshape(batch, -1, *t.shape[2:])[:, : self.longest].to(q.dtype) for t in (keys, values)
        )
        return attention.decode(q, past_k, past_v, self.lengths)

    def states(self, layer: int) -> tuple[Tensor, Tensor]:
        """conv [B,C,K-1] and ssm [B,H,P,N]: views of the pool when the slots lie side by side, else copies (`keep`
        them)."""
        assert self.cache.conv is not None and self.cache.ssm is not None
        return self.cache.conv[layer][self.slots], self.cache.ssm[layer][self.slots]

    def keep(self, layer: int, conv: Tensor, ssm: Tensor) -> None:
        """Write back states that were copies."""
        if isinstance(self.slots, slice):
            return
        assert self.cache.conv is not None and self.cache.ssm is not None
        self.cache.conv[layer].index_copy_(0, self.slots, conv)
        self.cache.ssm[layer].index_copy_(0, self.slots, ssm)


def _narrow(t: Tensor, dtype: torch.dtype) -> Tensor:
    """In the cache's dtype; fp8 has no infinity, so what is too large becomes its largest number."""
    if dtype == torch.float8_e4m3fn:
        t = t.clamp(-448.0, 448.0)
    return t.to(dtype)


def _rows(index: Tensor) -> slice | Tensor:
    """A slice where the indices are consecutive (a view instead of a gather), else the indices."""
    first = int(index[0])
    if bool((index == torch.arange(first, first + len(index), device=index.device)).all()):
        return slice(first, first + len(index))
    return index
