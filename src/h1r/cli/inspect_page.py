"""`h1r inspect RUN --html FILE`: a training run as one page; `--compare A B --prompt TEXT`: two checkpoints on one prompt."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from h1r import log, report
from h1r.errors import DataError
from h1r.text import Tokenizer
from h1r.types import SamplingParams

CURVES = {
    "Reward and pass rate": ("reward", "pass", "formatted", "truncated"),
    "Length": ("length",),
    "Entropy": ("entropy",),
    "Loss": ("loss",),
    "Gradient norm": ("grad_norm",),
    "Learning rate": ("lr",),
    "Clip fractions": ("clip_low", "clip_high"),
    "Engine against trainer": ("mismatch_kl", "mismatch_abs"),
    "Engine against trainer, nats per 1,000 tokens of position": ("mismatch_slope",),
    "Effective sample size": ("ess", "tis_mean"),
    "Staleness": ("staleness", "staleness_max"),
    "Groups": ("groups/generated", "groups/useful", "groups/trained", "groups/from_cache", "groups/in_cache"),
    "Tokens generated and trained": ("tokens/generated", "tokens/trained"),
    "Tokens per second": ("tokens_per_s",),
    "Rows left out": ("dropped", "skipped"),
}
"""Chart -> the metrics it draws, where a run has them."""


def write(run: Path, path: Path, compared: Sequence[report.Section] = (), last: int = 3, trainer: str = "") -> Path:
    """The page of a GRPO or SFT run: curves; for GRPO groups, traces and graders' words of the `last` steps. Its path.

    trainer: a checkpoint whose log-probabilities of the shown traces are held against the engine's, token by token
    """
    records = list(log.read(run / "metrics.jsonl"))
    if not records and not compared:
        raise DataError(f"{run}: no metrics.jsonl with a finished step; give the folder of an SFT or GRPO run")
    sections = [report.Section(title="Curves", blocks=curves(records))] if records else []
    if (run / "journal.jsonl").is_file():
        sections += rollouts(run, [int(r["step"]) for r in records][-last:], trainer)
    sections += compared
    return report.write(path, report.page(f"Run: {run.name}", sections))


def curves(records: Sequence[Mapping[str, Any]]) -> list[Any]:
    """One chart per line of CURVES that the run has numbers for, the pass rate by part, and where the time went."""
    found = [_chart(title, names, records) for title, names in CURVES.items()]
    parts = sorted({name for r in records for name in r if name.startswith("pass/")})
    for title, names in (
        ("Pass rate by domain", [p for p in parts if p.count("/") == 1]),
        ("Pass rate by domain and difficulty", [p for p in parts if p.count("/") > 1]),
        ("Seconds", sorted({n for r in records for n in r if n.startswith("seconds/")})),
    ):
        # a chart keeps six colours apart
        found += [_chart(title, names[i : i + 6], records) for i in range(0, len(names), 6)]
    return [chart for chart in found if chart is not None]


def _chart(title: str, names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> Any:
    series = []
    for name in names:
        points = [(float(r["step"]), float(r[name])) for r in records if r.get(name) is not None]
        if points:
            x, y = zip(*points, strict=True)
            series.append(report.Series(name=name.rpartition("/")[2] if "seconds" in name else name, x=x, y=y))
    return report.lines(series, title=title, x_label="step", smooth=8 if len(records) > 40 else 0) if series else None


def rollouts(run: Path, steps: Sequence[int], trainer: str = "") -> list[report.Section]:
    """The group table, token maps of the groups that differ most, and what the graders said."""
    from h1r.rl.inspect import inspect

    tokenizer = _tokenizer(run)
    told = [inspect(run, step) for step in steps]
    rows: list[list[Any]] = []
    why: Counter[str] = Counter()
    for step in told:
        for group in step["groups"]:
            rewards = [t["reward"] for t in group["traces"] if t["reward"] is not None]
            best = max((abs(t["advantage"]) for t in group["traces"]), default=0.0)
            use = "trained" if group["trained"] else "all alike" if group["trivial"] else "kept or dropped"
            spread = f"{min(rewards):.2f} to {max(rewards):.2f}" if rewards else "unscored"
            lengths = [t["tokens"] for t in group["traces"]]
            mean = float(np.mean(rewards)) if rewards else math.nan
            rows.append(
                [
                    f"{step['step']}: {group['problem']}",
                    use,
                    mean,
                    spread,
                    best,
                    float(np.mean(lengths)),
                    group["version"],
                ]
            )
            why.update(f"{t['why'].split(':')[0][:60] or 'right'}" for t in group["traces"])
    rows.sort(key=lambda row: -float(row[4]))
    heads = ["step: problem", "use", "mean reward", "rewards", "largest advantage", "tokens", "version"]
    words: list[list[report.Cell]] = [[name, count] for name, count in why.most_common(24)]
    shown = told[-1]["groups"][:4] if told else []
    gaps = against(trainer, shown, told[-1]["temperature"]) if trainer and shown else {}
    blocks = [_maps(group, tokenizer, gaps) for group in shown]
    return [
        report.Section(title="Groups of the last steps", blocks=[report.table(heads, rows[:120])]),
        report.Section(title="Traces of the last step", blocks=[b for pair in blocks for b in pair]),
        report.Section(
            title="What the graders said",
            blocks=[
                report.table(["reason", "traces"], words, caption="A sandbox that refuses a program says so here.")
            ],
        ),
    ]


def _ends(group: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The best and the worst trace of a group."""
    ranked = sorted(group["traces"], key=lambda t: t["advantage"])
    return [ranked[-1], ranked[0]][: len(ranked)]


def against(path: str, groups: Sequence[Mapping[str, Any]], temperature: float) -> dict[int, list[float]]:
    """By id() of each shown trace: the engine's log-probability of every drawn token minus that of the checkpoint at `path`, in
    the trainer's arithmetic. Zero but for rounding where the checkpoint is the one that wrote the trace."""
    import torch

    from h1r import model as models
    from h1r.train import LocalTrainer, TrainerConfig
    from h1r.types import Row

    traces = [t for group in groups for t in _ends(group) if len(t["logprobs"]) == len(t["token_ids"])]
    model, _ = models.load(path, dtype=torch.float32)
    rows = [Row(token_ids=(*t["prompt_ids"], *t["token_ids"]), streams={}) for t in traces]
    longest = max((len(r.token_ids) for r in rows), default=2)
    scores = LocalTrainer(model, TrainerConfig(length=max(8192, longest), temperature=temperature)).logprobs(rows)
    out = {}
    for t, score in zip(traces, scores, strict=True):
        gap = np.asarray(t["logprobs"]) - score[len(t["prompt_ids"]) :]
        gap[t["forced"]] = 0.0
        out[id(t)] = gap.tolist()
    return out


def _maps(group: Mapping[str, Any], tokenizer: Tokenizer | None, gaps: Mapping[int, list[float]]) -> list[Any]:
    """The best and the worst trace of a group, token by token."""
    out = []
    for trace in _ends(group):
        pieces = [tokenizer.decode([i]) if tokenizer else f"{i} " for i in trace["token_ids"]]
        layers = {"log-probability": trace["logprobs"], "confidence": trace["confidence"]}
        if id(trace) in gaps:
            layers["engine minus trainer"] = gaps[id(trace)]
        if trace["forced"]:
            layers["not drawn"] = [float(i in set(trace["forced"])) for i in range(len(pieces))]
        layers = {name: values for name, values in layers.items() if len(values) == len(pieces)}
        said = f"reward {trace['reward']}, advantage {trace['advantage']:.2f}, {trace['stop']}; {trace['why']}"
        if trace["turns"] > 1:
            said += f"; {trace['turns']} turns"
        out.append(report.heat(pieces, layers, title=group["problem"], caption=said))
    return out


def _tokenizer(run: Path) -> Tokenizer | None:
    """Of the run's model, where it has been exported."""
    for folder in (run / "model", *sorted((run / "weights").glob("v*"), reverse=True)):
        if (folder / "tokenizer.json").is_file():
            return Tokenizer.from_folder(folder)
    return None


def compare(a: str, b: str, prompt: str, max_tokens: int) -> report.Section:
    """Both checkpoints answer greedily; then b scores a's trace: where they part, token by token."""
    from h1r.cli import wire
    from h1r.types import Prompt

    asked = Prompt(messages=({"role": "user", "content": prompt},))
    first, second = wire.load_llm(a, dtype="float32"), wire.load_llm(b, dtype="float32")
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    traces = [llm.generate([llm.prompt(asked)], sampling)[0][0] for llm in (first, second)]
    own = traces[0]
    assert first.tokenizer is not None
    pieces = [first.tokenizer.decode([i]) for i in own.token_ids]
    whole = (*own.prompt.token_ids, *own.token_ids)
    start = len(own.prompt.token_ids)
    scores = [np.asarray(llm.score([whole])[0])[-len(pieces) :] for llm in (first, second)]
    assert len(scores[0]) == len(pieces) and start > 0
    texts = report.table(
        ["", "tokens", "stop", "text"],
        [
            [name, len(t.token_ids), t.stop.value, t.text]
            for name, t in zip((f"A: {a}", f"B: {b}"), traces, strict=True)
        ],
    )
    gap = scores[1] - scores[0]
    layers = {"log p under B minus under A": gap.tolist(), "log p under A": scores[0].tolist()}
    less, each = 0.0 - float(gap.sum()), 0.0 - float(gap.mean())
    caption = f"B finds A's trace {less:.2f} nats less likely than A does ({each:.3f} a token)."
    return report.Section(title="Two checkpoints", blocks=[texts, report.heat(pieces, layers, caption=caption)])
