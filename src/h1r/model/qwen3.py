"""Qwen3: the pure-Transformer baseline, with the three methods of `FalconH1`.

    x = norm(h);  h = h + o_proj(attend(rope(norm(q_proj(x))), rope(norm(k_proj(x))), v_proj(x)));  h = h + mlp(norm(h))

Source: the Qwen3 report (arXiv:2505.09388); the code in `transformers`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from h1r.model.cache import Cache, Decode, Prefill, Sequences
from h1r.model.config import Qwen3Config
from h1r.model.recompute import recompute
from h1r.ops import Layout, attention, linear, norm


class Weights(NamedTuple):
    """enter [q+2kv, D], q_norm, k_norm [d], leave [D,q], gate_up [2F,D], down [D,F]; the layer's norms multiplied
    in."""

    enter: Tensor
    q_norm: Tensor
    k_norm: Tensor
    leave: Tensor
    gate_up: Tensor
    down: Tensor


class Layer(nn.Module):
    """One layer; parameters carry the names `transformers` gives them."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        d, f = config.hidden_size, config.intermediate_size
        q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.input_layernorm = _norm(d)
        self.post_attention_layernorm = _norm(d)
        attn: Any = nn.Module()
        self.self_attn = attn
        attn.q_proj = nn.Linear(d, q, bias=False)
        attn.k_proj = nn.Linear(d, kv, bias=False)
        attn.v_proj = nn.Linear(d, kv, bias=False)
        attn.o_proj = nn.Linear(q, d, bias=False)
        attn.q_norm = _norm(config.head_dim)
        attn.k_norm = _norm(config.head_dim)
        mlp: Any = nn.Module()
        self.mlp = mlp
        mlp.gate_proj = nn.Linear(d, f, bias=False)
        mlp.up_proj = nn.Linear(d, f, bias=False)
        mlp.down_proj = nn.Linear(f, d, bias=False)
        self.folded: nn.ParameterDict | None = None

    def weights(self) -> Weights:
        """The layer's weights with the norm weights multiplied in."""
        if self.folded is not None:
            return Weights(**{name: self.folded[name] for name in Weights._fields})
        s: Any = self.self_attn
        f: Any = self.mlp
        enter = torch.cat([s.q_proj.weight, s.k_proj.weight, s.v_proj.weight]) * self.input_layernorm.weight
        gate_up = torch.cat([f.gate_proj.weight, f.up_proj.weight]) * self.post_attention_layernorm.weight
        return Weights(enter, s.q_norm.weight, s.k_norm.weight, s.o_proj.weight, gate_up, f.down_proj.weight)

    def forward(
        self, h: Tensor, turn: attention.Rotation, layout: Layout, index: int = 0, prefill: Prefill | None = None
    ) -> Tensor:
        """h [T,D] -> [T,D]."""
        w = self.weights()
        q, k, v = self._enter(h, turn, w)
        out = prefill.attend(index, q, k, v) if prefill else attention.attention(q, k, v, layout)
        return self._leave(h, out.flatten(1), w)

    def decode(self, h: Tensor, turn: attention.Rotation, index: int, step: Decode) -> Tensor:
        """h [B,D], one token per sequence -> [B,D]."""
        w = self.weights()
        return self._leave(h, step.attend(index, *self._enter(h, turn, w)).flatten(1), w)

    def _enter(self, h: Tensor, turn: attention.Rotation, w: Weights) -> tuple[Tensor, Tensor, Tensor]:
        c = self.config
        sizes = [n * c.head_dim for n in (c.num_attention_heads, c.num_key_value_heads, c.num_key_value_heads)]
        parts = linear.fan(norm.rms(h, None, c.rms_norm_eps), w.enter, None, sizes)
        q, k, v = (part.unflatten(-1, (-1, c.head_dim)) for part in parts)
        q = attention.rotate(norm.rms(q, w.q_norm, c.rms_norm_eps), turn)
        return q, attention.rotate(norm.rms(k, w.k_norm, c.rms_norm_eps), turn), v

    def _leave(self, h: Tensor, attended: Tensor, w: Weights) -> Tensor:
        c = self.config
        h = linear.join(h, (attended,), w.leave, None)
        x = norm.rms(h, None, c.rms_norm_eps)
        gate, up = linear.fan(x, w.gate_up, None, (c.intermediate_size, c.intermediate_size))
        return linear.join(h, (linear.glu(gate, up),), w.down, None)

    @torch.no_grad()
    def fold(self, dtype: torch.dtype) -> None:
        """Replace the parameters by `weights()`, computed in fp32 and rounded once to `dtype`; vectors stay fp32."""
        self.float()
        folded = {
            name: nn.Parameter(t.clone() if t.dim() < 2 else t.to(dtype), requires_grad=False)
            for name, t in self.weights()._asdict().items()
        }
        for name in ("input_layernorm", "post_attention_layernorm", "self_attn", "mlp"):
            delattr(self, name)
        self.folded = nn.ParameterDict(folded)


class Qwen3(nn.Module):
    """The model without its loss. `checkpointing`: see model.recompute."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        self.checkpointing: bool | str = False
        self.embed_tokens: Any = nn.Module()
        self.embed_tokens.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.layers: Any = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = _norm(config.hidden_size)
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
        h = F.embedding(token_ids, self.embed_tokens.weight)
        turn = layout.memo(
            ("rotation", self.config.head_dim, self.config.rope_theta),
            lambda: attention.rotation(layout.positions, self.config.head_dim, self.config.rope_theta),
        )
        for index, layer in enumerate(self.layers):
            if self.checkpointing and torch.is_grad_enabled():
                h = recompute(layer, self.checkpointing, h, turn, layout)
            else:
                h = layer(h, turn, layout, index, prefill)
        return norm.rms(h, self.norm.weight, self.config.rms_norm_eps)

    @torch.inference_mode()
    def decode(self, token_ids: Tensor, positions: Tensor, cache: Cache, slots: Sequences) -> Tensor:
        """token_ids, positions [B] (tokens cached before each) -> hidden [B,D]; the cache is updated in place."""
        step = Decode(cache, slots, positions)
        h = F.embedding(token_ids, self.embed_tokens.weight)
        turn = attention.rotation(positions, self.config.head_dim, self.config.rope_theta)
        for index, layer in enumerate(self.layers):
            h = layer.decode(h, turn, index, step)
        return norm.rms(h, self.norm.weight, self.config.rms_norm_eps)

    @property
    def head(self) -> tuple[Tensor, float]:
        """The head's weight [V,D] and the multiplier on its logits."""
        return (self.embed_tokens if self.config.tie_word_embeddings else self.lm_head).weight, 1.0

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> fp32 logits [..., V]."""
        weight = self.head[0]
        z = F.linear(hidden.to(weight.dtype), weight)
        return z.to(torch.promote_types(z.dtype, torch.float32))


def _norm(width: int) -> Any:
    module: Any = nn.Module()
    module.weight = nn.Parameter(torch.ones(width))
    return module
