"""The scorer a protocol asks for: a judge where no program can tell, the grader it names, strict extraction.

score = scorer(grader.score, terms, judge=functools.partial(verify.judge.judge, endpoint.ask, name="gpt-4o"))
"""

from __future__ import annotations

import functools
from dataclasses import replace

from h1r.errors import SandboxError
from h1r.evals.protocol import Terms
from h1r.evals.run import Scorer
from h1r.evals.suites import livecodebench, scicode_tests
from h1r.types import Problem, Score, Trace
from h1r.verify import code, extract, instructions
from h1r.verify.sandbox import Limits, Sandbox, default
from h1r.verify.sandbox.session import interpreter

FENCE = "`" * 12  # longer than any a reply is likely to hold


def scorer(score: Scorer, terms: Terms, *, judge: Scorer | None = None, sandbox: Sandbox | None = None) -> Scorer:
    """`score` under the terms. Without a judge, problems of kind `judge` stay unscored, and `score` says so.

    sandbox: where the official grader runs programs (default: the strongest proven one).
    """

    def one(problem: Problem, trace: Trace) -> Score:
        if "hidden" in problem.meta:
            problem = livecodebench.with_hidden(problem)
        if "program" in problem.meta:
            if trouble := lacks(tuple(problem.meta["modules"]), sandbox):
                return Score(None, trouble, {"unscored": "packages"})
            trace = assembled(problem, trace)
        if problem.kind == "judge" and judge is not None:
            found = judge(problem, _split(trace))
        elif terms.grader and problem.kind in ("code", "instructions") and _split(trace).content.strip():
            found = _graded(problem, _split(trace), terms.grader, sandbox)
        else:
            found = score(problem, trace)
        if terms.extractor == "strict" and found.value and found.detail.get("fallback"):
            return Score(0.0, "no answer in the form asked for", {**found.detail, "lenient": found.value})
        return found

    return one


def _graded(problem: Problem, trace: Trace, grader: str, sandbox: Sandbox | None) -> Score:
    if problem.kind == "code":
        found = code.score(problem, trace, sandbox, grader)
        if "hidden" not in problem.meta or found.value is None:
            return found
        other = "fixed" if grader == "official" else "official"  # LiveCodeBench: both, so that the difference shows
        beside = code.score(problem, trace, sandbox, other)
        told = {
            grader: {"tests": bool(found.value)},
            other: {"tests": None if beside.value is None else bool(beside.value)},
        }
        return found._replace(detail={**found.detail, "mode": "tests", **told})
    return instructions.score(problem, trace, variant="upstream" if grader == "official" else "fixed")


@functools.cache
def lacks(modules: tuple[str, ...], sandbox: Sandbox | None) -> str:
    """Why programs that import these modules cannot run inside the sandbox; "" where they can. Asked once."""
    program = code.Program(scicode_tests.probe(modules))
    limits = Limits(timeout_s=60, memory_mb=4096)
    try:
        grade = code.run(program, [{"input": "", "expected": ""}], sandbox or default(), limits)
    except SandboxError as e:
        return str(e)
    if grade.passed:
        return ""
    python = interpreter().executable
    cure = f"pip install 'open-h1r[scicode]' beside h1r, or into {python}"
    return f"the sandbox's Python lacks {', '.join(modules)} ({grade.why}); {cure}"


def assembled(problem: Problem, trace: Trace) -> Trace:
    """A trace whose code is put where meta["program"] = (before, after) says: what ran earlier, and the tests."""
    before, after = problem.meta["program"]
    written = code.extract(_split(trace).content)
    if written is None:
        return trace
    return replace(trace, content=f"{FENCE}python\n{before}\n{written}\n{after}\n{FENCE}")


def _split(trace: Trace) -> Trace:
    if trace.content or trace.reasoning or trace.tool_calls or not trace.text:
        return trace
    return replace(trace, content=extract.after_think(trace.text).text)
