"""Verdicts per second and sandboxed runs per second, beside math-verify and a bare subprocess, in one run, by turns.

    .venv/bin/python bench/verify.py [--cases FILE.jsonl] [--rounds 5] [--json OUT]

Every round measures each contender once, so that a noisy machine is noisy to all; printed are medians over rounds, and the
99th percentile of single verdicts over all rounds. Agreement is checked first: a fast wrong verdict is none.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from h1r.verify import math
from h1r.verify.sandbox import LEVELS, ORDER, Limits, Sandbox
from h1r.verify.sandbox import open as open_sandbox

PAIRS = (
    ("42", "\\boxed{42}", True), ("\\frac{1}{2}", "\\boxed{0.5}", True), ("7425000", "\\boxed{7,425,000}", True),
    ("\\sqrt{2}", "\\boxed{2^{1/2}}", True), ("x^2+2x+1", "\\boxed{(x+1)^2}", True), ("(1,2)", "\\boxed{(2,1)}", False),
    ("\\{1,2,3\\}", "\\boxed{3,2,1}", True), ("2^{100}", "\\boxed{2^{101}}", False),
    ("\\frac{\\pi}{6}", "\\boxed{30^\\circ}", True), ("[0,1)", "\\boxed{0\\le x<1}", True),
    ("\\frac{1}{\\sqrt{3}}", "\\boxed{\\frac{\\sqrt{3}}{3}}", True), ("12", "\\boxed{13}", False),
    ("\\sin^2 x", "\\boxed{1-\\cos^2 x}", True), ("\\binom{10}{3}", "\\boxed{120}", True),
    ("5", "I think it is 5.", True),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\boxed{\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}}", True),
)  # fmt: skip
PROGRAM = "print(int(input()) + int(input()))"
TEST = {"mode": "stdin", "stdin": "2\n3\n"}


def pairs(path: str | None) -> list[tuple[str, str, bool]]:
    """(gold, reply, expected) of a file of cases, or the built-in ones."""
    if path is None:
        return list(PAIRS)
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    return [(str(r["gold"]), str(r["answer"]), bool(r["expected"])) for r in rows]


def ours(gold: str, reply: str) -> bool:
    return math.check(gold, reply)[0].correct


def theirs() -> Callable[[str, str], bool] | None:
    """math-verify as its documentation uses it."""
    try:
        from math_verify import parse, verify
    except ImportError:
        return None
    return lambda gold, reply: bool(
        verify(parse(gold if "\\boxed" in gold or "$" in gold else f"${gold}$"), parse(reply))
    )


def timed(judge: Callable[[str, str], bool], cases: Sequence[tuple[str, str, bool]]) -> tuple[float, list[float], int]:
    """(verdicts per second, seconds of each, how many agree with what is expected)."""
    seconds, right = [], 0
    for gold, reply, expected in cases:
        start = time.perf_counter()
        right += judge(gold, reply) == expected
        seconds.append(time.perf_counter() - start)
    return len(cases) / sum(seconds), seconds, right


def math_rounds(cases: Sequence[tuple[str, str, bool]], rounds: int) -> dict[str, dict[str, float]]:
    """math-verify and ours, by turns; ours also from as many threads as processors."""
    judges = {"h1r": ours} | ({"math-verify": other} if (other := theirs()) else {})
    rates: dict[str, list[float]] = {name: [] for name in (*judges, "h1r, threads")}
    every: dict[str, list[float]] = {name: [] for name in judges}
    agree: dict[str, int] = {}
    for judge in judges.values():  # warm
        timed(judge, cases[:8])
    for _ in range(rounds):
        for name, judge in judges.items():
            rate, seconds, agree[name] = timed(judge, cases)
            rates[name].append(rate)
            every[name] += seconds
        with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
            start = time.perf_counter()
            list(threads.map(lambda c: ours(c[0], c[1]), cases))
            rates["h1r, threads"].append(len(cases) / (time.perf_counter() - start))
    out = {name: {"verdicts/s": statistics.median(r)} for name, r in rates.items()}
    for name, seconds in every.items():
        ordered = sorted(seconds)
        out[name] |= {
            "p50 ms": 1e3 * statistics.median(seconds), "p99 ms": 1e3 * ordered[int(0.99 * (len(ordered) - 1))],
            "slowest ms": 1e3 * ordered[-1], "agree %": 100 * agree[name] / len(cases),
        }  # fmt: skip
    return out


def runs(box: Sandbox, count: int) -> float:
    """Small Python tests per second on all sessions of a sandbox."""

    def some(share: int) -> None:
        with box.session() as session:
            session.load({"language": "python", "code": PROGRAM}, 5)
            for _ in range(share):
                result = session.test(TEST, Limits())
                assert result.out == "5\n", result

    share = max(1, count // box.size)
    with ThreadPoolExecutor(box.size) as threads:
        start = time.perf_counter()
        list(threads.map(some, [share] * box.size))
        return share * box.size / (time.perf_counter() - start)


def bare(count: int, width: int) -> float:
    """The same program as a new interpreter each time, nothing around it."""

    def one(_: int) -> None:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", PROGRAM], input="2\n3\n", capture_output=True, text=True, check=True
        )
        assert done.stdout == "5\n"

    with ThreadPoolExecutor(width) as threads:
        start = time.perf_counter()
        list(threads.map(one, range(count)))
        return count / (time.perf_counter() - start)


def sandbox_rounds(count: int, rounds: int) -> dict[str, dict[str, float | str]]:
    """Every backend that proves itself, and a bare subprocess, by turns."""
    width = os.cpu_count() or 1
    boxes: dict[str, Sandbox] = {}
    for name in ORDER:
        try:
            boxes[name] = open_sandbox(name, size=width)
            runs(boxes[name], 2 * width)  # warm
        except Exception as e:
            print(f"{name}: not measured: {e}", file=sys.stderr)
    rates: dict[str, list[float]] = {name: [] for name in (*boxes, "bare subprocess")}
    for _ in range(rounds):
        for name, box in boxes.items():
            rates[name].append(runs(box, count))
        rates["bare subprocess"].append(bare(max(20, count // 4), width))
    for box in boxes.values():
        box.close()
    return {
        name: {"level": LEVELS.get(name, "none"), "runs/s": statistics.median(r), "ratio": statistics.median(
            [x / y for x, y in zip(r, rates["bare subprocess"], strict=True)])}
        for name, r in rates.items()
    }  # fmt: skip


def show(title: str, table: dict[str, dict[str, float | str]]) -> None:
    columns = list(dict.fromkeys(c for row in table.values() for c in row))
    print(f"{title:<18}" + "".join(f"{c:>14}" for c in columns))
    for name, row in table.items():
        cells = [row.get(c, "-") for c in columns]
        print(f"{name:<18}" + "".join(f"{c:>14.2f}" if isinstance(c, float) else f"{c:>14}" for c in cells))
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", help="a JSONL file of gold, answer, expected")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=400, help="sandboxed runs per round")
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()
    if options.rounds < 1 or options.runs < 1:
        parser.error("--rounds and --runs must be 1 or more")
    cases = pairs(options.cases)
    found = {
        "math": math_rounds(cases * max(1, 200 // len(cases)), options.rounds),
        "sandbox": sandbox_rounds(options.runs, options.rounds),
    }
    show("mathematics", found["math"])  # type: ignore[arg-type]
    show("sandbox", found["sandbox"])
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
