"""tau2-bench, telecom: a customer's phone does not work; the agent asks, looks things up and instructs (arXiv:2506.07982).

The customer is played by another model (`--partner`); carrier, phone and reward are ours (evals.tau2), equal to the published
ones at commit a2c02472. 114 tasks of the split "base"; where only tasks_small.json lies there, its 20.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from h1r.errors import ConfigError, DataError, EndpointError
from h1r.evals.episodes import Agent, Episode, Respond, Setting
from h1r.evals.suite import Source, Suite
from h1r.evals.tau2 import carrier, phone, talk, tools
from h1r.evals.tau2.world import Databases
from h1r.types import Problem, Score

FILES = ("db.toml", "user_db.toml", "main_policy.md", "tech_support_manual.md")
HOW = (
    "copy data/tau2/domains/telecom of github.com/sierra-research/tau2-bench (MIT) there: tasks.json, split_tasks.json, "
    + ", ".join(FILES)
)
TASKS = ("tau2_telecom/tasks.json", "tau2_telecom/tasks_small.json")


def make(suite: Suite, data_dir: Path, prompt: str, options: Mapping[str, Any]) -> list[Problem]:
    """The tasks of a split. Raises DataError where a file is missing."""
    file = suite.files(data_dir)[0]
    for name in FILES:
        if not (file.parent / name).is_file():
            raise DataError(f"{suite.name}: {file.parent} lacks {name}; {HOW}")
    try:
        tasks = json.loads(file.read_text(encoding="utf-8"))
        tasks = tasks["tasks"] if isinstance(tasks, dict) else tasks
        splits = file.parent / "split_tasks.json"
        split = str(options["split"])
        if split and file.name == "tasks.json" and splits.is_file():
            chosen = json.loads(splits.read_text(encoding="utf-8"))
            if split not in chosen:
                raise ConfigError(f"{suite.name}: split={split!r}; there are {', '.join(chosen)}")
            tasks = [t for t in tasks if t["id"] in set(chosen[split])]
        texts = {n: (file.parent / n).read_text(encoding="utf-8") for n in FILES if n.endswith(".md")}
        system = talk.agent_system(talk.policy(texts["main_policy.md"], texts["tech_support_manual.md"]))
        return [_problem(t, system, file.parent) for t in tasks]
    except (ValueError, KeyError, TypeError) as e:
        raise DataError(f"{file}: not tau2's tasks ({e}); {HOW}") from None


def _problem(task: Mapping[str, Any], system: str, folder: Path) -> Problem:
    return Problem(
        id=f"tau2_telecom-{task['id']}",
        messages=({"role": "system", "content": system}, {"role": "assistant", "content": talk.GREETING}),
        kind="agent",
        gold=task["evaluation_criteria"],
        tools=tuple(tools.AGENT),
        domain=str(task["id"]).split("]")[0].strip("["),
        meta={"task": dict(task), "folder": str(folder)},
    )


def databases(folder: Path) -> Databases:
    """Both databases of the domain."""
    with open(folder / "db.toml", "rb") as f, open(folder / "user_db.toml", "rb") as g:
        return Databases(carrier.load(tomllib.load(f)), phone.load(tomllib.load(g)))


def play(problem: Problem, respond: Respond, setting: Setting) -> Episode:
    """One conversation. Raises EndpointError when the customer's model fails."""
    if setting.partner is None:
        raise ConfigError("tau2_telecom needs a model that plays the customer: --partner URL --partner-name NAME")
    system = str(problem.messages[0]["content"])
    policy = system.split("<policy>\n", 1)[1].rsplit("\n</policy>", 1)[0]
    try:
        told = talk.talk(
            problem.meta["task"], databases(Path(problem.meta["folder"])), policy, respond, setting.partner
        )
    except talk.CustomerError as e:
        raise EndpointError(str(e)) from None
    return Episode(messages=told.messages, ended=told.ended, tokens=told.tokens, turns=told.steps)


def score(problem: Problem, episode: Episode) -> Score:
    """The published reward, from the transcript."""
    found = talk.reward(problem.meta["task"], databases(Path(problem.meta["folder"])), episode.messages, episode.ended)
    return Score(found.value, found.why, {"parts": dict(found.parts)})


SUITE = Suite(
    name="tau2_telecom",
    title="τ²-bench telecom",
    group="code & agentic",
    source=Source("", "MIT", "tau2_telecom", TASKS, how=HOW),
    prompt="{task}",
    make=make,
    options={"split": "base"},
    agent=Agent(play, score, partner=True),
    samples=3,
    max_tokens=32768,
    expected=114,
)
