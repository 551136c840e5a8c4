"""The native kernel against the model it computes, on random weights with every multiplier different from 1."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from h1r.engine import LLM, Engine, EngineConfig, native, sampler
from h1r.engine.native import build as building
from h1r.engine.native import library as lib
from h1r.engine.native import statistics
from h1r.errors import ConfigError
from h1r.model import Cache, H1Config, Qwen3Config, Sequences, build, fold, save
from h1r.ops.layout import Layout
from h1r.ops.linear import quant
from h1r.types import Prompt, SamplingParams, StopReason
from shapes import H1, QWEN, V


def compiler() -> bool:
    try:
        building.find()
    except building.BuildError:
        return False
    return True


# a source that does not compile fails them
pytestmark = pytest.mark.skipif(not compiler(), reason="no C++ compiler here")

BIASES = {"mamba_proj_bias": True, "projectors_bias": True, "attention_bias": True, "mlp_bias": True}
VARIANTS: dict[str, H1Config | Qwen3Config] = {
    "h1": H1,
    "tied": replace(H1, tie_word_embeddings=True),
    "plain gate": replace(H1, mamba_rms_norm=False),
    "norm after gate": replace(H1, mamba_norm_before_gate=False, mamba_n_groups=1),
    "biases": replace(H1, **BIASES),
    "no conv bias": replace(H1, mamba_conv_bias=False, time_step_limit=(0.01, 0.5)),
    "taps 2": replace(H1, mamba_d_conv=2),
    "one kv head, odd widths": replace(
        H1, num_key_value_heads=1, hidden_size=36, intermediate_size=50, mamba_d_head=10, mamba_d_ssm=60, head_dim=18
    ),
    "wide heads": replace(H1, head_dim=136, mamba_d_head=40, mamba_d_ssm=240, mamba_d_state=24),
    "qwen3": QWEN,
}
MACHINES = ("native", "x86-64-v3", "x86-64")
LENGTHS = (70, 3, 130)


def random_model(config: H1Config | Qwen3Config, seed: int = 1) -> torch.nn.Module:
    """Random in every parameter, vectors and biases too."""
    model = build(config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1 and "A_log" not in name and "dt_bias" not in name:
                p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    return fold(model)


def logits_of(model, ids: list[torch.Tensor]) -> list[torch.Tensor]:
    """[T,V] of each document, packed into one row."""
    lengths = [len(i) for i in ids]
    with torch.inference_mode():
        return list(model.logits(model.forward(torch.cat(ids), Layout.of(lengths))).split(lengths))


def documents(vocab: int, seed: int = 0, more: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (n + more,), generator=generator) for n in LENGTHS]


def relative(got: list[torch.Tensor], want: list[torch.Tensor]) -> float:
    scale = max(float(w.abs().max()) for w in want)
    return max(float((g - w).abs().max()) for g, w in zip(got, want, strict=True)) / scale


def machines() -> list[str]:
    return list(MACHINES) if building.platform.machine() == "x86_64" else ["native"]


@pytest.mark.parametrize("name", VARIANTS)
def test_float32_is_the_model(name: str) -> None:
    model = random_model(VARIANTS[name])
    ids = documents(VARIANTS[name].vocab_size)
    assert relative(logits_of(native.pack(model, "float32"), ids), logits_of(model, ids)) <= 2e-6


@pytest.mark.parametrize("machine", machines())
@pytest.mark.parametrize("format", ["float32", "bfloat16", "int8", "int4"])
def test_formats_on_every_instruction_set(format: str, machine: str) -> None:
    """Against the model with its weights rounded the same way, in fp32: what remains is the rounding of activations."""
    model = random_model(H1)
    rounded = random_model(H1)
    for layer in rounded.layers:
        for key, matrix in layer.folded.items():
            if matrix.dim() == 2 and key != "taps":
                layer.folded[key] = torch.nn.Parameter(round_to(matrix, format), requires_grad=False)
    head = "int8" if format == "int4" else format
    rounded.lm_head.weight = torch.nn.Parameter(round_to(rounded.lm_head.weight, head), requires_grad=False)
    ids = documents(H1.vocab_size)
    gap = relative(logits_of(native.pack(model, format, machine), ids), logits_of(rounded, ids))
    assert gap <= {"float32": 2e-6, "bfloat16": 1e-2, "int8": 1e-2, "int4": 1e-2}[format]


def round_to(matrix: torch.Tensor, format: str) -> torch.Tensor:
    if format in quant.GROUPS:
        return quant.rounded(matrix, format)
    return matrix.to(getattr(torch, format)).float()


@pytest.mark.parametrize("machine", machines())
@pytest.mark.parametrize("format", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("config", [H1, QWEN], ids=["h1", "qwen3"])
def test_bits_do_not_depend_on_cuts_or_neighbours(config: H1Config, format: str, machine: str) -> None:
    """Prompt in pieces of any size, then single tokens, from memory full of NaN: the bits of one forward."""
    model = native.pack(random_model(config), format, machine)
    ids = documents(config.vocab_size)
    want = [logits_of(model, [i])[0] for i in ids]
    for got, alone in zip(logits_of(model, ids), want, strict=True):
        assert torch.equal(got, alone)
    cache = model.cache(pages=12, slots=4)
    for tensor in (cache.k, cache.v, cache.conv, cache.ssm):
        if tensor is not None:
            tensor.fill_(torch.nan)
    slots, pages = torch.tensor([2, 0, 3]), torch.tensor([[5, 1, 9], [2, 0, 0], [7, 3, 4]])
    done, seen = [0, 0, 0], [[], [], []]
    for size in (1, 2, 40, 65, 1000):
        parts = [i[d : min(n, d + size)] for i, d, n in zip(ids, done, LENGTHS, strict=True)]
        open_ = [s for s in range(3) if len(parts[s])]
        if not open_:
            continue
        counts = [len(parts[s]) for s in open_]
        layout = Layout.of(counts, offsets=[done[s] for s in open_])
        rows = Sequences(slots[open_], pages[open_], torch.tensor([done[s] for s in open_]))
        hidden = model.forward(torch.cat([parts[s] for s in open_]), layout, cache, rows)
        for s, piece in zip(open_, hidden.split(counts), strict=True):
            seen[s].append(piece)
            done[s] += len(piece)
    for step in range(6):
        positions = torch.tensor([n + step for n in LENGTHS])
        tokens = torch.stack([i[n + step] for i, n in zip(ids, LENGTHS, strict=True)])
        hidden = model.decode(tokens, positions, cache, Sequences(slots, pages, positions))
        for s in range(3):
            seen[s].append(hidden[s : s + 1])
    for rows, alone in zip(seen, want, strict=True):
        assert torch.equal(model.logits(torch.cat(rows)), alone)


def test_long_contexts_cross_spans() -> None:
    """Past 2,048 keys, spans are summed apart and merged: equal to torch, and decode has the prompt's bits."""
    config = replace(H1, max_position_embeddings=8192)
    folded = random_model(config)
    model = native.pack(folded, "float32")
    ids = torch.randint(0, config.vocab_size, (4200,), generator=torch.Generator().manual_seed(3))
    want = logits_of(folded, [ids])[0]
    got = logits_of(model, [ids])[0]
    assert relative([got], [want]) <= 1e-5
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(logits_of(model, [ids])[0], got)
    finally:
        torch.set_num_threads(threads)
    cache = model.cache(pages=66)
    rows = Sequences(torch.tensor([0]), torch.arange(66)[None], torch.tensor([0]))
    model.forward(ids[:4190], Layout.of((4190,)), cache, rows)
    for t in range(4190, 4200):
        at = torch.tensor([t])
        assert torch.equal(model.logits(model.decode(ids[t : t + 1], at, cache, rows)), got[t : t + 1])


def test_states_are_the_models() -> None:
    """Convolution and scan states after a prompt, against the torch cache."""
    folded = random_model(H1)
    model = native.pack(folded, "float32")
    ids = torch.arange(100) % H1.vocab_size
    mine, theirs = model.cache(pages=2), Cache(H1, 2, 64, 1)
    rows = Sequences(torch.tensor([0]), torch.arange(2)[None], torch.tensor([0]))
    with torch.inference_mode():
        model.forward(ids, Layout.of((100,)), mine, rows)
        folded.forward(ids, Layout.of((100,)), theirs, rows)
    ssm = mine.ssm[..., : H1.mamba_d_head].transpose(-1, -2)
    assert float((ssm - theirs.ssm).abs().max()) <= 2e-6 * float(theirs.ssm.abs().max())
    assert float((mine.conv.transpose(-1, -2) - theirs.conv).abs().max()) <= 2e-6 * float(theirs.conv.abs().max())


def test_bfloat16_states_are_close_and_cuts_round_them() -> None:
    model = native.pack(random_model(H1), "float32")
    ids = documents(H1.vocab_size)[0]
    want = logits_of(model, [ids])[0]
    cache = model.cache(pages=2, state_dtype=torch.bfloat16)
    rows = Sequences(torch.tensor([0]), torch.arange(2)[None], torch.tensor([0]))
    out = [model.logits(model.decode(ids[t : t + 1], torch.tensor([t]), cache, rows)) for t in range(len(ids))]
    gap = relative([torch.cat(out)], [want])
    assert 1e-5 < gap <= 2e-2


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_packed_integers_are_the_references(format: str) -> None:
    """Rows unpacked again equal `ops.linear.quant`; int8 loses 0.7 % of the weights' size at most, int4 9 %."""
    weight = torch.randn(70, 100, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    kernel = lib.library()
    code = native.FORMATS[format]
    packed = torch.zeros(kernel.h1r_packed_bytes(70, 100, code), dtype=torch.uint8)
    kernel.h1r_pack(weight.data_ptr(), 100, 70, 100, code, packed.data_ptr(), 1)
    stride = kernel.h1r_packed_bytes(64, 100, code)
    mat = lib.Mat(packed.data_ptr(), None, stride, 70, 100, code, 0)
    rows, out = torch.arange(70), torch.empty(70, 100)
    kernel.h1r_unpack_rows(lib.ctypes.byref(mat), rows.data_ptr(), 70, out.data_ptr())
    want = quant.rounded(weight, format)
    assert float((out != want).float().mean()) <= 0.002  # a tie between scales may fall either way
    loss = float((weight - want).square().mean().sqrt() / weight.square().mean().sqrt())
    assert loss <= {"int8": 0.007, "int4": 0.09}[format]
    bits = packed.numel() * 8 / (128 * -(-100 // quant.GROUPS[format]) * quant.GROUPS[format])
    assert bits == {"int8": 8.25, "int4": 4.5}[format]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_batched_greedy_equals_alone(seed: int) -> None:
    """Promise 5 through the engine: arrivals, forks, aborts, little memory, chunks; tokens equal to the bit."""
    rng = random.Random(seed)
    config = rng.choice([H1, QWEN])
    model = PACKED[type(config)]
    engine = small_engine(model, rng)
    todo = [tuple(rng.randrange(V) for _ in range(rng.randint(1, 150))) for _ in range(6)]
    added, traces = {}, {}
    while todo or engine.busy:
        if todo and (rng.random() < 0.6 or not engine.busy):
            prompt = todo.pop()
            params = SamplingParams(temperature=0, n=rng.randint(1, 3), max_tokens=rng.randint(1, 20), stop_ids=(3,))
            added[engine.add(Prompt(token_ids=prompt), params)] = prompt
        if added and rng.random() < 0.02:
            engine.abort(rng.choice(list(added)), rng.choice([None, 0, 1]))
        for event in engine.step():
            if event.trace is not None:
                traces[event.request, event.index] = event.trace
    engine.check_integrity()
    for (number, _), trace in traces.items():
        ids = [*added[number], *trace.token_ids]
        if trace.token_ids:
            alone = logits_of(model, [torch.tensor(ids[:-1])])[0][len(added[number]) - 1 :]
            assert list(trace.token_ids) == alone.argmax(-1).tolist()
            other = logits_of(FOLDED[type(config)], [torch.tensor(ids[:-1])])[0][len(added[number]) - 1 :]
            chosen = other.gather(1, torch.tensor(trace.token_ids)[:, None])[:, 0]
            assert float((other.amax(1) - chosen).max()) <= 1e-4
        assert trace.token_ids or trace.stop is StopReason.ABORT


FOLDED = {type(c): fold(build(c, 1)) for c in (H1, QWEN)}
PACKED = {t: native.pack(model, "float32") for t, model in FOLDED.items() if native.available()}


def small_engine(model: native.NativeModel, rng: random.Random) -> Engine:
    """Room for a few sequences, so that some are parked; free memory is NaN."""
    config = model.config
    page = 2 * config.num_hidden_layers * 64 * config.num_key_value_heads * 16 * 4
    state = 0
    if isinstance(config, H1Config):
        state = (
            4 * config.num_hidden_layers * (config.conv_channels * 3 + config.mamba_n_heads * 16 * config.mamba_d_state)
        )
    slots = rng.randint(1, 6)
    memory = max(2 * slots * state, slots * state + rng.randint(3, 12) * page)
    options = EngineConfig(sequences=slots, memory_bytes=memory, chunk=rng.randint(1, 100), poison=True, seed=0)
    return Engine(model, config, options)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save(build(H1, 2), tmp_path / "model")
    return tmp_path / "model"


def test_llm_chooses_and_refuses(checkpoint: Path) -> None:
    fast, plain = LLM(checkpoint, tokenizer=False), LLM(checkpoint, tokenizer=False, kernel="torch")
    assert fast.native and not plain.native
    sampling = SamplingParams(temperature=0, max_tokens=12)
    ids = [[5, 6, 7], [9] * 80]
    got, want = fast.generate(ids, sampling), plain.generate(ids, sampling)
    assert [t.token_ids for g in got for t in g] == [t.token_ids for g in want for t in g]
    for a, b in zip(fast.score(ids), plain.score(ids), strict=True):
        assert abs(a[1:] - b[1:]).max() <= 1e-5
    assert not LLM(checkpoint, tokenizer=False, page_size=16).native
    with pytest.raises(ConfigError, match="page_size=16"):
        LLM(checkpoint, tokenizer=False, kernel="native", page_size=16)
    with pytest.raises(ConfigError, match="float16"):
        LLM(checkpoint, tokenizer=False, kernel="native", dtype="float16")
    with pytest.raises(ConfigError, match="one of auto, native, torch"):
        LLM(checkpoint, tokenizer=False, kernel="cuda")


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_integer_formats_without_the_kernel_round_alike(checkpoint: Path, format: str) -> None:
    """The fallback computes with the same rounded weights (in bf16)."""
    fast = LLM(checkpoint, tokenizer=False, dtype=format)
    plain = LLM(checkpoint, tokenizer=False, dtype=format, kernel="torch")
    exact = LLM(checkpoint, tokenizer=False)
    ids = [[(7 * i * i) % H1.vocab_size for i in range(60)]]
    a, b, c = fast.score(ids)[0][1:], plain.score(ids)[0][1:], exact.score(ids)[0][1:]
    assert abs(a - b).mean() < 0.3 * abs(a - c).mean() if format == "int4" else abs(a - b).mean() <= 0.02


def test_without_a_compiler_torch_computes_and_one_line_says_so(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(building, "COMPILERS", ("no-such-compiler",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for cached in (building.available, lib.library, building._version):
        cached.cache_clear()
    try:
        llm = LLM(checkpoint, tokenizer=False)
        again = LLM(checkpoint, tokenizer=False)
        assert not llm.native and not again.native
        assert len(llm.generate([[5, 6]], SamplingParams(max_tokens=3, ignore_eos=True))[0][0].token_ids) == 3
        said = [r.getMessage() for r in caplog.records if "CPU kernel is off" in r.getMessage()]
        assert len(said) == 1 and "install one" in said[0]
        with pytest.raises(ConfigError, match="did not compile"):
            LLM(checkpoint, tokenizer=False, kernel="native")
    finally:
        for cached in (building.available, lib.library, building._version):
            cached.cache_clear()


def test_a_broken_source_is_a_build_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sources = tmp_path / "kernel"
    sources.mkdir()
    (sources / "step.cpp").write_text("int broken( {")
    monkeypatch.setattr(building, "SOURCES", sources)
    with pytest.raises(building.BuildError, match="failed"):
        building.compiled("native", tmp_path)
    assert not list(tmp_path.glob("*.so"))


def test_weights_are_packed_once(checkpoint: Path) -> None:
    """What an int8 model holds: a bit over a byte per weight, and no fp32 copy."""
    model, config = native.load(checkpoint, "int8")
    parameters = sum(p.numel() for p in build(config, 0).parameters())
    assert all(layer.enter.data and layer.down.data for layer in model.layers)
    rounded_up = sum(
        -(-m.n // 64) * m.stride
        for layer in model.layers
        for m in (layer.enter, layer.leave, layer.gate_up, layer.down)
    )
    head = -(-model.head_mat.n // 64) * model.head_mat.stride
    vectors = sum(t.numel() * 4 for t in model._kept)
    assert model.nbytes <= rounded_up + head + vectors + model.table.numel() * 4 + 64 * 5 * len(model.layers)
    assert rounded_up < 4 * parameters


@pytest.mark.parametrize("vocab", [7, 48, 513, 9000])
def test_statistics_and_draws_are_the_samplers(vocab: int) -> None:
    """Log-sum-exp, ranking, argmax and inverse CDF against the torch forms, rows with ties and cuts included."""
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(24, vocab, generator=generator) * 3
    logits[5] = logits[5].round()  # ties
    logits[6] = 0.0
    temperature = torch.rand(24, generator=generator) + 0.4
    for count in {1, min(20, vocab), min(128, vocab)}:
        mine, theirs = statistics.look(logits, count, temperature), sampler.look(logits, count, temperature)
        assert float((mine[0] - theirs[0]).abs().max()) <= 2e-5
        assert torch.equal(mine[1], theirs[1])
        assert torch.equal(logits.gather(1, mine[2][:, None]), logits.gather(1, theirs[2][:, None]))
    uniform = torch.rand(24, generator=generator, dtype=torch.float64)
    cuts = ((0, 1.0, 0.0), (0, 0.8, 0.0), (0, 0.999, 0.0), (5, 1.0, 0.0), (300, 0.9, 0.0), (0, 0.7, 0.05))
    for top_k, top_p, min_p in cuts:
        floor = None
        if top_p < 1 or top_k:
            floor = statistics.thresholds(logits, cuts_of(top_k, top_p, min_p), temperature)
            known = sampler.thresholds(logits, cuts_of(top_k, top_p, min_p), temperature)
            tight = top_p < 0.99  # in the far tail of 0.999, fp32 cannot say which of many tokens is the last
            assert not tight or int(((floor - known).abs() > 1e-6 * known.abs()).sum()) <= 1
            if not top_k and not min_p:
                warm = (logits / temperature[:, None]).double()
                p = warm.softmax(-1)
                above = (p * (logits / temperature[:, None] > floor[:, None])).sum(-1)
                kept = (p * (logits / temperature[:, None] >= floor[:, None])).sum(-1)
                assert bool((above < top_p + 1e-6).all()) and bool((kept > top_p - 1e-6).all())
        tokens, logp = statistics.pick(logits, temperature, floor, uniform)
        same, known = sampler.pick(logits, temperature, floor, uniform)
        assert int((tokens != same).sum()) <= 1  # a uniform number within rounding of a border
        assert float((logp - known)[tokens == same].abs().max()) <= 5e-6
        if floor is not None:
            assert bool((logits.gather(1, tokens[:, None])[:, 0] / temperature >= floor).all())


def cuts_of(top_k: int, top_p: float, min_p: float) -> sampler.Cuts:
    return sampler.Cuts(np.full(24, top_k), np.full(24, top_p, np.float32), np.full(24, min_p, np.float32))


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, 0.5]]).expand(20000, 5).contiguous()
    uniform = torch.from_numpy(np.random.default_rng(0).random(20000))
    tokens, _ = statistics.pick(logits, torch.ones(20000), None, uniform)
    share = torch.bincount(tokens, minlength=5) / 20000
    assert float((share - logits[0].softmax(-1)).abs().max()) <= 0.012


def test_logits_that_are_not_finite_are_noticed() -> None:
    logits = torch.zeros(2, 100)
    logits[0, 7], logits[1, 9] = torch.nan, torch.inf
    assert not bool(torch.isfinite(statistics.look(logits, 5)[0]).any())
