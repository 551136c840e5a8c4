"""`h1r eval MODEL`: benchmarks under a stated protocol; `h1r eval report|compare|rescore` work on finished runs."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from h1r.cli import wire
from h1r.errors import ConfigError, DataError
from h1r.types import Score

if TYPE_CHECKING:
    from h1r.cli.eval_plan import Task
    from h1r.evals import Chain, Item, Result, Setting
    from h1r.evals.protocol import Protocol
    from h1r.search import DeepConfConfig
    from h1r.types import Problem, Prompt, SamplingParams, Trace
    from h1r.verify.sandbox import Sandbox


PROTOCOL = "protocol.jsonl"
"""In a run's folder: per suite the protocol, what was used, the deviations."""
BESIDE = "Falcon-H1R-7B"  # whose published scores stand beside ours
JUDGING = 16  # replies before a judge at once
BATCH = 256  # traces asked for at once: what an interrupted run can lose


def eval_(
    what: list[str] = typer.Argument(
        ..., help="MODEL (folder, Hub id or URL); or: report RUN [OTHER]; compare RUN_A RUN_B; rescore RUN."
    ),
    suite: str = typer.Option("", help="Suites, separated by commas; default: the protocol's, else quickstart."),
    protocol: str | None = typer.Option(None, help="falcon-h1r, artificial-analysis, matharena, official, or a file."),
    set_: list[str] = typer.Option([], "--set", help="Change the protocol: suites.aime25.samples=4."),
    data_dir: str | None = typer.Option(None, help="Where the benchmarks' data lie. Default: beside the model."),
    samples: int | None = typer.Option(None, help="Samples per problem; default: the protocol's."),
    limit: int | None = typer.Option(None, help="Only the first problems of each suite."),
    temperature: float | None = typer.Option(None),
    top_p: float | None = typer.Option(None),
    max_tokens: int | None = typer.Option(None),
    seed: int = typer.Option(0),
    judge: str = typer.Option("", help="URL of an OpenAI-compatible server whose model judges free answers."),
    judge_name: str = typer.Option("", help="The judge's name on that server; it becomes part of the score."),
    partner: str = typer.Option("", help="URL of the server whose model plays tau2's customer."),
    partner_name: str = typer.Option("", "--partner-name", help="That model's name on its server."),
    place: str = typer.Option("", "--terminal", help="Where terminal tasks run: docker, podman or sandbox."),
    deepconf: bool = typer.Option(False, "--deepconf", help="Vote by confidence over the samples; majority beside it."),
    strings: bool = typer.Option(False, "--strings", help="With --deepconf: 1/2 and 0.5 are two, as in released code."),
    online: int = typer.Option(0, help="With --deepconf: also think while generating, so many traces per problem."),
    keep: float | None = typer.Option(None, help="With --deepconf: share of traces confident enough to vote."),
    window: int | None = typer.Option(None, help="With --deepconf: tokens of the confidence window."),
    out: str | None = typer.Option(None, help="Folder of the run; default: runs/eval/<model>."),
    name: str = typer.Option("", "--name", help="The server's name for its model (with a URL)."),
    dtype: str = typer.Option("auto", help="Weights: auto, float32, bfloat16, int8, int4."),
    sandbox: str = wire.SANDBOX,
    unsafe: bool = wire.UNSAFE,
) -> None:
    """Evaluate a model; every number with its 95 % interval. Run again: nothing is generated twice."""
    verb, rest = what[0], what[1:]
    if verb in VERBS and not Path(verb).is_dir():
        VERBS[verb](rest, wire.sandbox(sandbox, unsafe) if verb == "rescore" else None)
        return
    if rest:
        raise ConfigError(f"eval {verb} {' '.join(rest)}: one model at a time, or one of {', '.join(VERBS)}")
    from h1r.cli import eval_agent
    from h1r.cli.eval_plan import plan

    judged = wire.judge_of(judge, judge_name)
    changes = {"samples": samples, "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    where = eval_agent.setting(partner, partner_name, place)
    partnered = where.partner is not None
    followed, tasks, left = plan(suite, protocol, set_, verb, data_dir, limit, changes, partner=partnered)
    for line in left:
        print(f"skipped  {line}")
    folder = Path(out or f"runs/eval/{Path(verb).name if '://' not in verb else name or 'server'}")
    search = {"keep_fraction": keep, "window": window}
    config = wire.deepconf_of(verb, budget=online, **search) if online else None
    box = wire.sandbox(sandbox, unsafe)
    results = _run(
        followed, tasks, verb, folder, judged, seed=seed, name=name, dtype=dtype, box=box, think=config, where=where
    )
    _show(folder, results)
    if deepconf or online:
        from h1r.cli.eval_deepconf import show

        show(folder, verb, strings, **search)
    print(f"\n{folder}: generations.jsonl, scores; `h1r eval report {folder}` makes a page")


def _run(
    followed: Protocol, tasks: Sequence[Task], model: str, folder: Path, judge: wire.Judge | None, *, seed: int, name: str,
    dtype: str, box: Sandbox | None, think: DeepConfConfig | None = None, where: Setting | None = None,
) -> list[Result]:  # fmt: skip
    """Every task; the protocol, what was used and every deviation go to protocol.jsonl. think: also DeepConf online."""
    from h1r import log
    from h1r.cli import eval_agent, eval_deepconf
    from h1r.evals import Setting, protocol, scoring

    generate, prompt_of = _generator(model, name, dtype)
    grader, identity = wire.grader(box), _identity(model)
    results: list[Result] = []
    for task in tasks:
        one, used = task.suite, task.used
        samples = used.samples or one.samples
        sampling = used.sampling(one, seed=seed)
        if task.about:
            print(f"{one.name}: {task.about}")
        where = where or Setting()
        said = task.deviations(judge.name if judge else "", where.partner_name)
        for line in said:
            print(f"{one.name}: {line}")
        facts = {
            "model": identity,
            "model_at": model if Path(model).is_dir() else "",
            "samples": samples,
            "about": task.about,
            "data": dict(task.data),
            "sampling": asdict(sampling),
            "judged_by": judge.name if judge else "",
            "partner_was": where.partner_name if one.agent and one.agent.partner else "",
        }
        log.append(folder / PROTOCOL, protocol.record(followed, one.name, used, said, **facts))
        if one.agent:
            results.append(eval_agent.play(folder, task, generate, prompt_of, sampling, samples, identity, where))
            continue
        score = scoring.scorer(grader.score, used, judge=judge.score if judge else None, sandbox=grader.sandbox)
        whole = evaluate(
            task.problems, generate, prompt_of, score, sampling, samples, folder, name=one.name, model=identity,
            group=one.group, chain=one.chain, workers=JUDGING if judge else 2, batch=BATCH,
        )  # fmt: skip
        results += [whole, *one.further(task.problems, whole.items)]
        if think:
            eval_deepconf.think(folder, task, generate, prompt_of, sampling, score, identity, think)
    return results


def _show(folder: Path, results: Sequence[Result]) -> None:
    from h1r.evals import PUBLISHED, plain, rows, statistics

    beside = any(r.name in PUBLISHED[BESIDE] for r in results)
    print(plain(rows(results, BESIDE if beside else "")))
    for r in results:
        stated = [(float(i.detail["confidence"]) / 100, i.value) for i in r.items if "confidence" in i.detail]
        known = [(c, v) for c, v in stated if v is not None]
        if known:
            error = statistics.calibration([c for c, _ in known], [v for _, v in known])
            print(f"{r.name}: calibration error {error:.1%} over {len(known)} answers with a stated confidence")
        if line := reliability(r):
            print(line)
    for told in protocols(folder).values():
        said = "; ".join(told["deviations"]) or "as published"
        judge = f", judge {told['judged_by']}" if told["judged_by"] else ""
        print(f"{told['suite']}: protocol {told['protocol']}{judge}: {said}")


def reliability(result: Result) -> str:
    """pass^k of a suite that an agent plays, one line, for each k up to its scored samples; "" for other suites."""
    from h1r.evals import SUITES, statistics

    if result.name not in SUITES or SUITES[result.name].agent is None:
        return ""
    groups: dict[str, list[float]] = {}
    for item in result.items:
        if item.value is not None:
            groups.setdefault(item.problem, []).append(item.value)
    most = min(map(len, groups.values()), default=0)
    found = (
        [(k, statistics.pass_k(list(groups.values()), k, every=True)) for k in range(1, most + 1)] if most > 1 else []
    )
    told = ", ".join(f"pass^{k} {at.value:.1%} [{at.low:.1%}, {at.high:.1%}]" for k, at in found)
    return f"{result.name}: {told}" if told else ""


def protocols(folder: Path) -> dict[str, dict[str, Any]]:
    """What each suite of a run followed, by suite; the latest counts."""
    from h1r import log

    path = folder / PROTOCOL
    return {r["suite"]: r for r in log.read(path)} if path.is_file() else {}


def evaluate(
    problems: Sequence[Problem],
    generate: Callable[..., list[list[Trace]]],
    prompt_of: Callable[[Problem], Prompt] | None,
    score: Callable[[Problem, Trace], Score],
    sampling: SamplingParams,
    samples: int,
    folder: Path,
    *,
    name: str,
    model: str,
    group: str = "own",
    stage: str = "",
    batch: int = 1024,
    chain: Chain | None = None,
    workers: int = 2,
) -> Result:
    """One suite with a progress bar; items go to folder/<name>.jsonl, problems beside them, traces to the store."""
    from h1r import data, evals
    from h1r.cli.progress import bar

    store = evals.Store(folder / "generations.jsonl")
    items: list[Item] = []
    with bar(stage or name, len(problems) * samples) as progress:
        walk: Any = functools.partial(evals.run_chain, chain=chain) if chain else evals.run
        steps = walk(
            problems, generate=generate, score=score, store=store, model=model, sampling=sampling, samples=samples,
            prompt_of=prompt_of or evals.as_prompt, batch=batch, workers=workers,
        )  # fmt: skip
        right = known = 0.0
        for item in steps:
            items.append(item)
            known += item.value is not None
            right += item.value or 0.0
            progress.advance(len(items), f"{right / max(known, 1):.1%} correct")
    evals.save(folder / f"{name}.items.jsonl", items)
    data.write(folder / f"{name}.problems.jsonl", problems)
    return evals.result(name, items, group=group)


def _generator(model: str, name: str, dtype: str) -> tuple[Callable[..., list[list[Trace]]], Any]:
    """A generator and, where we hold the tokenizer, how problems become prompts."""
    if model.startswith(("http://", "https://")):
        from h1r.endpoint import Endpoint

        return Endpoint(model, name).generate, None
    llm = wire.load_llm(model, dtype=dtype)
    assert llm.tokenizer is not None
    return llm.generate, wire.prompt_of(llm.tokenizer)


def _identity(model: str) -> str:
    """A name for the weights: the path and a digest of what the files say of themselves, so that a retrained folder is
    another model."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb") as f:
            while block := f.read(1 << 20):
                digest.update(block)
    return f"{folder.name}@{digest.hexdigest()[:12]}"


def loaded(run: str) -> dict[str, list[Item]]:
    """The items of every suite of a run. Raises DataError where there is none."""
    from h1r import evals

    files = sorted(Path(run).glob("*.items.jsonl"))
    if not files:
        raise DataError(f"{run}: no evaluation lies there; make one with `h1r eval MODEL --out {run}`")
    return {f.name.removesuffix(".items.jsonl"): evals.load(f) for f in files}


def _compare(rest: list[str], box: Sandbox | None) -> None:
    from h1r import evals

    if len(rest) != 2:
        raise ConfigError("eval compare needs two run folders: h1r eval compare A B")
    a, b = (loaded(run) for run in rest)
    shared = [name for name in a if name in b]
    if not shared:
        raise DataError(f"{rest[0]} and {rest[1]} share no suite: {', '.join(a)} against {', '.join(b)}")
    told = [protocols(Path(run)) for run in rest]
    for name in shared:
        print(f"{name}: {rest[1]} minus {rest[0]}")
        for line in _differences(*[t.get(name, {}) for t in told]):
            print(f"  not alike: {line}")
        print(evals.plain(evals.comparison_rows(evals.compare(a[name], b[name]))), end="\n\n")


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What two runs of one suite did not share, as their records say: data, protocol, judge, sampling."""
    said = []
    if a.get("data") != b.get("data"):
        said.append(f"data files {a.get('data')} and {b.get('data')}")
    for key in ("protocol", "samples", "judged_by", "prompt", "system", "extractor", "grader", "options"):
        if a.get(key) != b.get(key):
            said.append(f"{key}: {a.get(key) or 'none'} and {b.get(key) or 'none'}")
    drawn, other = a.get("sampling", {}), b.get("sampling", {})
    for key in ("temperature", "top_p", "max_tokens"):
        if drawn.get(key) != other.get(key):
            said.append(f"{key}: {drawn.get(key)} and {other.get(key)}")
    return said


def _rescore(rest: list[str], box: Sandbox | None) -> None:
    from h1r import data, evals
    from h1r.cli.eval_agent import FILE as EPISODES
    from h1r.evals import SUITES, protocol, scoring

    if len(rest) != 1:
        raise ConfigError("eval rescore needs one run folder: h1r eval rescore RUN")
    folder = Path(rest[0])
    store, grader, told = evals.Store(folder / "generations.jsonl"), wire.grader(box), protocols(folder)
    known = {f.name for f in fields(protocol.Terms)}
    results = []
    for name, before in loaded(rest[0]).items():
        problems = list(data.read(folder / f"{name}.problems.jsonl"))
        terms = protocol.Terms(**{k: v for k, v in told.get(name, {}).items() if k in known})
        # a judge's verdict costs a call and may differ tomorrow: it stays, with its name, as it was given
        judged = {i.key: Score(i.value, i.why, i.detail) for i in before if "judge" in i.detail}
        score = scoring.scorer(grader.score, terms, sandbox=grader.sandbox)
        chain = SUITES[name].chain if name in SUITES else None
        agent = SUITES[name].agent if name in SUITES else None
        if agent:
            items = list(evals.rescore_episodes(problems, agent, evals.Episodes(folder / f"{name}.{EPISODES}")))
        elif chain:
            items = list(evals.rescore_chain(store, problems, chain, score))
        else:
            items = list(evals.rescore(store, problems, score, workers=2))
        items = [_kept(i, judged[i.key]) if i.key in judged and i.value is None else i for i in items]
        evals.save(folder / f"{name}.items.jsonl", items)
        results.append(evals.result(name, items))
        results += SUITES[name].further(problems, items) if name in SUITES else []
    _show(folder, results)


def _kept(item: Item, score: Score) -> Item:
    outcome = "unscored" if score.value is None else "correct" if score.value == 1.0 else "wrong"
    return replace(item, value=score.value, why=score.why, detail=score.detail, outcome=outcome)


def _report(rest: list[str], box: Sandbox | None) -> None:
    from h1r.cli.eval_report import write, write_difference

    if len(rest) not in (1, 2):
        raise ConfigError("eval report needs one run folder, or two to compare: h1r eval report RUN [OTHER]")
    runs = [(Path(run), loaded(run), protocols(Path(run))) for run in rest]
    if len(runs) == 1:
        print(write(*runs[0]))
        return
    (_, a, told), (_, b, other) = runs
    if not a.keys() & b.keys():
        raise DataError(f"{rest[0]} and {rest[1]} share no suite: {', '.join(a)} against {', '.join(b)}")
    print(write_difference(runs, lambda suite: _differences(told.get(suite, {}), other.get(suite, {}))))


VERBS: Mapping[str, Callable[[list[str], Sandbox | None], None]] = {
    "report": _report,
    "compare": _compare,
    "rescore": _rescore,
}
