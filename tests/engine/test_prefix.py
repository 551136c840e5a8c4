"""The prefix cache: exact, bounded, the first to give way."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from h1r.engine import Engine, EngineConfig, native
from h1r.engine.memory import Memory, Pool
from h1r.engine.prefix import LEAST, Prefixes
from h1r.model import H1Config, Model, Qwen3Config, build, fold
from h1r.ops.layout import Layout
from h1r.types import Prompt, SamplingParams, StopReason, Trace

V = 40
H1 = H1Config(
    vocab_size=V, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8,
    mamba_rms_norm=True, max_position_embeddings=512, embedding_multiplier=1.7, lm_head_multiplier=0.6,
    key_multiplier=1.4, ssm_in_multiplier=0.9, ssm_multipliers=(0.7, 1.3, 0.8, 1.2, 0.9), mlp_multipliers=(0.75, 1.25),
)  # fmt: skip
QWEN = Qwen3Config(
    vocab_size=V, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=512,
)  # fmt: skip
FOLDED: dict[type, list[Model]] = {type(c): [fold(build(c, seed)) for seed in (1, 2)] for c in (H1, QWEN)}
KERNELS = ["torch", "native"] if native.available() else ["torch"]
GREEDY = SamplingParams(temperature=0, max_tokens=8)


def models(config: H1Config | Qwen3Config, kernel: str) -> list:
    plain = FOLDED[type(config)]
    return [native.pack(m, "float32") for m in plain] if kernel == "native" else list(plain)


def engine(kernel: str = "torch", config: H1Config | Qwen3Config = H1, **options: object) -> Engine:
    settings_ = {"seed": 0, "poison": True, "sequences": 16, "memory_bytes": 64 << 20, "prefixes": 4, **options}
    if kernel == "torch":
        settings_.setdefault("page_size", 16)
    return Engine(models(config, kernel)[0], config, EngineConfig(**settings_))  # type: ignore[arg-type]


def run(e: Engine, ids: Sequence[int], params: SamplingParams = GREEDY, marks: tuple[int, ...] = ()) -> list[Trace]:
    """The prompt's traces, and the engine idle again."""
    e.add(Prompt(token_ids=tuple(ids), marks=marks), params)
    traces = []
    while e.busy:
        traces += [event.trace for event in e.step() if event.trace is not None]
    e.check_integrity()
    return traces


@torch.inference_mode()
def continued(model: Model, ids: Sequence[int], count: int) -> list[int]:
    """Greedy tokens by one forward each, without any cache."""
    out = list(ids)
    for _ in range(count):
        out.append(int(model.logits(model.forward(torch.tensor(out), Layout.of((len(out),)))[-1:]).argmax()))
    return out[len(ids) :]


def tokens(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(V) for _ in range(count)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("config", [H1, QWEN], ids=["h1", "qwen3"])
def test_a_repeated_prompt_computes_nothing_again(kernel: str, config: H1Config) -> None:
    e = engine(kernel, config)
    ids = tokens(0, 150)
    first = run(e, ids)[0]
    assert e.scheduler.prefixes.hits == 0
    second = run(e, ids)[0]
    assert (e.scheduler.prefixes.hits, e.scheduler.prefixes.tokens) == (1, 149)
    assert first.token_ids == second.token_ids
    assert list(first.token_ids) == continued(FOLDED[type(config)][0], ids, 8)
    e.drop_prefixes()
    assert e.memory.slots.used == e.memory.pages.used == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_longest_common_beginning_is_found_at_its_mark(kernel: str) -> None:
    """A shared system prompt, marked; then the same tokens but for one inside it: no hit."""
    e = engine(kernel)
    system = tokens(1, 100)
    run(e, [*system, *tokens(2, 40)], marks=(100,))
    other = [*system, *tokens(3, 30)]
    got = run(e, other, marks=(100,))[0]
    assert (e.scheduler.prefixes.hits, e.scheduler.prefixes.tokens) == (1, 100)
    assert list(got.token_ids) == continued(FOLDED[H1Config][0], other, 8)
    changed = [*system[:50], (system[50] + 1) % V, *system[51:], *tokens(3, 30)]
    got = run(e, changed, marks=(100,))[0]
    assert e.scheduler.prefixes.hits == 1
    assert list(got.token_ids) == continued(FOLDED[H1Config][0], changed, 8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_next_turn_goes_on_where_the_last_ended(kernel: str) -> None:
    e = engine(kernel)
    ids = tokens(4, 90)
    known = continued(FOLDED[H1Config][0], ids, 12)
    stop = SamplingParams(temperature=0, max_tokens=30, stop_ids=(known[11],))
    trace = run(e, ids, stop)[0]
    assert trace.stop is StopReason.STOP
    turn = [*ids, *trace.token_ids, *tokens(5, 20)]
    got = run(e, turn)[0]
    # all but the stop token, which was drawn but never computed
    assert e.scheduler.prefixes.tokens == 90 + len(trace.token_ids) - 1
    assert list(got.token_ids) == continued(FOLDED[H1Config][0], turn, 8)


def test_new_weights_forget_everything() -> None:
    e = engine("torch")
    ids = tokens(6, 120)
    run(e, ids)
    e.swap(FOLDED[H1Config][1], 1)
    got = run(e, ids)[0]
    assert e.scheduler.prefixes.hits == 0
    assert list(got.token_ids) == continued(FOLDED[H1Config][1], ids, 8)


def test_nothing_is_kept_of_what_began_under_other_weights() -> None:
    """A trace that is under way at the swap and stops after it leaves a state of two models, which no prompt may begin with."""
    ids = tokens(3, LEAST + 10)
    stop = SamplingParams(temperature=0, max_tokens=40, stop_ids=tuple(range(V)), n=1)
    e = engine()
    e.add(Prompt(token_ids=tuple(ids)), stop)
    while not any(s.length >= len(ids) - 1 for s in e.scheduler.resident):
        e.step()
    e.swap(FOLDED[H1Config][1], 1)
    while e.busy:
        e.step()
    assert not e.scheduler.prefixes.kept
    run(e, ids)
    assert e.scheduler.prefixes.hits == 0 and e.scheduler.prefixes.kept


def test_the_bound_holds_and_the_longest_unused_goes_first() -> None:
    e = engine("torch", prefixes=2)
    a, b, c = (tokens(s, 100) for s in (7, 8, 9))
    run(e, a)
    run(e, b)
    run(e, a)  # used again: b is older now
    run(e, c)
    kept = list(e.scheduler.prefixes.kept)
    assert len(kept) == 2 and tuple(a[:99]) in kept and tuple(c[:99]) in kept
    assert engine("torch", prefixes=0).scheduler.prefixes.limit == 0
    assert engine("torch", sequences=1).scheduler.prefixes.limit == 0


def test_short_prompts_are_not_kept() -> None:
    e = engine("torch")
    run(e, tokens(10, LEAST))  # its state covers one token less
    assert not e.scheduler.prefixes.kept
    run(e, tokens(10, LEAST + 1))
    assert len(e.scheduler.prefixes.kept) == 1


def test_room_is_made_only_when_it_suffices() -> None:
    memory = Memory(4, Pool(8, 8), Pool(4, 4))
    prefixes = Prefixes(memory, 3)
    for name in (1, 2):
        prefixes.add((name,) * 8, memory.slots.take(), [memory.pages.take(), memory.pages.take()])
    busy = [memory.pages.take() for _ in range(3)]
    assert not prefixes.make_room(1, 6) and len(prefixes.kept) == 2
    assert prefixes.make_room(1, 3) and len(prefixes.kept) == 1
    assert prefixes.find([2] * 9, 8) is not None and prefixes.find([1] * 9, 8) is None
    assert not prefixes.make_room(0, 5, spare=prefixes.kept[(2,) * 8])
    for page in busy:
        memory.pages.drop(page)
    prefixes.clear()
    memory.check()


COUNTED = {"hits": 0}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_greedy_with_prefixes_equals_alone(seed: int) -> None:
    """Promise 5 with shared beginnings, forks, aborts, small memory, chunks, both models, both kernels, new weights."""
    rng = random.Random(seed)
    config, kernel = rng.choice([H1, H1, QWEN]), rng.choice(KERNELS)
    both = models(config, kernel)
    e = small(config, kernel, both[0], rng)
    stems = [tokens(rng.randrange(99), 70 + rng.randrange(40)) for _ in range(2)]
    todo = [[*rng.choice(stems), *tokens(rng.randrange(4), rng.randint(0, 30))] for _ in range(10)]
    added: dict[int, tuple[list[int], int]] = {}
    swapped = 0
    while todo or e.busy:
        if todo and (rng.random() < 0.3 or not e.busy):
            ids = todo.pop()
            params = SamplingParams(temperature=0, n=rng.randint(1, 3), max_tokens=rng.randint(1, 12), stop_ids=(3,))
            added[e.add(Prompt(token_ids=tuple(ids), marks=(70,)), params)] = (ids, swapped)
        if rng.random() < 0.02 and added:
            e.abort(rng.choice(list(added)), rng.choice([None, 0, 1]))
        if rng.random() < 0.1 and not e.busy:
            swapped = 1 - swapped
            e.swap(both[swapped], swapped)
        for event in e.step():
            if event.trace is None or not event.trace.token_ids:
                continue
            ids, version = added[event.request]
            whole = torch.tensor([*ids, *event.trace.token_ids[:-1]])
            with torch.inference_mode():
                model = FOLDED[type(config)][version]
                logits = model.logits(model.forward(whole, Layout.of((len(whole),))))[len(ids) - 1 :]
            chosen = logits.gather(1, torch.tensor(event.trace.token_ids)[:, None])[:, 0]
            assert float((logits.amax(1) - chosen).max()) <= 1e-4
    COUNTED["hits"] += e.scheduler.prefixes.hits
    e.check_integrity()
    e.drop_prefixes()
    assert e.memory.slots.used == e.memory.pages.used == 0


def test_the_property_saw_hits() -> None:
    if COUNTED["hits"] < 20:  # thirty random examples give 37 or so; with as many again it cannot be chance
        test_greedy_with_prefixes_equals_alone()
    assert COUNTED["hits"] >= 20


def small(config: H1Config | Qwen3Config, kernel: str, model: object, rng: random.Random) -> Engine:
    """Memory for a few sequences, so that some are parked and snapshots must give way."""
    size = 64 if kernel == "native" else rng.choice([4, 16])
    page = 2 * 2 * size * 2 * (16 if kernel == "native" else 8) * 4
    slots = rng.randint(2, 7)
    state = 0
    if isinstance(config, H1Config):
        lanes = 16 if kernel == "native" else 8
        state = 2 * 4 * (config.conv_channels * 3 + config.mamba_n_heads * lanes * config.mamba_d_state)
    pages = rng.randint(160, 500) // size + 2
    options = EngineConfig(
        sequences=slots, memory_bytes=max(2 * slots * state, slots * state + pages * page), page_size=size,
        chunk=rng.randint(5, 80), poison=True, seed=0, prefixes=rng.randint(1, 4),
    )  # fmt: skip
    return Engine(model, config, options)
