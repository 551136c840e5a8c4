"""What bench/gpu.py measures: random models of any shape made on the device, decoders with full caches, a clock of events."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from h1r.engine.cuda import Sampling
from h1r.engine.cuda.decoder import Decoder
from h1r.engine.request import Request, Sequence
from h1r.model.cache import Cache
from h1r.model.initial import empty
from h1r.types import Prompt, SamplingParams

PAGE = 64
DEVICE = torch.device("cuda")
LATE = {"skipped": "no time left (--minutes)"}


class Clock:
    """When nothing new may begin."""

    end = float("inf")

    @classmethod
    def late(cls) -> bool:
        return time.monotonic() > cls.end


def limits(results: dict[str, Any]) -> dict[str, float]:
    """What the part `machine` measured; an H200's where it was not run, or failed."""
    return {"copy": 4e12, "peak": 7e14, "memory": 1.4e11} | results.get("machine", {})


def seconds(work: Callable[[], Any], repeats: int = 10, warm: int = 3) -> float:
    """Median seconds of one call, by events."""
    for _ in range(warm):
        work()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize()
    each = sorted(a.elapsed_time(b) / 1e3 for a, b in pairwise(marks))
    return each[len(each) // 2]


def random_model(config: Any, layers: int = 0) -> Any:
    """A folded model of a config's shape with random weights, made on the device."""
    config = dataclasses.replace(config, num_hidden_layers=layers or config.num_hidden_layers, dtype="bfloat16")
    with torch.device("meta"):
        model = empty(config)
        shapes = {k: v.shape for k, v in model.layers[0].weights()._asdict().items() if v is not None}
    generator = torch.Generator(DEVICE).manual_seed(0)

    def draw(shape: torch.Size, deviation: float, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=DEVICE, dtype=dtype) * deviation

    for layer in model.layers:
        layer.folded = {
            name: draw(shape, shape[1] ** -0.5 * (0.1 if name in ("leave", "down") else 1.0))
            if len(shape) == 2 and min(shape) > 16 else draw(shape, 0.3, torch.float32)
            for name, shape in shapes.items()
        }  # fmt: skip
        if "a" in layer.folded:
            layer.folded["a"] = -torch.rand(shapes["a"], device=DEVICE) * 8 - 1
            layer.folded["dt_bias"] = torch.rand(shapes["dt_bias"], device=DEVICE) * 3 - 6
        for name in ("input_layernorm", "pre_ff_layernorm", "mamba", "self_attn", "feed_forward",
                     "post_attention_layernorm", "mlp"):  # fmt: skip
            if hasattr(layer, name):
                delattr(layer, name)
    for name, parameter in list(model.named_parameters()):
        module, _, leaf = name.rpartition(".")
        value = draw(parameter.shape, 0.02) if parameter.dim() == 2 else torch.ones(parameter.shape, device=DEVICE)
        setattr(model.get_submodule(module), leaf, torch.nn.Parameter(value.to(torch.bfloat16), requires_grad=False))
    return model.eval(), config


class Subject:
    """A decoder whose sequences have full caches of random numbers, without the work of computing them."""

    def __init__(
        self, model: Any, config: Any, batch: int, depth: int, kv: torch.dtype, state: torch.dtype, every: int = 1
    ) -> None:
        each = -(-(depth + 256) // PAGE)
        self.model, self.batch, self.each = model, batch, each
        self.cache = Cache(config, batch * each, PAGE, batch, torch.bfloat16, state, DEVICE, kv, every)
        for layer in range(config.num_hidden_layers):
            for t in (self.cache.k[layer], self.cache.v[layer]):
                if kv == torch.float8_e4m3fn:
                    t.view(torch.uint8).random_(0, 120)
                else:
                    t.normal_()
        if self.cache.ssm is not None and self.cache.conv is not None:
            self.cache.ssm.normal_()
            self.cache.conv.normal_()
        if self.cache.pending is not None:  # sequences write their states in turn, as in service
            self.cache.pending.random_(0, every)
        self.decoder = Decoder(model, self.cache, batch, each)

    def rows(self, depth: int, prompt: int = 0) -> list[Sequence]:
        """prompt: tokens of one prompt that all rows share, pages and all; 0: rows of their own."""
        out = []
        one = Request(
            id=0, prompt=Prompt(token_ids=(7,) * max(prompt, 1)), sampling=SamplingParams(), seed=0, limit=1 << 20
        )
        for i in range(self.batch):
            request = Request(id=i, prompt=Prompt(token_ids=(7,)), sampling=SamplingParams(), seed=i, limit=1 << 20)
            request = one if prompt else request
            pages = list(range(i * self.each, (i + 1) * self.each))
            pages[: max(prompt - 1, 0) // PAGE] = range(max(prompt - 1, 0) // PAGE)
            s = Sequence(request=request, index=0, slot=i, pages=pages, length=depth)
            s.token_ids.append(11 + i)
            out.append(s)
        return out

    def step_seconds(self, depth: int, repeats: int, prompt: int = 0) -> float:
        """Of one step in a chain, head and draw included, `depth` tokens cached when it begins; prompt: see rows."""
        rows = self.rows(depth, prompt)
        reals = np.tile(np.array([[0.6], [0.95], [0.0]], np.float32), (1, self.batch))
        whole = np.stack([np.zeros(self.batch), np.arange(self.batch), np.zeros(self.batch)]).astype(np.int64)
        self.decoder.launch(rows, Sampling(reals, whole)).wait()
        return seconds(lambda: self.decoder.launch(rows, None), repeats, 2)
