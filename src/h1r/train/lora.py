"""Low-rank adapters (LoRA, arXiv:2106.09685) that train every projection they name, and merge into it exactly.

    names = attach(model, LoraConfig(rank=16))      # freezes the rest; the optimizer then sees adapters only
    save_adapter(model, "out/adapter")              # PEFT's files, base-model names
    merge(model)                                    # plain weights again; logits equal to the bit

An adapted weight is W + alpha/rank * B A wherever the model reads it, so a kernel that is handed the weight instead of calling
the module (the mixer's out_proj in fused paths) trains its adapter all the same. W stays in memory; gradients and optimizer
states are the adapters' alone. The model's multipliers act on the sum, so the update has the scale of its weight.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import parametrize

from h1r.errors import CheckpointError, ConfigError
from h1r.model.weights import hub_name

logger = logging.getLogger(__name__)

PROJECTIONS = ("in_proj", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """rank and alpha of B A alpha/rank; targets: names of linear layers; whole: names trained without an adapter (norms,
    conv1d, A_log, D, dt_bias, embed_tokens, lm_head); seed: of A, B begins at zero."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = PROJECTIONS
    whole: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ConfigError(f"lora: rank={self.rank} must be 1 or more and alpha={self.alpha} above 0")
        if not self.targets:
            raise ConfigError(f"lora: targets is empty; name some of {', '.join(PROJECTIONS)}, or leave lora out")


class LowRank(nn.Module):
    """W [out, in] -> W + scale * B [out, rank] A [rank, in], in the precision of W."""

    def __init__(self, weight: Tensor, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        bound = 1 / math.sqrt(columns)
        a = torch.empty(rank, columns).uniform_(-bound, bound, generator=generator)
        self.a = nn.Parameter(a.to(weight))
        self.b = nn.Parameter(torch.zeros(rows, rank).to(weight))
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return torch.addmm(weight, self.b, self.a, alpha=self.scale)


def attach(model: nn.Module, config: LoraConfig) -> list[str]:
    """Freeze `model` and put adapters on every linear layer named in `targets`; the names of those layers.

    Raises ConfigError for a target that is no linear layer, or not there.
    """
    if any(True for _ in adapters(model)):
        raise ConfigError("lora: this model carries adapters already; merge them first")
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and m.weight is not None}
    kinds = {name.rsplit(".", 1)[-1] for name in linear}
    parts = {part for name, _ in model.named_parameters() for part in name.split(".") if not part.isdigit()}
    for target in config.targets:
        if target not in kinds:
            cure = (
                f"name it in lora.whole, and {target} is trained as it is"
                if target in parts
                else f"there are {', '.join(sorted(kinds))}"
            )
            raise ConfigError(f"lora: target {target!r} is no linear layer of this model; {cure}")
    for name in config.whole:
        if name not in parts:
            tied = "; the head is tied: name embed_tokens" if name == "lm_head" else ""
            raise ConfigError(f"lora: whole names {name!r}, which this model does not have{tied}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not set(config.whole).isdisjoint(name.split(".")))
    adapted = []
    generator = torch.Generator().manual_seed(config.seed)
    for name, module in linear.items():
        if name.rsplit(".", 1)[-1] not in config.targets:
            continue
        low = LowRank(module.weight, min(config.rank, *module.weight.shape), config.alpha / config.rank, generator)
        parametrize.register_parametrization(module, "weight", low)
        adapted.append(name)
    return adapted


def adapters(model: nn.Module) -> Iterator[tuple[str, LowRank]]:
    """(name of the layer, its adapter) of everything `attach` adapted."""
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            first = cast(Any, module).parametrizations.weight[0]
            if isinstance(first, LowRank):
                yield name, first


def untrained(model: nn.Module) -> list[str]:
    """Trainable parameters that the last backward pass did not reach: what they name is not trained."""
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def merge(model: nn.Module) -> None:
    """Replace every adapted weight by its value and make all parameters trainable again."""
    for name in [name for name, _ in adapters(model)]:
        parametrize.remove_parametrizations(model.get_submodule(name), "weight", leave_parametrized=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def save_adapter(model: nn.Module, path: str | Path, base: str = "", write: bool = True) -> None:
    """The adapters as PEFT reads them: adapter_model.safetensors and adapter_config.json.

    base   the checkpoint they belong to
    write  of sharded adapters every rank must give its part, and one writes
    """
    found = list(adapters(model))
    if not found:
        raise CheckpointError(f"{path}: this model carries no adapters; attach them before saving")
    tensors: dict[str, Tensor] = {}
    for name, low in found:
        for part, own in (("lora_A", low.a), ("lora_B", low.b)):
            whole = own.full_tensor() if isinstance(own, DTensor) else own
            tensors[f"base_model.model.{hub_name(name)}.{part}.weight"] = whole.detach().contiguous()
    if not write:
        return
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / WEIGHTS, metadata={"format": "pt"})
    rank = max(low.a.shape[0] for _, low in found)
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank,
        "lora_alpha": found[0][1].scale * rank, "lora_dropout": 0.0, "bias": "none", "inference_mode": True,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name, _ in found}),
    }  # fmt: skip
    smaller = {name: low.a.shape[0] for name, low in found if low.a.shape[0] != rank}
    if smaller:  # PEFT divides alpha by each layer's own rank
        settings["rank_pattern"] = smaller
        settings["alpha_pattern"] = {name: found[0][1].scale * size for name, size in smaller.items()}
    (path / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_adapter(model: nn.Module, path: str | Path) -> LoraConfig:
    """Attach the adapters of a folder that `save_adapter` or PEFT wrote. Raises CheckpointError where they do not fit."""
    path = Path(path)
    try:
        settings = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
        tensors = load_file(path / WEIGHTS)
        config = LoraConfig(rank=settings["r"], alpha=settings["lora_alpha"], targets=tuple(settings["target_modules"]))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{path}: no adapter ({e}); it needs {SETTINGS} and {WEIGHTS}") from None
    attach(model, config)
    expected = set()
    for name, low in adapters(model):
        key = f"base_model.model.{hub_name(name)}"
        for part, own in (("lora_A", low.a), ("lora_B", low.b)):
            given = tensors.get(f"{key}.{part}.weight")
            expected.add(f"{key}.{part}.weight")
            if given is None or given.shape != own.shape:
                merge(model)
                shape = "missing" if given is None else f"of shape {tuple(given.shape)}"
                raise CheckpointError(
                    f"{path}: {key}.{part} is {shape}, {tuple(own.shape)} expected: another base model"
                )
            with torch.no_grad():
                own.copy_(given)
    if foreign := sorted(set(tensors) - expected):
        merge(model)
        raise CheckpointError(f"{path}: tensors that nothing here takes: {', '.join(foreign[:3])}; they would be lost")
    return config
