"""Small models for tests: every multiplier different from 1, groups, a gated norm; and a pure Transformer."""

from h1r.model import H1Config, Qwen3Config

V = 48
H1 = H1Config(
    vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8,
    mamba_d_ssm=48, mamba_n_heads=6, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=2, mamba_rms_norm=True,
    max_position_embeddings=256, embedding_multiplier=1.7, lm_head_multiplier=0.6, attention_in_multiplier=1.2,
    attention_out_multiplier=0.8, key_multiplier=1.4, ssm_in_multiplier=0.9, ssm_out_multiplier=1.1,
    ssm_multipliers=(0.7, 1.3, 0.8, 1.2, 0.9), mlp_multipliers=(0.75, 1.25),
)  # fmt: skip
QWEN = Qwen3Config(
    vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=256,
)  # fmt: skip
LITTLE = H1Config(
    vocab_size=24, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8,
    mamba_rms_norm=True, max_position_embeddings=512, embedding_multiplier=1.7, lm_head_multiplier=0.6,
)  # fmt: skip
