"""New weights with traces in flight that read themselves again: what follows is the new weights' alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from h1r.engine import Engine, EngineConfig, native
from h1r.errors import ConfigError
from h1r.model import H1Config, Qwen3Config, build, fold
from h1r.ops.layout import Layout
from h1r.types import Prompt, SamplingParams, Trace
from shapes import H1, QWEN, V

KERNELS = ["torch", "native"] if native.available() else ["torch"]
MODELS = {c: [fold(build(c, seed)) for seed in (1, 2)] for c in (H1, QWEN)}


def engine(config: H1Config | Qwen3Config, kernel: str, pages: int = 400, **options: Any) -> Engine:
    """Poisoned: what nobody holds is NaN. On the native kernel memory is ample."""
    options = {"seed": 0, "poison": True, "sequences": 8, "at_swap": "reread", "chunk": 7, **options}
    model = MODELS[config][0]
    if kernel == "native":
        return Engine(native.pack(model, "float32"), config, EngineConfig(memory_bytes=64 << 20, **options))
    page = 2 * config.num_hidden_layers * 4 * config.num_key_value_heads * config.head_dim * 4
    state = 0
    if isinstance(config, H1Config):
        state = 4 * 2 * (config.conv_channels * (config.mamba_d_conv - 1) + config.mamba_d_ssm * config.mamba_d_state)
    slots = options["sequences"] * state
    memory = max(2 * slots, slots + pages * page)
    return Engine(model, config, EngineConfig(page_size=4, memory_bytes=memory, **options))


def swapped(
    e: Engine, config: H1Config | Qwen3Config, requests: list[tuple[list[int], SamplingParams]], when: int
) -> list[Trace]:
    for ids, params in requests:
        e.add(Prompt(token_ids=tuple(ids)), params)
    out, steps = [], 0
    while e.busy:
        if steps == when:
            new: Any = MODELS[config][1]
            e.swap(new, 1)
        out += [event.trace for event in e.step() if event.trace is not None]
        steps += 1
    e.check_integrity()
    return out


@torch.inference_mode()
def gap(config: H1Config | Qwen3Config, trace: Trace, version: int) -> float:
    """Largest difference of the log-probabilities that `version` wrote from those of its model alone."""
    ids, start = [*trace.prompt.token_ids, *trace.token_ids], len(trace.prompt.token_ids)
    model = MODELS[config][version]
    logits = model.logits(model.forward(torch.tensor(ids[:-1]), Layout.of((len(ids) - 1,))))[start - 1 :].double()
    want = logits.log_softmax(-1).gather(1, torch.tensor(trace.token_ids)[:, None])[:, 0].numpy()
    versions = np.array(trace.token_versions or [trace.version] * len(trace.token_ids))
    return float(np.abs(np.asarray(trace.raw_logprobs) - want)[versions == version].max(initial=0.0))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("config", [H1, QWEN], ids=["h1", "qwen3"])
def test_siblings_go_on_as_the_new_weights_alone(config: H1Config | Qwen3Config, kernel: str) -> None:
    requests = [(list(range(2, 25)), SamplingParams(n=3, max_tokens=24)), ([5, 6], SamplingParams(max_tokens=30))]
    # the third request is still a prompt at the swap
    requests.append((list(range(1, 39)), SamplingParams(max_tokens=5)))
    traces = swapped(engine(config, kernel), config, requests, 12)
    assert len(traces) == 5 and sum(len(set(t.token_versions)) == 2 for t in traces) >= 3
    assert max(gap(config, t, v) for t in traces for v in (0, 1)) < 1e-4
    kept = swapped(engine(config, kernel, at_swap="keep"), config, requests, 12)
    assert max(gap(config, t, 1) for t in kept) > 1e-2, "states of the old weights show"


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_at_any_time_in_little_memory(seed: int) -> None:
    """Traces in memory, copied out, not born; prompts half read; pages shared by siblings."""
    rng = random.Random(seed)
    config = rng.choice([H1, H1, QWEN])
    requests = [
        (
            [rng.randrange(V) for _ in range(rng.randint(1, 20))],
            SamplingParams(n=rng.randint(1, 3), max_tokens=rng.randint(1, 20)),
        )
        for _ in range(4)
    ]
    e = engine(config, "torch", pages=rng.randint(12, 30), sequences=rng.randint(1, 6), chunk=rng.randint(1, 30))
    traces = swapped(e, config, requests, rng.randint(0, 40))
    assert len(traces) == sum(p.n for _, p in requests)
    assert max(gap(config, t, v) for t in traces for v in (0, 1)) < 1e-4


def test_draws_do_not_depend_on_it() -> None:
    """Rereading under the same weights changes no token: the streams go on where they were."""
    requests = [([3, 4, 5], SamplingParams(n=2, max_tokens=30, seed=9))]
    plain = swapped(engine(H1, "torch"), H1, requests, 10**6)
    e = engine(H1, "torch")
    e.add(Prompt(token_ids=(3, 4, 5)), requests[0][1])
    out: list[Trace] = []
    for step in range(10**6):
        if not e.busy:
            break
        if step in (4, 9, 20):
            e.swap(MODELS[H1][0], step)
        out += [event.trace for event in e.step() if event.trace is not None]
    assert sorted(t.token_ids for t in out) == sorted(t.token_ids for t in plain)


def test_bad_choice_is_told() -> None:
    with pytest.raises(ConfigError, match="must be keep or reread"):
        EngineConfig(at_swap="forget")
