"""The kernels of one step over a fixed number of rows, reading and writing the engine's cache in place.

B rows, some of them padding (position -1). Everything a step needs lies in tensors with fixed addresses, and nothing asks
the host, so the whole list can be captured once and replayed. The step ends by moving its own inputs on: the drawn token
becomes the next one, positions grow by one. A chain of steps then needs the host for nothing but new pages.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from h1r.model.cache import Cache
from h1r.model.config import H1Config
from h1r.ops import attention
from h1r.ops.attention import triton as attention_kernels
from h1r.ops.conv import triton as conv_kernels
from h1r.ops.draw import triton as draw_kernels
from h1r.ops.linear import coded
from h1r.ops.linear import triton as linear_kernels
from h1r.ops.linear.coded import Coded
from h1r.ops.norm import triton as norm_kernels
from h1r.ops.norm.triton import Codes, Sums
from h1r.ops.ssd import triton as ssd_kernels
from h1r.ops.ssd import triton_recent as recent_kernels
from h1r.ops.ssd.triton_recent import Recent


class Step:
    """Buffers for B rows. whole [6,B] int64: tokens, positions, slots, top_k, keys, first; reals [3,B] fp32: temperature,
    top_p, min_p; logits [B,V] fp32; numbers [B,4] fp32 (see draw)."""

    def __init__(self, model: Any, cache: Cache, table: Tensor, rows: int, logits: Tensor) -> None:
        """logits: room for them, [rows or more, V]; steps that do not overlap may share it."""
        c = model.config
        self.model, self.cache, self.table, self.rows, self.config = model, cache, table, rows, c
        device, self.dtype = table.device, _dtype(model)
        self.hybrid = isinstance(c, H1Config)
        self.recent = recent_of(cache)
        self.whole = torch.zeros(6, rows, dtype=torch.int64, device=device)
        self.whole[1] = -1
        self.reals = torch.ones(3, rows, dtype=torch.float32, device=device)
        self.drawn = torch.zeros(rows, dtype=torch.int64, device=device)
        self.numbers = torch.zeros(rows, 4, dtype=torch.float32, device=device)
        self.logits = logits[:rows]
        self.weights = [layer.weights() for layer in model.layers]
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None  # the mixer beside attention
        processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
        self.splits = attention_kernels.splits_for(rows, c.num_key_value_heads, processors)
        bundles, size = max(1, rows // 2), attention_kernels.BUNDLE
        parts = attention_kernels.splits_for(max(1, rows // size), c.num_key_value_heads, processors)
        self.shared = attention_kernels.Shared(
            torch.zeros(rows, dtype=torch.int32, device=device),
            torch.full((bundles, size), -1, dtype=torch.int32, device=device), min(parts, 32),
        )  # fmt: skip

    def forward(self, shared: bool = False) -> None:
        """tokens, positions, slots -> logits; the cache holds the new token. shared: some rows share pages, as `shared` says."""
        c, positions = self.config, self.whole[1]
        h = F.embedding(self.whole[0], self.model.embed_tokens.weight).to(self.dtype)
        if self.hybrid and c.embedding_multiplier != 1.0:
            h = h * c.embedding_multiplier
        turn = attention.rotation(positions.clamp(min=0), c.head_dim, c.rope_theta)
        more: Tensor | Sums | None = None
        for index, w in enumerate(self.weights):
            x = self._room(c.hidden_size, w.enter)
            norm_kernels.rms(h, more, None, c.rms_norm_eps, x)
            more = self._mix(index, w, x, turn, self.shared if shared else None)
            x = self._room(c.hidden_size, w.gate_up)
            norm_kernels.rms(h, more, None, c.rms_norm_eps, x)
            both = _product(x, w.gate_up, getattr(w, "gate_up_bias", None), self.dtype)
            inner = self._room(c.intermediate_size, w.down)
            gate, up = both.split(c.intermediate_size, 1)
            if isinstance(inner, Codes):
                linear_kernels.glu(gate, up, *inner)
            else:
                linear_kernels.glu(gate, up, inner)
            more = _addend(inner, w.down, getattr(w, "down_bias", None), self.dtype)
        if self.recent is not None:
            recent_kernels.advance(self.recent, positions, self.whole[2])
        last = self.model.final_layernorm if self.hybrid else self.model.norm
        x = torch.empty_like(h)
        norm_kernels.rms(h, more, last.weight, c.rms_norm_eps, x)
        head, times = self.model.head
        if x.is_cuda and x.dtype != torch.float32:
            torch.mm(x, head.t(), out_dtype=torch.float32, out=self.logits)
        else:
            torch.mm(x, head.t(), out=self.logits)
        if times != 1.0:
            self.logits.mul_(times)

    def draw(self, both: bool) -> None:
        """logits -> drawn, numbers; tokens and positions move on. both: some row has a top_k and a top_p."""
        tokens, positions, _, top_k, keys, first = self.whole
        temperature, top_p, min_p = self.reals
        draw_kernels.draw(
            self.logits, temperature, top_p, min_p, top_k, keys, positions, first, self.drawn, self.numbers, both
        )
        tokens.copy_(self.drawn)
        positions.add_((positions >= 0).to(positions.dtype))

    def _mix(
        self, index: int, w: Any, x: Tensor | Codes, turn: attention.Rotation, shared: attention_kernels.Shared | None
    ) -> Tensor | Sums:
        """Attention and, in a hybrid, the state space mixer beside it: x [B,D] -> what the residual gains [B,D]."""
        c, (_, positions, slots, *_) = self.config, self.whole
        heads, kv, d = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        row = _product(x, w.enter, getattr(w, "enter_bias", None), self.dtype)
        inner = c.mamba_d_ssm if self.hybrid else 0
        out = torch.empty(self.rows, inner + heads * d, dtype=self.dtype, device=row.device)
        at = 0
        main = torch.cuda.current_stream() if self.side is not None and self.hybrid else None
        if self.side is not None and main is not None:
            self.side.wait_stream(main)
            with torch.cuda.stream(self.side):
                self._scan(index, w, row, out[:, :inner])
        elif self.hybrid:
            self._scan(index, w, row, out[:, :inner])
        if self.hybrid:
            at = inner + c.conv_channels + c.mamba_n_heads
        keys, values = self.cache.k[index], self.cache.v[index]
        q = torch.empty(self.rows, heads, d, dtype=self.dtype, device=row.device)
        attention_kernels.write(
            row[:, at : at + (heads + 2 * kv) * d], turn, keys, values, positions, slots, self.table, q,
            getattr(w, "q_norm", None), getattr(w, "k_norm", None), c.rms_norm_eps,
        )  # fmt: skip
        attention_kernels.decode(q, keys, values, positions, slots, self.table, out[:, inner:], self.splits, shared)
        if self.side is not None and main is not None:
            main.wait_stream(self.side)
        given: Tensor | Codes = out
        if isinstance(w.leave, Coded):
            given = self._room(out.shape[1], w.leave)
            assert isinstance(given, Codes)
            linear_kernels.quantise(out, *given)
        return _addend(given, w.leave, getattr(w, "leave_bias", None), self.dtype)

    def _room(self, width: int, weight: Any) -> Tensor | Codes:
        """Room for the inputs [B,width] of a product with this weight."""
        device = self.table.device
        if isinstance(weight, Coded):
            scale = torch.empty(self.rows, 1, dtype=torch.float32, device=device)
            return Codes(torch.empty(self.rows, width, dtype=weight.codes.dtype, device=device), scale)
        return torch.empty(self.rows, width, dtype=self.dtype, device=device)

    def _scan(self, index: int, w: Any, row: Tensor, out: Tensor) -> None:
        """row [B,...] = gate, channels, dt, ... -> out [B,inner], gated and normed."""
        c, (_, positions, slots, *_) = self.config, self.whole
        inner, channels = c.mamba_d_ssm, c.conv_channels
        assert self.cache.conv is not None and self.cache.ssm is not None
        mixed = torch.empty(self.rows, channels, dtype=self.dtype, device=row.device)
        conv_kernels.step(
            row[:, inner : inner + channels], w.taps, w.conv_bias, self.cache.conv[index], positions, slots, mixed
        )
        y = torch.empty(self.rows, inner, dtype=torch.float32, device=row.device)
        begin = inner + channels
        given = (
            mixed,
            row[:, begin : begin + c.mamba_n_heads],
            w.a,
            w.dt_bias,
            w.skip,
            c.time_step_limit,
            self.cache.ssm[index],
        )
        if self.recent is None:
            ssd_kernels.step(*given, positions, slots, c.mamba_n_groups, y)
        else:
            rows, steps, pending = self.recent
            recent = Recent(rows[index], steps[index], pending)
            recent_kernels.step(*given, recent, positions, slots, c.mamba_n_groups, y)
        norm_kernels.gated(
            y, row[:, :inner], c.rms_norm_eps, c.mamba_n_groups, c.mamba_norm_before_gate, c.mamba_rms_norm, out
        )


def recent_of(cache: Cache) -> Recent | None:
    """Of all layers, where states are not written every token."""
    if cache.recent_rows is None or cache.recent_steps is None or cache.pending is None:
        return None
    return Recent(cache.recent_rows, cache.recent_steps, cache.pending[0])


def _product(x: Tensor | Codes, weight: Any, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x [B,k] -> [B,n] (a view of a wider one where a coded weight's rows are padded)."""
    if isinstance(x, Codes):
        if _narrow(x, weight):
            out = linear_kernels.product(x.codes, weight.codes, x.scale, weight.scale, dtype)
        else:
            out = coded.scaled(x.codes, x.scale, weight, dtype)
        out = out[:, : weight.rows]
        return out if bias is None else out.add_(bias.to(dtype))
    return F.linear(x, weight, None if bias is None else bias.to(dtype))


def _addend(x: Tensor | Codes, weight: Any, bias: Tensor | None, dtype: torch.dtype) -> Tensor | Sums:
    """The same for the residual [B,D]: sums that are still in parts are left to the norm that adds them."""
    if isinstance(x, Codes) and _narrow(x, weight) and bias is None and weight.rows == len(weight.codes):
        out = linear_kernels.product(x.codes, weight.codes, x.scale, weight.scale, dtype, join=False)
        return Sums(out, x.scale, weight.scale) if out.dim() == 3 else out
    return _product(x, weight, bias, dtype).contiguous()


def _narrow(x: Codes, weight: Coded) -> bool:
    """Few enough rows for the kernel of decoding."""
    return x.codes.shape[0] <= linear_kernels.MOST and x.codes.shape[1] % linear_kernels.TILES[1].bytes == 0


def _dtype(model: Any) -> torch.dtype:
    found: torch.dtype = model.embed_tokens.weight.dtype
    return found
