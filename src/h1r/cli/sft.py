"""`h1r sft RECIPE`: supervised fine-tuning, resumable."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from h1r import config
from h1r.cli import card
from h1r.cli.trackers import OPTION, checked, tracked
from h1r.errors import CheckpointError, ConfigError, DataError
from h1r.types import Problem, Row

if TYPE_CHECKING:
    import torch

    from h1r.text import Tokenizer
    from h1r.train.ranks import Ranks
    from h1r.train.sft import Indexed, SftConfig
    from h1r.train.trainer import LocalTrainer


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where the model comes from: a checkpoint folder (`path`), or a preset built anew with `seed` and changes in `set`."""

    path: str | None = None
    preset: str = "quickstart"
    seed: int = 0
    set: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raises CheckpointError where the folder is not there."""
        if self.path and not Path(self.path).is_dir():
            fetch = f"`hf download ORGANISATION/{Path(self.path).name} --local-dir {self.path}`"
            raise CheckpointError(f"{self.path}: no such model folder; fetch it ({fetch}) or --set model.path=FOLDER")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """What is trained on.

    files    JSONL, Parquet or converted traces; none: procedural problems, drawn without end
    weights  by domain or family: how often procedural problems are drawn; by domain: the weight of rows from files
    table    a difficulty table (h1r data difficulty): rows from files are weighted by their band too
    bands    edges and weights of the bands: easy_below, hard_from, easy, medium, hard (data.difficulty.BandConfig); a band of
             weight 0 is left out
    seed     of the order in which rows come
    vocab    size of the tokenizer trained on `sample` of the rows when the model is new
    """

    files: tuple[str, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    table: str = ""
    bands: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    vocab: int = 768
    sample: int = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """How the processes of torchrun share the work: context, weights (train.ranks.ShardConfig)."""

    context: int = 1
    weights: str = "whole"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The ranks that `--scale ray` starts: how many, what Ray reserves for each, and the cluster (none: this machine)."""

    ranks: int = 2
    cpus: float = 1
    gpus: float = 0
    address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SftRecipe:
    """Model, data, training, how processes share it, and the folder that receives checkpoints, metrics and `model/`."""

    out: str
    model: ModelSource = field(default_factory=ModelSource)
    data: DataSource = field(default_factory=DataSource)
    train: dict[str, Any] = field(default_factory=dict)
    shard: Shard = field(default_factory=Shard)
    scale: Placement = field(default_factory=Placement)
    threads: int = 0


def sft(
    recipe: str = typer.Argument(..., help="A recipe file, or the name of a packaged one (quickstart-sft)."),
    settings: list[str] = typer.Option([], "--set", help="Override one value: train.steps=20 (repeatable)."),
    scale: str = typer.Option(
        "", "--scale", help="ray: scale.ranks processes on a Ray cluster, instead of torchrun's."
    ),
    trackers: list[str] = OPTION,
    preflight: bool = typer.Option(True, "--preflight/--no-preflight", help="Check model, data and machine first."),
) -> None:
    """Fine-tune a model on worked traces. Run again after an interruption: it goes on from its last checkpoint."""
    read = config.read(recipe, SftRecipe, settings)
    if preflight and int(os.environ.get("RANK", "0")) == 0:
        from h1r.cli.preflight import refuse, sft_checks

        refuse(sft_checks(read, str(recipe)))
    if scale not in ("", "ray"):
        raise ConfigError(f"--scale {scale}: must be ray, or left out")
    if scale:
        metrics = _on_ray(read.scale, partial(train, placed(read), str(recipe), "sft", checked(trackers)))
    else:
        if read.scale != Placement():
            print("h1r: scale: not used without --scale ray; torchrun starts ranks otherwise", file=sys.stderr)
        metrics = train(read, str(recipe), trackers=checked(trackers))
    if not metrics:
        return
    print(f"{read.out}/model: step {int(metrics.get('step', 0))}, loss {metrics.get('loss', float('nan')):.4f}")


def placed(recipe: SftRecipe) -> SftRecipe:
    """The recipe with absolute paths: an actor may run in another folder."""
    source, data = recipe.model, recipe.data
    at = lambda path: str(Path(path).absolute())  # noqa: E731
    return replace(
        recipe,
        out=at(recipe.out),
        model=replace(source, path=at(source.path) if source.path else None),
        data=replace(data, files=tuple(at(f) for f in data.files), table=at(data.table) if data.table else ""),
    )


def _on_ray(wanted: Placement, go: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
    """`go` on every rank, placed by Ray; the first one's metrics."""
    from h1r import scale

    needed = {"CPU": wanted.ranks * wanted.cpus, "GPU": wanted.ranks * wanted.gpus}
    with scale.cluster(wanted.address, max(os.cpu_count() or 1, math.ceil(needed["CPU"]))):
        scale.require(needed)
        return scale.on_ranks(wanted.ranks, partial(_rank, go), cpus=wanted.cpus, gpus=wanted.gpus)


def _rank(go: Callable[[], Mapping[str, float]], rank: int) -> Mapping[str, float]:
    return go()


def train(
    recipe: SftRecipe, where: str = "recipe", stage: str = "sft", trackers: Sequence[str] = ()
) -> Mapping[str, float]:
    """Run the recipe with a progress bar; returns the last step's metrics. Writes out/model in Hugging Face format."""
    import torch

    from h1r import log
    from h1r.cli.progress import follow
    from h1r.model.presets import flops_per_token
    from h1r.train import lora, sft
    from h1r.train import ranks as together

    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    recipe.model.check()
    settings = config.build(recipe.train, sft.SftConfig, f"{where}: train")
    ranks = together.join(together.ShardConfig(**asdict(recipe.shard)))
    device = together.device()
    place = placing(settings, ranks, device)
    if ranks.first:
        tokenizer_of(recipe)
    ranks.wait()  # the others read the tokenizer that the first one wrote
    model, tokenizer = start(recipe, place)
    files = recipe.data.files
    rows = file_rows(recipe.data, tokenizer, settings.heldout) if files else procedural_rows(recipe.data, tokenizer)
    aside = held_out(recipe.data, tokenizer, settings.heldout, settings.length)
    out = Path(recipe.out)

    def finish(trainer: LocalTrainer) -> None:
        trainer.export(str(out / "model"))
        if ranks.first:
            card.write(out / "model", recipe, "sft", recipe.model.path or "", sources(recipe.data.files))
        if settings.lora:
            lora.save_adapter(model, out / "adapter", recipe.model.path or "", write=ranks.first)
        ranks.wait()

    steps: Iterator[Mapping[str, float]] = sft.run(
        model, rows, settings, out, tokenizer=tokenizer.save, ranks=ranks, device=device, heldout=aside, done=finish
    )  # fmt: skip

    if ranks.first and trackers:
        steps = tracked(trackers, out, asdict(recipe), steps)
    peak = peak_flops(device) * ranks.size

    def note(m: Mapping[str, float]) -> tuple[int, str]:
        flops = flops_per_token(model.config, int(m["tokens"] / m["rows"]))
        mfu = f"  MFU {flops * m['tokens_per_s'] / peak:.1%}" if peak else ""
        return int(m["step"]), f"loss {m['loss']:.3f}  {m['tokens_per_s']:,.0f} tok/s{mfu}"

    for _ in follow(stage, settings.steps, steps, note) if ranks.first else steps:
        pass
    if not ranks.first:
        return {}
    recorded = list(log.read(out / "metrics.jsonl"))
    return recorded[-1] if recorded else {}


def sources(files: Sequence[str]) -> list[str]:
    """What a model card says of the data."""
    return list(files) or ["procedural problems of `h1r data make` (train side), drawn without end"]


PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "B200": 2250e12, "L40S": 362e12}
"""Dense bf16 FLOP/s of a GPU whose name holds the word."""


def peak_flops(device: torch.device) -> float:
    """What the device could do; 0 where that is not known, as on a processor."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((flops for word, flops in PEAK.items() if word in name), 0.0)


def placing(settings: SftConfig, ranks: Ranks, device: torch.device) -> Callable[[Any], None] | None:
    """Cuts each layer over the ranks as soon as it is read, so that no process holds all weights. Adapters come first, whole."""
    from h1r.train import shard
    from h1r.train.trainer import computes_in_bf16

    if not ranks.sharded or settings.lora or settings.compile:
        return None
    line, bf16 = shard.mesh(device.type), computes_in_bf16(settings.bf16, device)
    return lambda layer: shard.shard_module(layer, line, bf16=bf16, device=device.type)


def tokenizer_of(recipe: SftRecipe) -> Tokenizer:
    """The checkpoint's tokenizer, the one this run made earlier, or a new one."""
    from h1r.text import Tokenizer

    if recipe.model.path:
        return Tokenizer.from_folder(recipe.model.path)
    folder = Path(recipe.out) / "tokenizer"
    made = (folder / "tokenizer.json").is_file()
    return Tokenizer.from_folder(folder) if made else new_tokenizer(recipe.data, folder)


def start(recipe: SftRecipe, placed: Callable[[Any], None] | None = None) -> tuple[Any, Tokenizer]:
    """The model to train and its tokenizer: a checkpoint's, or both new. placed: see model.load."""
    import torch

    from h1r import model as models

    source, tokenizer = recipe.model, tokenizer_of(recipe)
    if source.path:
        return models.load(source.path, dtype=torch.float32, placed=placed)[0], tokenizer
    if source.preset not in models.PRESETS:
        raise ConfigError(f"model.preset={source.preset!r}: must be one of {', '.join(sorted(models.PRESETS))}")
    shape = models.PRESETS[source.preset].to_dict() | {"vocab_size": tokenizer.vocab_size} | source.set
    shape |= {"eos_token_id": list(tokenizer.stop_ids), "pad_token_id": tokenizer.pad_id}
    return models.build(models.H1Config.from_dict(shape), seed=source.seed), tokenizer


def new_tokenizer(data: DataSource, folder: Path) -> Tokenizer:
    """A byte-level BPE over a sample of the training rows, saved in `folder`. Its default system prompt is theirs."""
    from h1r.data import procedural
    from h1r.text import render_text, train

    sample = problems(data)
    texts = [
        render_text((*p.messages, *p.solution), p.tools, add_generation_prompt=False)
        for p in (next(sample) for _ in range(data.sample))
    ]
    tokenizer = train(texts, data.vocab, system=procedural.SYSTEM)
    tokenizer.save(folder)
    return tokenizer


def problems(data: DataSource) -> Iterator[Problem]:
    """Problems with solutions, without end, in the order of the seed."""
    from h1r.data import procedural, read

    if not data.files:
        yield from procedural.problems(split="train", seed=data.seed, weights=data.weights)
        return
    while True:
        count = 0
        for path in data.files:
            for problem in read(path):
                if problem.solution:
                    count += 1
                    yield problem
        if not count:
            raise DataError(f"{', '.join(data.files)}: no problem has a solution; SFT needs worked traces")


def procedural_rows(data: DataSource, tokenizer: Tokenizer) -> Indexed:
    """Rows of procedural problems, addressed by number."""
    from h1r.train.sft import Indexed

    return Indexed(lambda index: _procedural(index, data, tokenizer, "train"))


def _procedural(index: int, data: DataSource, tokenizer: Tokenizer, split: str) -> Row:
    from h1r.data import procedural
    from h1r.text import row

    return row(procedural.sample(index, seed=data.seed, split=split, weights=data.weights), tokenizer)


def held_out(data: DataSource, tokenizer: Tokenizer, count: int, length: int) -> list[Row]:
    """`count` rows that training never sees (see file_rows), cut at `length`."""
    from h1r.train.sft import trim

    if not count:
        return []
    if data.files:
        rows = file_rows(data, tokenizer, count, held=True)
        found = [next(rows) for _ in range(count)]
    else:
        found = [_procedural(i, data, tokenizer, "held_out") for i in range(count)]
    return [trim(r, length) for r in found]


def file_rows(data: DataSource, tokenizer: Tokenizer, heldout: int = 0, held: bool = False) -> Indexed:
    """Rows of the files' problems, weighted by domain and difficulty band: an endless seeded shuffle, epoch after epoch.

    heldout: so many problems, chosen by the seed, are left out; held: these alone.
    """
    from random import Random

    from h1r.data import Indexed as Files
    from h1r.text import row
    from h1r.train.sft import Indexed

    sources = [Files(path) for path in data.files]
    weigh = banded(data)
    places = [(which, at) for which, source in enumerate(sources) for at in range(len(source))]
    if not places:
        raise DataError(f"{', '.join(data.files)}: no problems; give files that `h1r data convert` wrote")
    if data.table:
        places = [(which, at) for which, at in places if weigh(sources[which][at]) > 0]
        if not places:
            raise DataError(f"{data.table}: every band that has problems weighs 0: nothing is left to train on")
    if heldout:
        if heldout >= len(places):
            raise DataError(f"train.heldout={heldout}: the files hold {len(places)} problems; hold out fewer")
        Random(f"{data.seed} held out").shuffle(places)
        places = places[:heldout] if held else places[heldout:]
    orders: dict[int, list[int]] = {}

    def make(index: int) -> Row:
        epoch, place = divmod(index, len(places))
        if epoch not in orders:
            orders.clear()
            orders[epoch] = list(range(len(places)))
            Random(f"{data.seed} {epoch}").shuffle(orders[epoch])
        which, at = places[orders[epoch][place]]
        problem = sources[which][at]
        return row(problem, tokenizer, weight=data.weights.get(problem.domain, 1.0) * weigh(problem))

    return Indexed(make)


def banded(data: DataSource) -> Callable[[Problem], float]:
    """The weight of a problem's difficulty band; 1 for all without a table."""
    from h1r.data import BandConfig, difficulty

    if not data.table:
        if data.bands:
            raise ConfigError("data.bands weigh by difficulty: give data.table too (h1r data difficulty makes one)")
        return lambda problem: 1.0
    table, bands = difficulty.read(data.table), config.build(data.bands, BandConfig, "data.bands")
    if not table:
        raise DataError(f"{data.table}: no difficulty table; make it with h1r data difficulty")
    return lambda problem: difficulty.weight(difficulty.of(problem, table), bands)
