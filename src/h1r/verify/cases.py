"""A file of labelled cases to a file of verdicts: one JSON line each, appended as they come, resumable.

math rows: id, gold, answer (a whole reply). code rows: id, mode, language, code, tests, fn_name, limits; a test's
input_expr or expected_expr is a Python expression, worked out inside the sandbox. Written: id, verdict, why, seconds.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from h1r import log
from h1r.errors import ConfigError, DataError, SandboxError
from h1r.verify import code, judges, math
from h1r.verify.policy import Policy
from h1r.verify.sandbox import Limits, Sandbox, default

KINDS = ("math", "code")


def run_cases(
    path: str | Path, kind: str, out: str | Path, *, sandbox: Sandbox | None = None, policy: Policy | None = None,
    grader: str = "fixed", workers: int | None = None,
) -> dict[str, int]:  # fmt: skip
    """Judge every case not yet in `out`; returns how many got each verdict, those of earlier runs included."""
    if grader not in judges.GRADERS:
        raise ConfigError(f"grader {grader!r}: there are {', '.join(judges.GRADERS)}")
    if kind not in KINDS:
        raise ConfigError(f"--kind {kind!r}: cases are of kind {' or '.join(KINDS)}")
    if not Path(path).exists():
        raise DataError(f"{path}: no such file")
    rows = list(log.read(path))
    for number, row in enumerate(rows, 1):
        wanted = ("id", "gold", "answer") if kind == "math" else ("id", "code", "tests")
        if missing := [name for name in wanted if name not in row]:
            raise DataError(f"{path}, line {number}: no field {missing[0]!r}, which a {kind} case has")
    counts: dict[str, int] = {}
    done = set()
    for row in log.read(out):
        done.add(row.get("id"))
        counts[str(row.get("verdict"))] = counts.get(str(row.get("verdict")), 0) + 1
    box = (sandbox or default()) if kind == "code" else None
    lock = threading.Lock()

    def one(row: Mapping[str, Any]) -> None:
        start = time.monotonic()
        verdict, why, more = math_case(row, policy) if kind == "math" else code_case(row, box, grader)
        record = {
            "id": row["id"],
            "verdict": verdict,
            "why": why,
            "seconds": round(time.monotonic() - start, 4),
            **more,
        }
        with lock:
            log.append(out, record)
            counts[verdict] = counts.get(verdict, 0) + 1

    with ThreadPoolExecutor(workers or max(1, min(8, os.cpu_count() or 1))) as threads:
        for future in [threads.submit(one, row) for row in rows if row["id"] not in done]:
            future.result()
    return counts


def math_case(row: Mapping[str, Any], policy: Policy | None) -> tuple[str, str, dict[str, Any]]:
    verdict, span = math.check(str(row["gold"]), str(row["answer"]), policy)
    return verdict.verdict, verdict.why, {"tier": verdict.tier, "extracted": span.text[:200], "how": span.how}


def code_case(row: Mapping[str, Any], box: Sandbox | None, grader: str) -> tuple[str, str, dict[str, Any]]:
    assert box is not None
    where = {"backend": box.backend, "level": box.level}
    raw = {k: v for k, v in (row.get("limits") or {}).items() if k in Limits.__dataclass_fields__}
    fn = row.get("fn_name") if row.get("mode") != "stdin" else None
    program = code.Program(str(row["code"]), str(row.get("language", "python")), fn)
    if program.language not in code.LANGUAGES:
        return "unscored", f"language {program.language!r} is not known", where
    try:
        tests = [_worked_out(test, box) for test in row["tests"]]
        grade = code.run(program, tests, box, Limits(**raw), grader)
    except SandboxError as e:
        return "unscored", str(e), where
    return grade.verdict, grade.why, where


def _worked_out(test: Mapping[str, Any], box: Sandbox) -> dict[str, Any]:
    """A test with its _expr fields replaced by the text they print."""
    out = dict(test)
    for name in ("input", "expected"):
        if (expression := out.pop(f"{name}_expr", None)) is None:
            continue
        with box.session() as session:
            session.load({"language": "python", "code": f"import sys\nsys.stdout.write(str({expression}))"}, 5)
            result = session.test({"mode": "stdin", "stdin": ""}, Limits(timeout_s=20, output_mb=64, memory_mb=1024))
        if result.status != "ok":
            raise SandboxError(f"the case's {name}_expr could not be worked out ({result.status})")
        out[name] = result.out
    return out
