"""Problems that are played: tools whose results come from a world that the problem itself carries (meta["world"]).

    problem = played(sample(...))      the calls of a worked trace are no longer given: the model has to make them
    act = act_of(problem)              answers calls from the world; None for a problem without one

A world is {tool: [[arguments, result], ...]}: a table looked up by equal arguments. A problem of any file may carry one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from h1r.errors import DataError
from h1r.types import Message, Problem

Calls = Sequence[Mapping[str, Any]]


def played(problem: Problem) -> Problem:
    """The problem up to its last question; the calls and results that led to the answer become part of its solution."""
    asked = max((i for i, m in enumerate(problem.messages) if m["role"] == "user"), default=-1)
    after = problem.messages[asked + 1 :]
    if not after or not problem.meta.get("world"):
        return problem
    return replace(problem, messages=problem.messages[: asked + 1], solution=(*after, *problem.solution))


def act_of(problem: Problem) -> Callable[[Calls], list[Message]] | None:
    """What answers the problem's calls: one tool message each, in order. Raises DataError for a world that cannot be read."""
    world = problem.meta.get("world")
    if not world:
        return None
    try:
        tables = {
            str(tool): {_key(arguments): str(result) for arguments, result in rows} for tool, rows in world.items()
        }
    except (AttributeError, TypeError, ValueError):
        raise DataError(f"problem {problem.id}: meta.world must be {{tool: [[arguments, result], ...]}}") from None

    def act(calls: Calls) -> list[Message]:
        return [_answer(tables, call) for call in calls]

    return act


def _answer(tables: Mapping[str, Mapping[str, str]], call: Mapping[str, Any]) -> Message:
    """A tool message; what is wrong with a call is told to whoever made it."""
    function = call.get("function", call)
    name, arguments = str(function.get("name", "")), function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return _refusal(f"the arguments of {name} are not JSON")
    if name not in tables:
        return _refusal(f"there is no tool {name!r}; there are {', '.join(tables)}")
    if not isinstance(arguments, Mapping):
        return _refusal(f"the arguments of {name} must be an object")
    found = tables[name].get(_key(arguments))
    return (
        _refusal(f"{name} knows nothing of {_key(arguments)}") if found is None else {"role": "tool", "content": found}
    )


def _refusal(why: str) -> Message:
    return {"role": "tool", "content": f"Error: {why}", "refused": True}


def _key(arguments: Mapping[str, Any]) -> str:
    return json.dumps({str(k): v for k, v in dict(arguments).items()}, sort_keys=True, ensure_ascii=False)
