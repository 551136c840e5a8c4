"""Training on one GPU: the 0.5B, 1.5B and 7B shapes, rows of 2k, 32k and 48k tokens."""

from __future__ import annotations

import gc
from typing import Any

import torch
from gpu_subject import DEVICE, LATE, Clock, seconds

from h1r.bench import roofline
from h1r.model import PRESETS
from h1r.model.initial import empty
from h1r.ops import Layout
from h1r.ops.logprob import logprob


def train(results: dict[str, Any], quick: bool) -> list[dict[str, Any]]:
    """Forward and backward of one packed row, bf16 autocast, checkpointed layers: tokens a second, peak memory, MFU. Weights and
    their gradients are fp32; the optimizer is left out."""
    rows = []
    sizes = (32768,) if quick else (2048, 32768, 49152)
    runs = [(name, tokens, True) for name in ("0.5b", "1.5b", "7b") for tokens in sizes]
    for name, tokens, compiled in [("0.5b", sizes[-1], False), *runs]:
        row: dict[str, Any] = {"shape": name, "tokens": tokens, "compiled": compiled}
        rows.append(row)
        if Clock.late():
            row |= LATE
            continue
        config = PRESETS[name]
        with torch.device(DEVICE):
            model: Any = empty(config)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.02) if p.dim() == 2 else torch.nn.init.constant_(p, 0.5)
        model.checkpointing = True
        for layer in model.layers if compiled else ():
            layer.compile_around()
        ids = torch.randint(0, config.vocab_size, (tokens,), device=DEVICE)
        layout = Layout.of([1000] * (tokens // 1000) + [tokens % 1000 or 1][: bool(tokens % 1000)], device=DEVICE)

        def step(model: Any = model, ids: Any = ids, layout: Any = layout) -> None:
            with torch.autocast("cuda", torch.bfloat16):
                hidden = model(ids, layout)
            weight, times = model.head
            logprob(hidden[:-1], weight, ids[1:], times).logp.mean().backward()
            model.zero_grad(set_to_none=True)

        torch.cuda.reset_peak_memory_stats()
        try:
            took = seconds(step, 3, 2)
            operations = 3 * roofline.prefill_operations(roofline.shape(config, name), 1000) / 1000 * tokens
            row |= {
                "seconds": took, "tokens_per_s": tokens / took, "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
                "mfu_of_989": operations / took / 989e12,
            }  # fmt: skip
        except torch.cuda.OutOfMemoryError as e:
            row["failed"] = str(e)[:200]
        del model, step
        gc.collect()
        torch.cuda.empty_cache()
    return rows
