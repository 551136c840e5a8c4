"""Supervised fine-tuning: rows in, one optimizer step after another, resumable to the bit.

    for metrics in sft.run(model, rows, SftConfig(steps=200), "runs/sft"):
        print(metrics["step"], metrics["loss"])

The loss of a step is the mean of -log p over the step's weighted tokens, exactly, however they are packed (the balanced
token normalisation of Falcon-H1R, arXiv:2601.02346 section 2.3). A killed run continues from its newest checkpoint and
computes the same losses; stopping the iteration between two steps writes one more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from h1r import log
from h1r.errors import ConfigError, DataError
from h1r.model import Model
from h1r.train import checkpoint
from h1r.train.guard import Guard, GuardConfig, suspects
from h1r.train.lora import LoraConfig
from h1r.train.optim import OptimConfig
from h1r.train.ranks import Ranks
from h1r.train.saver import Saver
from h1r.train.step import Metrics
from h1r.train.trainer import LocalTrainer, TrainerConfig
from h1r.types import Row

logger = logging.getLogger(__name__)


class Rows(Protocol):
    """A stream of rows that can say where it is, and go back there."""

    def __next__(self) -> Row: ...

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Indexed:
    """Rows from a function of the row's number: the simplest resumable stream."""

    def __init__(self, row: Callable[[int], Row]) -> None:
        self._row = row
        self._next = 0

    def __next__(self) -> Row:
        self._next += 1
        return self._row(self._next - 1)

    def state_dict(self) -> Mapping[str, Any]:
        return {"next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._next = int(state["next"])


@dataclass(frozen=True, slots=True, kw_only=True)
class SftConfig:
    """One SFT run.

    tokens       rows are drawn until a step holds at least this many tokens; `rows` > 0 draws that many rows instead
    length       tokens of a packed row at most; bf16, checkpointing, compile, workers, lora, optim: see TrainerConfig
    too_long     a row longer than `length`: drop (counted), trim (cut at the right, so its stop token is lost) or error
    denominator  the loss is divided by the summed weight of the step's tokens (weight) or by their number (count)
    save_every   steps between checkpoints; the newest `keep` stay, and the one of lowest loss on held-out rows
    heldout      rows that are held out for that (0: none); their loss is measured at every checkpoint
    guard        what counts as a gradient spike, and when a run without finite gradients ends
    """

    steps: int = 100
    tokens: int = 16384
    rows: int = 0
    length: int = 8192
    too_long: str = "drop"
    denominator: str = "weight"
    bf16: str = "off"
    checkpointing: bool | str = False
    compile: bool = False
    workers: int = 0
    lora: LoraConfig | None = None
    save_every: int = 50
    keep: int = 2
    heldout: int = 0
    guard: GuardConfig = field(default_factory=GuardConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        if self.too_long not in ("drop", "trim", "error"):
            raise ConfigError(f"too_long={self.too_long!r}: must be drop, trim or error")
        if self.denominator not in ("weight", "count"):
            raise ConfigError(f"denominator={self.denominator!r}: must be weight or count")
        if self.tokens < 1 or min(self.rows, self.heldout) < 0 or self.save_every < 1 or self.keep < 1:
            raise ConfigError(
                f"tokens={self.tokens}, save_every={self.save_every} and keep={self.keep} must be 1 or more, "
                f"rows={self.rows} and heldout={self.heldout} 0 or more"
            )
        self.trainer()

    def trainer(self) -> TrainerConfig:
        """The trainer's share of this config."""
        return TrainerConfig(
            steps=self.steps,
            length=self.length,
            bf16=self.bf16,
            checkpointing=self.checkpointing,
            compile=self.compile,
            workers=self.workers,
            lora=self.lora,
            optim=self.optim,
        )


class Draw(NamedTuple):
    """What one step trains on, how many rows were too long, and where the stream stands after it."""

    rows: list[Row]
    dropped: int
    state: Mapping[str, Any]


def run(
    model: Model,
    rows: Rows,
    config: SftConfig,
    run_dir: str | Path,
    *,
    tokenizer: Callable[[Path], object] | None = None,
    ranks: Ranks | None = None,
    device: torch.device | None = None,
    heldout: Sequence[Row] = (),
    done: Callable[[LocalTrainer], object] | None = None,
) -> Iterator[Metrics]:
    """Train `model` in place; yields the metrics of each step, which are also appended to run_dir/metrics.jsonl.

    Continues from run_dir/checkpoints when there is one, with any number of ranks. The next step's rows are drawn while this one
    computes.

    ranks   processes that train together; each runs this loop, the first writes
    device  where to train, by default where the model lies
    heldout rows that are never trained on; metrics of a step with a checkpoint then hold heldout_loss
    done    called with the trainer when all steps are done, on every rank
    """
    run_dir, root = Path(run_dir), Path(run_dir) / "checkpoints"
    ranks = ranks or Ranks()
    trainer = LocalTrainer(model, config.trainer(), tokenizer=tokenizer, ranks=ranks, device=device)
    _resume(trainer, rows, root, config)
    if ranks.first:
        _forget_after(run_dir / "metrics.jsonl", trainer.step)
    ranks.wait()
    saved, draw = trainer.step, None
    guard = Guard(config.guard, (r["grad_norm"] for r in log.read(run_dir / "metrics.jsonl")))

    saver = Saver(root, config.keep, ranks)

    def save() -> None:
        assert draw is not None
        extra = {"step": trainer.step, "data": dict(draw.state), "config": asdict(config)}
        saver.save(trainer, extra | {name: metrics[name] for name in ("heldout_loss",) if name in metrics})

    with ThreadPoolExecutor(1) as ahead, closing(saver):
        pending = ahead.submit(draw_step, rows, config)
        while trainer.step < config.steps:
            start = time.perf_counter()
            draw = pending.result()
            if trainer.step + 1 < config.steps:
                pending = ahead.submit(draw_step, rows, config)
            totals = trainer.forward_backward(normalise(draw.rows, config.denominator), "sft")
            totals |= trainer.optim_step()
            seconds = time.perf_counter() - start
            metrics = {"step": float(trainer.step)} | totals
            metrics |= {"rows": float(len(draw.rows)), "dropped": float(draw.dropped)}
            metrics |= {"seconds": seconds, "tokens_per_s": totals["tokens"] / seconds}
            due = trainer.step % config.save_every == 0 or trainer.step == config.steps
            if due and heldout:
                metrics["heldout_loss"] = mean_loss(trainer, heldout)
            if ranks.first:
                log.append(run_dir / "metrics.jsonl", metrics)
            _tell(guard, trainer, metrics, draw.rows)
            saver.settle()
            if due:
                save()
                saved = trainer.step
            try:
                yield metrics
            except GeneratorExit:
                if saved < trainer.step:
                    save()
                raise
    if done is not None:
        done(trainer)


def mean_loss(trainer: LocalTrainer, rows: Sequence[Row]) -> float:
    """The weighted mean of -log p over the rows, exactly."""
    total = weight = 0.0
    for row, logp in zip(rows, trainer.logprobs(rows), strict=True):
        given = row.streams["ce"][1:].astype(np.float64)
        total -= float(np.sum(given * np.where(given != 0, logp[1:], 0.0)))
        weight += float(given.sum())
    return total / weight


def _tell(guard: Guard, trainer: LocalTrainer, metrics: Metrics, rows: Sequence[Row]) -> None:
    """Warn of a step that was skipped or whose gradient stands out, and name the rows behind it."""
    norm = metrics["grad_norm"]
    if metrics["skipped"] or guard.unusual(norm):  # every rank computes its part of who it was
        worst = ", ".join(f"{name} (loss {loss:.3g})" for name, loss in suspects(trainer, rows))
        what = "skipped" if metrics["skipped"] else f"{guard.times(norm):.1f} times the usual gradient"
        logger.warning("step %d: %s, norm %.3g; rows of largest loss: %s", trainer.step, what, norm, worst)
    guard.watch(norm)


def draw_step(rows: Rows, config: SftConfig) -> Draw:
    """The next step's rows. Raises DataError when none of the rows drawn can be trained on."""
    out: list[Row] = []
    count = dropped = 0
    while len(out) < config.rows if config.rows else count < config.tokens:
        row = next(rows)
        if len(row.token_ids) > config.length:
            if config.too_long == "error":
                raise DataError(
                    f"row {row.id or '(unnamed)'} holds {len(row.token_ids)} tokens, more than length={config.length}: "
                    "raise length, or set too_long to drop or trim"
                )
            if config.too_long == "drop":
                dropped += 1
                if dropped > 1000 and not out:
                    raise DataError(f"1,000 rows in a row are longer than length={config.length}: raise length")
                continue
            row = trim(row, config.length)
        out.append(row)
        count += len(row.token_ids)
    return Draw(out, dropped, rows.state_dict())


def trim(row: Row, length: int) -> Row:
    """The first `length` tokens of a row."""
    return replace(
        row, token_ids=row.token_ids[:length], streams={name: values[:length] for name, values in row.streams.items()}
    )


def normalise(rows: Sequence[Row], denominator: str = "weight") -> list[Row]:
    """Divide every `ce` stream by one total: the summed weights, or the number of weighted tokens, of all rows."""
    total = 0.0
    for row in rows:
        weights = row.streams["ce"][1:]
        total += float(weights.sum(dtype=np.float64)) if denominator == "weight" else float(np.count_nonzero(weights))
    if total <= 0:
        raise DataError(
            "no token of this step carries a weight: the loss mask of these rows is empty; check their streams"
        )
    return [replace(row, streams={**row.streams, "ce": (row.streams["ce"] / total).astype(np.float32)}) for row in rows]


def _resume(trainer: LocalTrainer, rows: Rows, root: Path, config: SftConfig) -> None:
    path = checkpoint.latest(root)
    if path is None:
        return
    extra = checkpoint.extra(path)
    trainer.load(str(path))
    rows.load_state_dict(extra["data"])
    changed = sorted(key for key, value in asdict(config).items() if extra["config"].get(key) != _plain(value))
    if changed:
        logger.warning("continuing %s with other settings: %s", path, ", ".join(changed))
    logger.info("continuing from %s", path)


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value


def _forget_after(path: Path, step: int) -> None:
    """Drop metrics of steps that will be computed again."""
    records = list(log.read(path))
    kept = [r for r in records if r["step"] <= step]
    if len(kept) < len(records):
        log.write(path, kept)
