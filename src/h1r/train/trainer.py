"""The trainer in this process: rows in, better weights out. Implements `types.Trainer`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from h1r.errors import ConfigError
from h1r.model import Model
from h1r.model.falcon_h1 import Layer
from h1r.model.weights import Held, hub_name, named
from h1r.train import checkpoint, lora
from h1r.train.export import export
from h1r.train.lora import LoraConfig
from h1r.train.loss import Policy
from h1r.train.optim import OptimConfig, adamw, learning_rate
from h1r.train.pack import pack
from h1r.train.ranks import Ranks
from h1r.train.shard import gather, refuse, shard
from h1r.train.step import Metrics, forward_backward, score, update, workers
from h1r.types import Floats, Row

logger = logging.getLogger(__name__)

SMALL = 50_000_000
"""Parameters below which packed rows are computed side by side; each worker holds a gradient of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """How rows become updates.

    steps          optimizer steps the schedule is laid out for
    length         tokens of a packed row at most: bounds memory, never moves a number
    temperature    log-probabilities are those of logits / temperature (RL: the sampling temperature)
    bf16           autocast: off, on, or auto (where the processor computes in bfloat16)
    checkpointing  recompute activations in the backward pass: False; True, all of each block (least memory, about a third more
                   time); selective, all but the results of its matrix products
    compile        torch.compile each layer around its scan and attention (on a CPU it needs a C++ compiler): slow first steps,
                   faster ones after
    lora           adapters instead of the weights themselves (lora.LoraConfig)
    workers        threads that each compute a packed row on one core; 0: all cores on a CPU when the model is small, else 1
    """

    steps: int = 100
    length: int = 8192
    temperature: float = 1.0
    bf16: str = "off"
    checkpointing: bool | str = False
    compile: bool = False
    workers: int = 0
    lora: LoraConfig | None = None
    optim: OptimConfig = field(default_factory=OptimConfig)
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.length < 2:
            raise ConfigError(f"steps={self.steps} must be 1 or more and length={self.length} 2 or more")
        if self.workers < 0:
            raise ConfigError(f"workers={self.workers}: must be 0 (chosen here) or more")
        if self.checkpointing not in (False, True, "selective"):
            raise ConfigError(f"checkpointing={self.checkpointing!r}: must be false, true or selective")
        if self.temperature <= 0:
            raise ConfigError(f"temperature={self.temperature}: a log-probability needs a temperature above 0")
        if self.bf16 not in ("off", "on", "auto"):
            raise ConfigError(f"bf16={self.bf16!r}: must be off, on or auto")


class LocalTrainer:
    """A model, its optimizer and the number of the next step. `model` is trained in place."""

    def __init__(
        self,
        model: Model,
        config: TrainerConfig,
        *,
        tokenizer: Callable[[Path], object] | None = None,
        ranks: Ranks | None = None,
        device: torch.device | None = None,
    ) -> None:
        """tokenizer  writes tokenizer files into each exported folder
        ranks      processes that make one update together; all are given the same rows and each computes its share
        device     where to train, by default where the model lies
        """
        self.ranks = ranks or Ranks()
        self.model = model.train()
        self.config = config
        self._unsure = bool(config.lora)
        if config.lora:
            adapted = lora.attach(model, config.lora)
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            logger.info("lora: %d layers adapted, %s parameters trained", len(adapted), f"{trained:,}")
        self._device = device or next(model.parameters()).device
        self._autocast = computes_in_bf16(config.bf16, self._device)
        if config.compile:
            for layer in model.layers:
                layer.compile_around() if isinstance(layer, Layer) else layer.compile(dynamic=True)
        shard(model, self.ranks, bf16=self._autocast, device=self._device.type)
        if not self.ranks.sharded:
            model.to(self._device)
        self.optimizer = adamw(model, config.optim)
        self.step = 0
        self._tokenizer = tokenizer
        alone = not self.ranks.together and not self.ranks.sharded and not config.compile
        self._workers = config.workers or default_workers(model) if alone else 1
        self._pool = workers(self._workers) if self._workers > 1 else None
        if config.checkpointing:
            model.checkpointing = config.checkpointing

    def forward_backward(self, rows: Sequence[Row], loss: str) -> Metrics:
        """Accumulate the gradient of `loss` over `rows`; returns the sums of `step.forward_backward`."""
        refuse(loss, self.config.policy.correction, self.ranks)
        mine = self.ranks.share(rows)
        batches = pack(mine, self.config.length, self._device, parts=self._workers)
        totals = forward_backward(
            self.model,
            self.ranks.deal(batches, self._device),
            loss,
            policy=self.config.policy,
            temperature=self.config.temperature,
            autocast=self._autocast,
            pool=self._pool,
            together=self.ranks.together,
        )
        if self._unsure and totals["targets"]:
            self._unsure = False
            if missed := lora.untrained(self.model):
                logger.warning("lora: no gradient reaches %s: not trained", ", ".join(missed))
        return self.ranks.sum(totals)

    def optim_step(self) -> Metrics:
        """Clip, update, and move on to the next step of the schedule; grad_norm, lr, skipped."""
        lr = learning_rate(self.step, self.config.steps, self.config.optim)
        self.step += 1
        self.ranks.sum_gradients(self.model)
        return update(self.model, self.optimizer, clip=self.config.optim.clip, lr=lr)

    @torch.no_grad()
    def logprobs(self, rows: Sequence[Row]) -> list[Floats]:
        """Per row log p(token | tokens before it) [T] at the trainer's temperature.

        NaN for the first token, and, in a row that carries weights, for every token without one.
        """
        out = [np.full(len(row.token_ids), np.nan, np.float32) for row in rows]
        for batch in pack(rows, self.config.length, self._device):
            if not len(batch.targets):
                continue
            part = self.ranks.part(batch)
            logp = score(self.model, part, self.config.temperature, self._autocast).logp
            begin = part.layout.ring.begin if part.layout.ring else 0
            values = np.full(len(batch.token_ids), np.nan, np.float32)
            values[part.targets.cpu().numpy() + begin] = logp.float().cpu().numpy()
            values = self.ranks.fill(values)
            documents = np.split(values, np.cumsum(batch.layout.lengths)[:-1])
            for place, document in zip(batch.documents, documents):
                out[place] = document
        return out

    def weights(self) -> Held | None:
        """A copy of all weights on the processor, by their checkpoint's names; None but on the first rank. Every rank must call
        it."""
        whole = gather(self.model, self.ranks) if self.ranks.sharded else self.model
        if whole is None or not self.ranks.first:
            return None
        copy = not self.ranks.sharded
        return Held(whole.config, {hub_name(name): t.to("cpu", copy=copy) for name, t in named(whole)})

    def export(self, path: str) -> None:
        """The weights as a Hugging Face folder, atomically. Of sharded weights every rank must give its part."""
        whole = gather(self.model, self.ranks) if self.ranks.sharded else self.model
        if whole is not None and self.ranks.first:
            export(whole, path, self._tokenizer)
        self.ranks.wait()

    def save(self, path: str) -> None:
        """A checkpoint `load` continues from, bit for bit. Every rank must call it."""
        extra = {"step": self.step}
        if self.ranks.sharded:
            checkpoint.save_shards(path, self.model, self.optimizer, extra, self.ranks).finish()
        elif self.ranks.first:
            checkpoint.save(path, self.model, self.optimizer, extra)
        self.ranks.wait()

    def load(self, path: str) -> None:
        """Continue from a checkpoint."""
        self.step = int(checkpoint.load(path, self.model, self.optimizer)["step"])
        self.optimizer.zero_grad(set_to_none=True)


def default_workers(model: Model) -> int:
    """One thread per core when the model is on a CPU and so small that its matrices do not fill several cores."""
    parameters = list(model.parameters())
    small = sum(p.numel() for p in parameters) < SMALL
    return torch.get_num_threads() if parameters[0].device.type == "cpu" and small else 1


def computes_in_bf16(wanted: str, device: torch.device) -> bool:
    """What TrainerConfig.bf16 means on this device."""
    return wanted == "on" or (wanted == "auto" and bf16_is_native(device))


def bf16_is_native(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
