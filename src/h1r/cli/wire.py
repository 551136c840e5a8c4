"""What several commands share: a model to talk to, a scorer, answers that can vote. Rooms that are strangers meet here."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from h1r.errors import ConfigError, DataError
from h1r.types import Problem, Prompt, Score, Trace

if TYPE_CHECKING:
    from h1r import LLM
    from h1r.endpoint import Endpoint
    from h1r.search import DeepConfConfig
    from h1r.text import Tokenizer
    from h1r.verify import LocalGrader
    from h1r.verify.sandbox import Sandbox

SETTINGS = "h1r.json"
"""Beside a checkpoint of ours: the DeepConf settings and sampling that suit its traces."""


def load_llm(path: str, dtype: str = "auto", **options: Any) -> LLM:
    """The checkpoint as an LLM with a tokenizer. Raises CheckpointError or ConfigError."""
    from h1r import LLM

    llm = LLM(path, dtype=dtype, **options)
    if llm.tokenizer is None:
        raise ConfigError(f"{path} has no tokenizer.json: text commands need one in the checkpoint's folder")
    return llm


def settings_of(folder: str | Path) -> dict[str, Any]:
    """The checkpoint's h1r.json; empty when it has none."""
    path = Path(folder) / SETTINGS
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as e:
        raise DataError(f"{path}: not JSON ({e}); remove the file or write it again") from None


def deepconf_of(folder: str | Path, **given: Any) -> DeepConfConfig:
    """DeepConf settings: what was given, then the checkpoint's own, then the paper's."""
    from h1r import config
    from h1r.search import DeepConfConfig

    chosen = settings_of(folder).get("deepconf", {}) | {k: v for k, v in given.items() if v is not None}
    chosen["warmup"] = min(chosen.get("warmup", 16), chosen.get("budget", 512))
    return config.build(chosen, DeepConfConfig, "deepconf")


SANDBOX = typer.Option(
    "", "--sandbox", help="bwrap, native, landlock, runsc, docker:IMAGE, a URL; default: the strongest."
)
UNSAFE = typer.Option(False, "--unsafe-no-sandbox", help="Run model-written code even where no sandbox holds.")


def sandbox(name: str, unsafe: bool) -> Sandbox | None:
    """The sandbox asked for on the command line; None: the strongest that proves itself, when code comes."""
    from h1r.verify import sandbox as room

    return room.open(name or None, unsafe=unsafe) if name or unsafe else None


def grader(box: Sandbox | None = None, judge: Judge | None = None) -> LocalGrader:
    """A grader with this sandbox, or the strongest that proves itself; with this judge, or none."""
    from h1r.verify import LocalGrader

    return LocalGrader(box, judge=judge.score if judge else None)


class Judge(NamedTuple):
    """A judge's name, which is part of every score it gives, and its scorer."""

    name: str
    score: Callable[[Problem, Trace], Score]


def judge_of(url: str, name: str, options: tuple[str, str] = ("--judge", "--judge-name")) -> Judge | None:
    """The model of a server as a judge (see served)."""
    if not url:
        if name:
            raise ConfigError(f"{options[1]} {name!r} without {options[0]}: give the URL of the judge's server")
        return None
    from h1r.verify import judge

    server = served(url, name, options)
    return Judge(server.model, functools.partial(judge.judge, server.ask, name=server.model))


def served(url: str, name: str, options: tuple[str, str]) -> Endpoint:
    """A server's model by name, or the only one it has. options: what url and name are called where they were given."""
    from h1r.endpoint import Endpoint

    server = Endpoint(url, name)
    if not name:
        models = server.models()
        if len(models) != 1:
            raise ConfigError(f"{options[0]} {url} serves {', '.join(models)}: say which with {options[1]}")
        server.model = models[0]
    return server


def scorer() -> Callable[[Problem, Trace], Score]:
    """The same, one trace at a time."""
    return grader().score


def answer_of(trace: Trace) -> str | None:
    """What a trace votes for: its boxed (or announced) answer, a choice's letter, else its whole reply."""
    from h1r.verify import choice, extract

    if not trace.content.strip():
        return json.dumps([dict(c) for c in trace.tool_calls], sort_keys=True) if trace.tool_calls else None
    span = extract.answer(trace.content, fallback=False)
    if span.text:
        return span.text
    letter, rank = choice.extract(trace.content)
    return letter if letter and rank == 0 else trace.content.strip()


def same(a: str, b: str) -> bool:
    """Whether two votes are one answer: equal text, or equal mathematics. Asked once per pair."""
    return a == b or _same(min(a, b), max(a, b))


@functools.lru_cache(maxsize=1 << 18)
def _same(a: str, b: str) -> bool:
    from h1r.verify import compare

    return compare(a, b).correct


def prompt_of(tokenizer: Tokenizer) -> Callable[[Problem], Prompt]:
    """Problems to prompts with the checkpoint's template."""
    from h1r.text import render

    return lambda problem: render(problem.messages, problem.tools, tokenizer=tokenizer)
