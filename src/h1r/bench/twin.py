"""The hybrid beside its pure-Transformer twin: decode tokens/s and bytes per sequence as context grows.

The two take turns step by step on the same machine, so that what else runs there hits both alike; the ratio is the
median over pairs of neighbouring steps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from h1r.bench import limits
from h1r.bench.memory import allocated
from h1r.bench.subject import Decoder, filled, median, subject
from h1r.model.config import Config, H1Config
from h1r.model.presets import bytes_per_sequence, parameter_count, qwen3_twin


def twin(
    config: H1Config,
    contexts: Sequence[int] = (128, 512, 2048, 8192),
    batch: int = 8,
    *,
    seconds: float = 8.0,
    format: str = "float32",
    seed: int = 0,
    memory_bytes: int = 1 << 30,
) -> dict[str, Any]:
    """Measure both for about `seconds` in all; JSON-able.

    rows: per context {context, batch, hybrid, twin, ratio, memory_ratio}; of each side tokens_per_second, step_ms and
    bytes_per_sequence; ratio > 1: the hybrid is faster; memory_ratio > 1: it is smaller.
    A context whose caches would take more than `memory_bytes` is measured with a smaller batch, which the row names.
    """
    other = qwen3_twin(config)
    sides: dict[str, tuple[Config, Any]] = {
        "hybrid": (config, subject(config, format, seed)),
        "twin": (other, subject(other, format, seed)),
    }
    kind = "float32" if format == "float32" else "bfloat16"
    rows = []
    for context in contexts:
        largest = max(allocated(c, context + 1, kind) for c, _ in sides.values())
        fits = max(1, min(batch, memory_bytes // largest))
        decoders = {side: Decoder(model, filled(model, fits, context, 1, seed)) for side, (_, model) in sides.items()}
        times = _take_turns(decoders, seconds / len(contexts))
        row: dict[str, Any] = {"context": context, "batch": fits}
        for side, (c, _) in sides.items():
            middle = median(times[side])
            row[side] = {
                "tokens_per_second": fits / middle,
                "step_ms": middle * 1e3,
                "bytes_per_sequence": bytes_per_sequence(c, context, kind),
            }
        row["ratio"] = median([t / h for h, t in zip(times["hybrid"], times["twin"], strict=True)])
        row["memory_ratio"] = row["twin"]["bytes_per_sequence"] / row["hybrid"]["bytes_per_sequence"]
        row["pairs"] = len(times["hybrid"])
        rows.append(row)
    return {
        "rows": rows,
        "format": format,
        "parameters": {side: parameter_count(c) for side, (c, _) in sides.items()},
        "crossover_bytes": crossover(config, other, kind),
        "machine": limits.machine(),
    }


def crossover(config: H1Config, other: Config, kind: str = "float32") -> int:
    """Tokens of context from which the hybrid's sequence is the smaller one: where the twin's extra keys and values
    outgrow the states."""
    state = bytes_per_sequence(config, 0, kind)
    slope = bytes_per_sequence(other, 1, kind) - (bytes_per_sequence(config, 1, kind) - state)
    assert slope > 0, "the twin has more key/value heads"
    return -(-state // slope)


def _take_turns(decoders: dict[str, Decoder], seconds: float, least: int = 2) -> dict[str, list[float]]:
    """Seconds of each side's steps, paired: every round times one step of each, the order alternating."""
    times: dict[str, list[float]] = {side: [] for side in decoders}
    for decoder in decoders.values():
        decoder.step()
    order = list(decoders.items())
    end = time.perf_counter() + seconds
    while len(times["hybrid"]) < least or time.perf_counter() < end:
        for side, decoder in order:
            begun = time.perf_counter()
            decoder.step()
            times[side].append(time.perf_counter() - begun)
        order.reverse()
    return times
