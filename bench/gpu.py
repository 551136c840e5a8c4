"""The published throughput settings on one GPU: checks, then speeds against the device's own limits.

    python bench/gpu.py [--parts machine,check,decode,...] [--out FOLDER] [--quick] [--minutes 8.5]

Weights are random, drawn on the device in the true shapes. A decode step is timed as the engine runs it (CUDA graphs, head
and draw included, a chain of steps) at several context depths with every sequence's cache filled with random numbers; the
time of a whole request is the integral over its depths (trapezoids) plus its prompt's. `confirm` really decodes the last
tokens of full sequences. The roofline is `h1r.bench.roofline` with the copy bandwidth measured in the same run.

Parts: machine, check, decode (7B), baseline (Qwen3-8B), engine (the whole loop), prefill, long (262,144 tokens), train, scan (the
scan's and the convolution's kernels), siblings (64 traces of one prompt), pieces, confirm, transformers. Results: gpu.json in
FOLDER, and gpu.svg, tokens/s over the context.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from figures import decoding, rows_of
from gpu_scan import scan
from gpu_subject import DEVICE, LATE, PAGE, Clock, Subject, limits, random_model, seconds
from gpu_train import train

from h1r.bench import roofline
from h1r.engine import Engine, EngineConfig
from h1r.engine.cuda.decoder import Decoder, nbytes, quantised
from h1r.engine.request import Request, Sequence
from h1r.model import PRESETS, H1Config
from h1r.model.cache import Cache, Sequences
from h1r.ops import Layout
from h1r.types import Prompt, SamplingParams

WIDTHS = {torch.bfloat16: 2.0, torch.float32: 4.0, torch.float8_e4m3fn: 1.0}
SETTINGS = ((512, 32768, 32), (512, 32768, 64), (8192, 16384, 64), (8192, 16384, 128))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="machine,check,decode,baseline,engine,prefill,confirm,transformers")
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--quick", action="store_true", help="fewer depths and repeats")
    parser.add_argument("--minutes", type=float, default=8.5, help="nothing new begins after so many")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no CUDA device here; on a CPU, use `h1r bench` and bench/peers.py")
    results: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    known: dict[str, Callable[[dict[str, Any], bool], Any]] = {
        "machine": machine, "check": check, "decode": decode, "baseline": baseline, "engine": engine, "prefill": prefill,
        "long": long, "train": train, "confirm": confirm, "transformers": transformers, "pieces": pieces,
        "scan": scan, "siblings": siblings,
    }  # fmt: skip
    unknown = [part for part in args.parts.split(",") if part not in known]
    if unknown:
        parser.error(f"--parts: no part {', '.join(unknown)}; known are {', '.join(known)}")
    args.out.mkdir(parents=True, exist_ok=True)
    Clock.end = time.monotonic() + 60 * args.minutes
    for part in args.parts.split(","):
        begin = time.time()
        try:
            results[part] = LATE if Clock.late() else known[part](results, args.quick)
        except Exception as e:  # one part's failure must not cost the others' figures
            results[part] = {"failed": f"{type(e).__name__}: {e}"[:400]}
        gc.collect()
        torch.cuda.empty_cache()
        print(f"== {part} ({time.time() - begin:.0f} s): {json.dumps(results[part], default=str)}", flush=True)
        (args.out / "gpu.json").write_text(json.dumps(results, indent=1, default=str))
    if rows_of(results.get("decode")):
        (args.out / "gpu.svg").write_text(decoding(results))


def machine(_: dict[str, Any], quick: bool) -> dict[str, float]:
    """Bytes a second of a copy (read and written), and operations a second of a large bf16 product."""
    a = torch.empty(1 << 30, dtype=torch.float32, device=DEVICE).normal_()
    b = torch.empty_like(a)
    copy = 2 * a.numel() * 4 / seconds(partial(b.copy_, a))
    del a, b
    m = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    peak = 2 * 8192**3 / seconds(lambda: m @ m)
    free, total = torch.cuda.mem_get_info()
    return {"copy": copy, "peak": peak, "memory": total, "free": free}


def widths(weights: str, kv: torch.dtype, state: torch.dtype) -> roofline.Widths:
    return roofline.Widths(1.0 if weights in ("fp8", "int8") else 2.0, WIDTHS[kv], WIDTHS[state], 2.0)


def depths_of(prompt: int, out: int, quick: bool) -> list[int]:
    parts = 2 if quick else 4
    return [prompt + out * i // parts for i in range(parts + 1)]


def measured(
    model: Any, config: Any, name: str, weights: str, kv: torch.dtype, state: torch.dtype, settings: Any,
    results: dict[str, Any], quick: bool, every: int = 1,
) -> list[dict[str, Any]]:  # fmt: skip
    """Steps at several depths for each (prompt, out, batch), and what follows for the whole request."""
    here = limits(results)
    device = roofline.Hardware("gpu", here["copy"], here["memory"], here["peak"])
    shape, wide = roofline.shape(config, name), widths(weights, kv, state)
    rows = []
    for prompt, out, batch in settings:
        need = nbytes(model) + batch * roofline.sequence_bytes(shape, prompt + out + 256, wide)
        row: dict[str, Any] = {
            "model": name, "prompt": prompt, "out": out, "batch": batch, "weights": weights,
            "kv": str(kv)[6:], "state": str(state)[6:], "state_every": every, "need_gb": round(need / 1e9, 1),
        }  # fmt: skip
        rows.append(row)
        if Clock.late():
            row |= LATE
            continue
        if need + 4e9 > here["memory"]:
            row["fits"] = False
            continue
        subject = Subject(model, config, batch, prompt + out, kv, state, every)
        depths = depths_of(prompt, out, quick)
        steps = [subject.step_seconds(min(d, prompt + out - 1), 12 if quick else 20) for d in depths]
        whole = sum((a + b) / 2 for a, b in pairwise(steps)) * out / (len(steps) - 1)
        ideal = [roofline.step_seconds(shape, device, batch, d, wide) for d in depths]
        row |= {
            "step_ms": [round(s * 1e3, 3) for s in steps],
            "depths": depths,
            "bytes_per_s": [roofline.step_bytes(shape, batch, d, wide) / s for d, s in zip(depths, steps, strict=True)],
            "of_roofline": [round(i / s, 3) for i, s in zip(ideal, steps, strict=True)],
            "decode_tokens_per_s": round(batch * out / whole, 1),
            "with_prefill_at_half_peak": round(
                batch * out / (whole + batch * roofline.prefill_operations(shape, prompt) / (0.5 * device.peak)), 1
            ),
            "roofline_tokens_per_s": round(roofline.tokens_per_second(shape, device, batch, prompt, out, wide), 1),
        }
        print(json.dumps(row), flush=True)
        del subject
        gc.collect()
        torch.cuda.empty_cache()
    return rows


def decode(results: dict[str, Any], quick: bool) -> list[dict[str, Any]]:
    """The 7B shape: bf16 with bf16 and fp32 states, both also written every 16 tokens only, then fp8 cache and weights. Shares
    are of the roofline in which a state is read and written every token."""
    model, config = random_model(PRESETS["7b"])
    bf16, fp32, fp8 = torch.bfloat16, torch.float32, torch.float8_e4m3fn
    rows = measured(model, config, "7b", "bf16", bf16, bf16, SETTINGS, results, quick)
    rows += measured(model, config, "7b", "bf16", bf16, fp32, SETTINGS[:2], results, quick)
    rows += measured(model, config, "7b", "bf16", bf16, bf16, SETTINGS[:2], results, quick, every=16)
    rows += measured(model, config, "7b", "bf16", bf16, fp32, SETTINGS[:2], results, quick, every=16)
    rows += measured(quantised(model), config, "7b", "fp8", fp8, bf16, SETTINGS, results, quick)
    del model
    model, config = random_model(PRESETS["7b"])
    rows += measured(quantised(model, torch.int8), config, "7b", "int8", fp8, bf16, SETTINGS[1:2], results, quick)
    return rows


def siblings(_: dict[str, Any], quick: bool) -> list[dict[str, Any]]:
    """The 7B shape in bf16, 64 traces of one prompt (DeepConf, GRPO): steps with its pages read by each, and once for all."""
    model, config = random_model(PRESETS["7b"])
    rows = []
    for prompt, depth in (
        ((2048, 6144), (16384, 20480)) if quick else ((2048, 2560), (2048, 6144), (16384, 17408), (16384, 32768))
    ):
        subject = Subject(model, config, 64, depth, torch.bfloat16, torch.bfloat16)
        row: dict[str, Any] = {"batch": 64, "prompt": prompt, "depth": depth}
        for name, shared in (("alone", False), ("together", True)):
            subject.decoder.siblings = shared
            row[f"{name} ms"] = 1e3 * subject.step_seconds(depth, 12, prompt)
        assert subject.decoder.shares
        rows.append(row | {"times": row["alone ms"] / row["together ms"]})
        del subject
        gc.collect()
        torch.cuda.empty_cache()
    return rows


def baseline(results: dict[str, Any], quick: bool) -> list[dict[str, Any]]:
    """Qwen3-8B's shape in the same engine: at the published batches where it fits, and at what fits."""
    model, config = random_model(roofline.QWEN3_8B)
    bf16 = torch.bfloat16
    settings = [(512, 32768, 64), (512, 32768, 20), (8192, 16384, 28), (512, 8192, 64)]
    return measured(model, config, "qwen3-8b", "bf16", bf16, bf16, settings, results, quick)


def check(_: dict[str, Any], quick: bool) -> dict[str, float]:
    """Two layers of the 7B's widths: a step's logits against the model's own decode and forward, relative error."""
    out = {}
    for name, shape in (("7b", PRESETS["7b"]), ("qwen3-8b", roofline.QWEN3_8B)):
        model, config = random_model(shape, layers=2)
        lengths, batch = [100, 700, 64], 3
        cache = [Cache(config, 40, PAGE, 4, torch.bfloat16, torch.float32, DEVICE) for _ in range(2)]
        table = torch.arange(36, device=DEVICE).view(3, 12)
        ids = torch.randint(0, config.vocab_size, (sum(lengths) + 3,), device=DEVICE)
        slots = torch.arange(3, device=DEVICE)
        with torch.inference_mode():
            for c in cache:
                zero = Sequences(slots, table, torch.zeros_like(slots))
                model.forward(ids[:-3], Layout.of(lengths, device=DEVICE), c, zero)
            where = torch.tensor(lengths, device=DEVICE)
            want = model.logits(model.decode(ids[-3:], where, cache[0], Sequences(slots, table, where)))
            rows = []
            for i in range(batch):
                request = Request(id=i, prompt=Prompt(token_ids=(0,)), sampling=SamplingParams(), seed=i, limit=99)
                s = Sequence(request=request, index=0, slot=i, pages=table[i].tolist(), length=lengths[i])
                s.token_ids.append(int(ids[len(ids) - 3 + i]))
                rows.append(s)
            got = Decoder(model, cache[1], 4, 12).logits(rows)
        out[name] = float((got - want).norm() / want.norm())
        assert out[name] < 0.02, out
    return out


def pieces(_: dict[str, Any], quick: bool) -> dict[str, float]:
    """Microseconds of each kernel of a 7B step: 64 rows, 16,896 tokens deep."""
    from torch.profiler import ProfilerActivity, profile

    model, config = random_model(PRESETS["7b"], layers=4)
    out: dict[str, float] = {}
    for label, kv in (("bf16", torch.bfloat16), ("fp8", torch.float8_e4m3fn)):
        subject = Subject(quantised(model) if label == "fp8" else model, config, 64, 16896, kv, torch.bfloat16)
        subject.step_seconds(16896, 3)
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            for _ in range(5):
                subject.decoder.launch(subject.rows(16896), None)
            torch.cuda.synchronize()
        for event in seen.key_averages():
            if event.device_time_total > 0:
                out[f"{label} {event.key[:48]} x{event.count / 5:.0f}"] = round(
                    event.device_time_total / event.count, 1
                )
        del subject
    return out


def engine(results: dict[str, Any], quick: bool) -> dict[str, Any]:
    """The whole loop, host included: 64 prompts of 512 tokens, tokens a second once all decode, beside bare graph replays."""
    model, config = random_model(PRESETS["7b"])
    options = EngineConfig(
        sequences=64, memory_bytes=40 << 30, state_dtype=torch.bfloat16, prefixes=0, chunk=8192, seed=0
    )
    e = Engine(model, config, options)
    length = 160 if quick else 320
    for i in range(64):
        prompt = Prompt(token_ids=tuple((7 * i + j) % 5000 for j in range(512)))
        e.add(prompt, SamplingParams(temperature=0.6, top_p=0.95, max_tokens=length, ignore_eos=True))
    marks = []
    while e.busy:
        e.step()
        marks.append(time.perf_counter())
    torch.cuda.synchronize()
    each = sorted(b - a for a, b in zip(marks[-length // 2 :], marks[-length // 2 + 1 :], strict=False))
    step = each[len(each) // 2]
    subject = Subject(model, config, 64, 512 + length, torch.bfloat16, torch.bfloat16)
    bare = subject.step_seconds(512 + length * 3 // 4, 20)
    return {"engine_ms": step * 1e3, "bare_ms": bare * 1e3, "tokens_per_s": 64 / step, "overhead": step / bare - 1}


def prefill(results: dict[str, Any], quick: bool) -> list[dict[str, float]]:
    """Prompts in one chunk: seconds and share of the measured peak."""
    model, config = random_model(PRESETS["7b"])
    shape, peak = roofline.shape(config, "7b"), limits(results)["peak"]
    rows = []
    for tokens in (2048, 8192):
        cache = Cache(config, tokens // PAGE + 1, PAGE, 1, torch.bfloat16, torch.float32, DEVICE)
        ids = torch.randint(0, config.vocab_size, (tokens,), device=DEVICE)
        first = Sequences(*(t.to(DEVICE) for t in (
            torch.zeros(1, dtype=torch.int64), torch.arange(tokens // PAGE + 1)[None], torch.zeros(1, dtype=torch.int64)
        )))  # fmt: skip
        layout = Layout.of((tokens,), device=DEVICE)
        with torch.inference_mode():
            took = seconds(partial(model.forward, ids, layout, cache, first), 5, 2)
        operations = roofline.prefill_operations(shape, tokens)
        rows.append({
            "tokens": tokens, "seconds": took, "tokens_per_s": tokens / took, "of_989": operations / took / 989e12,
            "of_measured_peak": operations / took / peak,
        })  # fmt: skip
    return rows


def long(results: dict[str, Any], quick: bool) -> dict[str, Any]:
    """262,144 tokens of one sequence on the 7B shape: chunks of the prompt at several depths, and decoding at the end."""
    model, config = random_model(PRESETS["7b"])
    tokens, chunk = 262144, 8192
    torch.cuda.reset_peak_memory_stats()
    subject = Subject(model, config, 1, tokens, torch.bfloat16, torch.float32)
    pages = torch.arange(subject.each, device=DEVICE)[None]
    ids = torch.randint(0, config.vocab_size, (chunk,), device=DEVICE)
    depths, took = [0, 65536, 131072, tokens - chunk], []
    for depth in depths:
        layout = Layout.of((chunk,), offsets=(depth,), device=DEVICE)
        here = Sequences(torch.zeros(1, dtype=torch.int64, device=DEVICE), pages, torch.tensor([depth], device=DEVICE))
        with torch.inference_mode():
            took.append(seconds(lambda l=layout, h=here: model.forward(ids, l, subject.cache, h), 2, 1))  # type: ignore[misc]
    whole = sum(
        (a + b) / 2 * (high - low) / chunk
        for a, b, low, high in zip(took, took[1:], depths, [*depths[1:-1], tokens], strict=False)
    )
    step = subject.step_seconds(tokens - 1, 10)
    return {
        "chunk_seconds": took, "depths": depths, "prefill_seconds": whole, "decode_tokens_per_s": 1 / step,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "formula_gb": (nbytes(model) + roofline.sequence_bytes(roofline.shape(config, "7b"), tokens)) / 1e9,
    }  # fmt: skip


def confirm(results: dict[str, Any], quick: bool) -> dict[str, Any]:
    """The last tokens of 64 sequences at 32k, really decoded one after another from filled caches."""
    model, config = random_model(PRESETS["7b"])
    count = 128 if quick else 1024
    subject = Subject(quantised(model), config, 64, 33280, torch.float8_e4m3fn, torch.bfloat16)
    subject.step_seconds(33280 - count, 2)
    rows = subject.rows(33280 - count)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(count):
        flight = subject.decoder.launch(rows, None)
    flight.wait()
    took = time.perf_counter() - begin
    return {"tokens": count, "sequences": 64, "tokens_per_s": 64 * count / took, "weights": "fp8", "kv": "fp8"}


def transformers(results: dict[str, Any], quick: bool) -> dict[str, Any]:
    """transformers' FalconH1 of the 7B shape: 64 sequences of 512 tokens, 24 new tokens each, its own generate."""
    from transformers import FalconH1Config, FalconH1ForCausalLM

    shape = PRESETS["7b"]
    assert isinstance(shape, H1Config)
    names = [f.name for f in dataclasses.fields(shape) if f.name not in ("dtype",)]
    given = {n: getattr(shape, n) for n in names}
    config = FalconH1Config(**{k: list(v) if isinstance(v, tuple) else v for k, v in given.items()})
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(DEVICE):
            model = FalconH1ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    ids = torch.randint(5, config.vocab_size, (64, 128 if quick else 512), device=DEVICE)
    times = {}
    for count in (4, 4, 28):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.inference_mode():
            model.generate(ids, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        torch.cuda.synchronize()
        times[count] = time.perf_counter() - begin
    return {"batch": 64, "depth": ids.shape[1], "step_ms": (times[28] - times[4]) / 24 * 1e3}


if __name__ == "__main__":
    main()
