"""A model under test: random weights, folded as for serving, and a cache filled with random keys, values and states."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from h1r.engine import native
from h1r.engine.llm import DTYPES, quantised
from h1r.engine.runner import new_cache
from h1r.errors import ConfigError
from h1r.model import Sequences, build, fold, parameter_count
from h1r.model.config import Config
from h1r.ops.layout import Layout
from h1r.ops.linear import quant

PAGE = 64


def subject(config: Config, format: str = "float32", seed: int = 0, device: str = "cpu") -> Any:
    """A random model of `config` as the engine would run it: on a CPU packed by the native kernel where there is one.

    Raises ConfigError when the memory to build it is not there.
    """
    need, free = subject_bytes(config), free_bytes("cpu")
    if need > free:
        raise ConfigError(
            f"a random model of {parameter_count(config):,} parameters takes {need / 2**30:.1f} GiB to build, and "
            f"{free / 2**30:.1f} are free: choose a smaller preset, or fewer layers"
        )
    model = fold(build(config, seed).requires_grad_(False))
    if device != "cpu":
        return (quantised(model, format) if format in quant.GROUPS else model.to(DTYPES[format])).to(device).eval()
    if native.available() and not native.fits(config):
        return native.pack(model, format)
    if format in quant.GROUPS:
        return quantised(model, format).eval()
    return model.to(DTYPES[format]).eval()


def subject_bytes(config: Config) -> int:
    """Memory to build a subject: the fp32 model and its folded copy."""
    return 9 * parameter_count(config)


def free_bytes(device: str) -> int:
    """Memory that can be had now."""
    if device != "cpu":
        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return 4 << 30
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


class Filled(NamedTuple):
    """A cache of `batch` sequences with `context` tokens each, and room for a few more."""

    cache: Any
    sequences: Sequences
    context: int

    @property
    def nbytes(self) -> int:
        tensors = (self.cache.k, self.cache.v, self.cache.conv, self.cache.ssm)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def filled(model: Any, batch: int, context: int, room: int, seed: int = 0) -> Filled:
    """Keys, values and states are drawn, not computed: time does not depend on them."""
    pages = -(-(context + room) // PAGE)
    owner = model if isinstance(model, native.NativeModel) else model.head[0]
    cache = new_cache(model, model.config, batch * pages, PAGE, batch, owner.dtype, torch.float32, owner.device)
    generator = torch.Generator().manual_seed(seed)
    for tensor in (cache.k, cache.v, cache.conv, cache.ssm):
        if tensor is not None:
            # a small block, repeated: drawing gigabytes would take longer than the measurement
            block = torch.randn(min(tensor.numel(), 1 << 16), generator=generator).to(tensor.device, tensor.dtype)
            flat = tensor.as_strided((tensor.numel(),), (1,))  # in memory order, whatever the layout
            for start in range(0, flat.numel(), block.numel()):
                end = min(start + block.numel(), flat.numel())
                flat[start:end] = block[: end - start]
    table = torch.arange(batch * pages).view(batch, pages)
    parts = (torch.arange(batch), table, torch.full((batch,), context))
    return Filled(cache, Sequences(*(t.to(owner.device) for t in parts)), context)


class Decoder:
    """Greedy steps over a filled cache; each writes one token to every sequence, and the context stays as it was."""

    def __init__(self, model: Any, at: Filled) -> None:
        self.model, self.at = model, at
        self.positions = torch.full_like(at.sequences.slots, at.context)
        self.tokens: Tensor = at.sequences.slots % model.config.vocab_size

    @torch.inference_mode()
    def step(self) -> None:
        sequences = self.at.sequences._replace(lengths=self.positions)
        hidden = self.model.decode(self.tokens, self.positions, self.at.cache, sequences)
        self.tokens = self.model.logits(hidden).argmax(-1)
        if self.tokens.is_cuda:
            torch.cuda.synchronize()


@torch.inference_mode()
def read_prompt(model: Any, tokens: int, chunk: int) -> None:
    """One prompt in chunks through an empty cache, as the engine reads it, and the logits of its last token."""
    at = filled(model, 1, 0, tokens)
    ids = torch.arange(tokens) % model.config.vocab_size
    for start in range(0, tokens, chunk):
        part = ids[start : start + chunk]
        layout = Layout.of((len(part),), offsets=(start,))
        sequences = at.sequences._replace(lengths=torch.tensor([start]))
        hidden = model.forward(part, layout, at.cache, sequences)
    model.logits(hidden[-1:])


def median(values: list[float]) -> float:
    """The middle value; the mean of the middle two."""
    ordered = sorted(values)
    n = len(ordered)
    return math.nan if n == 0 else (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
