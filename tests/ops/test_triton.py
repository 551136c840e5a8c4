"""Triton's kernels against the references: through the interpreter on a CPU (fp32), compiled on a GPU (fp32 and bf16)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from h1r.ops import Layout, norm
from h1r.ops.attention import rotate, rotation
from h1r.ops.attention.decode import decode as attend
from h1r.ops.conv.reference import conv as reference_conv
from h1r.ops.conv.step import step as conv_step
from h1r.ops.ssd.chunk import ssd as chunk_ssd
from h1r.ops.ssd.reference import ssd as reference_ssd
from h1r.ops.ssd.step import step as ssd_step

pytest.importorskip("triton", reason="needs triton: pip install 'triton>=3.7.1,<3.8'")
GPU = torch.cuda.is_available()
import h1r.ops.attention.triton as attention_kernels  # noqa: E402
import h1r.ops.conv.triton as conv_kernels  # noqa: E402
import h1r.ops.draw.triton as draw_kernels  # noqa: E402
import h1r.ops.linear.triton as linear_kernels  # noqa: E402
import h1r.ops.norm.triton as norm_kernels  # noqa: E402
import h1r.ops.ssd.triton as ssd_kernels  # noqa: E402
import h1r.ops.ssd.triton_backward as ssd_backward  # noqa: E402
import h1r.ops.ssd.triton_recent as ssd_recent  # noqa: E402

Kind = tuple[str, torch.dtype]
KINDS = [
    pytest.param(("cpu", torch.float32), marks=pytest.mark.skipif(GPU, reason="compiled, not interpreted, here")),
    pytest.param(("cuda", torch.float32), marks=pytest.mark.gpu),
    pytest.param(("cuda", torch.bfloat16), marks=pytest.mark.gpu),
]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param[0] == "cuda" and not GPU:
        pytest.skip("needs a CUDA device")
    found: Kind = request.param
    return found


def draws(kind: Kind, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(*kind)


def near(got: Tensor, want: Tensor, kind: Kind, factor: float = 1.0) -> None:
    error = (got.double() - want.double()).norm() / want.double().norm()
    assert error <= factor * TOLERANCE[kind[1]], float(error)


def nan(kind: Kind, *shape: int) -> Tensor:
    return torch.full(shape, torch.nan, dtype=kind[1], device=kind[0])


def whole(values: Sequence[int], kind: Kind) -> Tensor:
    return torch.tensor(values, device=kind[0])


def test_rms_adds_the_residual_and_normalises(kind: Kind) -> None:
    h, more, weight = draws(kind, 3, 40), draws(kind, 3, 40, seed=1), draws(kind, 40)
    out, kept = nan(kind, 3, 40), h.clone()
    norm_kernels.rms(kept, more, weight, 1e-5, out)
    assert torch.equal(kept, h + more)
    near(out, norm.rms(h + more, weight, 1e-5), kind)
    norm_kernels.rms(kept, None, None, 1e-5, out)
    near(out, norm.rms(h + more, None, 1e-5), kind)


def test_rms_joins_the_parts_of_a_product(kind: Kind) -> None:
    h, scale, columns = draws(kind, 3, 40), draws(kind, 3, 1).float(), draws(kind, 1, 40).float()
    parts = draws((kind[0], torch.float32), 5, 3, 40)
    out, want = nan(kind, 3, 40), (h.float() + parts.sum(0) * scale * columns).to(kind[1])
    kept = h.clone()
    norm_kernels.rms(kept, norm_kernels.Sums(parts, scale, columns), None, 1e-5, out)
    near(kept, want, kind)
    near(out, norm.rms(want, None, 1e-5), kind)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("rows", [3, 70])
def test_product_of_few_rows(kind: Kind, rows: int, scaled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Odd numbers of rows and outputs, inputs split among programs, the sums joined here or by the caller."""
    monkeypatch.setattr(linear_kernels, "splits_for", lambda tiles, steps, device: 3)
    size = 4 if kind[1] == torch.float32 else 2
    tile = linear_kernels.Tile(32, 32 * size, 4, 3)
    monkeypatch.setattr(linear_kernels, "TILES", {size: tile})
    x, weight = draws(kind, rows, 256), draws(kind, 75, 256)
    scale, columns = (draws(kind, rows, 1).float(), draws(kind, 1, 75).float()) if scaled else (None, None)
    want = x.double() @ weight.double().t()
    if scale is not None and columns is not None:
        want = want * scale * columns
    near(linear_kernels.product(x, weight, scale, columns, torch.float32), want, kind)
    parts = linear_kernels.product(x, weight, scale, columns, torch.float32, join=False)
    assert parts.shape == (3, rows, 75)
    if not scaled:
        near(parts.sum(0), want, kind)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=("int8", "fp8"))
def test_codes_of_rows(kind: Kind, dtype: torch.dtype) -> None:
    from h1r.ops.linear import coded

    if kind[0] == "cpu" and dtype == torch.float8_e4m3fn:
        pytest.skip("the interpreter has no fp8")
    x, both = draws(kind, 5, 48), draws(kind, 5, 96)
    x[3] = 0
    given = x, norm.rms(x, None, 1e-5), torch.nn.functional.silu(both[:, :48].float()) * both[:, 48:].float()
    for form, wanted in enumerate(given):
        codes, scale = coded.quantise(wanted, dtype)
        out = norm_kernels.Codes(torch.empty_like(codes), torch.full_like(scale, torch.nan))
        if form == 0:
            linear_kernels.quantise(x, *out)
        elif form == 1:
            norm_kernels.rms(x.clone(), None, None, 1e-5, out)
        else:
            linear_kernels.glu(both[:, :48], both[:, 48:], *out)
        near(out.codes.float() * out.scale, codes.float() * scale, (kind[0], torch.bfloat16), 2.0)
        assert (out.scale / scale - 1).abs().max() < 0.01


@pytest.mark.parametrize("rows", [3, 70])
def test_product_of_int8_codes_is_exact(kind: Kind, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind[1] != torch.float32:
        pytest.skip("codes have no other precision")
    monkeypatch.setattr(linear_kernels, "splits_for", lambda tiles, steps, device: 3)
    generator = torch.Generator().manual_seed(rows)
    x, weight = (
        torch.randint(-127, 128, (n, 384), generator=generator, dtype=torch.int8).to(kind[0]) for n in (rows, 75)
    )
    scale, columns = draws(kind, rows, 1).abs(), draws(kind, 1, 75).abs()
    want = (x.long().cpu() @ weight.long().cpu().t()).double()
    parts = linear_kernels.product(x, weight, None, None, torch.float32, join=False)
    assert torch.equal(parts.double().sum(0).cpu(), want)
    near(
        linear_kernels.product(x, weight, scale, columns, torch.float32).cpu(),
        want * (scale * columns).double().cpu(),
        kind,
    )


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
def test_gated_norm_writes_into_a_wider_row(kind: Kind, before: bool, groups: int) -> None:
    y, row = draws(kind, 4, 36), draws(kind, 4, 50)
    out = nan(kind, 4, 60)
    norm_kernels.gated(y, row[:, 7:43], 1e-5, groups, before, True, out[:, :36])
    near(out[:, :36], norm.gated(y, row[:, 7:43], None, 1e-5, groups, before), kind)
    assert out[:, 36:].isnan().all()


def test_gate_without_a_norm_and_glu(kind: Kind) -> None:
    y, gate = draws(kind, 4, 36), draws(kind, 4, 36, seed=1)
    out = nan(kind, 4, 36)
    norm_kernels.gated(y, gate, 1e-5, 1, False, False, out)
    near(out, y.float() * torch.nn.functional.silu(gate.float()), kind)
    half = nan(kind, 4, 18)
    linear_kernels.glu(y[:, :18], y[:, 18:], half)
    near(half, torch.nn.functional.silu(y[:, :18].float()) * y[:, 18:].float(), kind)


@pytest.mark.parametrize("width", [2, 4])
def test_conv_step_shifts_its_slot(kind: Kind, width: int) -> None:
    row, weight, bias = draws(kind, 4, 50), draws(kind, 37, width), draws(kind, 37)
    pool = draws(kind, 6, width - 1, 37).transpose(1, 2)
    slots, positions = whole([4, 0, 5, 2], kind), whole([9, 0, -1, 1], kind)
    state = pool[slots].clone()
    state[1] = 0
    want = torch.nn.functional.silu(conv_step(row[:, 3:40], weight, bias, state).float())
    after, out = pool.clone(), nan(kind, 4, 37)
    after[0] = torch.nan  # a sequence that begins does not read its slot
    conv_kernels.step(row[:, 3:40], weight, bias, after, positions, slots, out)
    real = [0, 1, 3]
    near(out[real], want[real], kind)
    assert torch.equal(after[slots[real]], state[real])
    for untouched in (1, 3, 5):
        assert torch.equal(after[untouched], pool[untouched])


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("width", [2, 4])
def test_conv_of_packed_documents(kind: Kind, width: int, given: bool) -> None:
    lengths = (1, 40, 2, 33)
    layout = Layout.of(lengths, device=kind[0])
    row, weight, bias = draws(kind, sum(lengths), 50), draws(kind, 37, width), draws(kind, 37)
    state = draws(kind, 4, width - 1, 37).transpose(1, 2) if given else None
    got = conv_kernels.conv(row[:, 3:40], weight, bias, layout, state)
    want = reference_conv(
        row[:, 3:40].float(), weight.float(), bias.float(), layout, None if state is None else state.float()
    )
    near(got.out, want.out, kind)
    assert got.state is not None and want.state is not None
    assert torch.equal(got.state.float(), want.state)


@pytest.mark.parametrize("width", [2, 4])
def test_conv_gradients(kind: Kind, width: int) -> None:
    """Documents shorter than the taps reach, more tokens than a program takes, u a view of a wider row."""
    lengths = (1, 300, 2, 3, 33)
    layout = Layout.of(lengths, device=kind[0])
    row, bias = draws(kind, sum(lengths), 50), draws(kind, 37)
    leaves = [row[:, 3:40], draws(kind, 37, width), bias]
    grad = draws(kind, sum(lengths), 37, seed=1)
    got = torch.autograd.grad(
        conv_kernels.trained(*(t.requires_grad_() for t in leaves), layout), leaves, grad
    )  # fmt: skip
    exact = [t.detach().double().requires_grad_() for t in leaves]
    want = torch.autograd.grad(reference_conv(*exact, layout).out, exact, grad.double())
    for g, w in zip(got, want, strict=True):
        near(g, w, kind)


@pytest.mark.parametrize("groups", [1, 2])
def test_ssd_step_updates_its_slot(kind: Kind, groups: int) -> None:
    heads, p, n, batch = 4, 24, 40, 4
    channels = heads * p
    mixed, row = draws(kind, batch, channels + 2 * groups * n), draws(kind, batch, heads + 5)
    a, bias, skip = (draws((kind[0], torch.float32), heads, seed=s) for s in range(3))
    a = -a.exp()
    pool = draws((kind[0], torch.float32), 6, heads, p, n)
    slots, positions = whole([4, 0, 5, 2], kind), whole([9, 0, -1, 1], kind)
    state = pool[slots].clone()
    state[1] = 0
    x, b, c = mixed.float().split([channels, groups * n, groups * n], -1)
    x, b, c = x.unflatten(-1, (heads, p)), b.unflatten(-1, (groups, n)), c.unflatten(-1, (groups, n))
    dt = torch.nn.functional.softplus(row[:, 2 : 2 + heads].float() + bias).clamp(0.0, 3.0)
    want = (ssd_step(x, dt, a, b, c, state) + skip[:, None] * x).flatten(1)
    after, out = pool.clone(), nan(kind, batch, channels)
    after[0] = torch.nan
    ssd_kernels.step(mixed, row[:, 2 : 2 + heads], a, bias, skip, (0.0, 3.0), after, positions, slots, groups, out)
    real = [0, 1, 3]
    near(out[real], want[real], kind)
    near(after[slots[real]], state[real], (kind[0], torch.float32), 3.0)
    for untouched in (1, 3, 5):
        assert torch.equal(after[untouched], pool[untouched])


@pytest.mark.parametrize("groups", [1, 2])
def test_ssd_steps_with_a_state_written_now_and_then(kind: Kind, groups: int) -> None:
    """Eleven tokens, a state written every fourth, one sequence from zeros, another behind the first; then all settled."""
    heads, p, n, batch, every = 4, 24, 40, 4, 4
    channels, wide = heads * p, (kind[0], torch.float32)
    a, bias, skip = (draws(wide, heads, seed=s) for s in range(3))
    a = -a.exp()
    slots, begin = whole([4, 0, 5, 2], kind), torch.tensor([9, 0, -1, 1])
    pool = draws(wide, 6, heads, p, n)
    pool[0] = torch.nan  # of the sequence that begins
    recent = ssd_recent.Recent(
        nan(kind, 6, every, channels + groups * n),
        nan(wide, 6, every, heads),
        torch.zeros(6, dtype=torch.int32, device=kind[0]),
    )
    recent.pending[0] = 3  # left by whoever held the slot before
    state = pool[slots].clone()
    state[1] = 0
    after, real = pool.clone(), [0, 1, 3]
    for t in range(11):
        mixed, row = draws(kind, batch, channels + 2 * groups * n, seed=t), draws(kind, batch, heads + 5, seed=t)
        x, b, c = mixed.float().split([channels, groups * n, groups * n], -1)
        x, b, c = x.unflatten(-1, (heads, p)), b.unflatten(-1, (groups, n)), c.unflatten(-1, (groups, n))
        dt = torch.nn.functional.softplus(row[:, 2 : 2 + heads].float() + bias).clamp(0.0, 3.0)
        want = (ssd_step(x, dt, a, b, c, state) + skip[:, None] * x).flatten(1)
        positions, out = torch.where(begin < 0, -1, begin + t).to(kind[0]), nan(kind, batch, channels)
        given = mixed, row[:, 2 : 2 + heads], a, bias, skip, (0.0, 3.0), after, recent
        ssd_recent.step(*given, positions, slots, groups, out)
        ssd_recent.advance(recent, positions, slots)
        near(out[real], want[real], kind)
        assert recent.pending.tolist() == [(t + 1) % 4, 0, (t + 1) % 4, 0, (t + 1) % 4, 0]
    layered = ssd_recent.Recent(recent.rows[None], recent.steps[None], recent.pending)
    ssd_recent.settle(after[None], a[None], layered, slots, groups)
    near(after[slots[real]], state[real], wide, 3.0)
    assert not recent.pending.any()
    for untouched in (1, 3, 5):
        assert torch.equal(after[untouched], pool[untouched])


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_ssd_of_packed_documents(kind: Kind, given: bool, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, heads, p, n = (1, 70, 64, 131), 2 * groups, 24, 40
    layout = Layout.of(lengths, device=kind[0])
    tokens = sum(lengths)
    x, b, c = draws(kind, tokens, heads, p), draws(kind, tokens, groups, n), draws(kind, tokens, groups, n, seed=1)
    dt = draws(kind, tokens, heads).float().exp() * 0.1
    a = -draws((kind[0], torch.float32), heads).exp()
    state = draws((kind[0], torch.float32), len(lengths), heads, p, n) if given else None
    got = ssd_kernels.forward(x, dt, a, b, c, layout, state)
    want = reference_ssd(x, dt, a, b, c, layout, state)
    near(got[0], want.y, kind)
    near(got[1], want.state, kind)


@pytest.mark.parametrize(("groups", "given"), [(1, False), (2, True)])
def test_ssd_gradients(kind: Kind, groups: int, given: bool) -> None:
    """Chunks of one token, of whole and of part blocks; states in and out; odd sizes; b and c views of a wider row."""
    lengths, heads, p, n = (1, 70, 131), 2 * groups, 24, 40
    layout = Layout.of(lengths, device=kind[0])
    tokens, wide = sum(lengths), draws(kind, sum(lengths), 2 * groups * n + 3)
    b, c = (wide[:, s : s + groups * n].unflatten(1, (groups, n)) for s in (3, 3 + groups * n))
    leaves = [draws(kind, tokens, heads, p), draws(kind, tokens, heads).float().exp() * 0.1,
              -draws((kind[0], torch.float32), heads).exp(), b, c]  # fmt: skip
    if given:
        leaves.append(draws((kind[0], torch.float32), len(lengths), heads, p, n))
    dy, dlast = (
        draws(kind, tokens, heads, p, seed=2),
        draws((kind[0], torch.float32), len(lengths), heads, p, n, seed=3),
    )
    got = ssd_backward.backward(*leaves[:5], layout, leaves[5] if given else None, dy, dlast if given else None)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    scan = reference_ssd(*exact[:5], layout, exact[5] if given else None)
    assert scan.state is not None
    loss = (scan.y * dy.double()).sum() + ((scan.state * dlast.double()).sum() if given else 0.0)
    for name, g, w in zip(got._fields, got, torch.autograd.grad(loss, exact), strict=False):
        error = (g.double() - w).norm() / w.norm()
        assert error <= 3 * TOLERANCE[kind[1]], (name, float(error))


@pytest.mark.slow
def test_scan_and_gradients_at_the_7b_sizes(kind: Kind) -> None:
    """Heads of 128 channels and 256 states: several tiles a chunk. a's gradient sums terms that nearly cancel; there the PyTorch
    form in the same precision is the measure."""
    lengths, heads, p, n = (1, 150, 200), 2, 128, 256
    layout, tokens, wide = Layout.of(lengths, device=kind[0]), sum(lengths), (kind[0], torch.float32)
    leaves = [draws(kind, tokens, heads, p), draws(kind, tokens, heads).float().exp() * 0.1, -draws(wide, heads).exp(),
              draws(kind, tokens, 1, n), draws(kind, tokens, 1, n, seed=1), draws(wide, 3, heads, p, n)]  # fmt: skip
    dy, dlast = draws(kind, tokens, heads, p, seed=2), draws(wide, 3, heads, p, n, seed=3)

    def grads(scan: Callable[..., Any], given: list[Tensor]) -> tuple[Tensor, ...]:
        given = [t.detach().requires_grad_() for t in given]
        out = scan(*given[:5], layout, given[5])
        loss = (out.y * dy.to(out.y.dtype)).sum() + (out.state * dlast.to(out.state.dtype)).sum()
        return torch.autograd.grad(loss, given)

    y, state, *_ = ssd_kernels.forward(*leaves[:5], layout, leaves[5])
    exact = [t.double() for t in leaves]
    want = reference_ssd(*exact[:5], layout, exact[5])
    near(y, want.y, kind)
    near(state, want.state, kind)
    got = ssd_backward.backward(*leaves[:5], layout, leaves[5], dy, dlast)
    same = grads(chunk_ssd, leaves)
    for name, g, t, w in zip(got._fields, got, same, grads(reference_ssd, exact), strict=False):
        error, other = (float((v.double() - w).norm() / w.norm()) for v in (g, t))
        assert error <= max(3 * TOLERANCE[kind[1]], 2 * other), (name, error, other)


def test_ssd_gradients_through_autograd(kind: Kind) -> None:
    """Steps that decay fast and not at all (dt = 0), and a final state that the loss uses."""
    layout = Layout.of((5, 20), device=kind[0])
    given = [draws(kind, 25, 2, 16), draws(kind, 25, 2).float().exp() * 3.0, -draws((kind[0], torch.float32), 2).exp(),
             draws(kind, 25, 1, 16), draws(kind, 25, 1, 16, seed=1)]  # fmt: skip
    given[1][7:9] = 0.0
    grads = []
    for f in (ssd_kernels.ssd, reference_ssd):
        leaves = [t.detach().clone().requires_grad_() for t in given]
        scan = f(*leaves, layout)
        assert scan.state is not None
        grads.append(torch.autograd.grad(scan.y.float().square().sum() + scan.state.sum(), leaves))
    for g, w in zip(*grads, strict=True):
        near(g, w, kind, 3.0)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("fp8", [False, True])
def test_decode_attention_over_pages(kind: Kind, splits: int, fp8: bool) -> None:
    heads, kv, d, page, batch = 6, 2, 24, 16, 5
    lengths = [1, 16, 37, 0, 70]  # with the new token; 0: a padded row
    cache = torch.float8_e4m3fn if fp8 else kind[1]
    if fp8 and kind[0] == "cpu":
        pytest.skip("the interpreter has no fp8")
    pages = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    table = pages.view(8, 5).to(torch.int32).to(kind[0])
    slots = whole([3, 1, 7, 0, 2], kind)
    dense_k, dense_v = draws(kind, batch, 80, kv, d), draws(kind, batch, 80, kv, d, seed=1)
    keys, values = (nan(kind, 40, page, kv, d).to(cache) for _ in range(2))
    for row, length in enumerate(lengths):
        for t in range(length - 1):
            at = int(table[slots[row], t // page]), t % page
            keys[at], values[at] = dense_k[row, t].to(cache), dense_v[row, t].to(cache)
    positions = whole([n - 1 for n in lengths], kind)
    q_norm, k_norm = draws(kind, d).float(), draws(kind, d, seed=1).float()
    row = draws(kind, batch, (heads + 2 * kv) * d + 3)[:, 2 : 2 + (heads + 2 * kv) * d]
    q, k, v = row.split([heads * d, kv * d, kv * d], -1)
    turn = rotation(positions, d, 1e4)
    q = rotate(norm.rms(q.unflatten(-1, (-1, d)), q_norm, 1e-6), turn)
    k = rotate(norm.rms(k.unflatten(-1, (-1, d)), k_norm, 1e-6), turn)
    for r, length in enumerate(lengths):
        if length:
            dense_k[r, length - 1], dense_v[r, length - 1] = k[r], v.unflatten(-1, (-1, d))[r]
    if fp8:
        dense_k, dense_v = dense_k.to(cache).to(kind[1]), dense_v.to(cache).to(kind[1])
    turned, out = nan(kind, batch, heads, d), nan(kind, batch, heads * d + 5)
    attention_kernels.write(row, turn, keys, values, positions, slots, table, turned, q_norm, k_norm, 1e-6)
    attention_kernels.decode(turned, keys, values, positions, slots, table, out[:, 5:], splits)
    real = [0, 1, 2, 4]
    near(turned, q, kind)
    want = attend(q, dense_k, dense_v, whole(lengths, kind).clamp(min=1)).flatten(1)
    near(out[real, 5:], want[real], kind, 2.0 if fp8 and kind[1] == torch.bfloat16 else 500.0 if fp8 else 1.0)
    assert (out[3, 5:] == 0).all() and out[:, :5].isnan().all()


@pytest.mark.parametrize("splits", [1, 3])
def test_decode_attention_of_siblings(kind: Kind, splits: int) -> None:
    """Two prompts' siblings, one in two bundles, a row alone and a padded one; nothing else in the pages is a number."""
    heads, kv, d, page, pages = 6, 2, 24, 16, 60
    length, shared = [50, 33, 90, 40, 0, 49, 34], [32, 32, 0, 32, 0, 32, 32]
    family = [0, 0, 2, 1, 3, 0, 1]
    table = torch.arange(2, 2 + 7 * 7, dtype=torch.int32).view(7, 7)
    for row, mother in enumerate(family):
        if shared[row]:
            table[row, :2] = table[family.index(mother), :2]
    dense = [draws(kind, 7, 96, kv, d, seed=s) for s in (0, 1)]
    pools = [nan(kind, pages, page, kv, d) for _ in range(2)]
    for row, count in enumerate(length):
        for x, pool in zip(dense, pools, strict=True):
            x[row, : shared[row]] = x[family.index(family[row]), : shared[row]]
            for t in range(count):
                pool[int(table[row, t // page]), t % page] = x[row, t]
    q, out = draws(kind, 7, heads, d, seed=2), nan(kind, 7, heads * d)
    members = torch.full((4, attention_kernels.BUNDLE), -1, dtype=torch.int32)
    members[0, :2], members[1, 0], members[3, :2] = torch.tensor([0, 1]), 5, torch.tensor([3, 6])
    given = attention_kernels.Shared(torch.tensor(shared, dtype=torch.int32).to(kind[0]), members.to(kind[0]), splits)
    positions, slots = whole([n - 1 for n in length], kind), whole(range(7), kind)
    attention_kernels.decode(q, *pools, positions, slots, table.to(kind[0]), out, splits, given)
    real = [0, 1, 2, 3, 5, 6]
    want = attend(q, *dense, whole(length, kind).clamp(min=1)).flatten(1)
    near(out[real], want[real], kind)
    assert (out[4] == 0).all()


def test_draw_is_the_samplers(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    from h1r.ops.draw import Cuts, invert, key, thresholds, uniforms

    if kind[1] != torch.float32:
        pytest.skip("logits are fp32")
    rows, vocab = (24, 70000) if GPU else (5, 700)
    if not GPU:  # several parts all the same
        for name, value in (("BLOCK", 256), ("PART", 512), ("PIECE", 256)):
            monkeypatch.setattr(draw_kernels, name, value)
    logits = draws(kind, rows, vocab) * 3
    logits[3, 10:14] = logits[3].max() + 1  # ties
    logits[4] = 0.0
    temperature = torch.tensor([0.0, 1.0, 0.6, 1.3] * 6)[:rows]
    top_p = torch.tensor([1.0, 1.0, 0.95, 0.5, 0.9, 0.01] * 4)[:rows]
    top_k = torch.tensor([0, 0, 5, 0, 40, 1, vocab, 0] * 3)[:rows]
    min_p = torch.tensor([0.0, 0.0, 0.0, 0.05] * 6)[:rows]
    keys = np.array([key(7, r, 0) for r in range(rows)], np.uint64)
    positions, first = torch.arange(rows) + 40, torch.arange(rows) % 5
    tokens = torch.full((rows,), -1, device=kind[0])
    numbers = torch.full((rows, 4), torch.nan, device=kind[0])
    arguments = (temperature, top_p, min_p, top_k, torch.from_numpy(keys.view(np.int64)), positions, first)
    draw_kernels.draw(logits, *(t.to(kind[0]) for t in arguments), tokens, numbers)
    z = logits.cpu()
    warm = torch.where(temperature == 0, 1.0, temperature)
    floor = thresholds(z, Cuts(top_k.numpy(), top_p.numpy(), min_p.numpy()), warm)
    uniform = torch.from_numpy(uniforms(keys, (positions - first).numpy().astype(np.uint64)))
    want, logp = invert(z / warm[:, None], floor, uniform)
    greedy = temperature == 0
    want = torch.where(greedy, z.argmax(-1), want)
    raw = z.gather(1, want[:, None])[:, 0] - z.logsumexp(-1)
    assert tokens.cpu().tolist() == want.tolist()
    got = numbers.cpu()
    assert (got[:, 0] - torch.where(greedy, raw, logp)).abs().max() < 1e-5
    assert (got[:, 1] - raw).abs().max() < 1e-5
    assert (got[:, 2] - (z.logsumexp(-1) - z.topk(20).values.mean(-1))).abs().max() < 1e-5
    assert (got[:, 3] - z.logsumexp(-1)).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_kernel_compiles_for_hopper() -> None:
    """Without a GPU; half a minute. Registers are told, and what spills is known."""
    program = Path(__file__).parent / "compile_program.py"
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, *_ in lines} >= {
        "_split",
        "_step",
        "_outputs",
        "_carry",
        "_narrow",
        "_pick",
        "_product",
        "_conv",
        "_pairs",
        "_shares",
        "_inputs",
        "_carry_back",
    }
    spilled = {name for name, _, stack, _ in lines if int(stack) > 32}
    assert max(int(shared) for *_, shared in lines) <= 232448, "more shared memory than a Hopper block may have"
    assert spilled <= {"_split"}, f"these spill: {spilled}"
