"""How far the engine's log-probabilities are from the trainer's, in the fast mode, the exact one and the native kernel,
what the exact one costs, and what no mode could remove."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from h1r.engine import Engine, EngineConfig, native
from h1r.engine.replay import chunk_of
from h1r.model import build, fold
from h1r.model.config import Config
from h1r.ops import Layout
from h1r.ops.logprob import logprob
from h1r.types import Prompt, SamplingParams


def replay(
    models: Mapping[str, Config], *, prompt: int = 48, tokens: int = 96, traces: int = 4, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """One row per model and mode, fp32; JSON-able.

    mean, most   |engine - trainer| log-probability; equal: share of tokens with the same bits
    floor        largest relative difference that the number of rows makes to the model's products: where it is 0, exact
                 is exact
    own          share of tokens whose bits a forward of the same kind (same weights, same kernel) over the whole document has
    tokens_per_second, cost   of writing; against the fast mode
    """
    for name, config in models.items():
        plain = build(config, seed)
        folded = fold(plain)
        modes: dict[str, tuple[Any, bool]] = {"fast": (folded, False), "exact": (folded, True)}
        if native.available() and not native.fits(config):
            modes["native"] = (native.pack(folded, "float32"), False)
        base = None
        for mode, (model, exact) in modes.items():
            written, seconds = _write(model, config, exact, prompt, tokens, traces, seed)
            chunk = chunk_of(config) if exact else None
            gap = torch.cat([_gap(plain, t, chunk) for t in written])
            rate = traces * tokens / seconds
            base = base or rate
            yield {
                "model": name,
                "mode": mode,
                "mean": float(gap.mean()),
                "most": float(gap.max()),
                "equal": float((gap == 0).float().mean()),
                "own": _own(model, written, chunk),
                "floor": floor(folded),
                "tokens_per_second": rate,
                "cost": base / rate,
            }


@torch.inference_mode()
def floor(model: Any) -> float:
    """What the number of rows changes in the products of a folded model's first layer and its head."""
    w = model.layers[0].weights()
    worst = 0.0
    for weight in (w.enter, w.leave, w.gate_up, w.down, model.head[0]):
        x = torch.randn(150, weight.shape[1], generator=torch.Generator().manual_seed(0))
        whole = F.linear(x, weight)
        gap = max(float((F.linear(x[:n], weight) - whole[:n]).abs().max()) for n in (*range(8, 34), 63, 87, 100, 143))
        worst = max(worst, gap / float(whole.abs().max()))
    return worst


def _write(
    model: Any, config: Config, exact: bool, prompt: int, tokens: int, traces: int, seed: int
) -> tuple[list[Any], float]:
    options = EngineConfig(sequences=traces, memory_bytes=1 << 30, seed=seed, exact=exact, prefixes=0)
    engine = Engine(model, config, options)
    ids = torch.randint(0, config.vocab_size, (prompt,), generator=torch.Generator().manual_seed(seed)).tolist()
    sampling = SamplingParams(n=traces, max_tokens=tokens, seed=seed)
    engine.add(Prompt(token_ids=tuple(ids)), sampling)
    out, begun = [], time.perf_counter()
    while engine.busy:
        out += [event.trace for event in engine.step() if event.trace is not None]
    return out, time.perf_counter() - begun


@torch.inference_mode()
def _gap(plain: Any, trace: Any, chunk: int | None) -> Tensor:
    """|engine - trainer| per token; the trainer has the document alone, unfolded."""
    ids = torch.tensor([*trace.prompt.token_ids, *trace.token_ids])
    head, multiplier = plain.head
    hidden = plain.forward(ids, Layout.of((len(ids),), chunk=chunk))
    known = logprob(hidden[:-1], head, ids[1:], multiplier).logp[len(trace.prompt.token_ids) - 1 :]
    return (torch.from_numpy(trace.raw_logprobs) - known).abs()


@torch.inference_mode()
def _own(model: Any, traces: list[Any], chunk: int | None) -> float:
    same = total = 0
    for t in traces:
        ids = torch.tensor([*t.prompt.token_ids, *t.token_ids])
        hidden = model.forward(ids, Layout.of((len(ids),), chunk=chunk))[len(t.prompt.token_ids) - 1 : -1]
        if isinstance(model, native.NativeModel):
            known = model.logprob(hidden, ids[len(t.prompt.token_ids) :])
        else:
            head, multiplier = model.head
            known = logprob(hidden, head, ids[len(t.prompt.token_ids) :], multiplier).logp
        same += int((torch.from_numpy(t.raw_logprobs) == known).sum())
        total += len(t.token_ids)
    return same / total
