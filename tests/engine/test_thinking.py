"""Thinking budgets, reserved answers and loops: exact, the same in any batch."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from h1r.engine import Engine, EngineConfig, native
from h1r.engine.thinking import PERIOD, Loop, Marks, begin
from h1r.errors import ConfigError
from h1r.model import build, fold
from h1r.ops.layout import Layout
from h1r.types import Prompt, SamplingParams, StopReason, Trace
from shapes import LITTLE as H1

V = H1.vocab_size
MODEL = fold(build(H1, 1))
OPEN, CLOSE = (1,), (2, 3)
PROMPT = (5, 6, 7)
KERNELS = {"torch": MODEL} | ({"native": native.pack(MODEL, "float32")} if native.available() else {})
CLOSED_BY_FORCE = {2: -100.0, 1: -100.0}  # the model neither closes nor opens a thought by itself


def engine(kernel: str = "torch", **options: object) -> Engine:
    settings_ = {"seed": 0, "poison": True, "sequences": 16, "memory_bytes": 16 << 20, **options}
    return Engine(KERNELS[kernel], H1, EngineConfig(**settings_), think=Marks(OPEN, CLOSE))  # type: ignore[arg-type]


def run(e: Engine, ids: tuple[int, ...], params: SamplingParams) -> list[Trace]:
    e.add(Prompt(token_ids=ids), params)
    out = []
    while e.busy:
        out += [event.trace for event in e.step() if event.trace is not None]
    e.check_integrity()
    return sorted(out, key=lambda t: t.index)


def thought_of(trace: Trace, opened: bool) -> int | None:
    """Tokens between <think> and </think>; None when no thought was opened."""
    ids = list(trace.token_ids)
    start = 0 if opened else (ids.index(1) + 1 if 1 in ids else -1)
    if start < 0:
        return None
    for i in range(start, len(ids) - 1):
        if tuple(ids[i : i + 2]) == CLOSE:
            return i - start
    return len(ids) - start


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("budget", [0, 1, 7, 30])
def test_the_budget_is_exact_and_an_answer_follows(kernel: str, budget: int) -> None:
    params = SamplingParams(seed=3, max_tokens=80, thinking_budget=budget, logit_bias=CLOSED_BY_FORCE, n=4)
    for trace in run(engine(kernel), (*PROMPT, 1), params):
        assert thought_of(trace, opened=True) == budget
        assert trace.token_ids[budget : budget + 2] == CLOSE and len(trace.token_ids) == 80
        assert trace.forced == (budget, budget + 1) and trace.reasoning_stop == "budget"


def test_a_model_that_opens_itself_is_bounded_and_one_that_never_does_is_left_alone() -> None:
    free = SamplingParams(seed=1, max_tokens=60, n=8, logit_bias={2: -100.0})
    params = replace(free, thinking_budget=9)
    seen = {True: 0, False: 0}
    for trace, before in zip(run(engine(), PROMPT, params), run(engine(), PROMPT, free), strict=True):
        thought = thought_of(trace, opened=False)
        seen[thought is None] += 1
        if thought is None:
            assert trace.token_ids == before.token_ids and not trace.forced
        else:
            start = trace.token_ids.index(1) + 1
            assert thought == 9 or start + thought >= 60
            assert trace.token_ids[: start + 9] == before.token_ids[: start + 9]
    assert seen[False] >= 4
    never = replace(params, logit_bias={1: -100.0, 2: -100.0})
    assert all(not t.forced and t.reasoning_stop == "" for t in run(engine(), PROMPT, never))


def test_a_thought_that_ends_in_time_is_not_touched() -> None:
    params = SamplingParams(seed=5, max_tokens=40, n=6, logit_bias={2: 4.0, 3: 4.0})
    free, bounded = (
        run(engine(), (*PROMPT, 1), params),
        run(engine(), (*PROMPT, 1), replace(params, thinking_budget=39)),
    )
    closed = [t for t in free if (thought_of(t, True) or 0) < 27]
    assert len(closed) >= 4
    for a, b in zip(free, bounded, strict=True):
        if a in closed:
            assert a.token_ids == b.token_ids and not b.forced


def test_room_is_kept_for_the_answer() -> None:
    params = SamplingParams(seed=3, max_tokens=40, thinking_budget=1000, logit_bias=CLOSED_BY_FORCE)
    trace = run(engine(), (*PROMPT, 1), params)[0]
    assert len(trace.token_ids) == 40 and trace.reasoning_stop == "reserve"
    assert trace.token_ids[28:30] == CLOSE  # 40 less a quarter, less the two closing tokens
    trace = run(engine(), (*PROMPT, 1), replace(params, answer_reserve=4))[0]
    assert trace.token_ids[34:36] == CLOSE
    trace = run(engine(), (*PROMPT, 1), replace(params, thinking_budget=None, answer_reserve=0))[0]
    assert not trace.forced


def test_a_soft_landing_ends_before_the_hard_end() -> None:
    """The model could close, but rarely does; the bias makes it."""
    params = SamplingParams(seed=2, max_tokens=120, n=16, thinking_budget=60, logit_bias={2: -6.0, 3: 4.0, 1: -100.0})
    hard = run(engine(sequences=32), (*PROMPT, 1), params)
    soft = run(engine(sequences=32), (*PROMPT, 1), replace(params, thinking_landing=20))
    forced = [sum(t.reasoning_stop == "budget" for t in group) for group in (hard, soft)]
    assert forced[0] >= 10 and forced[1] <= 6
    assert all(40 <= (thought_of(t, True) or 0) <= 60 for t in soft if not t.forced and (thought_of(t, True) or 0) > 40)


def test_forced_tokens_carry_the_raw_log_probability() -> None:
    params = SamplingParams(seed=3, max_tokens=30, thinking_budget=5, temperature=0.7, top_p=0.8)
    params = replace(params, logit_bias=CLOSED_BY_FORCE)
    trace = run(engine(), (*PROMPT, 1), params)[0]
    whole = torch.tensor([*PROMPT, 1, *trace.token_ids[:-1]])
    with torch.inference_mode():
        logp = MODEL.logits(MODEL.forward(whole, Layout.of((len(whole),)))).log_softmax(-1)[3:]
    for i in trace.forced:
        assert abs(trace.logprobs[i] - float(logp[i, trace.token_ids[i]])) <= 1e-5
        assert trace.logprobs[i] == trace.raw_logprobs[i]


@pytest.mark.parametrize(("period", "repeats"), [(1, 97), (3, 33), (40, 4), (200, 4)])
def test_loops_are_found_when_they_have_repeated_enough(period: int, repeats: int) -> None:
    rng = np.random.default_rng(period)
    loop = Loop()
    for token in rng.integers(0, 1000, 300):
        assert not loop.push(int(token))
    cycle = rng.integers(0, 1000, period).tolist()
    found = [loop.push(token) for token in cycle * (repeats + 1)]
    need = max(3 * period, 96)
    assert found.index(True) == period + need - 1
    assert not any(Loop().push(int(t)) for t in np.arange(3 * PERIOD))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_loop_in_a_thought_closes_it_and_one_outside_ends_the_trace(kernel: str) -> None:
    stuck = {9: 1000.0}
    params = SamplingParams(temperature=0, max_tokens=300, loop_breaker=True, logit_bias=stuck)
    trace = run(engine(kernel), (*PROMPT, 1), params)[0]
    assert trace.reasoning_stop == "loop" and trace.token_ids[97:99] == CLOSE
    assert trace.stop is StopReason.LOOP and len(trace.token_ids) == 97 + 2 + 97
    trace = run(engine(kernel), PROMPT, params)[0]
    assert trace.stop is StopReason.LOOP and len(trace.token_ids) == 97 and trace.reasoning_stop == ""
    trace = run(engine(kernel), PROMPT, replace(params, loop_breaker=False))[0]
    assert trace.stop is StopReason.LENGTH and len(trace.token_ids) == 300


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_a_bounded_trace_is_the_same_in_any_batch(seed: int) -> None:
    """Little memory, chunks, forks, other requests with and without bounds: promise 5 with budgets."""
    rng = random.Random(seed)
    kernel = rng.choice(list(KERNELS))
    todo = []
    for _ in range(5):
        ids = tuple(rng.randrange(4, V) for _ in range(rng.randint(1, 40)))
        params = SamplingParams(
            seed=rng.randrange(99), n=rng.randint(1, 3), max_tokens=rng.randint(1, 40), stop_ids=(4,),
            thinking_budget=rng.choice([None, 0, 3, 10]), thinking_landing=rng.choice([0, 4]),
            loop_breaker=rng.random() < 0.3, logit_bias={1: 2.0},
        )  # fmt: skip
        todo.append(((*ids, 1) if rng.random() < 0.5 else ids, params))
    size = 64 if kernel == "native" else rng.choice([4, 16])
    state = 2 * 4 * ((32 + 2 * 8) * 3 + 4 * 16 * 8)
    page = 2 * 2 * size * 2 * 16 * 4
    memory = max(2 * 3 * state, 3 * state + (160 // size + 2) * page)
    tight = engine(kernel, sequences=3, memory_bytes=memory, page_size=size, chunk=rng.randint(3, 30), prefixes=1)
    numbers = [tight.add(Prompt(token_ids=ids), params) for ids, params in todo]
    got = {}
    while tight.busy:
        for event in tight.step():
            if event.trace is not None:
                got[event.request, event.index] = event.trace
    tight.check_integrity()
    for number, (ids, params) in zip(numbers, todo, strict=True):
        for alone in run(engine(kernel), ids, params):
            trace = got[number, alone.index]
            assert trace.token_ids == alone.token_ids and trace.forced == alone.forced
            thought = thought_of(trace, opened=ids[-1] == 1)
            if params.thinking_budget is not None and thought is not None:
                assert thought <= params.thinking_budget or len(trace.token_ids) == params.max_tokens


def test_bad_bounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="thinking_budget=-1"):
        SamplingParams(thinking_budget=-1)
    plain = Engine(MODEL, H1, EngineConfig(memory_bytes=16 << 20))
    with pytest.raises(ConfigError, match="<think>"):
        plain.add(Prompt(token_ids=PROMPT), SamplingParams(thinking_budget=5))
    assert begin(None, SamplingParams(), PROMPT, 10) is None
