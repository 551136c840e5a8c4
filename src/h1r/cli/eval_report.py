"""`h1r eval report RUN [OTHER]`: scores with intervals, failures, lengths, slices and samples as one page; of two runs, what
changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from h1r.evals import Item, Result
    from h1r.report import Html, Sample, Section
    from h1r.types import Problem

Loaded = Mapping[str, "list[Item]"]
Followed = Mapping[str, Mapping[str, Any]]
SHOWN = 200  # samples in the browser, spread over the suites
MEASURED = 20  # samples from which on a suite's lengths are drawn
FLIPPED = 60  # problems of a comparison that are named, those that changed most


def write(folder: Path, loaded: Loaded, followed: Followed | None = None) -> Path:
    """The page of a run's suites; followed: per suite the record of its protocol. Returns the page's path."""
    from h1r import evals
    from h1r.cli.eval_deepconf import figures_of
    from h1r.evals import figures
    from h1r.report import Section, browser, kv, machine, page
    from h1r.report import write as write_page

    results, further = _results(folder, loaded)
    scores = [figures.score_table([*results, *further], published=_beside(results)), figures.outcome_chart(results)]
    scores.append(figures.pass_counts(results))
    sections = [Section(title="Scores", blocks=scores)]
    if followed:
        sections.append(Section(title="Protocol", blocks=[figures.protocol_table(list(followed.values()))]))
    if any(r.name in {n for names in evals.GROUPS.values() for n in names} for r in results):
        sections.append(Section(title="Beside the published table", blocks=[figures.published_table(results)]))
    searched = figures_of(folder)
    if searched:
        charts = [figures.pareto_chart(told) for told in searched if told["front"]]
        blocks = [*[figures.vote_table(told) for told in searched], *charts]
        sections.append(Section(title="Votes and confidence", blocks=blocks))
    long = [figures.lengths(r) for r in results if r.tokens and r.samples >= MEASURED]
    if long:
        sections.append(Section(title="Lengths", blocks=long))
    slices = _slices([(folder.name, loaded)])
    if slices:
        sections.append(Section(title="Slices", blocks=slices))
    sections.append(Section(title="Samples", blocks=[browser(_samples(folder, loaded, followed or {}))]))
    sections.append(Section(title="Machine", blocks=[kv(machine())]))
    return write_page(folder / "report.html", page(f"Evaluation: {folder.name}", sections))


def write_difference(runs: Sequence[tuple[Path, Loaded, Followed]], differences: Callable[[str], list[str]]) -> Path:
    """A page of two runs, the second against the first. differences: what they did not share, in words, by suite. It lies in
    the second run's folder; returns its path."""
    from h1r import evals
    from h1r.evals import figures
    from h1r.report import Section, browser, kv, machine, note, page
    from h1r.report import write as write_page

    (one, before, told), (other, after, told_after) = runs
    names = [one.name, other.name] if one.name != other.name else [str(one), str(other)]
    shared = [n for n in before if n in after]
    sections: list[Section] = []
    for suite in shared:
        compared = evals.compare(before[suite], after[suite])
        blocks = [note(f"Not alike: {line}", kind="warn") for line in differences(suite)]
        blocks.append(figures.comparison_table(compared, caption=f"{names[1]} minus {names[0]}"))
        blocks.append(
            figures.outcome_chart(
                [evals.result(n, items[suite]) for n, items in zip(names, (before, after), strict=True)]
            )
        )
        blocks += _slices([(names[0], {suite: before[suite]}), (names[1], {suite: after[suite]})])
        changed = evals.flips(before[suite], after[suite])
        blocks.append(figures.flip_table(changed[:FLIPPED], names, more=max(0, len(changed) - FLIPPED)))
        sections.append(Section(title=suite, blocks=blocks))
    shown: list[Sample] = []
    for folder, loaded, followed, name in ((one, before, told, names[0]), (other, after, told_after, names[1])):
        chosen = {s: _changed(loaded[s], before[s], after[s]) for s in shared}
        shown += _samples(folder, chosen, followed, stage=name)
    sections.append(Section(title="Samples of problems that changed", blocks=[browser(shown)]))
    sections.append(Section(title="Machine", blocks=[kv(machine())]))
    path = other / f"difference-{one.name}.html"
    return write_page(path, page(f"{names[1]} against {names[0]}", sections))


def _results(folder: Path, loaded: Loaded) -> tuple[list[Result], list[Result]]:
    """The suites' results, and the further figures their items give."""
    from h1r import data, evals
    from h1r.evals import SUITES

    results, further = [], []
    for name, items in loaded.items():
        suite = SUITES.get(name)
        results.append(evals.result(name, items, group=suite.group if suite else "own"))
        if suite and suite.views:
            further += suite.further(list(data.read(folder / f"{name}.problems.jsonl")), items)
    return results, further


def _beside(results: Sequence[Result]) -> str:
    """The published model whose scores stand beside ours, where it has any of them."""
    from h1r.cli.eval_ import BESIDE
    from h1r.evals import PUBLISHED

    return BESIDE if any(r.name in PUBLISHED[BESIDE] for r in results) else ""


def _slices(runs: Sequence[tuple[str, Loaded]]) -> list[Html]:
    """Bars by domain and by difficulty of every suite that has several, one run or two."""
    from h1r import evals
    from h1r.evals import figures

    return [
        figures.breakdown([(name, loaded[suite]) for name, loaded in runs], key, title=f"{suite} by {key}")
        for suite in runs[0][1]
        for key in ("domain", "difficulty")
        if len(evals.by(runs[0][1][suite], key)) > 1
    ]


def _changed(items: Sequence[Item], before: Sequence[Item], after: Sequence[Item]) -> list[Item]:
    from h1r import evals

    names = {f.problem for f in evals.flips(before, after)}
    return [i for i in items if i.problem in names]


def _samples(folder: Path, loaded: Loaded, followed: Followed, stage: str = "") -> list[Sample]:
    """Samples for the browser, spread over suites and problems; shaded where the model's tokenizer is still at hand."""
    from h1r import data, evals
    from h1r.cli.eval_agent import FILE
    from h1r.evals import SUITES, figures

    store = evals.Store(folder / "generations.jsonl")
    out: list[Sample] = []
    for name, items in loaded.items():
        problems = {p.id: p for p in data.read(folder / f"{name}.problems.jsonl")}
        decode = _decoder(str(followed.get(name, {}).get("model_at", "")))
        played = name in SUITES and SUITES[name].agent is not None
        episodes = evals.Episodes(folder / f"{name}.{FILE}") if played else None
        step = max(1, len(items) * len(loaded) // SHOWN)
        for item in items[::step]:
            problem: Problem | None = problems.get(item.problem)
            if problem is None:
                continue
            if episodes is not None:
                episode = episodes.get(item.key)
                if episode is not None:
                    out.append(figures.episode_sample(problem, item, episode, stage=stage or name))
            elif item.key in store:
                trace = store.get(item.key, evals.as_prompt(problem))
                pieces = decode(trace.token_ids) if decode and len(trace.confidence) else ()
                out.append(figures.sample(problem, item, trace, pieces=pieces, stage=stage or name))
    return out


def _decoder(folder: str) -> Callable[[Sequence[int]], Sequence[str]] | None:
    """Token ids to their texts one by one, where the model's folder still holds its tokenizer."""
    if not folder or not (Path(folder) / "tokenizer.json").is_file():
        return None
    from h1r.text import Tokenizer

    tokenizer = Tokenizer.from_folder(folder)
    return lambda ids: [tokenizer.decode([i]) for i in ids]
