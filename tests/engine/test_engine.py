"""The engine against the model run alone, on random checkpoints with every multiplier different from 1."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from h1r.engine import Engine, EngineConfig
from h1r.errors import CheckpointError, ConfigError
from h1r.model import H1Config, Model, Qwen3Config, build, fold
from h1r.ops.layout import Layout
from h1r.types import Prompt, SamplingParams, StopReason, Trace
from shapes import H1, QWEN, V

PLAIN = {c: build(c, seed=1) for c in (H1, QWEN)}
MODELS: dict[H1Config | Qwen3Config, Model] = {c: fold(m) for c, m in PLAIN.items()}


def engine(config: H1Config | Qwen3Config = H1, pages: int = 400, **options: object) -> Engine:
    """An engine with room for about `pages` pages, poisoned: free memory is NaN."""
    size = int(options.setdefault("page_size", 4))  # type: ignore[call-overload]
    options = {"seed": 0, "poison": True, "sequences": 8, **options}
    page = 2 * config.num_hidden_layers * size * config.num_key_value_heads * config.head_dim * 4
    slots = int(options["sequences"])  # type: ignore[call-overload]
    state = 0
    if isinstance(config, H1Config):
        state = 4 * 2 * (config.conv_channels * (config.mamba_d_conv - 1) + config.mamba_d_ssm * config.mamba_d_state)
    options.setdefault("memory_bytes", max(2 * slots * state, slots * state + pages * page))
    return Engine(MODELS[config], config, EngineConfig(**options))  # type: ignore[arg-type]


def finish(e: Engine) -> dict[tuple[int, int], Trace]:
    out = {}
    while e.busy:
        for event in e.step():
            if event.trace is not None:
                out[event.request, event.index] = event.trace
    e.check_integrity()
    return out


@torch.inference_mode()
def logits_alone(config: H1Config | Qwen3Config, ids: Sequence[int], plain: bool = False) -> torch.Tensor:
    """[T,V]: one forward of the whole sequence, without a cache."""
    model = (PLAIN if plain else MODELS)[config]
    return model.logits(model.forward(torch.tensor(ids), Layout.of((len(ids),))))


def is_greedy(config: H1Config | Qwen3Config, prompt: Sequence[int], trace: Trace) -> bool:
    """Each token is the argmax of the forward alone, or as good within numeric tolerance."""
    ids = [*prompt, *trace.token_ids]
    logits = logits_alone(config, ids[:-1])[len(prompt) - 1 :]
    chosen = logits.gather(1, torch.tensor(trace.token_ids)[:, None])[:, 0]
    return bool((logits.amax(1) - chosen <= 1e-4).all())


def prompts(rng: random.Random, count: int, longest: int) -> list[tuple[int, ...]]:
    return [tuple(rng.randrange(V) for _ in range(rng.randint(1, longest))) for _ in range(count)]


@settings(max_examples=16, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_batched_greedy_equals_alone(seed: int) -> None:
    """Random arrivals, lengths, forks, aborts, little memory, chunk and page sizes: promise 5."""
    rng = random.Random(seed)
    config = rng.choice([H1, H1, QWEN])
    size = rng.choice([1, 4, 16])
    pages = max(rng.randint(24, 60) // size, 3)
    e = engine(config, pages, page_size=size, chunk=rng.randint(1, 30), sequences=rng.randint(1, 6))
    todo, added, traces, aborted = prompts(rng, 6, min(20, pages * size - 8)), {}, {}, set()
    while todo or e.busy:
        if todo and (rng.random() < 0.6 or not e.busy):
            prompt = todo.pop()
            params = SamplingParams(temperature=0, n=rng.randint(1, 3), max_tokens=rng.randint(1, 20), stop_ids=(3,))
            added[e.add(Prompt(token_ids=prompt), params)] = (prompt, params)
        if added and rng.random() < 0.02:
            number = rng.choice(list(added))
            aborted.add(number)
            e.abort(number, rng.choice([None, 0, 1]))
        for event in e.step():
            if event.trace is not None:
                traces[event.request, event.index] = event.trace
    e.check_integrity()
    assert len(traces) == sum(params.n for _, params in added.values())
    for (number, _), trace in traces.items():
        prompt, params = added[number]
        if trace.stop is StopReason.ABORT:
            assert number in aborted
        else:
            assert len(trace.token_ids) == min(params.max_tokens, pages_room(e, prompt)) or trace.token_ids[-1] == 3
        if trace.token_ids:
            assert is_greedy(config, prompt, trace)


def pages_room(e: Engine, prompt: Sequence[int]) -> int:
    return e.memory.capacity - len(prompt)


@pytest.mark.parametrize("config", [H1, QWEN])
def test_logprobs_are_those_of_a_forward(config: H1Config) -> None:
    """Promise 3: 1e-5 in fp32, raw and sampled, against the unfolded model."""
    e = engine(config, sequences=6, chunk=7)
    ids = prompts(random.Random(3), 4, 30)
    for row, prompt in enumerate(ids):
        e.add(Prompt(token_ids=prompt), SamplingParams(n=3, max_tokens=40, seed=5, temperature=0.8, top_p=0.9), row=row)
    traces = finish(e)
    assert len(traces) == 12
    for (number, _), trace in traces.items():
        whole = [*ids[number], *trace.token_ids]
        logits = logits_alone(config, whole[:-1], plain=True)[len(ids[number]) - 1 :].double()
        raw = logits.log_softmax(-1)
        chosen = raw.gather(1, torch.tensor(trace.token_ids)[:, None])[:, 0]
        assert np.abs(trace.raw_logprobs - chosen.numpy()).max() <= 1e-5
        assert np.abs(trace.confidence + raw.topk(20).values.mean(-1).numpy()).max() <= 1e-5
        cool = (logits / 0.8).log_softmax(-1)
        ordered, order = cool.exp().sort(-1, descending=True)
        kept = (ordered.cumsum(-1) - ordered < 0.9).scatter(1, order, ordered.cumsum(-1) - ordered < 0.9)
        sampled = cool.masked_fill(~kept, -torch.inf).log_softmax(-1).gather(1, torch.tensor(trace.token_ids)[:, None])
        close = np.abs(trace.logprobs - sampled[:, 0].numpy()) <= 2e-5
        # A nucleus whose edge lies within rounding of 0.9 may have one token more or less.
        assert close.mean() > 0.97


def test_fork_equals_independent_and_seed_ignores_the_batch() -> None:
    prompt = tuple(range(1, 12))
    params = SamplingParams(n=5, max_tokens=25, seed=11, temperature=1.3)
    together = engine(sequences=8)
    together.add(Prompt(token_ids=prompt), params, row=2)
    want = {i: t.token_ids for (_, i), t in finish(together).items()}
    assert len(set(want.values())) == 5

    crowd = engine(sequences=3, chunk=5, pages=14)
    for row, other in enumerate(prompts(random.Random(0), 4, 20)):
        crowd.add(Prompt(token_ids=other), SamplingParams(max_tokens=30, temperature=1.3, seed=1), row=row)
    number = crowd.add(Prompt(token_ids=prompt), params, row=2)
    got = {i: t.token_ids for (r, i), t in finish(crowd).items() if r == number}
    assert got == want


def test_unseeded_requests_differ_and_follow_the_engine_seed() -> None:
    runs = []
    for seed in (1, 1, 2):
        e = engine(seed=seed)
        for _ in range(2):
            e.add(Prompt(token_ids=(5, 6)), SamplingParams(max_tokens=12))
        runs.append([t.token_ids for t in finish(e).values()])
    assert runs[0] == runs[1] and runs[0] != runs[2] and runs[0][0] != runs[0][1]


def test_parking_is_exact() -> None:
    """The same traces, bit for bit in their tokens, with memory for all and with memory for about one."""
    params = SamplingParams(n=4, max_tokens=30, seed=3)
    runs, parked = [], 0
    for pages in (200, 13):
        e = engine(pages=pages)
        for row in range(3):
            e.add(Prompt(token_ids=tuple(range(row, row + 9))), params, row=row)
        out = {}
        while e.busy:
            for event in e.step():
                if event.trace is not None:
                    out[event.request, event.index] = event.trace.token_ids
            parked += bool(e.scheduler.parked)
        e.check_integrity()
        runs.append(out)
    assert parked > 10
    assert runs[0] == runs[1]


def test_stop_ids_limit_and_context() -> None:
    e = engine()
    base = e.add(Prompt(token_ids=(1, 2)), SamplingParams(temperature=0, max_tokens=20))
    free = finish(e)[base, 0].token_ids
    stop = next(t for i, t in enumerate(free) if i > 2 and t not in free[:i])
    at = free.index(stop)
    checkpoints_own = Engine(MODELS[H1], H1, EngineConfig(seed=0), stop_ids=(stop,))
    p = Prompt(token_ids=(1, 2))
    numbers = [
        checkpoints_own.add(p, SamplingParams(temperature=0, max_tokens=20)),
        checkpoints_own.add(p, SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)),
        checkpoints_own.add(p, SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, stop_ids=(free[1], stop))),
        checkpoints_own.add(p, SamplingParams(temperature=0, max_tokens=at + 1)),
    ]
    traces = finish(checkpoints_own)
    got = [(len(traces[n, 0].token_ids), traces[n, 0].stop) for n in numbers]
    assert got == [(at + 1, StopReason.STOP), (20, StopReason.LENGTH), (2, StopReason.STOP), (at + 1, StopReason.STOP)]
    short = engine(context=16)
    short.add(Prompt(token_ids=(1,) * 10), SamplingParams(temperature=0, max_tokens=100))
    (trace,) = finish(short).values()
    assert (len(trace.token_ids), trace.stop) == (6, StopReason.LENGTH)


def test_a_context_beyond_the_models_is_told(caplog: pytest.LogCaptureFixture) -> None:
    longest = H1.max_position_embeddings
    assert engine(context=longest).context == longest and not caplog.records
    assert engine(context=longest + 1).context == longest
    assert f"made for {longest} tokens" in caplog.text


def test_refusals_say_what_is_wrong() -> None:
    e = engine(pages=10)
    for prompt, params, words in [
        ((), SamplingParams(), "no token ids"),
        ((V,), SamplingParams(), f"token id {V} is outside"),
        ((1,) * 300, SamplingParams(), "shorten the prompt"),
        ((1,), SamplingParams(logit_bias={V + 3: 1.0}), "logit_bias"),
        ((1,), SamplingParams(stop=("x",)), "stop strings need a tokenizer"),
    ]:
        with pytest.raises(ConfigError, match=words):
            e.add(Prompt(token_ids=prompt), params)
    e.check_integrity()
    with pytest.raises(ConfigError, match="too little for one sequence"):
        engine(memory_bytes=10)


class Recorder:
    """A Watch that ends trace 1 at its third token and everything when trace 0 has eight."""

    def __init__(self) -> None:
        self.seen: dict[int, list[float]] = {}
        self.done: dict[int, Trace] = {}

    def step(self, traces: Sequence[int], confidences: Sequence[float]) -> Mapping[int, StopReason]:
        for i, c in zip(traces, confidences, strict=True):
            self.seen.setdefault(i, []).append(c)
        if len(self.seen.get(0, ())) == 8:
            return dict.fromkeys(range(10), StopReason.CONSENSUS)
        return {1: StopReason.LOW_CONFIDENCE} if len(self.seen.get(1, ())) == 3 else {}

    def finish(self, index: int, trace: Trace) -> None:
        self.done[index] = trace


def test_watch_sees_every_token_and_ends_traces() -> None:
    e, watch = engine(sequences=4), Recorder()
    e.add(Prompt(token_ids=(1, 2, 3)), SamplingParams(n=6, max_tokens=30, seed=1), watch)
    traces = {i: t for (_, i), t in finish(e).items()}
    assert (len(traces[1].token_ids), traces[1].stop) == (3, StopReason.LOW_CONFIDENCE)
    assert (len(traces[0].token_ids), traces[0].stop) == (8, StopReason.CONSENSUS)
    assert {t.stop for i, t in traces.items() if i != 1} == {StopReason.CONSENSUS}
    assert traces[5].token_ids == ()  # never began: four fit, one was replaced
    assert watch.done == traces
    for i, seen in watch.seen.items():
        assert np.allclose(seen, traces[i].confidence, atol=0)


def test_a_broken_watch_costs_its_own_request() -> None:
    class Broken(Recorder):
        def step(self, traces: Sequence[int], confidences: Sequence[float]) -> Mapping[int, StopReason]:
            raise ValueError("policy broke")

    e = engine()
    bad = e.add(Prompt(token_ids=(1, 2)), SamplingParams(n=2, max_tokens=9), Broken())
    good = e.add(Prompt(token_ids=(1, 2)), SamplingParams(n=2, max_tokens=9))
    traces = finish(e)
    assert isinstance(e.failures[bad], ValueError)
    assert [len(traces[good, i].token_ids) for i in range(2)] == [9, 9]
    assert {traces[bad, i].stop for i in range(2)} == {StopReason.ABORT}


WORDS = [chr(ord("a") + i % 26) + (" " if i % 5 == 0 else "") for i in range(V)]


def words(ids: Sequence[int]) -> str:
    return "".join(WORDS[i] for i in ids)


def test_stop_strings_across_tokens_and_streaming() -> None:
    params = SamplingParams(temperature=0, max_tokens=30)
    probe = Engine(MODELS[H1], H1, EngineConfig(seed=0), decode=words)
    probe.add(Prompt(token_ids=(7, 9)), params)
    (whole,) = finish(probe).values()
    assert whole.text == words(whole.token_ids) == whole.content
    stop = whole.text[9:12]  # three characters of at least two tokens
    first = whole.text.find(stop)
    e = Engine(MODELS[H1], H1, EngineConfig(seed=0), decode=words)
    number = e.add(
        Prompt(token_ids=(7, 9)), SamplingParams(temperature=0, max_tokens=30, stop=(stop, "zzzz")), stream=True
    )
    shown, tokens, trace = "", [], None
    while e.busy:
        for event in e.step():
            assert event.request == number
            shown += event.text
            if event.trace is None:
                tokens.append(event.token_id)
            else:
                trace = event.trace
    assert trace is not None and trace.stop is StopReason.STOP
    assert trace.text == shown == whole.text[:first]
    assert tuple(tokens) == trace.token_ids == whole.token_ids[: len(trace.token_ids)]
    assert stop in words(trace.token_ids) and stop not in words(trace.token_ids[:-1])


def test_new_weights_in_flight_are_versioned() -> None:
    other = fold(build(H1, seed=2))
    e = engine()
    e.add(Prompt(token_ids=(1, 2, 3)), SamplingParams(temperature=0, max_tokens=12))
    for _ in range(5):
        e.step()
    e.swap(other, version=7)
    e.add(Prompt(token_ids=(1, 2, 3)), SamplingParams(temperature=0, max_tokens=12))
    traces = finish(e)
    written = traces[0, 0].token_versions
    assert set(written) == {0, 7} and len(written) == 12 and list(written) == sorted(written)
    assert traces[0, 0].version == 7 and traces[1, 0].version == 7 and traces[1, 0].token_versions == ()
    ids = [1, 2, 3, *traces[1, 0].token_ids]
    with torch.inference_mode():
        logits = other.logits(other.forward(torch.tensor(ids[:-1]), Layout.of((len(ids) - 1,))))[2:]
    chosen = logits.gather(1, torch.tensor(ids[3:])[:, None])[:, 0]
    assert float((logits.amax(1) - chosen).max()) <= 1e-4
    smaller = build(replace(H1, vocab_size=9), seed=0)
    with pytest.raises(CheckpointError, match="another model"):
        e.swap(smaller, version=8)
