"""The roofline reproduces published shapes and a hand calculation; measurements move with what they measure."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
import torch

from h1r.bench.decode import decode
from h1r.bench.long import long, middle
from h1r.bench.memory import memory
from h1r.bench.prefill import prefill
from h1r.bench.quality import compare, q4_k, q8_0, quality
from h1r.bench.replay import replay
from h1r.bench.roofline import (
    HARDWARE,
    QWEN3_8B,
    Widths,
    resident,
    sequence_bytes,
    shape,
    step_bytes,
    throughput,
    tokens_per_second,
    weight_bytes,
)
from h1r.bench.subject import filled, read_prompt, subject
from h1r.bench.twin import crossover, twin
from h1r.model.presets import PRESETS, bytes_per_sequence, qwen3_twin
from h1r.ops.layout import Layout

H1R, QWEN = shape(PRESETS["falcon-h1r-7b"], "falcon-h1r-7b"), shape(QWEN3_8B, "qwen3-8b")
TINY = PRESETS["quickstart"]


def test_shapes_give_the_published_sizes():
    assert (H1R.body + H1R.head + H1R.embedding) / 1e6 == pytest.approx(7585.5, abs=0.6)
    assert (H1R.kv * 2, QWEN.kv * 2) == (45056, 147456)
    assert H1R.state * 2 / 1e6 == pytest.approx(69.2, abs=0.05)
    assert H1R.conv * 2 / 1e6 == pytest.approx(0.95, abs=0.005)
    kib = 1 / 2**30
    assert sequence_bytes(H1R._replace(state=0, conv=0), 262144) * kib == 11.0
    assert sequence_bytes(QWEN, 262144) * kib == 36.0


@pytest.mark.parametrize(
    ("workload", "hardware", "h1r", "qwen"),
    [
        ((512, 32768), "h100", (2476, 2968), (1129, 1227)),
        ((512, 32768), "h200", (3545, 4251), (1617, 1757)),
        ((8192, 16384), "h100", (2429, 2902), (1137, 1237)),
        ((8192, 16384), "h200", (3427, 4081), (1617, 1756)),
        ((512, 8192), "h100", (4167, 5782), (2889, 3629)),
    ],
)
def test_ideal_rates(workload, hardware, h1r, qwen):
    """Independent calculations of the same bound, batches 32 and 64, one device."""
    for model, want in ((H1R, h1r), (QWEN, qwen)):
        got = [tokens_per_second(model, HARDWARE[hardware], batch, *workload) for batch in (32, 64)]
        assert got == pytest.approx(want, rel=1.2e-3)


def test_what_fits_and_what_then_remains():
    rows = {(r["prompt"], r["out"], r["batch"]): r for r in throughput(H1R, QWEN, HARDWARE["h100"])}
    row = rows[512, 32768, 64]
    assert not row["model"]["fits"] and int(row["model"]["resident"]) == 35 and int(row["baseline"]["resident"]) == 11
    assert row["model"]["sustained"] == pytest.approx(2548, rel=1e-3)
    assert row["baseline"]["sustained"] == pytest.approx(866, rel=1e-3)
    assert row["model"]["published"] == {"tokens_per_second_per_gpu": 1520.0, "tp": 2, "dp": 2}
    assert rows[8192, 16384, 64]["model"]["sustained"] == pytest.approx(2711, rel=2e-3)
    assert rows[512, 8192, 64]["model"]["fits"] and rows[512, 8192, 64]["model"]["step_ms"] == pytest.approx(
        11.0, abs=0.06
    )
    assert resident(H1R, HARDWARE["h200"], 262144) == pytest.approx(9.4, abs=0.05)
    assert resident(QWEN, HARDWARE["h100"], 262144, Widths(kv=1.0)) == pytest.approx(2.8, abs=0.05)
    json.dumps(list(rows.values()))


def test_bytes_of_a_step():
    """64 sequences in the middle of 512 -> 32k: weights 14.4, keys and values 48.7, states 8.9, the rest 0.2 GB."""
    parts = [
        step_bytes(H1R, 0, 16896),
        step_bytes(H1R._replace(body=0, head=0, state=0, conv=0, vocab=0), 64, 16896),
        step_bytes(H1R._replace(body=0, head=0, kv=0, conv=0, vocab=0), 64, 16896),
    ]
    assert [p / 1e9 for p in parts] == pytest.approx([14.4, 48.7, 8.9], abs=0.06)
    assert step_bytes(H1R, 64, 16896) - sum(parts) == pytest.approx(0.2e9, abs=0.02e9)
    assert weight_bytes(H1R) / 1e9 == pytest.approx(15.17, abs=0.01)
    fp8 = tokens_per_second(H1R, HARDWARE["h100"], 32, 512, 32768, Widths(kv=1.0))
    assert fp8 == pytest.approx(3444, rel=1.2e-3)


def test_decode_rows_are_measured():
    rows = list(decode({"quickstart": TINY}, batches=(1, 32), contexts=(64,), seconds=0.2))
    one, many = rows
    # PyTorch's cost a call is spread over the batch; the native kernel has next to none, and gains by reading weights once.
    assert many["tokens_per_second"] > 1.5 * one["tokens_per_second"]
    assert one["best"] >= one["tokens_per_second"] > 20
    assert one["gigabytes_per_second"] == pytest.approx(one["share"] * one["bandwidth"])
    assert 0.5 < one["bandwidth"] < 5000


def test_prefill_rows_are_measured():
    (row,) = prefill({"quickstart": TINY}, lengths=(256,), rounds=2, chunk=100)
    assert row["tokens_per_second"] == pytest.approx(256 / row["seconds"])
    assert 0 < row["share"] < 1.5 and row["gigaflops"] > 0.05


@pytest.mark.parametrize("format", ["float32", "bfloat16"])
def test_decode_benchmark_computes_the_model(format):
    """The cache the benchmark fills is one the model decodes from: reading a prompt and decoding agree."""
    model = subject(TINY, format, seed=1)
    at = filled(model, 1, 0, 9)
    ids = torch.arange(8)
    with torch.inference_mode():
        want = model.forward(ids, Layout.of((8,)))[-1]
        model.forward(ids[:7], Layout.of((7,)), at.cache, at.sequences)
        seen = at.sequences._replace(lengths=torch.tensor([7]))
        got = model.decode(ids[7:], torch.tensor([7]), at.cache, seen)[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    read_prompt(model, 12, 5)


def test_quality_orders_the_formats():
    """More bits lose less; bf16 agrees almost always; what is emulated lies where its bits put it."""
    config = replace(TINY, hidden_size=128, mamba_d_ssm=160, mamba_d_head=80, mamba_n_heads=2, head_dim=32)
    config = replace(config, num_attention_heads=3, intermediate_size=256)
    rows = {r["format"]: r for r in quality({"q": config}, ("bfloat16", "int8", "int4", "q8_0"), tokens=256)}
    assert rows["bfloat16"]["kl"] < rows["int4"]["kl"] and rows["int8"]["kl"] < rows["int4"]["kl"] / 10
    assert rows["int8"]["kl"] < 2 * rows["q8_0"]["kl"] and rows["bfloat16"]["agreement"] > 0.95
    assert 0 <= rows["int8"]["kl"] <= rows["int8"]["kl_max"]
    assert rows["int8"]["megabytes"] == pytest.approx(rows["bfloat16"]["megabytes"] * 8.25 / 16)
    json.dumps(rows)


def test_emulated_blocks_are_within_their_step():
    weight = torch.randn(32, 512, generator=torch.Generator().manual_seed(0))
    step = weight.unflatten(1, (-1, 32)).abs().amax(-1) / 127
    assert float(((q8_0(weight) - weight).unflatten(1, (-1, 32)).abs().amax(-1) / step).max()) <= 0.57
    loss = [float((f(weight) - weight).square().mean().sqrt()) for f in (q8_0, q4_k)]
    assert loss[0] < 0.007 and 0.04 < loss[1] < 0.09


def test_distributions_that_are_equal_have_no_divergence():
    p = torch.randn(5, 30, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    assert compare(p, p) == {"kl": 0.0, "kl_max": 0.0, "agreement": 1.0, "confidence": 0.0}
    other = p.clone()
    other[0] = torch.full((30,), 1 / 30).log()
    want = float((p[0].exp() * (p[0] - other[0])).sum())
    assert compare(p, other)["kl"] == pytest.approx(want / 5, rel=1e-5)


def test_replay_reports_gaps_floor_and_cost():
    rows = {r["mode"]: r for r in replay({"q": TINY}, tokens=40, traces=2)}
    assert rows["fast"]["mean"] <= 1e-6 and rows["fast"]["most"] <= 1e-5 and rows["fast"]["cost"] == 1.0
    assert rows["exact"]["mean"] <= rows["fast"]["mean"] and rows["exact"]["cost"] > 1.5
    if rows["exact"]["floor"] == 0.0:
        assert rows["exact"]["equal"] == rows["exact"]["own"] == 1.0
    if "native" in rows:
        assert rows["native"]["mean"] <= 1e-6 and rows["native"]["own"] == 1.0


def test_long_context_is_measured():
    (row,) = long({"q": TINY}, 2048, prefill=512, format="bfloat16", chunk=128, seconds=0.2)
    assert row["cache_bytes"] >= row["sequence_bytes"] and row["cache_bytes"] < 1.4 * row["sequence_bytes"]
    assert row["prefill_tokens_per_second"] == pytest.approx(512 / row["prefill_seconds"])
    assert 0 < row["peak_gib"] < row["allowed_gib"] and row["share"] > 0
    json.dumps(row)


def test_middle_of_a_workload_is_measured_or_explained():
    rows = list(middle({"q": TINY}, [(64, 128)], "cpu", "bfloat16", batches=(1, 4), seconds=0.1))
    assert rows[1]["tokens_per_second"] > rows[0]["tokens_per_second"] > 0
    if not torch.cuda.is_available():
        (row,) = middle({"q": TINY}, [(64, 128)], "cuda", "bfloat16", batches=(1,))
        assert row["note"] == "no cuda here" and "tokens_per_second" not in row


def test_memory_formula_is_what_is_allocated():
    models = {"7b": PRESETS["7b"], "quickstart": TINY, "twin": qwen3_twin(TINY)}
    for row in memory(models, contexts=(512, 8192), budget=80 * 10**9):
        assert row["allocated_bytes"] == row["sequence_bytes"]
        assert row["sequences"] == (80 * 10**9 - row["weight_bytes"]) // row["sequence_bytes"]
    (odd,) = memory({"q": TINY}, contexts=(513,))
    # whole pages: 63 tokens more, of 2 x 1 head x 32 channels x 4 layers x 2 bytes
    assert odd["allocated_bytes"] - odd["sequence_bytes"] == 63 * 2 * 32 * 4 * 2


def test_twin_pairs_both_sides():
    begun = time.perf_counter()
    got = twin(TINY, contexts=(128, 2048), batch=4, seconds=2.0)
    assert time.perf_counter() - begun < 20
    short, long = got["rows"]
    a, b = got["parameters"]["hybrid"], got["parameters"]["twin"]
    assert abs(a / b - 1) <= 0.01
    # four times the key/value heads, so the twin slows down more as context grows, and outweighs the hybrid
    assert long["ratio"] > short["ratio"]
    assert long["memory_ratio"] > 3 and long["memory_ratio"] > short["memory_ratio"]
    assert long["hybrid"]["bytes_per_sequence"] == bytes_per_sequence(TINY, 2048, "float32")
    n = got["crossover_bytes"]
    other = qwen3_twin(TINY)
    assert bytes_per_sequence(TINY, n, "float32") <= bytes_per_sequence(other, n, "float32")
    assert bytes_per_sequence(TINY, n - 1, "float32") > bytes_per_sequence(other, n - 1, "float32")
    assert n == crossover(TINY, other)
    json.dumps(got)
    capped = twin(TINY, contexts=(4096,), batch=8, seconds=0.1, memory_bytes=20 << 20)
    assert capped["rows"][0]["batch"] == 1


def test_the_bound_of_bf16_is_no_lower_than_fp32s():
    from h1r.bench import limits

    found = limits.measure(megabytes=16, size=128, rounds=3, dtypes=("float32", "bfloat16")).products
    assert found["bfloat16"] >= found["float32"] > 0
