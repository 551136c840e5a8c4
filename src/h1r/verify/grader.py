"""Many scores at once: a thread for each warm worker. Implements `types.Grader`."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from h1r.errors import SandboxError
from h1r.types import Problem, Score, Trace
from h1r.verify.dispatch import score
from h1r.verify.policy import Policy
from h1r.verify.sandbox import Sandbox, default

logger = logging.getLogger(__name__)


class LocalGrader:
    """Scores on this machine. `unscored` counts, by reason, what nobody could tell.

    sandbox: where code runs; None chooses the strongest proven one when the first program comes.
    judge: scores what only a judge can (kind "judge"): `functools.partial(judge.judge, ask, name=...)`; None leaves it unscored.
    """

    def __init__(
        self, sandbox: Sandbox | None = None, *, policy: Policy | None = None, threads: int | None = None,
        judge: Callable[[Problem, Trace], Score] | None = None,
    ) -> None:  # fmt: skip
        self.sandbox = sandbox
        self.policy, self.judge = policy, judge
        self.threads = ThreadPoolExecutor(threads or max(2, os.cpu_count() or 1), thread_name_prefix="grader")
        self.unscored: Counter[str] = Counter()

    def grade(self, items: Sequence[tuple[Problem, Trace]]) -> list[Score]:
        """One Score per item, in order. Never raises for what a model wrote; our failures are Score(None)."""
        if self.sandbox is None and any(problem.kind == "code" for problem, _ in items):
            try:
                self.sandbox = default()
            except SandboxError as e:
                logger.warning("code is unscored: %s", e)
        scores = list(self.threads.map(self._one, items))
        self.unscored.update(str(s.detail.get("unscored", "other")) for s in scores if s.value is None)
        return scores

    def score(self, problem: Problem, trace: Trace) -> Score:
        return self.grade([(problem, trace)])[0]

    def _one(self, item: tuple[Problem, Trace]) -> Score:
        problem, trace = item
        try:
            if problem.kind == "judge" and self.judge is not None:
                return self.judge(problem, trace)
            return score(problem, trace, sandbox=self.sandbox, policy=self.policy)
        except Exception as e:  # one rollout: a bug of ours must not become a reward, nor end the step
            logger.exception("scoring %s failed", problem.id)
            return Score(None, f"our scorer failed: {type(e).__name__}: {e}", {"unscored": "error"})

    def close(self) -> None:
        self.threads.shutdown(wait=True)
        if self.sandbox is not None:
            self.sandbox.close()
