"""Weights from memory to memory: exact, labelled, and what becomes of an exchange whose members do not come."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("ray", reason="needs the ray extra")

from h1r import model as models
from h1r.engine import LLM
from h1r.errors import CheckpointError, WorkerLost
from h1r.model import H1Config, build
from h1r.model.weights import Held, hub_name, named
from h1r.scale.broadcast import Meeting, call_off, give, meeting, take
from h1r.types import SamplingParams

CONFIG = H1Config(
    vocab_size=64, hidden_size=32, num_hidden_layers=2, intermediate_size=48, num_attention_heads=2, num_key_value_heads=1,
    head_dim=16, mamba_d_ssm=32, mamba_n_heads=2, mamba_d_head=16, mamba_d_state=16, mamba_n_groups=1, key_multiplier=0.7,
    lm_head_multiplier=0.3, ssm_out_multiplier=1.2,
)  # fmt: skip


def exchange(
    tensors: dict[str, torch.Tensor], receivers: int, at: Meeting
) -> list[tuple[dict[str, torch.Tensor], int]]:
    out: list[tuple[dict[str, torch.Tensor], int] | None] = [None] * receivers

    def work(rank: int) -> None:
        out[rank - 1] = take(at, rank, receivers + 1)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(1, receivers + 1)]
    for t in threads:
        t.start()
    give(tensors, 7, at, receivers + 1)
    for t in threads:
        t.join(30)
    return [o for o in out if o is not None]


def test_every_receiver_has_the_same_bits():
    g = torch.Generator().manual_seed(0)
    tensors = {
        "a": torch.randn(300, 40, generator=g),
        "b": torch.randn(5, generator=g).bfloat16(),
        "c": torch.randn(6, 4, generator=g).T,
        "none": torch.zeros(0, 3),
        "whole": torch.arange(9),
    }
    got = exchange(tensors, 3, meeting("127.0.0.1", 30))
    assert [version for _, version in got] == [7, 7, 7]
    for found, _ in got:
        assert found.keys() == tensors.keys()
        assert all(found[n].dtype == t.dtype and torch.equal(found[n], t) for n, t in tensors.items())


def test_an_engine_takes_them_as_it_does_a_folder(tmp_path: Path):
    models.save(build(CONFIG, 0), tmp_path / "old")
    new = build(CONFIG, 1)
    models.save(new, tmp_path / "new")
    llm, other = (LLM(tmp_path / "old", tokenizer=False, dtype="float32") for _ in range(2))
    found, version = exchange({hub_name(n): t for n, t in named(new)}, 1, meeting("127.0.0.1", 30))[0]
    llm.load(Held(llm.config, found), version)
    other.load(tmp_path / "new", 7)
    greedy = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
    a, b = (m.generate([[1, 2, 3]], greedy)[0][0] for m in (llm, other))
    assert a.token_ids == b.token_ids and a.version == b.version == 7
    assert (a.raw_logprobs == b.raw_logprobs).all()
    short = {n: t for n, t in found.items() if "layers.1" not in n}
    with pytest.raises(CheckpointError, match=r"weights in memory: \d+ tensors are missing"):
        llm.load(Held(llm.config, short), 8)
    with pytest.raises(CheckpointError, match="has shape"):
        llm.load(Held(llm.config, found | {"model.final_layernorm.weight": torch.ones(5)}), 8)
    assert llm.version == 7


@pytest.mark.parametrize("absent", ["giver", "receiver"])
def test_whoever_does_not_come_is_told(absent: str):
    at, begin = meeting("127.0.0.1", 1.0), time.monotonic()
    with pytest.raises(WorkerLost, match="did not come"):
        give({"a": torch.zeros(3)}, 1, at, 2) if absent == "receiver" else take(at, 1, 2)
    assert time.monotonic() - begin < 20


def test_an_exchange_that_is_called_off_ends_at_once():
    at, begin = meeting("127.0.0.1", 60.0), time.monotonic()
    timer = threading.Timer(0.5, call_off, [at])
    timer.start()
    with pytest.raises(WorkerLost, match="called off"):
        give({"a": torch.zeros(3)}, 1, at, 2)
    assert time.monotonic() - begin < 10
    call_off(at)  # nobody waits there
