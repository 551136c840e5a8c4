"""Decode speed: tokens/s over batch and context, with the bytes it moves against the bandwidth of the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from h1r.bench import limits as limits_
from h1r.bench.roofline import Widths, shape, step_bytes, step_operations
from h1r.bench.subject import Decoder, filled, median, subject
from h1r.model.config import Config

BITS = {"float32": 32.0, "bfloat16": 16.0, "int8": 8.25, "int4": 4.5}
"""Bits of a weight, scales included."""


def decode(
    models: Mapping[str, Config],
    batches: Sequence[int] = (1, 8, 32),
    contexts: Sequence[int] = (64,),
    *,
    format: str = "float32",
    seconds: float = 1.0,
    seed: int = 0,
    make: Callable[[Config, str, int], Any] = subject,
) -> Iterator[dict[str, Any]]:
    """One row per model, context and batch, as soon as it is measured; JSON-able. `seconds` are spent on each.

    tokens_per_second  of the median step; best: of the fastest
    gigaflops, peak_gigaflops    operations a step must do over its time, and of a large matrix product just before
    gigabytes_per_second, share  bytes a step must move, by the formula of `roofline`, over its time, and against the
                       bandwidth read just before. Above 1 when caches hold a part of the weights
    """
    for name, config in models.items():
        model = make(config, format, seed)
        described, widths = shape(config, name), widths_of(format)
        for context in contexts:
            for batch in batches:
                limit = limits_.measure(megabytes=512, size=512, rounds=3, dtypes=(limits_.product_dtype(format),))
                bandwidth, (peak,) = limit.bandwidth, limit.products.values()
                times = step_times(Decoder(model, filled(model, batch, context, 1, seed)), seconds)
                middle, best = median(times), min(times)
                moved = step_bytes(described, batch, context, widths)
                yield {
                    "model": name,
                    "format": format,
                    "batch": batch,
                    "context": context,
                    "tokens_per_second": batch / middle,
                    "best": batch / best,
                    "step_ms": middle * 1e3,
                    "gigabytes_per_second": moved / middle / 1e9,
                    "bandwidth": bandwidth / 1e9,
                    "share": moved / middle / bandwidth,
                    "gigaflops": step_operations(described, batch, context) / middle / 1e9,
                    "peak_gigaflops": peak / 1e9,
                    "steps": len(times),
                }


def widths_of(format: str) -> Widths:
    """Bytes per element of weights, K/V and states in this weight format."""
    weight = BITS[format] / 8
    return Widths(weight=weight, kv=4.0 if format == "float32" else 2.0, state=4.0, head=weight)


def step_times(decoder: Decoder, seconds: float, least: int = 3) -> list[float]:
    """Seconds of each step after two that warm up; at least `least` of them."""
    for _ in range(2):
        decoder.step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        begun = time.perf_counter()
        decoder.step()
        times.append(time.perf_counter() - begun)
    return times
