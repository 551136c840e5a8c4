"""Long contexts on this machine: a prompt read in chunks with its peak memory, and decoding at the far end of a full cache."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from h1r.bench import limits
from h1r.bench.decode import step_times, widths_of
from h1r.bench.roofline import sequence_bytes, shape, step_bytes
from h1r.bench.subject import PAGE, Decoder, filled, free_bytes, median, subject, subject_bytes
from h1r.engine import native
from h1r.errors import ConfigError
from h1r.model.config import Config
from h1r.model.presets import bytes_per_sequence
from h1r.ops import Layout

GIB = 1 << 30


def long(
    models: Mapping[str, Config], context: int = 262144, *, prefill: int = 32768, format: str = "bfloat16",
    chunk: int = 1024, seconds: float = 3.0, layers: int | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """One row per model; JSON-able. `layers`: only so many of the model's, of the same widths.

    prefill_tokens_per_second, peak_gib   of reading `prefill` tokens into a cache with room for `context`
    allowed_gib                           weights + keys, values and states of `context` tokens + 1 GiB
    tokens_per_second, share              decoding at `context` over random K/V; against streaming its bytes
    sequence_bytes, cache_bytes           the formula for `context` tokens, and what is allocated
    """
    if not 1 <= prefill <= context:
        raise ConfigError(f"prefill={prefill}: must be 1 to the context of {context}")
    if context <= PAGE:
        raise ConfigError(f"context={context}: must be more than {PAGE}")
    rows = []
    for name, given in models.items():
        config = given if layers is None else replace(given, num_hidden_layers=layers)
        kv = "float32" if format == "float32" else "bfloat16"
        model = subject(config, format)
        weights = getattr(model, "nbytes", sum(p.numel() * p.element_size() for p in _parameters(model)))
        row: dict[str, Any] = {"model": name, "layers": config.num_hidden_layers, "context": context, "format": format}
        row["sequence_bytes"] = bytes_per_sequence(config, context, kv)
        native.give_back()  # what building the model has left would hide what reading needs
        begun = resident()
        row |= _read(model, prefill, context, chunk)
        row["peak_gib"] = (peak() - begun + weights) / GIB
        row["allowed_gib"] = (weights + row["sequence_bytes"]) / GIB + 1
        row |= _decode(model, config, context, format, seconds)
        rows.append(row)
    return rows


@torch.inference_mode()
def _read(model: Any, tokens: int, context: int, chunk: int) -> dict[str, float]:
    at = filled(model, 1, 0, context)
    reset_peak()
    ids = torch.arange(tokens) % model.config.vocab_size
    begun = time.perf_counter()
    for start in range(0, tokens, chunk):
        part = ids[start : start + chunk]
        rows = at.sequences._replace(lengths=torch.tensor([start]))
        hidden = model.forward(part, Layout.of((len(part),), offsets=(start,)), at.cache, rows)
    model.logits(hidden[-1:])
    seconds = time.perf_counter() - begun
    return {"prefill": tokens, "prefill_seconds": seconds, "prefill_tokens_per_second": tokens / seconds}


def _decode(model: Any, config: Config, context: int, format: str, seconds: float) -> dict[str, float]:
    bandwidth = limits.measure(size=64).bandwidth
    at = filled(model, 1, context - PAGE, PAGE)
    middle = median(step_times(Decoder(model, at), seconds))
    moved = step_bytes(shape(config, ""), 1, context, widths_of(format))
    return {
        "cache_bytes": at.nbytes,
        "tokens_per_second": 1 / middle,
        "gigabytes_per_second": moved / middle / 1e9,
        "bandwidth": bandwidth / 1e9,
        "share": moved / middle / bandwidth,
    }


def middle(
    models: Mapping[str, Config], workloads: Sequence[tuple[int, int]], device: str, format: str,
    batches: Sequence[int] = (1, 8, 32), seconds: float = 2.0,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Decoding at the middle of each workload's output; a row with a note where the device or the memory is missing."""
    for name, config in models.items():
        here = device == "cpu" or torch.cuda.is_available()
        free = free_bytes("cpu") if here else 0  # a model is built in the host's memory
        described, widths = shape(config, name), widths_of(format)
        model = subject(config, format, device=device) if here and subject_bytes(config) < free else None
        for prompt, out in workloads:
            for batch in batches:
                row: dict[str, Any] = {"model": name, "prompt": prompt, "out": out, "batch": batch, "note": ""}
                depth = prompt + out // 2
                if model is None or batch * sequence_bytes(described, depth, widths) > 0.8 * free_bytes(device):
                    row["note"] = "does not fit" if here else f"no {device} here"
                    yield row
                    continue
                bandwidth = limits.measure(size=64).bandwidth if device == "cpu" else None
                seconds_ = median(step_times(Decoder(model, filled(model, batch, depth, 1)), seconds))
                row["tokens_per_second"] = batch / seconds_
                if bandwidth:
                    row["share"] = step_bytes(described, batch, depth, widths) / seconds_ / bandwidth
                yield row


def resident() -> int:
    """Bytes of memory the process holds now, pages of mapped files left out; 0 where the system does not tell."""
    return _status("RssAnon")


def peak() -> int:
    """Most bytes held since `reset_peak`."""
    return _status("VmHWM") - _status("RssFile") - _status("RssShmem")


def reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _status(key: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(key + ":")), 0)


def _parameters(model: Any) -> Any:
    return model.parameters() if hasattr(model, "parameters") else ()
