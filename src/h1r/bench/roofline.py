"""What memory and arithmetic allow: bytes and operations of a decoding step against a machine's limits.

    bytes of a step = weights + head + B * (mid context * K/V per token + 2 * state + 2 * conv + 8 * vocabulary)
    seconds         = max(bytes / bandwidth, operations / (0.7 * peak))
    tokens/s        = B * out / (out * seconds + B * prompt operations / (0.5 * peak))

The embedding is a gather and costs nothing; the state is read and written; logits are written and read in fp32.
Upper bounds: no launch, communication or scheduling cost. Published figures beside them: Falcon-H1R report, Figure 8.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from h1r.model.config import Config, H1Config, Qwen3Config
from h1r.model.presets import parameter_count


class Shape(NamedTuple):
    """A model as the roofline sees it; counts of elements, not bytes."""

    name: str
    body: int  # parameters outside embedding and head
    head: int
    embedding: int  # 0 when tied to the head
    vocab: int
    layers: int
    query: int  # query channels of one layer
    kv: int  # K and V elements per token, all layers
    state: int  # SSM elements per sequence, all layers
    conv: int  # convolution elements per sequence, all layers


def shape(config: Config, name: str) -> Shape:
    """What the roofline needs to know of a config."""
    layers, kv = config.num_hidden_layers, 2 * config.num_key_value_heads * config.head_dim
    table = config.vocab_size * config.hidden_size
    embedding = 0 if config.tie_word_embeddings else table
    state = conv = 0
    if isinstance(config, H1Config):
        state = layers * config.mamba_d_ssm * config.mamba_d_state
        conv = layers * config.conv_channels * (config.mamba_d_conv - 1)
    return Shape(
        name=name,
        body=parameter_count(config) - table - embedding,
        head=table,
        embedding=embedding,
        vocab=config.vocab_size,
        layers=layers,
        query=config.num_attention_heads * config.head_dim,
        kv=layers * kv,
        state=state,
        conv=conv,
    )


QWEN3_8B = Qwen3Config(
    vocab_size=151936,
    hidden_size=4096,
    intermediate_size=12288,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    rope_theta=1e6,
    max_position_embeddings=40960,
    dtype="bfloat16",
)
"""The published baseline (its config.json)."""


class Hardware(NamedTuple):
    """bandwidth B/s, memory B, peak operations/s (bf16)."""

    name: str
    bandwidth: float
    memory: float
    peak: float


HARDWARE = {
    "h100": Hardware("h100", 3.35e12, 80e9, 989e12),
    "h200": Hardware("h200", 4.8e12, 141e9, 989e12),
}


def here(bandwidth: float, peak: float, memory: float) -> Hardware:
    """This machine's processor, as measured: bytes read and bf16 operations a second, bytes of memory."""
    return Hardware("cpu", bandwidth, memory, peak)


DECODE_EFFICIENCY, PREFILL_EFFICIENCY = 0.7, 0.5
MEMORY_SHARE, OVERHEAD = 0.92, 3e9  # of a device's memory used, and what of that is neither weights nor sequences

WORKLOADS = ((512, 32768), (8192, 16384), (512, 8192))
"""(prompt, output) tokens; the first two are the published ones."""

PUBLISHED = {
    # (workload, batch): (tokens/s/GPU, tp, dp) of Falcon-H1R-7B, then of Qwen3-8B; vLLM on H100
    ((512, 32768), 2): ((192.0, 1, 1), (214.0, 1, 1)),
    ((512, 32768), 8): ((467.5, 2, 1), (467.0, 2, 1)),
    ((512, 32768), 16): ((697.0, 2, 1), (668.0, 2, 1)),
    ((512, 32768), 32): ((1025.5, 2, 2), (720.5, 4, 1)),
    ((512, 32768), 64): ((1520.0, 2, 2), (681.5, 4, 1)),
    ((512, 32768), 128): ((1393.5, 2, 2), (622.75, 4, 1)),
    ((8192, 16384), 2): ((193.0, 1, 1), (215.0, 1, 1)),
    ((8192, 16384), 8): ((469.0, 2, 1), (469.0, 2, 1)),
    ((8192, 16384), 16): ((689.5, 2, 1), (671.0, 2, 1)),
    ((8192, 16384), 32): ((1045.5, 2, 1), (812.5, 2, 1)),
    ((8192, 16384), 64): ((1523.0, 2, 2), (876.75, 4, 1)),
    ((8192, 16384), 128): ((1760.5, 2, 2), (715.75, 4, 1)),
}


class Widths(NamedTuple):
    """Bytes per element of weights, K/V and state."""

    weight: float = 2.0
    kv: float = 2.0
    state: float = 2.0
    head: float = 2.0


BF16 = Widths()


def weight_bytes(shape: Shape, widths: Widths = BF16) -> float:
    """All weights in memory; embedding and head have a width of their own, because few quantise them."""
    return shape.body * widths.weight + (shape.head + shape.embedding) * widths.head


def sequence_bytes(shape: Shape, context: int, widths: Widths = BF16) -> float:
    """Memory one sequence of `context` tokens holds: K/V grows, SSM and conv state do not."""
    return context * shape.kv * widths.kv + shape.state * widths.state + shape.conv * 2.0


def step_bytes(shape: Shape, batch: int, context: float, widths: Widths = BF16) -> float:
    """Bytes one decoding step of `batch` sequences with `context` cached tokens each must move."""
    each = context * shape.kv * widths.kv + 2 * shape.state * widths.state + 4.0 * shape.conv + 8.0 * shape.vocab
    return shape.body * widths.weight + shape.head * widths.head + batch * each


def step_operations(shape: Shape, batch: int, context: float) -> float:
    """Operations of the same step: two per weight, four per query channel and cached token, six per state element."""
    attention = 4.0 * context * shape.query * shape.layers
    return batch * (2.0 * (shape.body + shape.head) + attention + 6.0 * shape.state)


def prefill_operations(shape: Shape, tokens: int) -> float:
    """Operations to read a prompt, causal attention included; the head is computed once and neglected."""
    attention = 2.0 * tokens * tokens * shape.query * shape.layers
    return tokens * (2.0 * shape.body + 6.0 * shape.state) + attention


def step_seconds(shape: Shape, hardware: Hardware, batch: int, context: float, widths: Widths = BF16) -> float:
    moved = step_bytes(shape, batch, context, widths) / hardware.bandwidth
    return max(moved, step_operations(shape, batch, context) / (DECODE_EFFICIENCY * hardware.peak))


def tokens_per_second(
    shape: Shape, hardware: Hardware, batch: int, prompt: int, out: int, widths: Widths = BF16
) -> float:
    """Output tokens a second of `batch` sequences that read `prompt` and write `out` tokens, prefill included."""
    decode = out * step_seconds(shape, hardware, batch, prompt + out / 2, widths)
    prefill = batch * prefill_operations(shape, prompt) / (PREFILL_EFFICIENCY * hardware.peak)
    return batch * out / (decode + prefill)


def resident(shape: Shape, hardware: Hardware, context: int, widths: Widths = BF16, devices: int = 1) -> float:
    """How many sequences of `context` tokens fit beside the weights."""
    room = devices * (MEMORY_SHARE * hardware.memory - OVERHEAD) - weight_bytes(shape, widths)
    return max(0.0, room / sequence_bytes(shape, context, widths))


def throughput(
    model: Shape,
    baseline: Shape,
    hardware: Hardware,
    batches: tuple[int, ...] = (2, 8, 16, 32, 64, 128),
    workloads: tuple[tuple[int, int], ...] = WORKLOADS,
    widths: Widths = BF16,
) -> list[dict[str, Any]]:
    """The published comparison as the roofline has it, one row per workload and batch, JSON-able.

    Of each model: ideal tokens/s on one device, milliseconds a step, sequences that fit, and when the batch does not
    fit, tokens/s at the batch that does (0 where not even one does). `published`: tokens/s/GPU, tp, dp on H100.
    """
    rows = []
    for workload in workloads:
        for batch in batches:
            row: dict[str, Any] = {"prompt": workload[0], "out": workload[1], "batch": batch, "hardware": hardware.name}
            for role, shape in (("model", model), ("baseline", baseline)):
                row[role] = _side(shape, hardware, batch, *workload, widths)
            row["ratio"] = (
                row["model"]["sustained"] / row["baseline"]["sustained"] if row["baseline"]["sustained"] else None
            )
            said = PUBLISHED.get((workload, batch))
            if said and hardware.name == "h100" and (model.name, baseline.name) == ("falcon-h1r-7b", "qwen3-8b"):
                for role, (rate, tp, dp) in zip(("model", "baseline"), said, strict=True):
                    row[role]["published"] = {"tokens_per_second_per_gpu": rate, "tp": tp, "dp": dp}
            rows.append(row)
    return rows


def _side(shape: Shape, hardware: Hardware, batch: int, prompt: int, out: int, widths: Widths) -> dict[str, Any]:
    ideal = tokens_per_second(shape, hardware, batch, prompt, out, widths)
    fit = resident(shape, hardware, prompt + out, widths)
    fits = fit >= batch
    kept = int(fit)
    sustained = ideal if fits else tokens_per_second(shape, hardware, kept, prompt, out, widths) if kept else 0.0
    seconds = step_seconds(shape, hardware, batch, prompt + out / 2, widths)
    return {
        "name": shape.name,
        "tokens_per_second": ideal,
        "step_ms": seconds * 1e3,
        "fits": fits,
        "resident": fit,
        "sustained": sustained,
        "memory_gb": (weight_bytes(shape, widths) + batch * sequence_bytes(shape, prompt + out, widths)) / 1e9,
    }
