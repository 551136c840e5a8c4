"""Constraints inside the engine: greedy and sampled rows, groups, budgets, neighbours; and what a broken one costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from h1r.engine import Engine, EngineConfig, native
from h1r.engine.thinking import Marks, inside
from h1r.errors import ConfigError
from h1r.model import build, fold
from h1r.types import Prompt, SamplingParams, StopReason, Trace
from shapes import LITTLE as H1

V, STOP = H1.vocab_size, 4
MODEL = fold(build(H1, 1))
OPEN, CLOSE = 1, 2
PROMPT = (5, 6, 7)
KERNELS = {"torch": MODEL} | ({"native": native.pack(MODEL, "float32")} if native.available() else {})


class Climb:
    """Answers are five tokens, each larger than the one before by one or two, then a stop; a thought is free."""

    def __init__(self, width: int = V, breaks: bool = False) -> None:
        self.width, self.breaks = width, breaks

    def begin(self, opened: bool = False) -> Climbing:
        return Climbing(self, opened)


class Climbing:
    def __init__(self, rule: Climb, opened: bool) -> None:
        self.rule, self.thinking, self.answer = rule, opened, []

    def mask(self) -> np.ndarray:
        allowed = np.zeros(self.rule.width, bool)
        if self.thinking:
            allowed[:] = True
            allowed[STOP] = False
        elif len(self.answer) == 5:
            allowed[STOP] = True
        else:
            last = self.answer[-1] if self.answer else 9
            allowed[[last + 1, last + 2]] = True
        return allowed

    def accept(self, token: int) -> None:
        if self.rule.breaks and len(self.answer) == 2:
            raise ConfigError("beyond its limits")
        if self.thinking:
            self.thinking = token != CLOSE
        else:
            self.answer.append(token)


def engine(kernel: str = "torch", **options: object) -> Engine:
    settings = {"seed": 0, "poison": True, "sequences": 16, "memory_bytes": 16 << 20, **options}
    return Engine(KERNELS[kernel], H1, EngineConfig(**settings), stop_ids=(STOP,), think=Marks((OPEN,), (CLOSE,)))  # type: ignore[arg-type]


def finish(e: Engine) -> dict[tuple[int, int], Trace]:
    out = {}
    while e.busy:
        out |= {(event.request, event.index): event.trace for event in e.step() if event.trace is not None}
    e.check_integrity()
    return out


def climbs(answer: tuple[int, ...]) -> bool:
    steps = np.diff((9, *answer[:5]))
    return len(answer) == 6 and answer[5] == STOP and set(steps) <= {1, 2}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "how",
    [{"temperature": 0.0}, {}, {"temperature": 2.0, "top_p": 0.9, "top_k": 3}, {"min_p": 0.5}, {"top_k": 1},
     {"presence_penalty": 2.0, "logit_bias": {3: 50.0}}, {"temperature": 100.0}],
)  # fmt: skip
def test_every_answer_obeys(kernel: str, how: dict) -> None:
    e = engine(kernel)
    params = SamplingParams(n=6, max_tokens=30, seed=2, grammar=Climb(), **how)
    e.add(Prompt(token_ids=PROMPT), params)
    free = e.add(Prompt(token_ids=PROMPT), SamplingParams(max_tokens=9, seed=2))
    traces = finish(e)
    alone = engine(kernel)
    alone.add(Prompt(token_ids=PROMPT), SamplingParams(seed=2), row=0)
    assert traces.pop((free, 0)).token_ids == finish(alone)[0, 0].token_ids[:9]
    for trace in traces.values():
        assert climbs(trace.token_ids) and trace.stop is StopReason.STOP
        # two tokens or one are possible at every place: that is the distribution sampled from
        assert (trace.logprobs > -30).all() and abs(trace.logprobs[5]) < 1e-5
    if how == {}:
        assert len({t.token_ids for t in traces.values()}) > 1
        first = [t for t in traces.values() if t.token_ids[0] == 10]
        other = [t for t in traces.values() if t.token_ids[0] == 11]
        if first and other:
            assert abs(np.exp(first[0].logprobs[0]) + np.exp(other[0].logprobs[0]) - 1) < 1e-5


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_masked_distribution_is_the_raw_one_renormalised(kernel: str) -> None:
    e = engine(kernel)
    params = SamplingParams(n=40, max_tokens=1, seed=7, grammar=Climb(), logprobs=20)
    e.add(Prompt(token_ids=PROMPT), params)
    traces = list(finish(e).values())
    raw = {t.token_ids[0]: float(t.raw_logprobs[0]) for t in traces}
    assert set(raw) == {10, 11}
    total = np.logaddexp(*raw.values())
    for trace in traces:
        assert abs(trace.logprobs[0] - (raw[trace.token_ids[0]] - total)) < 1e-5


@pytest.mark.parametrize("budget", [0, 3, 12])
def test_the_grammar_waits_for_the_end_of_the_thought(budget: int) -> None:
    e = engine()
    never = {CLOSE: -100.0, STOP: 50.0}
    params = SamplingParams(n=3, max_tokens=60, seed=1, thinking_budget=budget, logit_bias=never, grammar=Climb())
    e.add(Prompt(token_ids=(*PROMPT, OPEN)), params)
    for trace in finish(e).values():
        assert trace.token_ids[budget] == CLOSE and trace.forced == (budget,)
        assert climbs(trace.token_ids[budget + 1 :])


def test_preempted_traces_keep_their_state() -> None:
    state = 2 * 4 * ((32 + 2 * 8) * 3 + 4 * 16 * 8)
    page = 2 * 2 * 4 * 2 * 16 * 4
    e = engine(sequences=3, memory_bytes=6 * state + 6 * page, page_size=4, prefixes=0)
    params = SamplingParams(n=4, max_tokens=30, seed=2, grammar=Climb())
    numbers = [e.add(Prompt(token_ids=PROMPT + (8,) * i), params) for i in range(3)]
    got = finish(e)
    assert all(climbs(got[number, i].token_ids) for number in numbers for i in range(4))


def test_a_broken_grammar_costs_its_own_request_alone() -> None:
    e = engine()
    bad = e.add(Prompt(token_ids=PROMPT), SamplingParams(n=2, grammar=Climb(breaks=True)))
    good = e.add(Prompt(token_ids=PROMPT), SamplingParams(max_tokens=30, grammar=Climb()))
    got = finish(e)
    assert isinstance(e.failures[bad], ConfigError) and got[bad, 0].stop is StopReason.ABORT
    assert climbs(got[good, 0].token_ids)
    with pytest.raises(ConfigError, match="knows 25 tokens, the model 24"):
        e.add(Prompt(token_ids=PROMPT), SamplingParams(grammar=Climb(width=25)))
    e.check_integrity()


def test_a_thought_of_an_earlier_turn_is_not_open() -> None:
    marks = Marks((OPEN,), (CLOSE,))
    assert inside(marks, (5, OPEN, 6)) and not inside(marks, (OPEN, 6, CLOSE, 7)) and not inside(None, (OPEN,))
    assert not inside(marks, (OPEN, 6, STOP, 7), (STOP,)) and inside(marks, (STOP, OPEN), (STOP,))
    e = engine()
    params = SamplingParams(max_tokens=30, temperature=0.0, thinking_budget=5, grammar=Climb())
    e.add(Prompt(token_ids=(OPEN, 6, STOP, 7)), params)
    assert climbs(finish(e)[0, 0].token_ids)
    e.add(Prompt(token_ids=(7, OPEN, 6)), replace(params, logit_bias={CLOSE: -100.0}))
    assert finish(e)[1, 0].token_ids[5] == CLOSE
