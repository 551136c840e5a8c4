"""The GPU's decode step and the engine that runs it ahead of the host: interpreted on a CPU, compiled and in graphs on a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from h1r.engine import Engine, EngineConfig, cuda
from h1r.engine.cuda import Decoder
from h1r.engine.cuda.decoder import quantised
from h1r.engine.request import Request
from h1r.engine.request import Sequence as Row
from h1r.model import H1Config, Qwen3Config, build, fold
from h1r.model.cache import Cache, Sequences
from h1r.ops import Layout
from h1r.ops.draw import Cuts, invert, thresholds, uniforms
from h1r.types import Prompt, SamplingParams, StopReason, Trace
from shapes import H1, QWEN, V

pytest.importorskip("triton", reason="needs triton: pip install 'triton>=3.7.1,<3.8'")
import h1r.ops.draw.triton as draw_kernels

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPES = (torch.float32, torch.bfloat16) if GPU else (torch.float32,)  # the interpreter has no bf16
pytestmark = [pytest.mark.gpu] if GPU else []
PAGE = 16
AnyConfig = H1Config | Qwen3Config


def made(config: AnyConfig, dtype: torch.dtype = torch.float32) -> Any:
    return fold(build(config, seed=1), dtype).to(DEVICE).eval()


def row(length: int, slot: int, pages: list[int], token: int) -> Row:
    request = Request(
        id=0, prompt=Prompt(token_ids=(token,) * (length + 1)), sampling=SamplingParams(), seed=0, row=0, stop_ids=(),
        limit=9,
    )  # fmt: skip
    return Row(request=request, index=0, slot=slot, pages=pages, length=length)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", [H1, QWEN], ids=("hybrid", "transformer"))
@pytest.mark.parametrize("kv", [None, torch.float8_e4m3fn] if GPU else (None,))
def test_a_step_is_the_models(config: AnyConfig, dtype: torch.dtype, kv: torch.dtype | None) -> None:
    model, lengths = made(config, dtype), (5, 16, 37)
    caches = [Cache(config, 20, PAGE, 6, dtype=dtype, device=DEVICE, kv_dtype=kv) for _ in range(2)]
    tables = [[3, 9, 8], [11, 2, 6], [5, 1, 0]]
    slots = [4, 0, 2]
    prompts = torch.randint(0, V, (sum(lengths),), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    for cache in caches:
        for tensor in (cache.k, cache.v, cache.conv, cache.ssm):
            if tensor is not None:
                tensor.fill_(torch.nan)
        first = Sequences(torch.tensor(slots), torch.tensor(tables), torch.zeros(3, dtype=torch.int64))
        model.forward(prompts, Layout.of(lengths, device=DEVICE), cache, Sequences(*(t.to(DEVICE) for t in first)))
    decoder = Decoder(model, caches[1], 6, 3, graphs=GPU)
    for step in range(3 if GPU else 1):
        tokens = [(7 * step + i) % V for i in range(3)]
        where = torch.tensor([n + step for n in lengths], device=DEVICE)
        here = Sequences(torch.tensor(slots, device=DEVICE), torch.tensor(tables, device=DEVICE), where)
        want = model.logits(model.decode(torch.tensor(tokens, device=DEVICE), where, caches[0], here))
        rows = [row(n + step, s, t, x) for n, s, t, x in zip(lengths, slots, tables, tokens, strict=True)]
        got = decoder.logits(rows)
        bound = 2e-5 if dtype == torch.float32 and kv is None else 3e-2
        assert float((got - want).norm() / want.norm()) < bound, step


@torch.inference_mode()
@pytest.mark.skipif(not GPU, reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", [H1, QWEN], ids=("hybrid", "transformer"))
def test_a_forward_on_the_device_is_the_processors(config: AnyConfig, dtype: torch.dtype) -> None:
    """Packed documents, and the same ones read in two pieces through a cache."""
    model, plain = made(config, dtype), fold(build(config, seed=1), dtype).eval()
    lengths = (5, 40, 17)
    ids = torch.randint(0, V, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    want = plain.forward(ids, Layout.of(lengths)).float()
    got = model.forward(ids.to(DEVICE), Layout.of(lengths, device=DEVICE)).float().cpu()
    bound = 2e-5 if dtype == torch.float32 else 3e-2
    assert float((got - want).norm() / want.norm()) < bound
    cache = Cache(config, 20, PAGE, 3, dtype=dtype, device=DEVICE)
    table, slots = torch.arange(15, device=DEVICE).view(3, 5), torch.arange(3, device=DEVICE)
    pieces, before = [], torch.zeros(3, dtype=torch.int64, device=DEVICE)
    for sizes in ((2, 30, 1), (3, 10, 16)):
        parts = [d[b : b + n] for d, b, n in zip(ids.split(lengths), before.tolist(), sizes, strict=True)]
        layout = Layout.of(sizes, offsets=before.tolist(), device=DEVICE)
        out = model.forward(torch.cat(parts).to(DEVICE), layout, cache, Sequences(slots, table, before))
        pieces.append(out.float().cpu().split(sizes))
        before = before + torch.tensor(sizes, device=DEVICE)
    again = torch.cat([torch.cat(both) for both in zip(*pieces, strict=True)])
    assert float((again - want).norm() / want.norm()) < bound


@torch.inference_mode()
@pytest.mark.parametrize("codes", [torch.int8, torch.float8_e4m3fn], ids=("int8", "fp8"))
def test_coded_weights_are_the_matrices_their_codes_stand_for(
    codes: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not GPU and codes == torch.float8_e4m3fn:
        pytest.skip("the interpreter has no fp8")
    from h1r.ops.linear.coded import Coded, dequantise

    dtype, bound = (torch.bfloat16 if GPU else torch.float32), (0.04 if codes == torch.float8_e4m3fn else 0.02)
    small = H1 if GPU else replace(H1, num_hidden_layers=1)
    if not GPU:
        import h1r.ops.linear.triton as linear_kernels

        monkeypatch.setattr(linear_kernels, "TILES", {1: linear_kernels.Tile(32, 16, 4, 3)})
    plain, packed = made(small, dtype), quantised(made(small, dtype), codes)
    for a, b in zip(plain.layers, packed.layers, strict=True):
        for name, t in b.folded.items():
            if isinstance(t, Coded):
                error = (dequantise(t) - a.folded[name].float()).norm() / a.folded[name].float().norm()
                assert error < bound
    logits = []
    for model in (plain, packed):
        cache = Cache(small, 4, PAGE, 2, dtype=dtype, device=DEVICE)
        logits.append(Decoder(model, cache, 2, 2, graphs=GPU).logits([row(0, 1, [1], 5), row(0, 0, [2], 9)]).clone())
    assert float((logits[0] - logits[1]).norm() / logits[0].norm()) < 4 * bound
    ids = torch.arange(20, device=DEVICE)
    hidden = [m.forward(ids, Layout.of((20,), device=DEVICE)) for m in (plain, packed)]
    assert float((hidden[0] - hidden[1]).norm() / hidden[0].norm()) < 4 * bound


class Cutter:
    """A Watch that ends trace 1 at its third token."""

    def __init__(self) -> None:
        self.seen = 0

    def step(self, indices: Sequence[int], confidence: Sequence[float]) -> Mapping[int, StopReason]:
        self.seen += 1
        return {1: StopReason.LOW_CONFIDENCE} if self.seen == 3 and 1 in indices else {}

    def finish(self, index: int, trace: Trace) -> None:
        pass


@pytest.fixture(autouse=True)
def quick_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """The draw kernel has a test of its own and takes seconds to interpret: without a GPU, the sampler's functions draw."""

    def draw(
        logits: Tensor, temperature: Tensor, top_p: Tensor, min_p: Tensor, top_k: Tensor, keys: Tensor, positions: Tensor,
        first: Tensor, tokens: Tensor, numbers: Tensor, both: bool,
    ) -> None:  # fmt: skip
        warm, whole = torch.where(temperature == 0, 1.0, temperature), logits.logsumexp(-1)
        floor = thresholds(logits, Cuts(top_k.numpy(), top_p.numpy(), min_p.numpy()), warm)
        uniform = uniforms(keys.numpy().view(np.uint64), (positions - first).numpy().astype(np.uint64))
        drawn, logp = invert(logits / warm[:, None], floor, torch.from_numpy(uniform))
        tokens.copy_(torch.where(temperature == 0, logits.argmax(-1), drawn))
        raw = logits.gather(1, tokens[:, None])[:, 0] - whole
        sure = whole - logits.topk(20).values.mean(-1)
        numbers.copy_(torch.stack((torch.where(temperature == 0, raw, logp), raw, sure, whole), 1))

    if not GPU:
        monkeypatch.setattr(draw_kernels, "draw", draw)


def traces(
    config: AnyConfig, fast: bool, patch: pytest.MonkeyPatch, every: int = 1
) -> tuple[dict[tuple[int, int], Trace], Engine]:
    """Greedy, sampled, cut, stopped and watched requests, one of which comes late and one of which is aborted."""
    patch.setattr(cuda, "fits", lambda model, page: fast)
    options = {"page_size": PAGE, "sequences": 8, "seed": 0, "memory_bytes": 1 << 22, "poison": True, "prefixes": 0}
    options["state_every"] = every
    e = Engine(made(config), config, EngineConfig(**options), stop_ids=(3,))  # type: ignore[arg-type]
    assert (e.runner.decoder is not None) == fast
    prompt = Prompt(token_ids=(5, 9, 11, 2))
    e.add(prompt, SamplingParams(temperature=0.0, max_tokens=20 if GPU else 9))
    e.add(prompt, SamplingParams(n=2, max_tokens=7, top_p=0.9, temperature=0.8), Cutter())
    e.add(Prompt(token_ids=tuple(range(20, 42))), SamplingParams(max_tokens=6, top_k=5, min_p=0.05))
    late, out, steps = False, {}, 0
    while e.busy:
        for event in e.step():
            if event.trace is not None:
                out[event.request, event.index] = event.trace
        steps += 1
        if steps > 4 and not late:
            late = True
            e.add(prompt, SamplingParams(max_tokens=2, frequency_penalty=0.5))
            e.abort(e.add(prompt, SamplingParams(max_tokens=40)))
    e.check_integrity()
    return out, e


@pytest.mark.parametrize("every", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("config", [H1, QWEN] if GPU else (replace(H1, num_hidden_layers=1),))
def test_the_engine_ahead_of_the_host_writes_the_same_traces(
    config: AnyConfig, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    got, fast = traces(config, True, monkeypatch, every)
    want, _ = traces(config, False, monkeypatch)
    assert fast.runner.decoder is not None and fast.runner.decoder.steps
    assert got.keys() == want.keys() and len(want) == 6
    for key, trace in want.items():
        mine = got[key]
        assert mine.token_ids == trace.token_ids and mine.stop is trace.stop, key
        for name in ("logprobs", "raw_logprobs", "confidence"):
            a, b = (np.asarray(getattr(t, name)) for t in (mine, trace))
            assert np.abs(a - b).max(initial=0.0) < 1e-4, (key, name)


@pytest.mark.slow
def test_siblings_read_their_prompt_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three traces of one prompt and one of another: tokens and numbers are those of rows that read alone."""
    monkeypatch.setattr(cuda.decoder, "WORTH", 1)
    small, out = replace(H1, num_hidden_layers=1), []
    for fast, siblings in ((True, True), (False, False)):
        monkeypatch.setattr(cuda, "fits", lambda model, page, fast=fast: fast)
        config = EngineConfig(
            page_size=PAGE, sequences=6, seed=0, memory_bytes=1 << 22, poison=True, prefixes=0, siblings=siblings
        )
        e = Engine(made(small), small, config)
        e.add(Prompt(token_ids=tuple(i % V for i in range(3, 41))), SamplingParams(n=3, max_tokens=5))
        e.add(Prompt(token_ids=(5, 9)), SamplingParams(max_tokens=4))
        seen, found = False, {}
        while e.busy:
            found |= {(v.request, v.index): v.trace for v in e.step() if v.trace is not None}
            seen |= e.runner.decoder is not None and e.runner.decoder.shares
        assert seen == siblings
        e.check_integrity()
        out.append(found)
    got, want = out
    assert got.keys() == want.keys() and len(want) == 4
    for key, trace in want.items():
        assert got[key].token_ids == trace.token_ids
        assert np.abs(got[key].logprobs - trace.logprobs).max() < 1e-4


def test_families_are_those_that_share_pages_and_pay() -> None:
    def one(request: Request, length: int, pages: list[int]) -> Row:
        return Row(request=request, index=0, slot=0, pages=pages, length=length)

    def asked(number: int, prompt: int) -> Request:
        return Request(
            id=number, prompt=Prompt(token_ids=(1,) * prompt), sampling=SamplingParams(), seed=0, limit=1 << 20
        )

    a, b = asked(0, 8_000), asked(1, 8_000)
    shared = list(range(500))
    rows = [one(a, 8_100, [*shared, 900 + i]) for i in range(4)] + [one(b, 8_100, [*range(1000, 1501)])]
    rows.insert(2, one(a, 8_100, [*range(2000, 2501)]))  # came back from the host, with pages of its own
    assert cuda.decoder.prefixes(rows, 16) == [([0, 1, 3, 4], 499 * 16)]
    assert cuda.decoder.prefixes(rows[:2], 16) == [], "two rows of 8,000 tokens save too little"


@pytest.mark.parametrize("at_swap", ["keep", pytest.param("reread", marks=pytest.mark.slow)])
def test_new_weights_between_two_steps_in_flight(at_swap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "fits", lambda model, page: True)
    options = {"page_size": PAGE, "sequences": 4, "seed": 0, "memory_bytes": 1 << 22, "state_every": 4}
    options["at_swap"] = at_swap
    small = replace(H1, num_hidden_layers=1)
    e = Engine(made(small), small, EngineConfig(**options))  # type: ignore[arg-type]
    e.add(Prompt(token_ids=(5, 9)), SamplingParams(max_tokens=6, temperature=0.0))
    for _ in range(4):
        e.step()
    cache = e.runner.cache
    assert isinstance(cache, Cache) and cache.pending is not None and cache.pending.any()
    new = fold(build(small, seed=2)).to(DEVICE).eval()
    e.swap(new, 1)
    assert not cache.pending.any(), "what the old weights left pending decays by the old weights"
    out = [event.trace for _ in range(40) if e.busy for event in e.step() if event.trace is not None]
    (trace,) = out
    assert trace is not None and len(trace.token_ids) == 6
    assert trace.token_versions.count(1) in (2, 3) and sorted(trace.token_versions) == list(trace.token_versions)
    if at_swap == "reread":
        ids = torch.tensor([5, 9, *trace.token_ids[:-1]], device=DEVICE)
        with torch.inference_mode():
            logits = new.logits(new.forward(ids, Layout.of((len(ids),), device=DEVICE)))[1:].log_softmax(-1).cpu()
        want = logits.gather(1, torch.tensor(trace.token_ids)[:, None])[:, 0].numpy()
        assert np.abs(trace.raw_logprobs - want)[np.array(trace.token_versions) == 1].max() < 1e-4
    e.check_integrity()


def test_weights_are_overwritten_where_they_lie() -> None:
    """Folded, unfolded and coded (whose codes are made on the way), each tensor at its old address."""
    for narrow in (None, torch.float8_e4m3fn, torch.int8):
        model, other = fold(build(H1, seed=1)).to(DEVICE), fold(build(H1, seed=2)).to(DEVICE)
        model = quantised(model, narrow) if narrow else model
        before = {k: t.data_ptr() for k, t in cuda.decoder._tensors(model, narrow).items()}
        for given in (other, build(H1, seed=2).to(DEVICE)):
            made_alike = fold(build(H1, seed=2)).to(DEVICE) if given is other else fold(given)
            want = cuda.decoder._tensors(quantised(made_alike, narrow) if narrow else made_alike, narrow)
            cuda.overwrite(model, fold(build(H1, seed=3)).to(DEVICE))
            cuda.overwrite(model, given)
            after = cuda.decoder._tensors(model, narrow)
            assert {k: t.data_ptr() for k, t in after.items()} == before
            assert after.keys() == want.keys() and all(torch.equal(t, want[k]) for k, t in after.items())


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_the_state_kept_of_a_turn_has_the_tokens_it_says(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace that stops has one more token computed by the step in flight; the next turn goes on from exactly that, what was
    not written into the state yet included."""
    small = replace(H1, num_hidden_layers=1)
    options = {"page_size": PAGE, "sequences": 4, "seed": 0, "memory_bytes": 1 << 22}
    first, answers = tuple(range(5, 5 + 66)), []
    for fast, prefixes in ((False, 0), (True, 2)):
        monkeypatch.setattr(cuda, "fits", lambda model, page, fast=fast: fast)
        config = EngineConfig(**options, prefixes=prefixes, state_every=every)  # type: ignore[arg-type]
        e = Engine(made(small), small, config)

        def ask(ids: tuple[int, ...], count: int, stop: tuple[int, ...] = (), e: Engine = e) -> Trace:
            e.add(Prompt(token_ids=ids), SamplingParams(temperature=0.0, max_tokens=count, stop_ids=stop))
            (trace,) = [event.trace for _ in range(40) if e.busy for event in e.step() if event.trace is not None]
            return trace

        prompt = tuple(i % V for i in first)
        turn = ask(prompt, 4).token_ids if not answers else answers[0]
        again = ask(prompt, 9, stop=(turn[3],))
        hits = e.scheduler.prefixes.hits
        more = ask((*prompt, *again.token_ids, 7, 8), 3)
        if fast:
            assert e.scheduler.prefixes.hits == hits + 1
        answers += [turn, again.token_ids, more.token_ids, more.logprobs]
        e.check_integrity()
    assert answers[0:3] == answers[4:7]
    assert np.abs(np.array(answers[3]) - np.array(answers[7])).max() < 1e-4
