"""`h1r grpo RECIPE`: reinforcement learning with verifiable rewards, resumable."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from h1r import config
from h1r.cli import wire
from h1r.cli.trackers import OPTION, checked, tracked
from h1r.errors import CheckpointError, ConfigError, DataError
from h1r.types import Generator, Problem, Trainer

if TYPE_CHECKING:
    from h1r import LLM
    from h1r.rl import Turns
    from h1r.rl.config import GrpoConfig
    from h1r.rl.grpo import Sync
    from h1r.text import Tokenizer
    from h1r.verify.sandbox import Sandbox


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSource:
    """What is practised: one environment.

    files    JSONL or Parquet of problems; none: `count` procedural problems of the training side
    weights  by domain or family: how often procedural problems are drawn
    turns    1: a trace ends with its turn. More: calls are answered from the problem's world (data.procedural.world) and the
             model goes on, up to so many turns; only problems with a world are taken
    name, weight  of an environment among several: its name in the metrics, its share of every step
    """

    files: tuple[str, ...] = ()
    count: int = 4096
    seed: int = 1
    weights: dict[str, float] = field(default_factory=dict)
    turns: int = 1
    name: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSource:
    """An OpenAI-compatible server whose model scores problems of kind "judge" (free answers), and the model's name there."""

    url: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Who does the work under `--scale ray`.

    generators, graders  actors that write traces and that score them
    backend              of the generators: own (our engine) or vllm (a server of its own in each actor's place)
    vllm                 scale.vllm.Server: python (the interpreter that has vLLM), dtype, max_model_len, tensor_parallel, ...
    trainers             ranks that train together, an actor each; 0: training stays in this process
    weights              whole on every trainer, or sharded over them (FSDP2)
    *_cpus, *_gpus       what Ray reserves for each actor
    transport            of new weights to generators: folder (one per version, which every node must see) or broadcast (from
                         memory to memory, NCCL or gloo; the first trainer keeps a copy on its processor)
    redo                 how often the share of an actor that died is done again before its traces count as unscored
    address              of a Ray cluster; none: one is started on this machine with `cpus` (0: all)
    """

    generators: int = 1
    graders: int = 1
    backend: str = "own"
    vllm: dict[str, Any] = field(default_factory=dict)
    trainers: int = 0
    weights: str = "whole"
    transport: str = "folder"
    generator_cpus: float = 1
    generator_gpus: float = 0
    grader_cpus: float = 1
    trainer_cpus: float = 1
    trainer_gpus: float = 0
    redo: int = 1
    address: str | None = None
    cpus: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoRecipe:
    """The model to improve, what it practises, how, and the folder for journal, checkpoints, metrics and `model/`.

    environments  in place of data: several, each with a name and a weight
    """

    model: str
    out: str
    data: ProblemSource = field(default_factory=ProblemSource)
    environments: tuple[ProblemSource, ...] = ()
    judge: JudgeSource = field(default_factory=JudgeSource)
    rl: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    scale: Scale = field(default_factory=Scale)
    threads: int = 0

    def check(self) -> None:
        """Raises CheckpointError where the model is not there, ConfigError for settings of `scale` that do not fit together."""
        backend, transport = self.scale.backend, self.scale.transport
        if backend not in ("own", "vllm") or (self.scale.vllm and backend == "own"):
            raise ConfigError(f"scale.backend={backend}: own, or vllm (scale.vllm says how its servers are run)")
        if transport not in ("folder", "broadcast"):
            raise ConfigError(f"scale.transport={transport}: folder or broadcast")
        if transport == "broadcast" and backend == "vllm":
            raise ConfigError("scale.transport=broadcast is for our engine; vLLM reads its weights from a folder")
        if not Path(self.model).is_dir():
            raise CheckpointError(
                f"{self.model}: no such model folder; train it first (h1r sft writes OUT/model), or --set model=FOLDER"
            )


def grpo(
    recipe: str = typer.Argument(..., help="A recipe file, or the name of a packaged one (quickstart-grpo)."),
    settings: list[str] = typer.Option([], "--set", help="Override one value: rl.steps=5 (repeatable)."),
    scale: str = typer.Option("", "--scale", help="ray: generators, graders and trainers as actors of a Ray cluster."),
    sweep: str = typer.Option(
        "", "--sweep", help="Try these temperatures (0.6,0.85,1.0) on the recipe's problems; do not train."
    ),
    trackers: list[str] = OPTION,
    sandbox: str = wire.SANDBOX,
    unsafe: bool = wire.UNSAFE,
) -> None:
    """Improve a model on problems with verifiable answers. Run again after an interruption: it goes on."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "h1r grpo places its own processes: start it without torchrun, with --scale ray --set scale.trainers=N"
        )
    if scale not in ("", "ray"):
        raise ConfigError(f"--scale {scale}: must be ray, or left out (all in this process)")
    read = config.read(recipe, GrpoRecipe, _train_alias(settings))
    read.check()
    if sweep:
        temperatures(read, str(recipe), sweep, wire.sandbox(sandbox, unsafe))
        return
    if read.scale != Scale() and not scale:
        if read.scale.backend == "vllm":
            raise ConfigError("scale.backend=vllm: its servers stand behind actors; add --scale ray")
        print("h1r: scale: not used without --scale ray; everything is done in this process", file=sys.stderr)
    if scale:
        from h1r.cli.grpo_ray import practise_on_ray

        metrics = practise_on_ray(read, str(recipe), sandbox, unsafe, checked(trackers))
    else:
        box = wire.sandbox(sandbox, unsafe)
        metrics = practise(read, where=str(recipe), box=box, trackers=checked(trackers))
    print(f"{read.out}/model: step {int(metrics.get('step', 0))}, reward {metrics.get('reward', float('nan')):.3f}")


def _train_alias(settings: Sequence[str]) -> list[str]:
    """`train.steps` means `rl.steps` here: the word of every other training command."""
    return ["rl." + s.removeprefix("train.") if s.startswith("train.") else s for s in settings]


def practise(
    recipe: GrpoRecipe,
    where: str = "recipe",
    stage: str = "grpo",
    box: Sandbox | None = None,
    trackers: Sequence[str] = (),
) -> Mapping[str, float]:
    """Run the recipe with a progress bar; returns the last step's metrics. Writes out/model in Hugging Face format."""
    import torch

    from h1r import model as models
    from h1r.rl import grpo
    from h1r.train import LocalTrainer

    settings = prepare(recipe, where)
    problems, shares = practised(recipe)
    llm = writer(recipe.model, recipe.engine)
    assert llm.tokenizer is not None
    model, _ = models.load(recipe.model, dtype=torch.float32)
    trainer = LocalTrainer(model, settings.trainer(), tokenizer=llm.tokenizer.save)
    out = Path(recipe.out)
    render = wire.prompt_of(llm.tokenizer)
    steps = grpo.run(
        llm, wire.grader(box, judge_of(recipe)), trainer, problems, render, settings, out, sync=in_memory(model, llm),
        turns=turns_of(recipe, llm.tokenizer, llm.loop.engine.context), shares=shares,
    )  # fmt: skip
    return show(stage, settings.steps, tracked(trackers, out, asdict(recipe), steps), trainer, recipe)


def prepare(recipe: GrpoRecipe, where: str) -> GrpoConfig:
    """The run's settings, checked before anything heavy starts. Raises CheckpointError, ConfigError."""
    recipe.check()
    import torch

    from h1r.rl.config import GrpoConfig

    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    return config.build(recipe.rl, GrpoConfig, f"{where}: rl")


def show(stage: str, count: int, steps: Iterator[Any], trainer: Trainer, recipe: GrpoRecipe) -> Mapping[str, float]:
    """Draw the steps as they come; then write out/model and its card. The last step's metrics."""
    from h1r import log
    from h1r.cli import card
    from h1r.cli.progress import follow
    from h1r.cli.sft import sources

    out = Path(recipe.out)

    def note(m: Mapping[str, float]) -> tuple[int, str]:
        return int(m["step"]), f"reward {m['reward']:.3f}  length {m['length']:.0f}  KL {m['mismatch_kl']:.1e}"

    for _ in follow(stage, count, steps, note):
        pass
    trainer.export(str(out / "model"))
    given = [f for e in recipe.environments or (recipe.data,) for f in e.files]
    card.write(out / "model", recipe, "grpo", recipe.model, sources(given))
    recorded = list(log.read(out / "metrics.jsonl"))
    return recorded[-1] if recorded else {}


def temperatures(recipe: GrpoRecipe, where: str, given: str, box: Sandbox | None, count: int = 128) -> None:
    """A table of the temperatures tried on `count` of the recipe's problems, and the one to sample at."""
    from h1r.evals import plain
    from h1r.rl.sweep import SweepConfig, choose, sweep

    try:
        wanted = tuple(float(t) for t in given.split(","))
    except ValueError:
        raise ConfigError(f"--sweep {given}: numbers with commas between, such as 0.6,0.85,1.0") from None
    settings = prepare(recipe, where)
    llm = writer(recipe.model, recipe.engine)
    assert llm.tokenizer is not None
    chosen = SweepConfig(
        temperatures=wanted, n=min(settings.group, 8), max_tokens=settings.max_tokens, seed=settings.seed
    )
    render, problems = wire.prompt_of(llm.tokenizer), practised(recipe)[0][:count]
    turns = turns_of(recipe, llm.tokenizer, llm.loop.engine.context)
    points = list(sweep(llm, wire.grader(box, judge_of(recipe)), problems, render, chosen, wire.answer_of, turns))
    heads = ["temperature", "accuracy", "±", "answers", "useful groups", "length", "cut"]
    rows = [
        [f"{p[0]:g}", f"{p[1]:.1%}", f"{p[2]:.1%}", f"{p[3]:.2f}", f"{p[4]:.1%}", f"{p[5]:.0f}", f"{p[6]:.1%}"]
        for p in points
    ]
    print(plain([heads, *rows]))
    print(f"rl.temperature={choose(points, chosen.drop):g}: the hottest within {chosen.drop:.0%} of the best accuracy")


def practised(recipe: GrpoRecipe) -> tuple[list[Problem], dict[str, float] | None]:
    """All environments' problems, and each one's share of a step (None: there is but one)."""
    if not recipe.environments:
        return practice(recipe.data), None
    names = [e.name for e in recipe.environments]
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(
            f"environments: each needs a name of its own; found {', '.join(n or '(none)' for n in names)}"
        )
    if recipe.data != ProblemSource():
        raise ConfigError("data and environments: give one of them; data becomes one of the environments")
    problems = [
        replace(p, id=f"{e.name}/{p.id}", meta={**p.meta, "environment": e.name})
        for e in recipe.environments
        for p in practice(e)
    ]
    return problems, {e.name: e.weight for e in recipe.environments}


def practice(source: ProblemSource) -> list[Problem]:
    """The problems of one environment."""
    from h1r.data import procedural, read

    if source.turns < 1 or source.weight < 0:
        raise ConfigError(f"turns={source.turns} must be 1 or more and weight={source.weight} 0 or more")
    if source.files:
        found = [p for path in source.files for p in read(path)]
        if not found:
            raise DataError(f"{', '.join(source.files)}: no problems in these files")
    else:
        families = None if source.turns == 1 else procedural.PLAYED
        stream = procedural.problems(split="train", seed=source.seed, weights=source.weights, domains=families)
        found = list(islice(stream, source.count))
    if source.turns == 1:
        return found
    from h1r.data.procedural import world

    playable = [replace(world.played(p), meta={**p.meta, "turns": source.turns}) for p in found if world.act_of(p)]
    if not playable:
        raise DataError(
            f"turns={source.turns}: no problem of {', '.join(source.files)} has a world; a problem that is played carries "
            "meta.world: {tool: [[arguments, result], ...]}"
        )
    return playable


def turns_of(recipe: GrpoRecipe, tokenizer: Tokenizer, context: int | None = None) -> Turns | None:
    """What plays conversations with tools, where the recipe has some. context: tokens the generator holds."""
    if all(e.turns == 1 for e in recipe.environments or (recipe.data,)):
        return None
    from h1r.data.procedural import world
    from h1r.rl import Turns

    def act_of(problem: Problem) -> Any:
        return world.act_of(problem) if problem.meta.get("turns", 1) > 1 else None

    return Turns(tokenizer, act_of, context=context)


def judge_of(recipe: GrpoRecipe) -> wire.Judge | None:
    return wire.judge_of(recipe.judge.url, recipe.judge.name, ("judge.url", "judge.name"))


def writer(path: str, options: Mapping[str, Any]) -> LLM:
    """The engine that writes traces; exact (fp32) unless the recipe's `engine` says a dtype."""
    return wire.load_llm(path, **({"dtype": "float32"} | dict(options)))


def in_memory(model: Any, llm: LLM) -> Sync:
    """Weights to the engine of this process without a detour over the disk: a folded copy in the engine's own dtype, swapped
    between two steps."""
    import torch

    from h1r import model as models
    from h1r.engine.llm import quantised
    from h1r.ops.linear import quant

    def sync(trainer: Trainer, generator: Generator, version: int) -> None:
        rounded = llm.format in quant.GROUPS and not llm.native and not llm.coded
        folded = models.fold(model, torch.float32 if rounded or llm.native else llm.loop.engine.dtype)
        folded = quantised(folded, llm.format) if rounded else folded
        llm.loop.call(lambda engine: engine.swap(folded, version))

    return sync
