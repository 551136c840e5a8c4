"""What a weight format costs: each format's next-token distribution against the fp32 model's, on text it wrote itself.

Beside our formats stand llama.cpp's Q8_0 and Q4_K, emulated from their published block layouts on our folded weights (so the
two see the same matrices; llama.cpp itself is not run):

    q8_0  blocks of 32, fp16 scale = largest / 127; activations alike
    q4_k  blocks of 32 with a scale and a minimum of 6 bits each, 8 of them sharing two fp16 factors; head and activations
          in 8 bits
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from h1r.engine import Engine, EngineConfig, native
from h1r.engine.llm import DTYPES, quantised
from h1r.model import FalconH1, Qwen3, build, fold
from h1r.model.config import Config
from h1r.ops import Layout
from h1r.ops.linear import quant
from h1r.types import Prompt, SamplingParams

OURS = ("bfloat16", "int8", "int4")
PEERS = ("q8_0", "q4_k")
BITS = {"bfloat16": 16.0, "int8": 8.25, "int4": 4.5, "q8_0": 8.5, "q4_k": 4.5}
HEADS = {"int4": "int8", "q4_k": "q8_0"}
TOP = 20


def quality(
    models: Mapping[str, Config | FalconH1 | Qwen3], formats: Sequence[str] = (*OURS, *PEERS), *, tokens: int = 512,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """One row per model and format; JSON-able. A Config stands for random weights.

    kl, kl_max   KL(fp32 || format) in nats: mean and largest over `tokens` positions
    agreement    share of positions with the same likeliest token
    confidence   mean absolute difference of the top-20 confidence (DeepConf's), in nats
    megabytes    of the matrices, head included
    """
    for name, given in models.items():
        plain = given if isinstance(given, (FalconH1, Qwen3)) else build(given, seed)
        exact = fold(plain.float())
        texts = write(exact, tokens, seed)
        want = distributions(exact, texts)
        for format in formats:
            if format == "q4_k" and any(m.shape[1] % 256 for m in _matrices(exact)):
                continue
            yield {"model": name, "format": format, **compare(want, distributions(rounded(exact, format), texts))} | {
                "megabytes": megabytes(exact, format),
                "tokens": len(want),
            }


def write(model: Any, tokens: int, seed: int, each: int = 128) -> list[Tensor]:
    """About `tokens` tokens that the model draws at temperature 1, in pieces of `each`."""
    count = max(1, tokens // each)
    engine = Engine(model, model.config, EngineConfig(sequences=count, memory_bytes=1 << 30, seed=seed, prefixes=0))
    generator = torch.Generator().manual_seed(seed)
    firsts = torch.randint(0, model.config.vocab_size, (count,), generator=generator).tolist()
    for row, first in enumerate(firsts):
        engine.add(Prompt(token_ids=(first,)), SamplingParams(max_tokens=each, seed=seed), row=row)
    out = []
    while engine.busy:
        out += [event.trace for event in engine.step() if event.trace is not None]
    return [torch.tensor([*t.prompt.token_ids, *t.token_ids]) for t in out]


@torch.inference_mode()
def distributions(model: Any, texts: Sequence[Tensor]) -> Tensor:
    """log p of every position of every text: [T,V] fp32."""
    rows = []
    for ids in texts:
        rows.append(model.logits(model.forward(ids, Layout.of((len(ids),)))).log_softmax(-1))
    return torch.cat(rows)


def compare(want: Tensor, got: Tensor) -> dict[str, float]:
    """want, got: log-probabilities [T,V]."""
    kl = (want.exp() * (want - got)).sum(-1)
    sure = [-p.topk(min(TOP, p.shape[1])).values.mean(-1) for p in (want, got)]
    return {
        "kl": float(kl.mean()),
        "kl_max": float(kl.max()),
        "agreement": float((want.argmax(-1) == got.argmax(-1)).float().mean()),
        "confidence": float((sure[0] - sure[1]).abs().mean()),
    }


def rounded(exact: Any, format: str) -> Any:
    """The folded fp32 model in a format: packed for the kernel where there is one, else rounded in torch."""
    if format in OURS:
        if native.available() and not native.fits(exact.config):
            return native.pack(exact, format)
        out = copy.deepcopy(exact)
        return quantised(out, format) if format in quant.GROUPS else out.to(DTYPES[format])
    block = {"q8_0": q8_0, "q4_k": q4_k}[format]
    out = copy.deepcopy(exact)
    for layer in out.layers:
        for key, matrix in layer.folded.items():
            if matrix.dim() == 2 and key != "taps":
                layer.folded[key] = torch.nn.Parameter(block(matrix), requires_grad=False)
    owner = out.embed_tokens if out.config.tie_word_embeddings else out.lm_head
    owner.weight = torch.nn.Parameter(q8_0(owner.weight), requires_grad=False)
    return Emulated(out, 32 if format == "q8_0" else 256)


class Emulated:
    """A torch model whose products see activations rounded to 8 bits in blocks."""

    def __init__(self, model: Any, block: int) -> None:
        self.model, self.config, self.block = model, model.config, block

    def forward(self, *arguments: Any) -> Tensor:
        with Rounding(self.block):
            return self.model.forward(*arguments)

    def logits(self, hidden: Tensor) -> Tensor:
        with Rounding(self.block):
            return self.model.logits(hidden)


class Rounding(TorchDispatchMode):
    """Rounds the activations of every product of two matrices; batched products (scan, attention) are left alone."""

    def __init__(self, block: int) -> None:
        super().__init__()
        self.block = block

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = {"aten::mm": 0, "aten::linear": 0, "aten::addmm": 1, "aten::addmm_": 1}.get(func._schema.name)
        if place is not None:
            args = list(args)
            size = self.block if args[place].shape[-1] % self.block == 0 else 32
            args[place] = eight(args[place], size)
        return func(*args, **(kwargs or {}))


def eight(x: Tensor, block: int) -> Tensor:
    """x [..., k] rounded to 8 bits with one fp16 scale per `block` inputs."""
    cut = F.pad(x.float(), (0, -x.shape[-1] % block)).unflatten(-1, (-1, block))
    exact = cut.abs().amax(-1, keepdim=True) / 127.0
    codes = torch.where(exact > 0, cut / exact.clamp(min=1e-30), 0.0).round().clamp(-127, 127)
    return (codes * exact.half().float()).flatten(-2)[..., : x.shape[-1]].to(x.dtype)


def q8_0(weight: Tensor) -> Tensor:
    """weight [n,k] as Q8_0 holds it."""
    return eight(weight.detach(), 32)


def q4_k(weight: Tensor) -> Tensor:
    """weight [n,k], k a multiple of 256, as Q4_K holds it: w = d s q - m t, with q of 4 bits, s and t of 6, d and m fp16.

    Scales are searched for the least squared error, as llama.cpp's quantiser does.
    """
    w = weight.detach().float().unflatten(1, (-1, 8, 32))
    low = w.amin(-1).clamp(max=0.0)
    best, least = (w.amax(-1) - low).clamp(min=1e-12) / 15, torch.full_like(low, torch.inf)
    start = best
    for factor in torch.linspace(0.8, 1.05, 11).tolist():
        scale = start * factor
        codes = ((w - low[..., None]) / scale[..., None]).round().clamp(0, 15)
        error = (codes * scale[..., None] + low[..., None] - w).square().sum(-1)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    d, m = (t.amax(-1, keepdim=True).div(63).half().float() for t in (best, -low))
    s = (best / d.clamp(min=1e-12)).round().clamp(0, 63) * d
    t = (-low / m.clamp(min=1e-12)).round().clamp(0, 63) * m
    codes = ((w + t[..., None]) / s.clamp(min=1e-12)[..., None]).round().clamp(0, 15)
    return (codes * s[..., None] - t[..., None]).flatten(1).view_as(weight)


def megabytes(exact: Any, format: str) -> float:
    """Of the matrices in this format; the 4-bit formats keep the head in 8."""
    *layers, head = (m.numel() for m in _matrices(exact))
    return (sum(layers) * BITS[format] + head * BITS[HEADS.get(format, format)]) / 8e6


def _matrices(model: Any) -> list[Tensor]:
    layers = [m for layer in model.layers for key, m in layer.folded.items() if m.dim() == 2 and key != "taps"]
    return [*layers, model.head[0]]
