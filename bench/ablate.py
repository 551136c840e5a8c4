"""The report's ablations at the size of the quickstart: arms trained alike but for one thing, compared on held-out problems.

    python bench/ablate.py difficulty|normalisation|mixture --base FOLDER --out FOLDER [--seeds 0,1] [--steps N] [--problems 300]

FOLDER of --base is an SFT checkpoint of the quickstart (`h1r sft quickstart-sft`): it measures the difficulty of the training
problems, and GRPO begins from it. Arms are trained by the commands' own functions; an arm that is finished is not trained again.

difficulty     SFT on one file of procedural problems: all alike; or hard ones (pass rate of the base model below 0.25) 1.5 times
               and easy ones (above 0.75) half; or easy ones left out (arXiv:2601.02346, section 2.2)
normalisation  SFT by two processes that deal rows in turn: weights over the sum of all ranks' (what the product does); or each
               rank over its own sum, and ranks averaged (unbalanced), made here by rescaling a rank's rows (section 2.4)
mixture        GRPO on all domains; on mathematics alone; on mathematics and code (section 3.5)

Pairs are compared by problem, seeds and samples pooled, with intervals clustered by problem (evals.compare); seeds are also told
apart. Results: WHAT.json and WHAT.html in --out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

from h1r import config, evals, report
from h1r.evals.results import Item, by
from h1r.types import Row

ARMS = {
    "difficulty": ("alike", "weighted", "easy dropped"),
    "normalisation": ("balanced", "by rank"),
    "mixture": ("all domains", "mathematics", "mathematics and code"),
}
BANDS = {"weighted": "{easy: 0.5, medium: 1.0, hard: 1.5}", "easy dropped": "{easy: 0.0, medium: 1.0, hard: 1.5}"}
WEIGHTS = {"mathematics": ("math",), "mathematics and code": ("math", "code")}
DOMAINS = ("math", "code", "science", "chat", "tools", "safety")
PRACTICE = 6000  # training problems of the difficulty ablation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(ARMS))
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--steps", type=int, default=0, help="Optimizer steps; default: the recipe's.")
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--arm", default="", help="(internal) train one arm, under torchrun")
    args = parser.parse_args()
    seeds = [int(s) for s in args.seeds.split(",")]
    if args.arm:
        train(args, args.arm, seeds[0])
        return
    items: dict[str, list[Item]] = {}
    each: dict[str, list[list[Item]]] = {}
    for seed in seeds:
        for arm in ARMS[args.what]:
            folder = place(args, arm, seed)
            if not (folder / "model").is_dir():
                prepare(args, arm, seed)
            found = measure(args, folder)
            each.setdefault(arm, []).append(found)
            # samples of other seeds are further samples of the same problems
            items.setdefault(arm, []).extend(
                replace(i, sample=i.sample + 100 * seed, key=f"{seed} {i.key}") for i in found
            )
            write(args, items, each)


def place(args: argparse.Namespace, arm: str, seed: int) -> Path:
    folder: Path = args.out / args.what / f"{arm.replace(' ', '-')}-{seed}"
    return folder


def prepare(args: argparse.Namespace, arm: str, seed: int) -> None:
    """Train an arm: here, or by two processes."""
    if args.what != "normalisation":
        train(args, arm, seed)
        return
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        *sys.argv,
        "--arm",
        arm,
    ]
    subprocess.run([*command, "--seeds", str(seed)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def train(args: argparse.Namespace, arm: str, seed: int) -> None:
    folder = place(args, arm, seed)
    steps = [f"{'rl' if args.what == 'mixture' else 'train'}.steps={args.steps}"] if args.steps else []
    if args.what == "mixture":
        from h1r.cli.grpo import GrpoRecipe, practise

        chosen = WEIGHTS.get(arm, DOMAINS)
        weights = "{" + ", ".join(f"{d}: {float(d in chosen)}" for d in DOMAINS) + "}"
        settings = [f"model={args.base}", f"out={folder}", f"rl.seed={seed}", f"data.weights={weights}", *steps]
        practise(config.read("quickstart-grpo", GrpoRecipe, settings))
        return
    from h1r.cli import sft

    settings = [f"out={folder}", f"model.seed={seed}", f"data.seed={seed}", *steps]
    if args.what == "difficulty":
        settings += [f"data.files=[{practice(args)}]", "data.weights={}"]
        if arm in BANDS:
            settings += [f"data.table={table(args)}", f"data.bands={BANDS[arm]}"]
    else:
        from h1r.train.ranks import Ranks

        Ranks.share = partialmethod(deal, unbalanced=arm == "by rank")  # type: ignore[method-assign, assignment]
    sft.train(config.read("quickstart-sft", sft.SftRecipe, settings))


def deal(ranks: Any, rows: Sequence[Row], unbalanced: bool) -> list[Row]:
    """Rows dealt in turn. unbalanced: this rank's weights divided by its own sum and the number of ranks, where `rows` carry
    weights that sum to one over all ranks: the mean of the ranks' means."""
    mine = list(rows[ranks.rank :: ranks.size])
    if not unbalanced:
        return mine
    total, own = (sum(float(r.streams["ce"].sum()) for r in part) for part in (rows, mine))
    factor = total / (ranks.size * own) if own else 0.0
    return [replace(r, streams={**r.streams, "ce": r.streams["ce"] * factor}) for r in mine]


def practice(args: argparse.Namespace) -> Path:
    """The training problems of the difficulty ablation, one file for all arms and seeds."""
    from itertools import islice

    from h1r.data import procedural, write

    path: Path = (args.out / "practice.jsonl").absolute()
    if not path.is_file():
        write(path, islice(procedural.problems(split="train", seed=7), PRACTICE))
    return path


def table(args: argparse.Namespace) -> Path:
    """Pass rates of the base model on them, four traces each at temperature 1."""
    from h1r.cli.data_rollouts import by_rollouts
    from h1r.types import SamplingParams

    path: Path = (args.out / "difficulty.jsonl").absolute()
    by_rollouts(str(practice(args)), str(path), str(args.base), "", SamplingParams(n=4, max_tokens=256, seed=0))
    return path


def measure(args: argparse.Namespace, folder: Path) -> list[Item]:
    """Held-out problems, sampled at temperature 1."""
    from h1r.cli import wire
    from h1r.cli.eval_ import evaluate
    from h1r.data import procedural
    from h1r.types import SamplingParams

    held = procedural.distinct(args.problems, split="held_out", seed=11)
    llm = wire.load_llm(str(folder / "model"), dtype="float32", sequences=1024)
    assert llm.tokenizer is not None
    found = evaluate(
        held, llm.generate, wire.prompt_of(llm.tokenizer), wire.scorer(), SamplingParams(max_tokens=256, seed=3), args.samples,
        folder / "eval", name="held out", model=str(folder), stage=folder.name, batch=args.problems * args.samples,
    )  # fmt: skip
    return list(found.items)


def write(args: argparse.Namespace, items: dict[str, list[Item]], each: dict[str, list[list[Item]]]) -> None:
    """What is known so far, after every arm."""
    first = ARMS[args.what][0]
    told: dict[str, Any] = {"ablation": args.what, "against": first, "arms": {}}
    rows, estimates = [], []
    for arm, found in items.items():
        here = evals.result(arm, found)
        entry: dict[str, Any] = {
            "pass1": here.average.value, "low": here.average.low, "high": here.average.high, "seeds": len(each[arm]),
            "by domain": {name: evals.result(name, part.items).average.value for name, part in by(found, "domain").items()},
        }  # fmt: skip
        estimates.append(
            report.Estimate(100 * here.average.value, 100 * here.average.low, 100 * here.average.high, "%")
        )
        if arm != first and len(each[arm]) == len(each[first]):
            compared = evals.compare(items[first], found)
            entry["difference"] = compared.whole._asdict()
            entry["difference by seed"] = [
                evals.compare(a, b).whole.difference for a, b in zip(each[first], each[arm], strict=True)
            ]
            entry["difference by domain"] = {s.value: s.paired._asdict() for s in compared.strata if s.key == "domain"}
        told["arms"][arm] = entry
        whole = entry.get("difference", {})
        rows.append([arm, entry["pass1"], whole.get("difference"), whole.get("low"), whole.get("high"), entry["seeds"]])
        print(
            f"{arm:22s} {100 * entry['pass1']:.1f} %",
            {k: round(100 * v, 1) for k, v in whole.items() if k in ("difference", "low", "high")},
        )
    (args.out / f"{args.what}.json").write_text(json.dumps(told, indent=1))
    chart = report.bars(
        list(items), [("pass@1", estimates)], title=f"{args.what}: pass@1 on {args.problems} held-out problems"
    )
    heads = ["arm", "pass@1", "difference", "low", "high", "seeds"]
    section = report.Section(title=args.what, blocks=[chart, report.table(heads, rows)])
    report.write(args.out / f"{args.what}.html", report.page(f"Ablation: {args.what}", [section]))


if __name__ == "__main__":
    main()
