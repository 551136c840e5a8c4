"""`h1r grpo RECIPE`: reinforcement learning with verifiable rewards, resumable."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from h1r import config
from h1r.cli import wire
from h1r.errors import CheckpointError, ConfigError, DataError
from h1r.types import Generator, Problem, Trainer

if TYPE_CHECKING:
    from h1r import LLM
    from h1r.rl.grpo import Sync
    from h1r.verify.sandbox import Sandbox


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSource:
    """What is practised.

    files    JSONL or Parquet of problems; none: `count` procedural problems of the training side
    weights  by domain or family: how often procedural problems are drawn
    """

    files: tuple[str, ...] = ()
    count: int = 4096
    seed: int = 1
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoRecipe:
    """The model to improve, what it practises, how, and the folder for journal, checkpoints, metrics and `model/`."""

    model: str
    out: str
    data: ProblemSource = field(default_factory=ProblemSource)
    rl: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    threads: int = 0


def grpo(
    recipe: str = typer.Argument(..., help="A recipe file, or the name of a packaged one (quickstart-grpo)."),
    settings: list[str] = typer.Option([], "--set", help="Override one value: rl.steps=5 (repeatable)."),
    sandbox: str = wire.SANDBOX,
    unsafe: bool = wire.UNSAFE,
) -> None:
    """Improve a model on problems with verifiable answers. Run again after an interruption: it goes on."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("h1r grpo trains in one process: start it without torchrun (h1r sft takes several)")
    read = config.read(recipe, GrpoRecipe, _train_alias(settings))
    metrics = practise(read, where=str(recipe), box=wire.sandbox(sandbox, unsafe))
    print(f"{read.out}/model: step {int(metrics.get('step', 0))}, reward {metrics.get('reward', float('nan')):.3f}")


def _train_alias(settings: Sequence[str]) -> list[str]:
    """`train.steps` means `rl.steps` here: the word of every other training command."""
    return ["rl." + s.removeprefix("train.") if s.startswith("train.") else s for s in settings]


def practise(
    recipe: GrpoRecipe, where: str = "recipe", stage: str = "grpo", box: Sandbox | None = None
) -> Mapping[str, float]:
    """Run the recipe with a progress bar; returns the last step's metrics. Writes out/model in Hugging Face format."""
    import torch

    from h1r import log
    from h1r import model as models
    from h1r.cli.progress import follow
    from h1r.rl import grpo
    from h1r.rl.config import GrpoConfig
    from h1r.train import LocalTrainer, export

    if not Path(recipe.model).is_dir():
        raise CheckpointError(
            f"{recipe.model}: no such model folder; run `h1r sft quickstart-sft` first, or --set model=FOLDER"
        )
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    settings = config.build(recipe.rl, GrpoConfig, f"{where}: rl")
    problems = practice(recipe.data)
    llm = wire.load_llm(recipe.model, dtype="float32", **recipe.engine)
    assert llm.tokenizer is not None
    model, _ = models.load(recipe.model, dtype=torch.float32)
    trainer = LocalTrainer(model, settings.trainer(), tokenizer=llm.tokenizer.save)
    out = Path(recipe.out)
    render = wire.prompt_of(llm.tokenizer)
    steps = grpo.run(llm, wire.grader(box), trainer, problems, render, settings, out, sync=in_memory(model, llm))

    def note(m: Mapping[str, float]) -> tuple[int, str]:
        return int(m["step"]), f"reward {m['reward']:.3f}  length {m['length']:.0f}  KL {m['mismatch_kl']:.1e}"

    for _ in follow(stage, settings.steps, steps, note):
        pass
    export(model, out / "model", llm.tokenizer.save)
    recorded = list(log.read(out / "metrics.jsonl"))
    return recorded[-1] if recorded else {}


def practice(source: ProblemSource) -> list[Problem]:
    """The problems to practise on."""
    from h1r.data import procedural, read

    if source.files:
        found = [p for path in source.files for p in read(path)]
        if not found:
            raise DataError(f"{', '.join(source.files)}: no problems in these files")
        return found
    stream = procedural.problems(split="train", seed=source.seed, weights=source.weights)
    return list(islice(stream, source.count))


def in_memory(model: Any, llm: LLM) -> Sync:
    """Weights to the engine of this process without a detour over the disk: a folded copy, swapped between two steps."""
    from h1r import model as models

    def sync(trainer: Trainer, generator: Generator, version: int) -> None:
        folded = models.fold(model)
        llm.loop.call(lambda engine: engine.swap(folded, version))

    return sync
