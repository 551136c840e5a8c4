"""`h1r eval ... --deepconf`: votes by confidence over the stored traces of a run, the majority beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h1r.cli import wire

if TYPE_CHECKING:
    from h1r.cli.eval_plan import Task
    from h1r.search import DeepConfConfig
    from h1r.types import Problem, Prompt, SamplingParams, Score, Trace

ONLINE = "online.jsonl"
"""Behind a suite's name in a run's folder: a record per problem that online DeepConf answered."""
FILE = "deepconf.jsonl"
"""In a run's folder: per suite the votes and the replayed settings; the latest counts."""


def show(folder: Path, model: str, strings: bool = False, **given: Any) -> None:
    """Vote on every suite of the run that can vote; print a table each and write the figures down."""
    from h1r import data, evals, log
    from h1r.cli.eval_ import loaded
    from h1r.evals import lab

    store = evals.Store(folder / "generations.jsonl")
    config, same = wire.deepconf_of(model, **given), None if strings else wire.same
    for name, items in loaded(str(folder)).items():
        problems = list(data.read(folder / f"{name}.problems.jsonl"))
        pools = lab.gather(problems, items, store, answer_of)
        if not pools:
            print(f"{name}: no votes: it needs two samples or more of problems whose answers can be compared")
            continue
        if not lab.confident(pools):
            print(f"{name}: the store holds no confidences (the server gave no log-probabilities): majority only")
        size = len(pools[0].traces)
        ran = folder / f"{name}.{ONLINE}"
        rows = lab.votes(pools, config, same) + (lab.thought(list(log.read(ran))) if ran.is_file() else [])
        front = lab.pareto(pools, lab.grid(size, config), same) if lab.confident(pools) else []
        told = lab.record_of(name, rows, front)
        log.append(folder / FILE, told)
        print("\n" + evals.plain(lab.table_rows(told)))
        if len(pools) < len(problems):
            print(
                f"{len(pools)} of {len(problems)} problems: the answers of the others cannot be compared, so nobody votes on them"
            )


def think(
    folder: Path, task: Task, generate: Callable[..., list[list[Trace]]], prompt_of: Callable[[Problem], Prompt] | None,
    sampling: SamplingParams, score: Callable[[Problem, Trace], Score], model: str, config: DeepConfConfig,
) -> None:  # fmt: skip
    """Online DeepConf on every problem of a task; what the run holds already is not thought about again."""
    from h1r import evals, log
    from h1r.cli.progress import bar
    from h1r.evals import lab

    path = folder / f"{task.suite.name}.{ONLINE}"
    done = {r["key"] for r in log.read(path)} if path.is_file() else set()
    steps = lab.think(
        task.problems, generate=generate, prompt_of=prompt_of or evals.as_prompt, sampling=sampling, config=config,
        answer_of=answer_of, same=wire.same, score=score, model=model, done=done,
    )  # fmt: skip
    with bar(f"{task.suite.name}, online", len(task.problems)) as progress:
        for number, told in enumerate(steps, 1):
            log.append(path, told)
            progress.advance(number, f"{told['tokens']} tokens, {told['stopped']} of {told['traces']} cut short")


def answer_of(problem: Problem) -> Callable[[Trace], str | None]:
    """What a trace of this problem votes for: a letter where letters are asked for."""
    if problem.kind != "choice":
        return wire.answer_of
    from h1r.verify import choice

    return lambda trace: choice.extract(trace.content, int(problem.meta.get("options", 26)))[0]


def figures_of(folder: Path) -> list[dict[str, Any]]:
    """What `show` wrote, the latest per suite."""
    from h1r import log

    path = folder / FILE
    return list({r["suite"]: r for r in log.read(path)}.values()) if path.is_file() else []
