"""Benchmarks in which a model acts: each sample is an episode of many turns, played by its suite, stored and scored like a trace.

    items = list(run_episodes(problems, agent, setting, store, model=..., sampling=..., samples=3))

An episode that ended is one line of an append-only JSONL, keyed as a trace is, the partner's name included; a run that died goes
on with the episodes it lacks. What breaks on our side (a server, a container, the model that plays the customer) leaves the
sample unscored and unstored: the next run tries it again. `rescore_episodes` scores the stored ones again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from h1r import log
from h1r.errors import ContextError, H1RError
from h1r.evals.results import Item, item
from h1r.evals.store import sample_key
from h1r.types import Message, Problem, Prompt, SamplingParams, Score, StopReason, Trace

logger = logging.getLogger(__name__)

Respond = Callable[[Sequence[Message], Sequence[Mapping[str, Any]]], Trace]
Write = Callable[[Sequence[Message], Sequence[Mapping[str, Any]], SamplingParams], Trace]
CUT = ("steps", "context", "time")
"""Endings that ran out of something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """messages: all that was said and done. ended: why it is over. tokens: the model's own. facts: what only the episode itself
    could find out (what the tests said), as plain data."""

    messages: tuple[Message, ...]
    ended: str
    tokens: int = 0
    turns: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What an episode is played with. partner: the model that plays somebody (tau2's customer), by name, and how it is asked.
    place: where commands run (a suite's own word)."""

    partner: Respond | None = None
    partner_name: str = ""
    place: str = ""


class Agent(NamedTuple):
    """play: one episode of a problem; raises what broke on our side. score: from the episode alone. partner: whether one is
    needed."""

    play: Callable[[Problem, Respond, Setting], Episode]
    score: Callable[[Problem, Episode], Score]
    partner: bool = False


class Episodes:
    """Episodes of `path`, found by key."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.records = {str(r["key"]): r for r in log.read(self.path)} if self.path.exists() else {}

    def get(self, key: str) -> Episode | None:
        told = self.records.get(key)
        if told is None:
            return None
        return Episode(
            messages=tuple(told["messages"]), ended=told["ended"], tokens=told["tokens"], turns=told["turns"],
            facts=told["facts"],
        )  # fmt: skip

    def add(self, key: str, episode: Episode, **facts: Any) -> None:
        told = {name: getattr(episode, name) for name in Episode.__slots__}
        self.records[key] = {"key": key, **facts, **told}
        log.append(self.path, self.records[key])


def run_episodes(
    problems: Sequence[Problem],
    agent: Agent,
    setting: Setting,
    episodes: Episodes,
    *,
    write: Write,
    model: str,
    sampling: SamplingParams,
    samples: int = 1,
    workers: int = 4,
) -> Iterator[Item]:
    """Items of every (problem, sample index below `samples`), as episodes end; `workers` are played at the same time.

    write: one turn, (messages, tools, sampling) -> Trace. Turns of an episode draw from seeds of its own.
    """

    def one(job: tuple[Problem, int]) -> Item:
        problem, index = job
        asked = " ".join([problem.id, setting.partner_name, setting.place])  # tasks may all begin with the same words
        prompt = Prompt(messages=problem.messages, tools=problem.tools, text=asked)
        key = sample_key(model, prompt, sampling, index)
        episode = episodes.get(key)
        if episode is None:
            try:
                episode = agent.play(problem, _turns(write, sampling, key), setting)
            except ContextError:  # the model's doing: it said more than it can read
                episode = Episode(messages=(), ended="context")
            except (H1RError, OSError) as e:  # one item: what broke is ours, and tried again next time
                logger.warning("%s, sample %d: %s", problem.id, index, e)
                nothing = Episode(messages=(), ended="ours")
                return _item(problem, index, key, nothing, Score(None, str(e), {"unscored": "episode"}))
            episodes.add(key, episode, model=model, problem=problem.id, sample=index, partner=setting.partner_name)
        return _item(problem, index, key, episode, agent.score(problem, episode))

    jobs = [(p, i) for i in range(samples) for p in problems]
    with ThreadPoolExecutor(workers, thread_name_prefix="episode") as pool:
        yield from pool.map(one, jobs)


def rescore_episodes(problems: Sequence[Problem], agent: Agent, episodes: Episodes) -> Iterator[Item]:
    """Score every stored episode of these problems again; nothing is played."""
    known = {p.id: p for p in problems}
    for key, told in episodes.records.items():
        episode, problem = episodes.get(key), known.get(str(told["problem"]))
        if episode is not None and problem is not None:
            yield _item(problem, int(told["sample"]), key, episode, agent.score(problem, episode))


def _turns(write: Write, sampling: SamplingParams, key: str) -> Respond:
    """Turn after turn of one episode, each drawn from a seed of its own."""
    count = 0

    def respond(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Trace:
        nonlocal count
        count += 1
        seed = None
        if sampling.seed is not None:
            mark = f"{sampling.seed} {key} {count}".encode()
            seed = int.from_bytes(hashlib.sha256(mark).digest()[:4], "big") >> 1
        return write(messages, tools, replace(sampling, n=1, seed=seed))

    return respond


def _item(problem: Problem, index: int, key: str, episode: Episode, score: Score) -> Item:
    trace = Trace(
        prompt=Prompt(),
        token_ids=(0,) * episode.tokens,
        stop=StopReason.LENGTH if episode.ended in CUT else StopReason.STOP,
        text=episode.ended,
        content=episode.ended,
    )
    detail = {**score.detail, "ended": episode.ended, "turns": episode.turns}
    return item(problem, index, key, trace, score._replace(detail=detail))
