"""The family's shapes, their µP multipliers, the quickstart's model, and what a model costs.

Shapes and the multipliers of the 0.5B, 1.5B-Deep, 7B and 34B are published; the formulas below reproduce them to the
last digit, and give those of the others. Sources: the Falcon-H1 report (arXiv:2507.22448), the published config.json
files.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from h1r.errors import ConfigError
from h1r.model.config import Config, H1Config, Qwen3Config

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


def mup(width: int, heads: int, head_dim: int, d_ssm: int, d_state: int, mlp: int) -> dict[str, Any]:
    """Multipliers of the family, tuned at width 1280 and carried to other shapes by µP."""
    r = 1280 / width
    return {
        "embedding_multiplier": 4 * math.sqrt(2),
        "lm_head_multiplier": r / 32,
        "attention_in_multiplier": 1.0,
        "attention_out_multiplier": 0.5 * r * 768 / (heads * head_dim),
        "key_multiplier": 0.17677669529663687 * r * r * math.sqrt(128 / head_dim),
        "ssm_in_multiplier": r,
        "ssm_out_multiplier": 0.23570226039551587 * 1536 / d_ssm,
        "ssm_multipliers": (2**-1.5, 2**-2, 0.1767766952966369 * 256 / d_state, 2**-1, 2**-1.5),
        "mlp_multipliers": (0.7071067811865476 * r, 0.3125 * r * 3072 / mlp),
    }


def _family(
    layers: int,
    width: int,
    mlp: int,
    heads: tuple[int, int, int],
    mamba: tuple[int, int, int],
    vocab: int,
    **other: Any,
) -> H1Config:
    """heads: query, key/value, channels; mamba: heads, channels, state."""
    q, kv, head_dim = heads
    m, p, n = mamba
    settings = (
        mup(width, q, head_dim, m * p, n, mlp) | {"mamba_rms_norm": True, "max_position_embeddings": 131072} | other
    )
    return H1Config(
        vocab_size=vocab, hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=q, num_key_value_heads=kv, head_dim=head_dim,
        mamba_d_ssm=m * p, mamba_n_heads=m, mamba_d_head=p, mamba_d_state=n,
        mamba_norm_before_gate=False, rope_theta=1e11, eos_token_id=11, dtype="bfloat16", **settings,
    )  # fmt: skip


# Trained with learnable multipliers that went into the weights at release: the head's and the embedding's remain.
_TINY = {
    "embedding_multiplier": 0.11084, "lm_head_multiplier": 0.078125, "attention_out_multiplier": 1.0,
    "key_multiplier": 1.0, "ssm_in_multiplier": 1.0, "ssm_out_multiplier": 1.0,
    "ssm_multipliers": (1.0,) * 5, "mlp_multipliers": (1.0, 1.0),
}  # fmt: skip
_LONG = {"max_position_embeddings": 262144}

PRESETS: dict[str, H1Config] = {
    "tiny-90m": _family(
        24, 512, 768, (8, 2, 64), (24, 32, 64), 32768, mamba_rms_norm=False, tie_word_embeddings=True, **_LONG, **_TINY
    ),
    "0.5b": _family(
        36, 1024, 2048, (8, 2, 64), (24, 64, 128), 32784, mamba_rms_norm=False, max_position_embeddings=16384
    ),
    "1.5b": _family(24, 2048, 4608, (8, 2, 128), (48, 64, 256), 65536),
    "1.5b-deep": _family(66, 1280, 3072, (6, 2, 128), (24, 64, 256), 65537),
    "3b": _family(32, 2560, 6144, (10, 2, 128), (32, 128, 256), 65536),
    "7b": _family(44, 3072, 12288, (12, 2, 128), (24, 128, 256), 130048, **_LONG),
    "34b": _family(72, 5120, 21504, (20, 4, 128), (32, 128, 256), 261120, mamba_n_groups=2, **_LONG),
    "quickstart": H1Config(
        vocab_size=512, hidden_size=96, intermediate_size=256, num_hidden_layers=4,
        num_attention_heads=3, num_key_value_heads=1, head_dim=32,
        mamba_d_ssm=144, mamba_n_heads=3, mamba_d_head=48, mamba_d_state=32,
        mamba_norm_before_gate=False, mamba_rms_norm=True, max_position_embeddings=4096, eos_token_id=2,
    ),
    "nano": H1Config(
        vocab_size=768, hidden_size=192, intermediate_size=512, num_hidden_layers=9,
        num_attention_heads=6, num_key_value_heads=2, head_dim=32,
        mamba_d_ssm=288, mamba_n_heads=6, mamba_d_head=48, mamba_d_state=48,
        mamba_norm_before_gate=False, mamba_rms_norm=True, max_position_embeddings=8192, eos_token_id=2,
    ),
}  # fmt: skip
PRESETS["falcon-h1r-7b"] = PRESETS["7b"]


def qwen3_twin(config: H1Config) -> Qwen3Config:
    """A pure Transformer of the same width, depth, vocabulary and, within 1 %, parameters.

    It has four times the key/value heads (as Qwen3-8B has to Falcon-H1-7B), at least as many query heads, and its
    feed-forward is widened until the parameter counts agree.
    """
    kv = 4 * config.num_key_value_heads
    heads = -(-max(config.num_attention_heads, kv) // kv) * kv
    twin = Qwen3Config(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size, intermediate_size=1,
        num_hidden_layers=config.num_hidden_layers, num_attention_heads=heads, num_key_value_heads=kv,
        head_dim=config.head_dim, tie_word_embeddings=config.tie_word_embeddings, rope_theta=config.rope_theta,
        max_position_embeddings=config.max_position_embeddings, initializer_range=config.initializer_range,
        pad_token_id=config.pad_token_id, bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id,
        dtype=config.dtype,
    )  # fmt: skip
    per_unit = 3 * config.hidden_size * config.num_hidden_layers
    missing = parameter_count(config) - parameter_count(twin)
    width = 1 + round(missing / per_unit)
    for multiple in (64, 16, 8, 4, 2, 1):
        rounded = dataclasses.replace(twin, intermediate_size=max(multiple, round(width / multiple) * multiple))
        if abs(parameter_count(rounded) / parameter_count(config) - 1) <= 0.01:
            return rounded
    raise ConfigError(
        f"no feed-forward width gives a twin of {parameter_count(config)} parameters: attention alone is larger"
    )


def parameter_count(config: Config) -> int:
    """Parameters from shapes alone; a tied head counts once."""
    d, vocab, f = config.hidden_size, config.vocab_size, config.intermediate_size
    total = vocab * d * (1 if config.tie_word_embeddings else 2) + d
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    layer = 2 * d + 2 * d * (q + kv) + 3 * d * f
    if isinstance(config, Qwen3Config):
        return total + config.num_hidden_layers * (layer + 2 * config.head_dim)
    inner, conv, heads = config.mamba_d_ssm, config.conv_channels, config.mamba_n_heads
    layer += d * (inner + conv + heads) + conv * config.mamba_d_conv + 3 * heads + inner * d
    layer += (
        config.mamba_conv_bias * conv + config.mamba_proj_bias * (inner + conv + heads) + config.projectors_bias * d
    )
    layer += config.mamba_rms_norm * inner + config.attention_bias * (q + 2 * kv + d) + config.mlp_bias * (2 * f + d)
    return total + config.num_hidden_layers * layer


def flops_per_token(config: Config, context: int = 0) -> float:
    """Floating-point operations of training on one token: six for each weight it meets (the embedding is only looked up), the
    scan's states, and attention over half of `context` tokens."""
    matrices = parameter_count(config) - (0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size)
    scan = 6 * config.mamba_d_ssm * config.mamba_d_state if isinstance(config, H1Config) else 0
    attended = 12 * config.num_attention_heads * config.head_dim * context / 2
    return 6 * matrices + config.num_hidden_layers * (3 * scan + attended)


def bytes_per_sequence(config: Config, context: int, kv_dtype: str = "bfloat16", state_dtype: str = "float32") -> int:
    """Memory one sequence of `context` tokens holds while it decodes: keys and values grow, the states do not."""
    kv = 2 * config.num_key_value_heads * config.head_dim * context * BYTES[kv_dtype]
    if isinstance(config, H1Config):
        kv += config.conv_channels * (config.mamba_d_conv - 1) * BYTES[kv_dtype]
        kv += config.mamba_d_ssm * config.mamba_d_state * BYTES[state_dtype]
    return config.num_hidden_layers * kv
