"""`h1r grpo RECIPE --scale ray`: the same loop, with generators, graders and trainers as actors of a Ray cluster.

The loop stays here; weights go to generators through a folder per version (atomic, so a replacement finds them whole), which
every node must see, as it must the model, the data and the run's folder.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h1r.cli import wire
from h1r.cli.trackers import tracked
from h1r.errors import ConfigError
from h1r.types import Generator, Trainer

if TYPE_CHECKING:
    from h1r.cli.grpo import GrpoRecipe
    from h1r.rl.config import GrpoConfig
    from h1r.rl.grpo import Sync
    from h1r.scale import Server


def practise_on_ray(
    recipe: GrpoRecipe, where: str, sandbox: str, unsafe: bool, trackers: Sequence[str] = ()
) -> Mapping[str, float]:
    """Run the recipe; returns the last step's metrics. Raises WorkerLost when a trainer's rank dies; start it again then."""
    from h1r import scale
    from h1r.cli.grpo import judge_of, practised, prepare, show, turns_of
    from h1r.rl import grpo
    from h1r.text import Tokenizer

    settings, wanted = prepare(recipe, where), recipe.scale
    model, out = str(Path(recipe.model).absolute()), Path(recipe.out).absolute()
    vllm = server_of(wanted.vllm, model, where)
    if wanted.trainers == 0 and wanted.weights != "whole":
        raise ConfigError(f"scale.weights={wanted.weights} needs scale.trainers: ranks to share the weights")
    problems, shares = practised(recipe)
    tokenizer = Tokenizer.from_folder(model)
    context = recipe.engine.get("context") if wanted.backend == "own" else vllm.max_model_len
    turns = turns_of(recipe, tokenizer, context or _longest(model))
    render = wire.prompt_of(tokenizer)
    judge_of(recipe)  # a judge that is not there is told now, as is a sandbox
    wire.sandbox(sandbox, unsafe)
    needed = {
        "CPU": wanted.generators * wanted.generator_cpus + wanted.graders * wanted.grader_cpus
        + wanted.trainers * wanted.trainer_cpus,
        "GPU": wanted.generators * wanted.generator_gpus + wanted.trainers * wanted.trainer_gpus,
    }  # fmt: skip
    # on one machine actors may share cores; a cluster's must be there
    with scale.cluster(wanted.address, wanted.cpus or max(os.cpu_count() or 1, math.ceil(needed["CPU"]))):
        scale.require(needed)
        writers = scale.generators(
            wanted.generators, partial(engine, model, recipe.engine) if wanted.backend == "own" else partial(served, vllm, out),
            cpus=wanted.generator_cpus, gpus=wanted.generator_gpus, redo=wanted.redo,
        )  # fmt: skip
        judges = scale.graders(
            wanted.graders, partial(grader, sandbox, unsafe, recipe), cpus=wanted.grader_cpus, redo=wanted.redo
        )  # fmt: skip
        make = partial(trainer, model, settings, wanted.weights)
        group: Any = None
        if wanted.trainers:
            group = scale.TrainerGroup(wanted.trainers, make, cpus=wanted.trainer_cpus, gpus=wanted.trainer_gpus)
        learner = group or make(0)
        try:
            steps = grpo.run(
                writers, judges, learner, problems, render, settings, out, turns=turns, shares=shares,
                sync=None if wanted.transport == "folder" else pushed(group or scale.Source(learner)),
            )  # fmt: skip
            return show("grpo", settings.steps, tracked(trackers, out, asdict(recipe), steps), learner, recipe)
        finally:
            for part in (writers, judges, group):
                if part is not None:
                    part.close()


def pushed(source: Any) -> Sync:
    """Weights from the trainer's memory to the generators'."""

    def sync(trainer: Trainer, generator: Generator, version: int) -> None:
        generator.push(source, version)  # type: ignore[attr-defined]

    return sync


def _longest(model: str) -> int:
    """Tokens that a checkpoint was made for."""
    from h1r.model import config

    return config.read(model).max_position_embeddings


def engine(path: str, options: Mapping[str, Any]) -> Any:
    """In a generator's actor: the model as an LLM."""
    from h1r.cli.grpo import writer

    return writer(path, options)


def server_of(given: Mapping[str, Any], model: str, where: str) -> Server:
    """How a generator's vLLM server is run. Raises ConfigError."""
    from h1r import config
    from h1r.scale import Server

    plain = {
        "model": model, "name": "policy", "dtype": "float32", "reasoning_parser": "", "tools": False,
        "prefix_caching": False,
    }  # fmt: skip
    return config.build(plain | dict(given), Server, f"{where}: scale.vllm")


def served(server: Server, out: Path) -> Any:
    """In a generator's actor: a vLLM server of its own; its output goes to the run's folder."""
    from h1r.scale import Served

    return Served(server, out / f"vllm-{os.getpid()}.log")


def grader(sandbox: str, unsafe: bool, recipe: GrpoRecipe) -> Any:
    """In a grader's actor: the verifiers, their sandbox, the judge."""
    from h1r.cli.grpo import judge_of

    return wire.grader(wire.sandbox(sandbox, unsafe), judge_of(recipe))


def trainer(path: str, settings: GrpoConfig, weights: str, rank: int) -> Any:
    """In a trainer's actor (or here): one rank, joined with the others."""
    import torch

    from h1r import model as models
    from h1r.text import Tokenizer
    from h1r.train import LocalTrainer
    from h1r.train.ranks import ShardConfig, device, join

    ranks = join(ShardConfig(weights=weights))
    model, _ = models.load(path, dtype=torch.float32)
    save = Tokenizer.from_folder(path).save
    return LocalTrainer(model, settings.trainer(), tokenizer=save, ranks=ranks, device=device())
