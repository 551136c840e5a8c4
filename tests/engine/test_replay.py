"""Engine log-probabilities against the trainer's: fast within rounding, exact from the last chunk boundary."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from h1r.engine import Engine, EngineConfig
from h1r.engine.replay import chunk_of
from h1r.errors import ConfigError
from h1r.model import H1Config, Model, Qwen3Config, build, fold
from h1r.ops.layout import Layout
from h1r.ops.logprob import logprob
from h1r.types import Prompt, SamplingParams, Trace

H1 = H1Config(
    vocab_size=64, hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, mamba_d_ssm=96, mamba_n_heads=4, mamba_d_head=24, mamba_d_state=16,
    mamba_rms_norm=True, max_position_embeddings=512, embedding_multiplier=1.7, lm_head_multiplier=0.6,
    key_multiplier=1.4, ssm_in_multiplier=0.9, ssm_multipliers=(0.7, 1.3, 0.8, 1.2, 0.9), mlp_multipliers=(0.75, 1.25),
)  # fmt: skip
QWEN = Qwen3Config(
    vocab_size=64, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=512,
)  # fmt: skip
TRAINED = {c: build(c, seed=3) for c in (H1, QWEN)}


def traces_of(config: H1Config | Qwen3Config, model: Model, **options: object) -> list[Trace]:
    """Forks, several prompts, prompts cut anywhere; some sequences are parked."""
    settings = {
        "seed": 0,
        "poison": True,
        "sequences": 8,
        "memory_bytes": 4 << 20,
        "page_size": 8,
        "chunk": 11,
        **options,
    }
    e = Engine(model, config, EngineConfig(**settings))  # type: ignore[arg-type]
    rng = random.Random(5)
    for row, length in enumerate((3, 40, 97)):
        ids = tuple(rng.randrange(64) for _ in range(length))
        e.add(Prompt(token_ids=ids), SamplingParams(n=2, max_tokens=60, seed=9), row=row)
    out = []
    while e.busy:
        out += [event.trace for event in e.step() if event.trace is not None]
    e.check_integrity()
    return sorted(out, key=lambda t: (len(t.prompt.token_ids), t.index))


@torch.inference_mode()
def gaps(config: H1Config | Qwen3Config, traces: list[Trace], chunk: int | None = None) -> np.ndarray:
    """Engine minus trainer, of every token: the trainer computes each document alone, unfolded."""
    model, out = TRAINED[config], []
    head, multiplier = model.head
    for t in traces:
        ids = torch.tensor([*t.prompt.token_ids, *t.token_ids])
        hidden = model.forward(ids, Layout.of((len(ids),), chunk=chunk))
        own = logprob(hidden[:-1], head, ids[1:], multiplier).logp[len(t.prompt.token_ids) - 1 :]
        out.append(t.logprobs - own.numpy())
    return np.concatenate(out)


@pytest.mark.parametrize("config", [H1, QWEN], ids=["h1", "qwen3"])
def test_both_modes_agree_with_the_trainer(config: H1Config) -> None:
    model = fold(TRAINED[config])
    fast = np.abs(gaps(config, traces_of(config, model)))
    exact = np.abs(gaps(config, traces_of(config, model, exact=True), chunk_of(config)))
    assert len(fast) == len(exact) == 360
    assert fast.mean() <= 1e-6 and fast.max() <= 1e-5
    assert exact.mean() <= fast.mean() and exact.max() <= 2e-6
    if products_ignore_rows(model):
        assert exact.max() == 0.0


@torch.inference_mode()
def products_ignore_rows(model: Model) -> bool:
    """Whether this machine's products give a row the same bits in matrices of eight rows and more."""
    w = model.layers[0].weights().enter
    x = torch.randn(128, w.shape[1], generator=torch.Generator().manual_seed(0))
    whole = torch.nn.functional.linear(x, w)
    return all(torch.equal(torch.nn.functional.linear(x[:n], w), whole[:n]) for n in (8, 9, 15, 16, 33, 100))


def test_replay_writes_the_same_tokens_whatever_memory_and_cuts() -> None:
    model = fold(TRAINED[H1])
    wide = traces_of(H1, model, exact=True, chunk=512)
    state = 3 * 4 * ((96 + 32) * 3 + 96 * 16)
    page = 2 * 3 * 8 * 2 * 16 * 4
    tight = traces_of(H1, model, exact=True, chunk=5, memory_bytes=8 * state + 45 * page)
    assert [t.token_ids for t in wide] == [t.token_ids for t in tight]


@torch.inference_mode()
def test_the_scan_repeats_its_bits_from_a_boundary() -> None:
    """The claim that exactness rests on: with the chunk length fixed, a scan continued at a boundary has the bits of the
    whole scan, in the state and in every later token; continued elsewhere it has not."""
    from h1r.ops import ssd

    generator = torch.Generator().manual_seed(0)
    tokens, q = 128, chunk_of(H1)
    x = torch.randn(tokens, 4, 24, generator=generator)
    b, c = (torch.randn(tokens, 1, 16, generator=generator) for _ in range(2))
    dt, a = torch.rand(tokens, 4, generator=generator) * 0.3, -torch.rand(4, generator=generator)
    whole = ssd.ssd(x, dt, a, b, c, Layout.of((tokens,), chunk=q))

    def resumed(cut: int) -> torch.Tensor:
        first = ssd.ssd(x[:cut], dt[:cut], a, b[:cut], c[:cut], Layout.of((cut,), chunk=q))
        rest = Layout.of((tokens - cut,), offsets=(cut,), chunk=q)
        return ssd.ssd(x[cut:], dt[cut:], a, b[cut:], c[cut:], rest, first.state).y

    assert q == 16
    assert torch.equal(resumed(3 * q), whole.y[3 * q :])
    assert not torch.equal(resumed(3 * q + 5), whole.y[3 * q + 5 :])


def test_exact_and_native_exclude_one_another() -> None:
    from h1r.engine import native

    if native.available():
        with pytest.raises(ConfigError, match="kernel='torch'"):
            Engine(native.pack(fold(TRAINED[H1]), "float32"), H1, EngineConfig(exact=True))
