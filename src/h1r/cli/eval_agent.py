"""`h1r eval` on suites that are played over many turns: the model's turns, its partner's, the progress bar, the files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h1r.errors import ConfigError, ContextError, EndpointError

if TYPE_CHECKING:
    from h1r.cli.eval_plan import Task
    from h1r.evals import Result, Setting
    from h1r.types import Message, Problem, Prompt, SamplingParams, Trace

FILE = "episodes.jsonl"
"""Behind a suite's name in a run's folder: its episodes."""
AT_ONCE = 8  # episodes played at the same time


def setting(url: str, name: str, place: str) -> Setting:
    """What episodes are played with. Raises ConfigError or EndpointError."""
    from h1r.evals import Setting
    from h1r.types import Prompt, SamplingParams

    if not url:
        if name:
            raise ConfigError(f"--partner-name {name!r} without --partner: give the URL of its server")
        return Setting(place=place)
    from h1r.cli import wire

    server = wire.served(url, name, ("--partner", "--partner-name"))
    name = server.model
    greedy = SamplingParams(temperature=0.0, max_tokens=4096)

    def respond(messages: Sequence[Message], tools: Sequence[Any]) -> Trace:
        try:
            return server.generate([Prompt(messages=tuple(messages), tools=tuple(tools))], greedy)[0][0]
        except ContextError as e:  # the partner's limit is not the fault of the model that is measured
            raise EndpointError(f"the partner {name}: {e}") from None

    return Setting(partner=respond, partner_name=name, place=place)


def play(
    folder: Path, task: Task, generate: Callable[..., list[list[Trace]]], prompt_of: Callable[[Problem], Prompt] | None,
    sampling: SamplingParams, samples: int, model: str, where: Setting,
) -> Result:  # fmt: skip
    """Every episode of a task; what the run's folder holds already is not played again."""
    from h1r import data, evals
    from h1r.cli.progress import bar
    from h1r.types import Problem

    one = task.suite
    assert one.agent is not None
    ask = prompt_of or evals.as_prompt

    def write(messages: Sequence[Message], tools: Sequence[Any], drawn: SamplingParams) -> Trace:
        turn = Problem(id="turn", messages=tuple(messages), kind="agent", tools=tuple(tools))
        return generate([ask(turn)], drawn)[0][0]

    episodes = evals.Episodes(folder / f"{one.name}.{FILE}")
    items = []
    with bar(one.name, len(task.problems) * samples) as progress:
        steps = evals.run_episodes(
            task.problems, one.agent, where, episodes, write=write, model=model, sampling=sampling, samples=samples,
            workers=AT_ONCE,
        )  # fmt: skip
        for item in steps:
            items.append(item)
            known = [i.value for i in items if i.value is not None]
            progress.advance(len(items), f"{sum(known) / max(len(known), 1):.1%} solved")
    evals.save(folder / f"{one.name}.items.jsonl", items)
    data.write(folder / f"{one.name}.problems.jsonl", task.problems)
    return evals.result(one.name, items, group=one.group)
