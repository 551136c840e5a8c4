"""Falcon-H1: in every layer attention and a Mamba-2 mixer read the same normalised input side by side, then a gated
MLP.

    x = norm(h);  h = h + ssm_out * out_proj(mamba(ssm_in * x)) + attention_out * o_proj(attend(attention_in * x))
    h = h + down * down_proj(up_proj(f) * silu(gate * gate_proj(f)))   with f = norm(h)

Every multiplier is a number on a row or a column of a weight. So a layer first turns its parameters into `Weights`
(both input projections stacked, both output projections side by side, multipliers and norm weights multiplied in) and
then computes with those. Training does this in every step, on matrices far smaller than the activations they spare a
pass, and gradients reach the plain parameters; `fold` does it once for inference. Source: arXiv:2507.22448; the code
in `transformers`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from h1r.model.cache import Cache, Decode, Prefill, Sequences
from h1r.model.config import H1Config
from h1r.model.recompute import recompute
from h1r.ops import Layout, attention, conv, linear, norm, ssd

VECTORS = 64  # a multiple of the numbers a processor's vector loop takes at once


class Weights(NamedTuple):
    """What a layer computes with. inner = d_ssm, C = conv channels, q, kv = query and key/value widths, F = MLP width.

    enter [inner+C+H+q+2kv, D]: z, xBC, dt, q, k, v;  leave [D, inner+q]: mamba's output, then attention's;
    gate_up [2F, D];  down [D, F];  taps [C,K];  a [H] = -exp(A_log).
    """

    enter: Tensor
    enter_bias: Tensor | None
    taps: Tensor
    conv_bias: Tensor | None
    dt_bias: Tensor
    a: Tensor
    skip: Tensor
    leave: Tensor
    leave_bias: Tensor | None
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class Layer(nn.Module):
    """One hybrid layer; parameters carry the names `transformers` gives them."""

    def __init__(self, config: H1Config) -> None:
        super().__init__()
        self.config = config
        d, heads = config.hidden_size, config.mamba_n_heads
        q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        inner, channels, width = config.mamba_d_ssm, config.conv_channels, config.mamba_d_conv
        self.input_layernorm = _norm(d)
        self.pre_ff_layernorm = _norm(d)
        mamba: Any = nn.Module()
        self.mamba = mamba
        mamba.in_proj = nn.Linear(d, inner + channels + heads, bias=config.mamba_proj_bias)
        mamba.conv1d = nn.Module()
        mamba.conv1d.weight = nn.Parameter(torch.empty(channels, 1, width))
        mamba.conv1d.bias = nn.Parameter(torch.empty(channels)) if config.mamba_conv_bias else None
        mamba.dt_bias = nn.Parameter(torch.empty(heads))
        mamba.A_log = nn.Parameter(torch.empty(heads))
        mamba.D = nn.Parameter(torch.empty(heads))
        if config.mamba_rms_norm:
            mamba.norm = _norm(inner)
        mamba.out_proj = nn.Linear(inner, d, bias=config.projectors_bias)
        attn: Any = nn.Module()
        self.self_attn = attn
        attn.q_proj = nn.Linear(d, q, bias=config.attention_bias)
        attn.k_proj = nn.Linear(d, kv, bias=config.attention_bias)
        attn.v_proj = nn.Linear(d, kv, bias=config.attention_bias)
        attn.o_proj = nn.Linear(q, d, bias=config.attention_bias)
        mlp: Any = nn.Module()
        self.feed_forward = mlp
        mlp.gate_proj = nn.Linear(d, config.intermediate_size, bias=config.mlp_bias)
        mlp.up_proj = nn.Linear(d, config.intermediate_size, bias=config.mlp_bias)
        mlp.down_proj = nn.Linear(config.intermediate_size, d, bias=config.mlp_bias)
        self.folded: nn.ParameterDict | None = None

    def weights(self) -> Weights:
        """The layer's weights with every multiplier and norm weight multiplied in."""
        if self.folded is not None:
            return Weights(**{name: self.folded.get(name) for name in Weights._fields})
        c = self.config
        m: Any = self.mamba
        s: Any = self.self_attn
        f: Any = self.feed_forward
        inner, group, heads = c.mamba_d_ssm, c.mamba_n_groups * c.mamba_d_state, c.mamba_n_heads
        q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        on_ssm = _rows(m.in_proj.weight, zip(c.ssm_multipliers, (inner, inner, group, group, heads), strict=True))
        # The key multiplier stands on the queries: products are the same, and keys keep a size that suits an fp8 cache.
        on_attention = _rows(m.in_proj.weight, ((c.key_multiplier, q), (1.0, 2 * kv)))
        rows = torch.cat([on_ssm * c.ssm_in_multiplier, on_attention * c.attention_in_multiplier])
        enter = torch.cat([m.in_proj.weight, s.q_proj.weight, s.k_proj.weight, s.v_proj.weight])
        leave_mamba = m.out_proj.weight * c.ssm_out_multiplier
        if c.mamba_rms_norm:
            leave_mamba = leave_mamba * m.norm.weight
        gate, down = c.mlp_multipliers
        own, wide = enter.dtype, torch.promote_types(enter.dtype, torch.float32)
        return Weights(
            (enter * rows[:, None] * self.input_layernorm.weight).to(own),
            _stack(
                (m.in_proj.bias, on_ssm), (s.q_proj.bias, c.key_multiplier), (s.k_proj.bias, 1.0), (s.v_proj.bias, 1.0),
                sizes=(inner * 2 + group * 2 + heads, q, kv, kv),
            ),
            m.conv1d.weight[:, 0],
            m.conv1d.bias,
            m.dt_bias,
            -m.A_log.to(wide).exp(),
            m.D,
            torch.cat([leave_mamba, s.o_proj.weight * c.attention_out_multiplier], 1),
            _sum((m.out_proj.bias, c.ssm_out_multiplier), (s.o_proj.bias, c.attention_out_multiplier)),
            torch.cat([f.gate_proj.weight * gate, f.up_proj.weight]) * self.pre_ff_layernorm.weight,
            None if f.gate_proj.bias is None else torch.cat([f.gate_proj.bias * gate, f.up_proj.bias]),
            f.down_proj.weight * down,
            None if f.down_proj.bias is None else f.down_proj.bias * down,
        )  # fmt: skip

    def forward(
        self, h: Tensor, turn: attention.Rotation, layout: Layout, index: int = 0, prefill: Prefill | None = None
    ) -> Tensor:
        """h [T,D] -> [T,D]."""
        c, w = self.config, self.weights()
        gate, mixed, dt, qk, v = self._enter(h, w)
        conv_state, state = prefill.states(index) if prefill else (None, None)
        local = conv.conv(mixed, w.taps, w.conv_bias, layout, conv_state, final=prefill is not None)
        x, b, cc = self._channels(F.silu(local.out))
        scan = ssd.ssd(
            x, self._step_sizes(dt, w, layout.chunk is not None), w.a, b, cc, layout, state, final=prefill is not None
        )
        if prefill is not None:
            assert local.state is not None and scan.state is not None
            prefill.keep(index, local.state, scan.state)
        y = torch.addcmul(scan.y, x, w.skip.to(x.dtype)[:, None]).flatten(1)
        qk = attention.rotate(qk, turn)
        q, k = qk.split([c.num_attention_heads, c.num_key_value_heads], 1)
        out = prefill.attend(index, q, k, v) if prefill else attention.attention(q, k, v, layout)
        return self._leave(h, y, gate, out.flatten(1), w)

    def decode(self, h: Tensor, turn: attention.Rotation, index: int, step: Decode) -> Tensor:
        """h [B,D], one token per sequence -> [B,D]."""
        c, w = self.config, self.weights()
        gate, mixed, dt, qk, v = self._enter(h, w)
        conv_state, state = step.states(index)
        x, b, cc = self._channels(F.silu(conv.step(mixed, w.taps, w.conv_bias, conv_state)))
        y = ssd.step(x, self._step_sizes(dt, w), w.a, b, cc, state)
        step.keep(index, conv_state, state)
        y = torch.addcmul(y, x, w.skip.to(x.dtype)[:, None]).flatten(1)
        qk = attention.rotate(qk, turn)
        q, k = qk.split([c.num_attention_heads, c.num_key_value_heads], 1)
        return self._leave(h, y, gate, step.attend(index, q, k, v).flatten(1), w)

    def compile_around(self) -> None:
        """torch.compile what stands around the scan, the convolution and attention, which have kernels of their own."""
        for name in ("weights", "_enter", "_leave"):
            setattr(self, name, torch.compile(getattr(self, name), dynamic=True))

    def _enter(self, h: Tensor, w: Weights) -> tuple[Tensor, ...]:
        """h [T,D] -> gate [T,inner], xBC [T,C], dt [T,H], queries and keys [T,Hq+Kv,d], v [T,Kv,d]."""
        c = self.config
        q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        sizes = (c.mamba_d_ssm, c.conv_channels, c.mamba_n_heads, q + kv, kv)
        x = norm.rms(h, None, c.rms_norm_eps)
        gate, mixed, dt, qk, v = linear.fan(x, w.enter, w.enter_bias, sizes)
        return gate, mixed, dt, qk.unflatten(-1, (-1, c.head_dim)), v.unflatten(-1, (-1, c.head_dim))

    def _channels(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[T,C] -> x [T,H,P], b, c [T,G,N]."""
        c = self.config
        group = c.mamba_n_groups * c.mamba_d_state
        x, b, cc = mixed.split([c.mamba_d_ssm, group, group], -1)
        shape = (c.mamba_n_groups, c.mamba_d_state)
        return x.unflatten(-1, (c.mamba_n_heads, c.mamba_d_head)), b.unflatten(-1, shape), cc.unflatten(-1, shape)

    def _step_sizes(self, dt: Tensor, w: Weights, alike: bool = False) -> Tensor:
        """softplus(dt + bias) within the limits, fp32: [T,H].

        alike: the last few numbers too in the vector code, which rounds otherwise than the scalar one.
        """
        low, high = self.config.time_step_limit
        wide = torch.promote_types(dt.dtype, torch.float32)
        dt = dt.to(wide) + w.dt_bias.to(wide)
        if alike:
            dt = F.softplus(F.pad(dt.flatten(), (0, -dt.numel() % VECTORS)))[: dt.numel()].view_as(dt)
        else:
            dt = F.softplus(dt)
        return dt if low <= 0.0 and math.isinf(high) else dt.clamp(low, high)

    def _leave(self, h: Tensor, y: Tensor, gate: Tensor, attended: Tensor, w: Weights) -> Tensor:
        """Gate and norm the scan's output, project both branches back, add; then the MLP."""
        c = self.config
        if c.mamba_rms_norm:
            y = norm.gated(y, gate, None, c.rms_norm_eps, c.mamba_n_groups, c.mamba_norm_before_gate)
        else:
            y = y * F.silu(gate)
        h = linear.join(h, (y, attended.to(y.dtype)), w.leave, w.leave_bias)
        x = norm.rms(h, None, c.rms_norm_eps)
        gate, up = linear.fan(x, w.gate_up, w.gate_up_bias, (c.intermediate_size, c.intermediate_size))
        return linear.join(h, (linear.glu(gate, up),), w.down, w.down_bias)

    @torch.no_grad()
    def fold(self, dtype: torch.dtype) -> None:
        """Replace the parameters by `weights()`, computed in fp32 and rounded once to `dtype`; vectors stay fp32."""
        self.float()
        folded = {
            name: nn.Parameter(t.clone() if t.dim() < 2 else t.to(dtype), requires_grad=False)
            for name, t in self.weights()._asdict().items()
            if t is not None
        }
        for name in ("input_layernorm", "pre_ff_layernorm", "mamba", "self_attn", "feed_forward"):
            delattr(self, name)
        self.folded = nn.ParameterDict(folded)


class FalconH1(nn.Module):
    """The model without its loss. `checkpointing`: see model.recompute."""

    def __init__(self, config: H1Config) -> None:
        super().__init__()
        self.config = config
        self.checkpointing: bool | str = False
        self.embed_tokens: Any = nn.Module()
        self.embed_tokens.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.layers: Any = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.final_layernorm = _norm(config.hidden_size)
        if not config.tie_word_embeddings:
            self.lm_head: Any = nn.Module()
            self.lm_head.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))

    def forward(
        self, token_ids: Tensor, layout: Layout, cache: Cache | None = None, slots: Sequences | None = None
    ) -> Tensor:
        """token_ids [T] -> hidden [T,D] after the final norm. With a cache, document s continues cached sequence s."""
        prefill = None
        if cache is not None:
            assert slots is not None, "a cache needs the sequences it continues"
            prefill = Prefill(cache, slots, layout)
        h = self._embed(token_ids)
        turn = layout.memo(
            ("rotation", self.config.head_dim, self.config.rope_theta),
            lambda: attention.rotation(layout.positions, self.config.head_dim, self.config.rope_theta),
        )
        for index, layer in enumerate(self.layers):
            if self.checkpointing and torch.is_grad_enabled():
                h = recompute(layer, self.checkpointing, h, turn, layout)
            else:
                h = layer(h, turn, layout, index, prefill)
        return norm.rms(h, self.final_layernorm.weight, self.config.rms_norm_eps)

    @torch.inference_mode()
    def decode(self, token_ids: Tensor, positions: Tensor, cache: Cache, slots: Sequences) -> Tensor:
        """token_ids, positions [B] (tokens cached before each) -> hidden [B,D]; the cache is updated in place."""
        step = Decode(cache, slots, positions)
        h = self._embed(token_ids)
        turn = attention.rotation(positions, self.config.head_dim, self.config.rope_theta)
        for index, layer in enumerate(self.layers):
            h = layer.decode(h, turn, index, step)
        return norm.rms(h, self.final_layernorm.weight, self.config.rms_norm_eps)

    @property
    def head(self) -> tuple[Tensor, float]:
        """The head's weight [V,D] and the multiplier on its logits."""
        tied = self.config.tie_word_embeddings
        return (self.embed_tokens if tied else self.lm_head).weight, self.config.lm_head_multiplier

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> fp32 logits [..., V]."""
        weight, multiplier = self.head
        z = F.linear(hidden.to(weight.dtype), weight)
        return z.to(torch.promote_types(z.dtype, torch.float32)) * multiplier

    def _embed(self, token_ids: Tensor) -> Tensor:
        h = F.embedding(token_ids, self.embed_tokens.weight)
        return h if self.config.embedding_multiplier == 1.0 else h * self.config.embedding_multiplier


def _norm(width: int) -> Any:
    module: Any = nn.Module()
    module.weight = nn.Parameter(torch.ones(width))
    return module


def _rows(like: Tensor, parts: Iterable[tuple[float, int]]) -> Tensor:
    """A vector of multipliers, each repeated `size` times, on the device of `like`, fp32."""
    wide = torch.promote_types(like.dtype, torch.float32)
    return torch.cat([torch.full((size,), value, dtype=wide, device=like.device) for value, size in parts])


def _stack(*parts: tuple[Tensor | None, Tensor | float], sizes: tuple[int, ...]) -> Tensor | None:
    """Biases times multipliers, one after another, zeros where there is none; None when there is none at all."""
    present = [bias for bias, _ in parts if bias is not None]
    if not present:
        return None
    return torch.cat(
        [
            present[0].new_zeros(n) if bias is None else (bias * times).to(bias.dtype)
            for (bias, times), n in zip(parts, sizes)
        ]
    )


def _sum(*parts: tuple[Tensor | None, float]) -> Tensor | None:
    present = [bias * times for bias, times in parts if bias is not None]
    return sum(present[1:], present[0]) if present else None
