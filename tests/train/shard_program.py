"""Run by test_shard on every rank: what ranks compute together equals what one computes alone, however the work is shared."""

from __future__ import annotations

import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor, distribute_tensor

sys.path.insert(0, str(Path(__file__).parent))

from conftest import build_tiny
from h1r.train import LocalTrainer, OptimConfig, TrainerConfig, lora
from h1r.train.lora import LoraConfig, attach
from h1r.train.ranks import Ranks, ShardConfig, join
from h1r.train.sft import normalise
from h1r.train.shard import gather
from h1r.types import Row


def row(i: int, longest: int = 40) -> Row:
    rng = np.random.default_rng(i)
    length = int(rng.integers(6, longest))
    weights = rng.random(length, np.float32)
    weights[: 1 + length // 3] = 0
    ids = tuple(int(t) for t in rng.integers(3, 64, length))
    return Row(token_ids=ids, streams={"ce": weights}, id=str(i))


def trained(ranks: Ranks, length: int, calls: int, **settings: object):
    """Loss and norm of two steps, log-probabilities after them, and the weights."""
    # eps: Adam's step on a gradient of 3e-7, of which 2e-8 is rounding, would otherwise be as long as on any other.
    optim = OptimConfig(lr=3e-3, clip=0.05, eps=1e-5)
    config = TrainerConfig(length=length, workers=1, steps=10, optim=optim, **settings)
    trainer = LocalTrainer(build_tiny(), config, ranks=ranks)
    out = []
    for step in range(2):
        rows = normalise([row(100 * step + i) for i in range(7)])
        parts = [trainer.forward_backward(rows[i::calls], "sft") for i in range(calls)]
        out.append((sum(p["loss"] for p in parts), trainer.optim_step()["grad_norm"], sum(p["tokens"] for p in parts)))
    logp = np.concatenate(trainer.logprobs([row(i) for i in range(4)]))
    whole = gather(trainer.model, ranks) if ranks.sharded else trainer.model
    return out, logp, None if config.lora else whole  # Adam's first step on a gradient near 0 is a matter of its sign


def adapters(ranks: Ranks, what: str) -> None:
    """What every rank gives its part of: the adapter's file, and the merged weights."""
    model, plain = build_tiny(), build_tiny()
    LocalTrainer(model, TrainerConfig(length=64, workers=1, lora=LoraConfig(rank=2)), ranks=ranks)
    attach(plain, LoraConfig(rank=2))
    generator = torch.Generator().manual_seed(3)
    for (_, own), (_, low) in zip(lora.adapters(model), lora.adapters(plain), strict=True):
        value = torch.randn(low.b.shape, generator=generator)
        with torch.no_grad():
            low.b.copy_(value)
            if isinstance(own.b, DTensor):
                value = distribute_tensor(value, own.b.device_mesh, own.b.placements, src_data_rank=None)
            own.b.copy_(value)
    with tempfile.TemporaryDirectory() as folder:
        lora.save_adapter(model, f"{folder}/mine")
        lora.save_adapter(plain, f"{folder}/plain")
        mine, want = (load_file(f"{folder}/{name}/adapter_model.safetensors") for name in ("mine", "plain"))
        assert mine.keys() == want.keys() and all(torch.equal(mine[k], want[k]) for k in want), what
    whole = gather(model, ranks) if ranks.sharded else None
    lora.merge(plain)
    if whole is not None:
        merged = dict(plain.named_parameters())
        for name, value in whole.named_parameters():
            assert torch.allclose(value, merged[name], atol=1e-6), f"{what}: merged {name}"


def compare(got, want, what: str) -> None:
    for (loss, norm, tokens), (loss_w, norm_w, tokens_w) in zip(got[0], want[0], strict=True):
        assert abs(loss - loss_w) <= 1e-6 * abs(loss_w), f"{what}: loss {loss} {loss_w}"
        assert abs(norm - norm_w) <= 1e-6 * norm_w, f"{what}: norm {norm} {norm_w}"
        assert tokens == tokens_w, what
    assert np.nanmax(np.abs(got[1] - want[1])) <= 1e-4, what
    assert np.isnan(got[1]).sum() == np.isnan(want[1]).sum(), what
    if got[2] is not None:
        for (name, a), b in zip(got[2].named_parameters(), want[2].parameters(), strict=True):
            assert float((a - b).detach().abs().max()) <= 2e-5 * max(1e-3, float(b.abs().max())), f"{what}: {name}"


def main(contexts: list[int]) -> None:
    torch.set_num_threads(1)
    alone = {True: trained(Ranks(), 4096, 1, checkpointing=True), False: trained(Ranks(), 4096, 1)}
    compare(alone[True], alone[False], "checkpointing")
    adapted = trained(Ranks(), 4096, 1, lora=LoraConfig(rank=2))
    for context, weights in product(contexts, ("whole", "sharded")):
        ranks = join(ShardConfig(context=context, weights=weights))
        for length, calls, how in ((4096, 1, False), (48, 3, "selective"), (80, 2, True)):
            what = f"context {context} of {ranks.size}, {weights}, rows of {length}, {calls} calls"
            compare(trained(ranks, length, calls, checkpointing=how), alone[False], what)
        compare(trained(ranks, 64, 1, lora=LoraConfig(rank=2)), adapted, f"adapters, context {context}, {weights}")
        adapters(ranks, f"context {context}, {weights}")
    ranks.wait()


main([int(c) for c in sys.argv[1].split(",")])
