"""Programs against tests, in a sandbox, outputs compared outside it.

    grade(program, tests, sandbox) -> Grade       one candidate, one verdict, all test results
    score(problem, trace) -> Score                the last fenced block of a reply against the problem's tests

A test is {"input": stdin text, "expected": stdout text}; {"input": list of arguments, "expected": value} with
meta["fn_name"]; or {"assert": python text}. Verdicts: pass, fail, runtime_error, timeout, memory, output_limit,
disk_limit, compile_error, no_code, unscored. Graders: "fixed" (a real process; floats to 1e-6 where the gold is one)
and "official" (LiveCodeBench's comparison and its rejections, to stand beside published numbers).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from h1r.errors import SandboxError
from h1r.types import Problem, Score, Trace
from h1r.verify import judges
from h1r.verify.languages import LANGUAGES as LANGUAGES
from h1r.verify.languages import Language
from h1r.verify.sandbox import Limits, Result, Sandbox, Session, default

FENCE = re.compile(r"^[ \t]{0,8}(`{3,}|~{3,})[ \t]*([\w+#-]*)[^\n]*$", re.MULTILINE)
MAX_CODE = 500_000


class Program(NamedTuple):
    """A candidate: its text, its language, the function that is called (None: it reads stdin)."""

    code: str
    language: str = "python"
    fn_name: str | None = None


class Grade(NamedTuple):
    """verdict of the whole (pass, or the first failure), why, results test by test, where it ran."""

    verdict: str
    why: str
    results: tuple[Result, ...] = ()
    backend: str = ""
    level: str = ""

    @property
    def passed(self) -> bool:
        return self.verdict == "pass"


def extract(text: str, language: str = "python") -> str | None:
    """The last complete fenced block, preferring one marked with the language; the reply itself if it is bare code."""
    blocks: list[tuple[str, str]] = []
    opener: re.Match[str] | None = None
    for fence in FENCE.finditer(text[-MAX_CODE * 2 :]):
        if opener is None:
            opener = fence
        elif (
            fence.group(1)[0] == opener.group(1)[0]
            and len(fence.group(1)) >= len(opener.group(1))
            and not fence.group(2)
        ):
            blocks.append((opener.group(2).lower(), text[-MAX_CODE * 2 :][opener.end() : fence.start()].strip("\n")))
            opener = None
    marked = [code for mark, code in blocks if mark in LANGUAGES[language].marks]
    if marked or blocks:
        return (marked or [code for _, code in blocks])[-1]
    bare = text.strip()
    looks = re.match(r"(?:from|import|def|class|#include|@|#!|\w+ ?= ?)", bare)
    return bare if looks and opener is None else None


def score(problem: Problem, trace: Trace, sandbox: Sandbox | None = None, grader: str = "fixed") -> Score:
    """1 when every test passes. None when no sandbox holds here, or ours broke twice."""
    if not problem.tests:
        return Score(None, "the problem has no tests", {"unscored": "bad_gold"})
    language = str(problem.meta.get("language") or "python").lower()
    if language not in LANGUAGES:
        return Score(
            None, f"language {language!r} is not known; known: {', '.join(LANGUAGES)}", {"unscored": "language"}
        )
    code = extract(trace.content, language)
    if code is None:
        return Score(0.0, "no code block", {"verdict": "no_code"})
    limits = Limits(**problem.meta.get("limits", {})) if problem.meta.get("limits") else Limits()
    program = Program(code, language, problem.meta.get("fn_name"))
    try:
        grade = run(program, [_test(t) for t in problem.tests], sandbox or default(), limits, grader)
    except SandboxError as e:
        return Score(None, str(e), {"verdict": "unscored", "unscored": "sandbox"})
    detail = {
        "verdict": grade.verdict, "tests": len(problem.tests), "run": len(grade.results), "backend": grade.backend,
        "level": grade.level, "grader": grader, "seconds": round(sum(r.wall for r in grade.results), 3),
    }  # fmt: skip
    return Score(float(grade.passed), grade.why, detail)


def _test(test: Any) -> Mapping[str, Any]:
    return test if isinstance(test, Mapping) else {"assert": str(test)}


def run(
    program: Program, tests: Sequence[Mapping[str, Any]], sandbox: Sandbox, limits: Limits | None = None,
    grader: str = "fixed", stop: bool = True,
) -> Grade:  # fmt: skip
    """Grade one candidate; a sandbox that breaks is tried once more, afresh. Raises SandboxError when it breaks again.

    A timeout of a program that a busy machine kept from running is looked at once more.
    """
    limits = limits or Limits()
    if len(program.code) > MAX_CODE:
        return Grade("compile_error", "the program is too long", (), sandbox.backend, sandbox.level)
    for attempt in (0, 1):
        try:
            with sandbox.session() as session:
                grade = _grade(session, program, tests, limits, grader, stop)
            return grade._replace(backend=sandbox.backend, level=sandbox.level)
        except SandboxError:
            if attempt:
                raise
    raise AssertionError("unreachable")


def run_many(
    programs: Sequence[Program], tests: Sequence[Sequence[Mapping[str, Any]]], sandbox: Sandbox | None = None,
    limits: Limits | None = None, grader: str = "fixed",
) -> list[Grade | None]:  # fmt: skip
    """Many candidates, one list of tests each, on all sessions at once; None where the sandbox broke."""
    from concurrent.futures import ThreadPoolExecutor

    box = sandbox or default()

    def one(i: int) -> Grade | None:
        try:
            return run(programs[i], tests[i], box, limits, grader)
        except SandboxError:
            return None

    with ThreadPoolExecutor(box.size) as threads:
        return list(threads.map(one, range(len(programs))))


def _grade(
    session: Session, program: Program, tests: Sequence[Mapping[str, Any]], limits: Limits, grader: str, stop: bool
) -> Grade:
    language = LANGUAGES[program.language]
    built = session.load(_load(program, language, limits), language.compile_s)
    if built.status != "ok":
        return Grade(built.status, _tail(built.err) or built.status, (built,))
    if language.compile:
        limits = replace(limits, processes=max(limits.processes, language.processes))
    limits = replace(limits, memory_mb=limits.memory_mb + language.memory_mb)
    if grader == "official" and program.language == "python" and not any("assert" in t for t in tests):
        return _official(session, program, tests, limits)
    results: list[Result] = []
    verdict, why = "pass", f"{len(tests)} tests passed"
    for number, test in enumerate(tests, 1):
        result = session.test(_message(test, program), limits)
        if result.status == "timeout" and 0.1 < result.cpu / limits.timeout_s < 0.6 and _busy():
            result = session.test(_message(test, program), limits)
        status, reason = _judge(test, result, program, grader)
        results.append(result._replace(status=status))
        if status != "pass" and verdict == "pass":
            verdict, why = status, f"test {number} of {len(tests)}: {reason}"
            if stop:
                break
    return Grade(verdict, why, tuple(results))


def _official(session: Session, program: Program, tests: Sequence[Mapping[str, Any]], limits: Limits) -> Grade:
    """All tests in one process, as published; the first that is not right decides (inside/official.py)."""
    called = program.fn_name is not None
    given = [arguments(t["input"]) if called else str(t.get("input", "")) for t in tests]
    whole = replace(limits, timeout_s=(limits.timeout_s + 1) * len(tests) + 5)
    message = {"mode": "official", "fn": program.fn_name, "tests": given, "seconds": limits.timeout_s}
    ran = session.test(message, whole)
    told = {int(m["test"]): m for m in ran.value or ()}
    results: list[Result] = []
    for number, test in enumerate(tests):
        message = told.get(number, {"status": ran.status if ran.status != "ok" else "runtime_error", "err": ran.err})
        result = Result(message["status"], message.get("out", ""), message.get("err", ""), message.get("value"))
        status, reason = _judge(test, result, program, "official")
        results.append(result._replace(status=status, wall=ran.wall / len(tests), cpu=ran.cpu / len(tests)))
        if status != "pass":
            return Grade(status, f"test {number + 1} of {len(tests)}: {reason}", tuple(results))
    return Grade("pass", f"{len(tests)} tests passed", tuple(results))


def _busy() -> bool:
    """Whether more processes want to run than there are processors."""
    import os

    return os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1)


def _load(program: Program, language: Language, limits: Limits) -> dict[str, Any]:
    from dataclasses import asdict

    building = Limits(timeout_s=language.compile_s, memory_mb=2048, output_mb=64, processes=64, disk_mb=256)
    return {
        "language": program.language, "code": program.code, "source": language.source, "compile": list(language.compile),
        "run": list(language.run), "limits": asdict(building),
    }  # fmt: skip


def _message(test: Mapping[str, Any], program: Program) -> dict[str, Any]:
    if "assert" in test:
        return {"mode": "assert", "text": str(test["assert"]), "fn": program.fn_name}
    if program.fn_name is not None and program.language == "python":
        return {"mode": "call", "fn": program.fn_name, "args": arguments(test["input"])}
    return {"mode": "stdin", "stdin": str(test.get("input", ""))}


def arguments(value: Any) -> list[Any]:
    """A call's arguments: a list as it is; LiveCodeBench's text, one JSON value per line."""
    if isinstance(value, str):
        return [json.loads(line) for line in value.splitlines() if line.strip()]
    return list(value)


def _judge(test: Mapping[str, Any], result: Result, program: Program, grader: str) -> tuple[str, str]:
    """(verdict, reason) of one test."""
    if result.status != "ok":
        return result.status, _tail(result.err) or result.status
    if "assert" in test:
        return "pass", ""
    expected = test["expected"]
    if program.fn_name is not None and program.language == "python":
        want = json.loads(expected) if isinstance(expected, str) and isinstance(test["input"], str) else expected
        right = judges.value(result.value, want, grader)
        return (
            ("pass", "") if right else ("fail", f"returned {judges.short(result.value)}, expected {judges.short(want)}")
        )
    right = judges.output(result.out, str(expected), grader)
    return ("pass", "") if right else ("fail", f"printed {judges.short(result.out)}, expected {judges.short(expected)}")


def _tail(err: str) -> str:
    lines = err.strip().splitlines()
    return lines[-1][:300] if lines else ""
