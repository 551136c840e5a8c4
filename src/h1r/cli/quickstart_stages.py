"""The stages of `h1r quickstart`, in order. Each returns plain JSON; what is large goes to files of the run's folder."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h1r import config, log

if TYPE_CHECKING:
    from h1r.cli.quickstart import QuickstartRecipe, Search, Stage
    from h1r.search import DeepConfConfig
    from h1r.types import Problem

Found = Mapping[str, Any]


def problems(recipe: QuickstartRecipe, found: Found) -> Found:
    """Held-out problems, no two alike, none on the training side; how much of their text training rows repeat."""
    from h1r.data import procedural, write

    held = procedural.distinct(recipe.heldout, split="held_out", seed=recipe.seed)
    write(Path(recipe.out) / "heldout.jsonl", held)
    keys = {p.meta["key"] for p in held}
    trained = {procedural.sample(i, seed=recipe.seed, split="train").meta["key"] for i in range(5000)}
    assert not keys & trained, "a held-out instance appeared on the training side"
    return {"problems": len(held), "domains": sorted({p.domain for p in held})}


def sft(recipe: QuickstartRecipe, found: Found) -> Found:
    """Cold start: fine-tune a new model on worked traces."""
    from h1r.cli.sft import SftRecipe, train

    settings = [f"out={recipe.out}/sft", f"model.seed={recipe.seed}", f"data.seed={recipe.seed}"]
    read = config.read(recipe.sft, SftRecipe, settings)
    last = train(read, where=recipe.sft)
    metrics = list(log.read(Path(read.out) / "metrics.jsonl"))
    return {
        "steps": last["step"], "loss": last["loss"], "tokens": sum(m["tokens"] for m in metrics),
        "tokens_per_s": sorted(m["tokens_per_s"] for m in metrics)[len(metrics) // 2],
    }  # fmt: skip


def grpo(recipe: QuickstartRecipe, found: Found) -> Found:
    """Reinforcement learning on fresh problems of the training side."""
    from h1r.cli import wire
    from h1r.cli.grpo import GrpoRecipe, practise

    settings = [
        f"model={recipe.out}/sft/model", f"out={recipe.out}/grpo", f"data.seed={recipe.seed + 1}", f"rl.seed={recipe.seed}",
    ]  # fmt: skip
    read = config.read(recipe.grpo, GrpoRecipe, settings)
    last = practise(read, where=recipe.grpo)
    metrics = list(log.read(Path(read.out) / "metrics.jsonl"))
    folder = Path(recipe.out) / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(Path(read.out) / "model", folder)
    s = recipe.search
    deepconf = {"keep_fraction": s.headline, "window": s.window, "warmup": s.warmup, "consensus": s.consensus}
    _write_json(folder / wire.SETTINGS, {"deepconf": deepconf})
    return {
        "steps": last["step"], "reward": last["reward"], "tokens": sum(m.get("tokens/generated", 0.0) for m in metrics),
        "mismatch_kl": max(m["mismatch_kl"] for m in metrics),
    }  # fmt: skip


def _evaluate(recipe: QuickstartRecipe, stage: str, model: Path) -> Found:
    from h1r.cli import wire
    from h1r.cli.eval_ import _identity, evaluate
    from h1r.data import read
    from h1r.types import SamplingParams

    llm = wire.load_llm(str(model), dtype="float32", sequences=1024)
    assert llm.tokenizer is not None
    held = list(read(Path(recipe.out) / "heldout.jsonl"))
    sampling = SamplingParams(temperature=recipe.temperature, max_tokens=recipe.max_tokens, seed=recipe.seed)
    folder, score = Path(recipe.out) / "eval" / stage, wire.scorer()
    measured = []
    # One call for all samples: a batch that empties is decoded slowly once, not once a chunk.
    for settings, samples, place, word in (
        (sampling, recipe.samples, folder, f"eval {stage}"),
        (replace(sampling, temperature=0.6, top_p=0.95), 1, folder / "t06", f"T 0.6 {stage}"),
    ):
        measured.append(
            evaluate(
                held, llm.generate, wire.prompt_of(llm.tokenizer), score, settings, samples, place,
                name="quickstart", model=_identity(str(model)), stage=word, batch=len(held) * samples,
            )
        )  # fmt: skip
    result, beside = measured
    return {
        "pass1": result.average.value, "interval": [result.average.low, result.average.high],
        "this_set": [result.this_set.low, result.this_set.high],
        "problems": result.problems, "samples": result.samples, "tokens": result.tokens,
        "outcomes": dict(result.outcomes), "temperature": recipe.temperature,
        "falcon_protocol": {"temperature": 0.6, "top_p": 0.95, "pass1": beside.average.value,
                            "interval": [beside.average.low, beside.average.high], "samples": beside.samples},
    }  # fmt: skip


def eval_sft(recipe: QuickstartRecipe, found: Found) -> Found:
    """pass@1 of the fine-tuned model on the held-out problems."""
    return _evaluate(recipe, "sft", Path(recipe.out) / "sft" / "model")


def eval_grpo(recipe: QuickstartRecipe, found: Found) -> Found:
    """pass@1 after reinforcement learning, and the paired difference, whole and by slice."""
    from h1r import evals
    from h1r.cli import card

    out = Path(recipe.out)
    after = _evaluate(recipe, "grpo", out / "model")
    before, now = (evals.load(out / "eval" / s / "quickstart.items.jsonl") for s in ("sft", "grpo"))
    compared = evals.compare(before, now)
    strata = [
        {"key": s.key, "value": s.value, **s.paired._asdict(), "holm": s.adjusted,
         "verdict": evals.verdict(s.paired, adjusted=s.adjusted)}
        for s in compared.strata
    ]  # fmt: skip
    asked = f"{after['problems']} held-out problems, {after['samples']} samples at temperature {recipe.temperature:g}"
    rows = {"pass@1": (after["pass1"], *after["interval"], asked)}
    rows |= {
        f"pass@1, {name}": (r.average.value, r.average.low, r.average.high, asked)
        for name, r in evals.by(now, "domain").items()
    }
    card.results(out / "model", rows)
    return {**after, "paired": compared.whole._asdict(), "strata": strata}


def deepconf(recipe: QuickstartRecipe, found: Found) -> Found:
    """Many traces per problem, recorded whole; then one trace, majority and DeepConf on the very same draws."""
    from h1r.cli import wire
    from h1r.cli.progress import bar
    from h1r.search import record
    from h1r.types import SamplingParams

    s = recipe.search
    asked = informative(recipe)
    llm = wire.load_llm(str(Path(recipe.out) / "model"), dtype="float32", sequences=1024)
    assert llm.tokenizer is not None
    render, score = wire.prompt_of(llm.tokenizer), wire.scorer()
    sampling = SamplingParams(
        temperature=recipe.temperature, max_tokens=recipe.max_tokens, n=s.traces, seed=recipe.seed + 17
    )
    pools, at_once = [], max(1, 1024 // s.traces)
    with bar("deepconf", len(asked)) as progress:
        for begin in range(0, len(asked), at_once):
            part = asked[begin : begin + at_once]
            for problem, traces in zip(part, llm.generate([render(p) for p in part], sampling), strict=True):
                right = [score(problem, t).value == 1.0 for t in traces]
                pools.append(record(traces, wire.answer_of, right))
            progress.advance(len(pools))
    return measure(recipe, pools)


def informative(recipe: QuickstartRecipe) -> list[Problem]:
    """Held-out problems of the domains and levels where votes are neither all right nor all wrong."""
    from h1r.data import procedural

    s = recipe.search
    return procedural.distinct(s.problems, split="held_out", seed=recipe.seed + 1, domains=s.domains, levels=s.levels)


def measure(recipe: QuickstartRecipe, pools: Sequence[Sequence[Any]]) -> Found:
    """Accuracy and tokens of the three votes at equal traces, paired over problems; curves over budgets for the plot."""
    from h1r.cli import wire
    from h1r.evals import statistics
    from h1r.search import DeepConfConfig, replay, sweep
    from h1r.search.vote import remember

    s = recipe.search
    same = remember(wire.same)
    single = [float(sum(bool(r.correct) for r in pool) / len(pool)) for pool in pools]
    votes: dict[str, Any] = {}
    for keep in s.keep:
        runs = [replay(pool, _settings(s, keep, s.traces), same, parallel=s.parallel) for pool in pools]
        right = {str(i): [float(r.correct)] for i, r in enumerate(runs)}
        major = {str(i): [float(r.majority_correct)] for i, r in enumerate(runs)}
        votes[f"deepconf@{keep:g}"] = {
            **_accuracy([v[0] for v in right.values()]), "tokens": sum(r.tokens for r in runs),
            "share": sum(r.tokens for r in runs) / sum(r.full_tokens for r in runs),
            "against_majority": statistics.paired(major, right)._asdict(),
        }  # fmt: skip
        votes["majority"] = {**_accuracy([v[0] for v in major.values()]), "tokens": sum(r.full_tokens for r in runs)}
    mean_tokens = sum(len(r.confidence) for pool in pools for r in pool) / s.traces
    votes["one trace"] = {**_accuracy(single), "tokens": mean_tokens}
    curves = {}
    budgets = [b for b in (4, 8, 16, 32, 64, 128, 256, 512) if s.warmup < b <= s.traces]
    for keep in s.keep:
        points = sweep(pools, [_settings(s, keep, b) for b in budgets], s.repeats, recipe.seed, same, s.parallel)
        curves[f"deepconf@{keep:g}"] = [[p.tokens, p.accuracy, p.spread] for p in points]
    plain = [DeepConfConfig(keep_fraction=1.0, window=s.window, warmup=b, budget=b, method="majority")
             for b in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if b <= s.traces]  # fmt: skip
    curves["majority"] = [
        [p.full_tokens, p.majority, p.spread] for p in sweep(pools, plain, s.repeats, recipe.seed, same)
    ]
    return {"votes": votes, "curves": curves, "problems": len(pools), "traces": s.traces, "search": asdict(s)}


def _settings(s: Search, keep: float, budget: int) -> DeepConfConfig:
    from h1r.search import DeepConfConfig

    return DeepConfConfig(keep_fraction=keep, window=s.window, warmup=s.warmup, budget=budget, consensus=s.consensus)


def _accuracy(values: Sequence[float]) -> dict[str, Any]:
    from h1r.evals import statistics

    interval = statistics.average([[v] for v in values])
    return {"accuracy": interval.value, "interval": [interval.low, interval.high]}


def twin(recipe: QuickstartRecipe, found: Found) -> Found:
    """The hybrid beside a pure Transformer of its size: decode speed and memory as context grows."""
    from h1r.bench import twin as bench
    from h1r.cli.progress import bar
    from h1r.model import H1Config
    from h1r.model.config import read

    shape = read(Path(recipe.out) / "model")
    assert isinstance(shape, H1Config)
    with bar("twin", 1) as progress:
        measured = bench.twin(shape, seconds=recipe.twin_seconds)
        progress.advance(1)
    return {"twin": measured}


def report(recipe: QuickstartRecipe, found: Found) -> Found:
    """samples.jsonl, metrics.jsonl, summary.json and report.html."""
    from h1r.cli import quickstart_report

    return quickstart_report.write(recipe, found)


def _write_json(path: Path, value: Any) -> None:
    import json

    path.write_text(
        json.dumps(value, indent=2, default=lambda v: None if isinstance(v, float) and math.isnan(v) else v)
    )


STAGES: Mapping[str, Stage] = {
    "problems": problems,
    "sft": sft,
    "eval_sft": eval_sft,
    "grpo": grpo,
    "eval_grpo": eval_grpo,
    "deepconf": deepconf,
    "twin": twin,
    "report": report,
}
