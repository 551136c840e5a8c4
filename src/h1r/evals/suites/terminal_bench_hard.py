"""Terminal-Bench Hard: the 47 tasks of terminal-bench-core (commit 74221fb) that Falcon-H1R reports, worked on by Terminus 2.

A task's tests enter its place only after the agent has stopped. With a container engine every task runs as published; without
one, tasks that are only files run in this machine's sandbox, and those whose Dockerfile installs something are unscored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from h1r.errors import DataError
from h1r.evals.episodes import Agent, Episode, Respond, Setting
from h1r.evals.suite import Source, Suite
from h1r.evals.terminal import place, task, terminus
from h1r.types import Problem, Score

HARD = (
    "aimo-airline-departures", "blind-maze-explorer-5x5", "cartpole-rl-training", "causal-inference-r",
    "chem-property-targeting", "chem-rf", "circuit-fibsqrt", "cobol-modernization", "configure-git-webserver",
    "cross-entropy-method", "extract-moves-from-video", "feal-differential-cryptanalysis", "feal-linear-cryptanalysis",
    "form-filling", "git-multibranch", "gpt2-codegolf", "install-windows-3.11", "install-windows-xp", "lean4-proof",
    "make-doom-for-mips", "make-mips-interpreter", "mcmc-sampling-stan", "model-extraction-relu-logits", "movie-helper",
    "neuron-to-jaxley-conversion", "oom", "organization-json-generator", "parallel-particle-simulator", "parallelize-graph",
    "password-recovery", "path-tracing", "path-tracing-reverse", "play-zork", "play-zork-easy", "polyglot-rust-c",
    "prove-plus-comm", "pytorch-model-cli", "rare-mineral-allocation", "recover-obfuscated-files", "reverse-engineering",
    "run-pdp11-code", "stable-parallel-kmeans", "swe-bench-astropy-1", "swe-bench-astropy-2", "train-fasttext",
    "word2vec-from-scratch", "write-compressor",
)  # fmt: skip
HOW = (
    "clone github.com/laude-institute/terminal-bench (Apache-2.0) at commit 74221fb and put its tasks folder there, or: "
    "tb datasets download --dataset terminal-bench-core==head"
)
FOLDERS = ("terminal_bench_hard/tasks", "terminal_bench_hard", "terminal-bench/tasks")
KEPT = 4000  # characters of the tests' output in the record


def make(suite: Suite, data_dir: Path, prompt: str, options: Mapping[str, Any]) -> list[Problem]:
    """The hard tasks among the folders there; with `tasks: all`, every task folder. Raises DataError when there is none."""
    found = {p.parent.name: p.parent for f in FOLDERS for p in sorted((data_dir / f).glob("*/task.yaml"))}
    names = sorted(found) if options["tasks"] == "all" else [n for n in HARD if n in found]
    if not names:
        raise DataError(suite.missing(data_dir))
    return [_problem(task.read(found[n]), options) for n in names]


def _problem(one: task.Task, options: Mapping[str, Any]) -> Problem:
    limits = {"episodes": int(options["episodes"]), "hours": float(options["hours"])}
    return Problem(
        id=f"terminal_bench_hard-{one.name}",
        messages=({"role": "user", "content": one.instruction},),
        kind="agent",
        domain=one.category or "terminal",
        meta={"folder": str(one.folder), **limits},
    )


def play(problem: Problem, respond: Respond, setting: Setting) -> Episode:
    """Work, then tests. Raises SandboxError when the task's place does not start."""
    one = task.read(Path(problem.meta["folder"]))
    with place.open_place(one, place.choose(setting.place)) as where:
        done = terminus.work(
            one.instruction, where.terminal, respond, episodes=int(problem.meta["episodes"]),
            seconds=float(problem.meta["hours"]) * 3600,
        )  # fmt: skip
        output, ended = where.test(one, one.test_s)
    facts = {"tests": task.results(output), "in_time": ended, "output": output[-KEPT:]}
    return Episode(messages=done.messages, ended=done.ended, tokens=done.tokens, turns=done.episodes, facts=facts)


def score(problem: Problem, episode: Episode) -> Score:
    """1 when there are tests and every one passed."""
    tests = episode.facts.get("tests", {})
    failed = [name for name, passed in tests.items() if not passed]
    if not episode.facts.get("in_time", True):
        return Score(0.0, "the tests did not end in time", {"tests": tests})
    if not tests:
        return Score(0.0, "the tests said nothing", {"output": episode.facts.get("output", "")[-500:]})
    why = (
        f"{len(failed)} of {len(tests)} tests failed: {', '.join(failed[:5])}"
        if failed
        else f"{len(tests)} tests passed"
    )
    return Score(float(not failed), why, {"tests": tests})


def about(problems: list[Problem], options: Mapping[str, Any]) -> str:
    return f"{len(problems)} tasks, {options['episodes']} episodes and {options['hours']} hours each at most"


SUITE = Suite(
    name="terminal_bench_hard",
    title="Terminal-Bench Hard",
    group="code & agentic",
    source=Source("", "Apache-2.0", "terminal_bench_hard", FOLDERS, how=HOW),
    prompt="{task}",
    make=make,
    about=about,  # type: ignore[arg-type]
    options={"tasks": "hard", "episodes": 100, "hours": 24},
    agent=Agent(play, score),
    samples=3,
    max_tokens=32768,
    expected=47,
)
