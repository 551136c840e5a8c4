"""`h1r data ...`: problems made, converted, filtered, measured, mixed and looked at."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from h1r.errors import ConfigError, DataError

if TYPE_CHECKING:
    from h1r.text import Tokenizer
    from h1r.types import Problem

app = typer.Typer(
    no_args_is_help=True,
    help="Problems: make, convert, generate, filter, verify, dedup, contamination, difficulty, rl-filter, mix, inspect.",
)

SOURCE = typer.Argument(..., help="JSONL, Parquet, a folder of them, or hf:NAME.")
OUT = typer.Option(..., "--out", "-o", help="Where the result goes (.jsonl, .jsonl.gz, .parquet).")
OUTS = typer.Option(
    ...,
    "--out",
    "-o",
    help="A file (.jsonl, .jsonl.gz, .parquet), or a folder: a file for each of SOURCE's, resumable.",
)
WORKERS = typer.Option(os.cpu_count() or 1, min=1, help="Processes; the result does not depend on it.")


@app.command()
def make(
    out: str = OUT,
    count: int = typer.Option(1000),
    split: str = typer.Option("train", help="train or held_out; the two never share an instance."),
    seed: int = typer.Option(0),
    domain: list[str] = typer.Option([], help="Only these domains or families (repeatable)."),
) -> None:
    """Procedural problems with worked traces in six domains."""
    from h1r.data import procedural, write

    stream = procedural.problems(split=split, seed=seed, domains=tuple(domain) or None)
    print(f"{out}: {write(out, islice(stream, count))} problems")


@app.command()
def convert(
    source: str = SOURCE,
    out: str = OUTS,
    format: str = typer.Option(
        "", help="gsm8k, openthoughts, openmathreasoning, numinamath, messages, ...; default: guessed."
    ),
    limit: int | None = typer.Option(None, help="At most so many (not of a folder to a folder)."),
    workers: int = WORKERS,
) -> None:
    """Any known trace format to problems with solutions."""
    from h1r.cli import data_files
    from h1r.data import read, write

    if files := data_files.folders(source, out):
        if limit is not None:
            raise ConfigError("--limit: of one file; a folder is converted whole")
        print(data_files.over(files, out, data_files.same, workers=workers, version=f"convert {format}", format=format))
        return
    problems = read(source, format=format)
    print(f"{out}: {write(out, islice(problems, limit))} problems")


@app.command("filter")
def filter_(
    source: str = SOURCE,
    out: str = OUTS,
    max_tokens: int = typer.Option(0, help="Drop longer traces (0: any length)."),
    tokenizer: str | None = typer.Option(None, help="Checkpoint folder whose tokens count; default: words."),
    box: bool = typer.Option(True, help="Mathematics must end in a box."),
    keep_incorrect: float = typer.Option(0.0, help="Share of hard incorrect solutions kept; others are dropped."),
    check: bool = typer.Option(False, "--check", help="Verify each solution against its gold, and drop wrong ones."),
    workers: int = WORKERS,
) -> None:
    """Drop traces without reasoning or answer, without a box, with code that does not parse, too long, or wrong."""
    from h1r.cli import data_files
    from h1r.data import FilterConfig, curate, read, write

    tally: Counter[str] = Counter()
    settings = FilterConfig(max_tokens=max_tokens, box=box, keep_incorrect=keep_incorrect)
    judge, counter = _judge if check else None, _Counter(tokenizer)
    if files := data_files.folders(source, out):
        work = data_files.Filter(settings, counter, judge)
        version = f"filter {settings} {tokenizer} {check}"
        print(data_files.over(files, out, work, workers=workers, version=version, count=counter))
        return
    begun = time.monotonic()
    kept = curate(read(source), settings, count=counter, correct=judge, tally=tally, workers=workers)
    count = write(out, kept)
    dropped = ", ".join(f"{n} {why}" for why, n in tally.most_common() if why != "kept")
    print(f"{out}: {count} kept; {dropped or 'none dropped'} ({_rate(tally.total(), begun)})")


@app.command()
def verify(
    source: str = SOURCE, show: int = typer.Option(10, help="Failures to print."), workers: int = WORKERS
) -> None:
    """Score every solution against its own gold with the verifiers. Exit code 1 when one fails."""
    from h1r.data import read
    from h1r.data.parallel import ordered

    tally: Counter[str] = Counter()
    failed = []
    for problem, right in ordered(_judge, read(source), workers):
        tally["unscored" if right is None else "correct" if right else "incorrect"] += 1
        if right is not True:
            failed.append(problem.id)
    if not tally:
        raise DataError(f"{source}: holds no problems")
    total = sum(tally.values())
    print(f"{source}: {tally['correct']}/{total} correct, {tally['incorrect']} incorrect, {tally['unscored']} unscored")
    if failed:
        print("\n".join(failed[:show]))
        raise typer.Exit(1)


@app.command()
def dedup(
    source: str = SOURCE, out: str = OUT, threshold: float = typer.Option(0.8, help="1: exact duplicates only."),
    workers: int = WORKERS,
) -> None:  # fmt: skip
    """The first of every cluster of exact and near duplicates (MinHash over the questions)."""
    from h1r.data import DedupConfig, read, write
    from h1r.data.dedup import dedup as first_of_each

    tally: Counter[str] = Counter()
    begun = time.monotonic()
    count = write(out, first_of_each(read(source), DedupConfig(threshold=threshold), tally=tally, workers=workers))
    print(f"{out}: {count} kept, {tally['exact']} exact and {tally['near']} near duplicates dropped "
          f"({_rate(tally.total(), begun)})")  # fmt: skip


@app.command()
def contamination(
    source: str = SOURCE,
    against: list[str] = typer.Option([], help="A suite's name, or a problems file (repeatable)."),
    hashes: list[str] = typer.Option([], help="A file of `h1r data hashes` (repeatable)."),
    data_dir: str = typer.Option(".", help="Where the suites' data lie."),
    threshold: float = typer.Option(0.5, help="Share of a statement's 13-grams that counts as a hit."),
    out: str | None = typer.Option(None, help="Write the hits (JSONL)."),
    workers: int = WORKERS,
) -> None:
    """Benchmark statements that training problems repeat: exactly, by 13-grams, or with other numbers."""
    from h1r import log
    from h1r.data import contamination as room
    from h1r.data import read
    from h1r.errors import ConfigError

    if not against and not hashes:
        raise ConfigError(
            "nothing to compare with: give --against SUITE or FILE, or --hashes FILE of `h1r data hashes`"
        )
    indexes = [room.build(_statements(against, data_dir))] if against else []
    indexes += [room.load(path) for path in hashes]
    found = []
    for index in indexes:
        hits = list(index.scan(read(source), threshold, workers))
        found += hits
        for name, row in index.table(hits).items():
            print(f"{name}: {row['problems']} training problems hit {row['exact']} exactly, {row['ngram']} by {index.n}-grams, "
                  f"{row['masked']} with other numbers, of {row['items']} statements")  # fmt: skip
    if out:
        log.write(out, (h._asdict() for h in found))


@app.command()
def hashes(
    against: list[str] = typer.Option(..., help="A suite's name, or a problems file (repeatable)."),
    out: str = typer.Option(..., help="The file of hashes, for `h1r data contamination --hashes`."),
    data_dir: str = typer.Option(".", help="Where the suites' data lie."),
    salt: str = typer.Option("h1r", help="Keys the hashes; kept in the file."),
) -> None:
    """Benchmark statements as salted hashes, to look for them where the statements themselves may not be copied."""
    from h1r.data import contamination as room

    index = room.build(_statements(against, data_dir), salt=salt)
    index.save(out)
    print(f"{out}: {len(index.items)} statements of {len(against)} benchmarks as hashes")


def _statements(against: list[str], data_dir: str) -> dict[str, list[str]]:
    from h1r.data import read
    from h1r.data.dedup import question
    from h1r.evals import SUITES

    return {
        name: [question(p) for p in (SUITES[name].load(Path(data_dir)) if name in SUITES else read(name))]
        for name in against
    }


MODEL_NAME = typer.Option("", help="The model's name at a server's address.")


@app.command()
def difficulty(
    source: str = SOURCE,
    table: str = typer.Option(..., help="The difficulty table (JSONL, appended to; resumable)."),
    model: str | None = typer.Option(None, help="Pass rates of this checkpoint or server (http://HOST/v1)."),
    name: str = MODEL_NAME,
    labels: str = typer.Option("", help="Take this field of each problem's meta: easy, medium, hard, or 0 to 1."),
    n: int = typer.Option(8, help="Rollouts per problem."),
    temperature: float = typer.Option(0.6),
    top_p: float = typer.Option(0.95),
    max_tokens: int = typer.Option(512, help="Per rollout."),
    seed: int = typer.Option(0),
) -> None:
    """How hard each problem is: one minus a pass rate (--model), its label (--labels), or its trace's length in its domain."""
    from h1r.cli.data_rollouts import by_labels, by_length, by_rollouts
    from h1r.types import SamplingParams

    if model and labels:
        raise ConfigError("--model and --labels: give one of them")
    if model:
        sampling = SamplingParams(temperature=temperature, top_p=top_p, max_tokens=max_tokens, n=n, seed=seed)
        count = by_rollouts(source, table, model, name, sampling)
    else:
        count = by_labels(source, table, labels) if labels else by_length(source, table)
    print(f"{table}: {count} new entries")


@app.command()
def generate(
    source: str = SOURCE,
    out: str = typer.Option(..., "--out", "-o", help="Traces (JSONL, appended to; resumable)."),
    model: str = typer.Option(..., help="The teacher: a checkpoint folder, or a server's address (http://HOST/v1)."),
    name: str = MODEL_NAME,
    n: int = typer.Option(12, help="Traces per problem (Falcon-H1R: 12)."),
    temperature: float = typer.Option(0.6),
    top_p: float = typer.Option(0.95),
    max_tokens: int = typer.Option(32768, help="Per trace; one that does not end is not kept."),
    seed: int = typer.Option(0),
) -> None:
    """Worked traces from a teacher, several per problem. Run again after an interruption: it makes what is missing."""
    from h1r.cli.data_rollouts import by_teacher
    from h1r.types import SamplingParams

    sampling = SamplingParams(temperature=temperature, top_p=top_p, max_tokens=max_tokens, n=n, seed=seed)
    print(f"{out}: {by_teacher(source, out, model, name, sampling)} new traces")


@app.command("rl-filter")
def rl_filter_(
    source: str = SOURCE,
    out: str = OUT,
    table: str = typer.Option(..., help="Difficulty table with pass rates (h1r data difficulty --model)."),
    majority: int = typer.Option(4, help="Attempts that agree on a wrong answer before the gold is suspect."),
    keep: float = typer.Option(0.2, help="Share kept of problems never solved, with scattered or truncated answers."),
    seed: int = typer.Option(0),
) -> None:
    """Problems worth practising: sometimes solved, and a share of those never solved (the report's filter before RL)."""
    from h1r.data import difficulty as tables
    from h1r.data import read, write

    entries = tables.read(table)
    settings = tables.RlFilterConfig(majority=majority, keep=keep, seed=seed)
    tally: Counter[str] = Counter()

    def kept() -> Iterator[Problem]:
        for problem in read(source):
            entry = entries.get(problem.id)
            if entry is None:
                raise DataError(f"{table}: no entry for {problem.id}; run h1r data difficulty on {source} first")
            why = tables.rl_filter(problem.id, entry, settings)
            tally[why or "kept"] += 1
            if not why:
                yield problem

    count = write(out, kept())
    print(f"{out}: {count} kept; " + ", ".join(f"{c} {why}" for why, c in tally.most_common() if why != "kept"))


@app.command()
def mix(
    source: list[str] = typer.Argument(..., help="Files, each with its weight: math.jsonl=2 code.jsonl=1."),
    out: str = OUT,
    count: int = typer.Option(1000),
    table: str | None = typer.Option(None, help="Difficulty table: hard problems weigh 1.5, easy ones 0.5."),
    seed: int = typer.Option(0),
) -> None:
    """A seeded weighted mixture of several files."""
    from h1r.data import BandConfig, Indexed, Mixture, read, stratify, write
    from h1r.data import difficulty as levels
    from h1r.data import source as named

    known = levels.read(table) if table else None
    sources = []
    for word in source:
        path, _, weight = word.partition("=")
        problems = Indexed(path) if path.endswith(".jsonl") else list(read(path))  # lines of a file are read when drawn
        if not problems:
            raise DataError(f"{path}: holds no problems")
        try:
            share = float(weight or 1)
        except ValueError:
            raise ConfigError(f"{word}: write a weight as {path}=2") from None
        if known is None:
            sources.append(named(path, problems, share))
        else:
            sources += [
                s._replace(weight=s.weight * share) for s in stratify(problems, bands=BandConfig(), table=known)
            ]
    mixture = Mixture(sources, seed=seed)
    print(f"{out}: {write(out, (draw.problem for draw in islice(mixture, count)))} problems")


@app.command("inspect")
def inspect_(
    source: str = SOURCE,
    tokenizer: str | None = typer.Option(None, help="Checkpoint folder whose tokens count; default: words."),
    table: str | None = typer.Option(None, help="Difficulty table."),
    html: str | None = typer.Option(
        None, help="Write a page with histograms and a rendered sample with its loss mask."
    ),
    as_json: bool = typer.Option(False, "--json"),
) -> None:
    """Lengths, pass rates and effective token mass by domain and difficulty."""
    from h1r.data import describe, read
    from h1r.data import difficulty as levels

    told = describe(read(source), _Counter(tokenizer), table=levels.read(table) if table else None)
    if html:
        from h1r.cli.data_page import write

        print(write(Path(html), source, told, tokenizer))
    if as_json:
        print(json.dumps(told))
        return
    print(f"{source}: {told['problems']} problems, {told['tokens']:,} {'tokens' if tokenizer else 'words'}")
    for cell in told["cells"]:
        print(f"{cell['domain'] or '(no domain)':12s} {cell['band']:7s} {cell['problems']:8d} problems "
              f"{cell['tokens']:12,d} x {cell['weight']:g} = {100 * cell['mass']:5.1f} % of the mass")  # fmt: skip


class _Counter:
    """Tokens of a text, by a checkpoint's tokenizer or by words."""

    def __init__(self, tokenizer: str | None) -> None:
        self.folder, self.loaded = tokenizer, None if tokenizer is None else _tokenizer(tokenizer)

    def __call__(self, text: str) -> int:
        return len(text.split()) if self.loaded is None else len(self.loaded.encode(text))

    def __reduce__(self) -> Any:
        return _Counter, (self.folder,)


def _tokenizer(folder: str) -> Tokenizer:
    from h1r.text import Tokenizer

    return Tokenizer.from_folder(folder)


def _rate(count: int, begun: float) -> str:
    seconds = time.monotonic() - begun
    return f"{count:,} problems in {seconds:.1f} s, {count / max(seconds, 1e-9):,.0f} a second"


def _judge(problem: Problem) -> bool | None:
    """Whether a problem's own solution scores as right."""
    from h1r import verify
    from h1r.types import Prompt, StopReason, Trace

    if not problem.solution:
        return None
    last = problem.solution[-1]
    calls = tuple(c.get("function", c) for c in last.get("tool_calls") or ())
    trace = Trace(
        prompt=Prompt(), token_ids=(), stop=StopReason.STOP, content=str(last.get("content") or ""),
        reasoning=str(last.get("reasoning_content") or ""), tool_calls=calls,
    )  # fmt: skip
    value = verify.score(problem, trace).value
    return None if value is None else value == 1.0


def problems_of(path: str) -> Iterator[Problem]:
    """Problems of a file, for the commands beside this one."""
    from h1r.data import read

    return read(path)
