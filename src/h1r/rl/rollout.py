"""Problems to scored groups: generate, then grade. What fails on our side is never a reward."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from h1r.errors import EndpointError, WorkerLost
from h1r.rl.group import Group, Shaping, reward
from h1r.rl.turns import Turns
from h1r.types import Generator, Grader, Problem, Prompt, SamplingParams, Score, StopReason, Trace

logger = logging.getLogger(__name__)


def generate(
    generator: Generator,
    problems: Sequence[Problem],
    render: Callable[[Problem], Prompt],
    sampling: SamplingParams,
    *,
    uid: str,
    version: int,
    redo: int = 0,
    turns: Turns | None = None,
) -> tuple[list[Group], float]:
    """One unscored group per problem, and the seconds it took. Group i is named `uid`.i.

    redo: how often the call is made again when a worker that wrote traces died; then WorkerLost is raised.
    turns: plays on, with tools, what ends in calls
    """
    start = time.perf_counter()
    prompts = [render(problem) for problem in problems]
    for left in range(redo, -1, -1):
        try:
            found = generator.generate(prompts, sampling)
            if turns is not None and len(found) == len(prompts):
                found = turns.finish(generator, problems, _with_prompts(found, prompts), sampling)
            break
        except WorkerLost as e:
            if not left:
                raise
            logger.warning("rollouts %s are done again: %s", uid, e)
    if len(found) != len(prompts):
        raise EndpointError(
            f"the generator answered {len(found)} of {len(prompts)} prompts: it must give a group for each"
        )
    groups = []
    for i, (problem, whole) in enumerate(zip(problems, _with_prompts(found, prompts))):
        unscored = (Score(None, "not graded"),) * len(whole)
        groups.append(
            Group(
                uid=f"{uid}.{i}",
                problem=problem,
                traces=tuple(whole),
                scores=unscored,
                rewards=(None,) * len(whole),
                version=version,
            )
        )
    return groups, time.perf_counter() - start


def _with_prompts(found: Sequence[Sequence[Trace]], prompts: Sequence[Prompt]) -> list[list[Trace]]:
    """Every trace with its prompt's token ids, also where a server does not send them back."""
    return [
        [t if t.prompt.token_ids else replace(t, prompt=prompt) for t in traces]
        for prompt, traces in zip(prompts, found, strict=True)
    ]


def grade(grader: Grader, groups: Sequence[Group], shaping: Shaping) -> tuple[list[Group], float]:
    """The groups with scores and rewards, and the seconds it took. Aborted and empty traces are not sent."""
    start = time.perf_counter()
    items = [(group.problem, trace) for group in groups for trace in group.traces if _gradable(trace)]
    scores = iter(_scores(grader, items))
    out = []
    for group in groups:
        verdicts = tuple(
            next(scores) if _gradable(trace) else Score(None, f"not graded: {trace.stop.value}")
            for trace in group.traces
        )
        rewards = tuple(
            reward(trace, verdict, shaping, group.problem) for trace, verdict in zip(group.traces, verdicts)
        )
        out.append(replace(group, scores=verdicts, rewards=rewards))
    return out, time.perf_counter() - start


def _gradable(trace: Trace) -> bool:
    return bool(trace.token_ids) and trace.stop is not StopReason.ABORT


def _scores(grader: Grader, items: Sequence[tuple[Problem, Trace]]) -> list[Score]:
    """All at once; if that fails, one by one, so that one broken rollout leaves the others their scores."""
    try:
        scores = grader.grade(items)
    except Exception as e:
        logger.warning("grading %d traces failed (%s: %s); grading one by one", len(items), type(e).__name__, e)
        return [_score(grader, item) for item in items]
    assert len(scores) == len(items), f"the grader gave {len(scores)} scores for {len(items)} traces"
    return scores


def _score(grader: Grader, item: tuple[Problem, Trace]) -> Score:
    try:
        return grader.grade([item])[0]
    except Exception as e:
        return Score(None, f"unscored: {type(e).__name__}: {e}")
