"""Prefill speed: tokens/s of reading a prompt in chunks, its operations against a matrix product of the same run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from h1r.bench import limits as limits_
from h1r.bench.roofline import prefill_operations, shape
from h1r.bench.subject import median, read_prompt, subject
from h1r.model.config import Config


def prefill(
    models: Mapping[str, Config],
    lengths: Sequence[int] = (512, 2048),
    *,
    format: str = "float32",
    chunk: int = 1024,
    rounds: int = 3,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """One row per model and length; JSON-able. Median of `rounds` after one that warms up."""
    kind = limits_.product_dtype(format)
    for name, config in models.items():
        model = subject(config, format, seed)
        described = shape(config, name)
        for length in lengths:
            peak = limits_.measure(megabytes=16, dtypes=(kind,)).products[kind]
            times: list[float] = []
            for _ in range(rounds + 1):
                begun = time.perf_counter()
                read_prompt(model, length, chunk)
                times.append(time.perf_counter() - begun)
            middle = median(times[1:])
            achieved = prefill_operations(described, length) / middle
            yield {
                "model": name,
                "format": format,
                "tokens": length,
                "tokens_per_second": length / middle,
                "seconds": middle,
                "gigaflops": achieved / 1e9,
                "peak_gigaflops": peak / 1e9,
                "share": achieved / peak,
            }
