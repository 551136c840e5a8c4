"""LiveCodeBench code generation: contest problems by date, each with public and hidden tests (arXiv:2403.07974).

The Hub's files test.jsonl, test2.jsonl ... are what each version added. A window is a choice of files (`version`: v6 is
the last file alone, v5-v6 two of them, release_v6 all up to it) and of contest dates (`start`, `end`, both included);
`about` says which, with its count, because scores of two windows are two benchmarks.

Hidden tests are gigabytes: they stay in their file, and are read when a program is graded. They are pickles made by
strangers, so the unpickler knows no class and must find one string.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from h1r.errors import ConfigError, DataError
from h1r.evals.results import second_verdict
from h1r.evals.suite import Row, Source, Suite, ask, fill
from h1r.types import Problem

PROMPT = "### Question:\n{question}\n\n### Format: {format}\n\n### Answer: (use the provided format with backticks)\n\n"
WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters."
)
WITHOUT_STARTER = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the "
    "inputs, runs the algorithm and writes output to STDOUT."
)
VERSION = re.compile(r"(release_)?v(\d)(?:-v(\d))?")
LIMITS = {"timeout_s": 6.0, "memory_mb": 1024}  # of one test; the published grader's seconds
MAX_TESTS = 1 << 30  # bytes that one problem's hidden tests may unpack to
ERRATA = frozenset(
    [
        "abc311_c",
        "abc326_d",
        "abc327_b",
        "abc333_e",
        "abc343_e",
        "abc362_c",
        "abc343_a",
        "arc185_c",
        "find-words-containing-character",
        "find-the-peaks",
        "generate-binary-strings-without-adjacent-zeros",
    ]
)
"""Problems that accept several outputs but hold one (LiveCodeBench's ERRATA.md); `errata: exclude` leaves them out."""


def make(suite: Suite, data_dir: Path, prompt: str, options: Mapping[str, Any]) -> list[Problem]:
    """The problems of the window, in the files' order."""
    if options["errata"] not in ("keep", "exclude"):
        raise ConfigError(f"livecodebench: errata={options['errata']!r}: use keep or exclude")
    first, last = versions(options["version"])
    start, end = str(options["start"] or ""), str(options["end"] or "9999")
    out = []
    for file in suite.files(data_dir):
        if not first <= file_version(file) <= last:
            continue
        for record, row, place in lines(file):
            date = str(row.field(record, "contest_date"))[:10]
            slug = str(record.get("question_title") or "").strip().lower().replace(" ", "-")
            known = ERRATA & {str(row.field(record, "question_id")), slug}
            if start <= date <= end and not (known and options["errata"] == "exclude"):
                out.append(problem(record, row, prompt, date, place))
    if not out:
        raise DataError(f"livecodebench: no problem under {data_dir} lies in the window {options}; widen it")
    return out


def versions(text: Any) -> tuple[int, int]:
    """First and last file of a version: v6 (6, 6), v5-v6 (5, 6), release_v6 (1, 6), nothing (1, 99)."""
    if not text:
        return 1, 99
    found = VERSION.fullmatch(str(text))
    if not found or (found[1] and found[3]):
        raise ConfigError(f"livecodebench: version={text!r}: write v6, v5-v6 or release_v6")
    return 1 if found[1] else int(found[2]), int(found[3] or found[2])


def file_version(file: Path) -> int:
    """test.jsonl is version 1, test6.jsonl version 6."""
    number = re.fullmatch(r"test(\d*)", file.stem)
    return int(number[1] or 1) if number else 1


def lines(file: Path) -> Iterator[tuple[dict[str, Any], Row, tuple[str, int]]]:
    """Records of a JSONL file, with the row for messages and the place where the line begins."""
    offset = 0
    with open(file, "rb") as f:
        for number, line in enumerate(f, 1):
            row = Row("livecodebench", str(file), number)
            if line.strip():
                try:
                    yield json.loads(line), row, (str(file), offset)
                except ValueError:
                    raise DataError(f"{file}, row {number}: not JSON; fetch the file again") from None
            offset += len(line)


def problem(record: Mapping[str, Any], row: Row, prompt: str, date: str, place: tuple[str, int]) -> Problem:
    """A row with its public tests; `with_hidden` adds the others."""
    starter = str(record.get("starter_code") or "")
    form = (
        f"{WITH_STARTER}\n```python\n{starter}\n```"
        if starter
        else f"{WITHOUT_STARTER}\n```python\n# YOUR CODE HERE\n```"
    )
    told = record.get("metadata") or "{}"
    meta = json.loads(told) if isinstance(told, str) else dict(told)
    question = str(row.field(record, "question_content"))
    return Problem(
        id=f"livecodebench-{row.field(record, 'question_id')}",
        messages=ask(fill(prompt, question=question, format=form)),
        kind="code",
        tests=tests(json.loads(str(record.get("public_test_cases") or "[]"))),
        domain=str(record.get("platform", "code")),
        difficulty={"easy": 0.0, "medium": 0.5, "hard": 1.0}.get(str(record.get("difficulty"))),
        meta={
            "fn_name": meta.get("func_name"), "language": "python", "date": date, "hidden": list(place),
            "limits": LIMITS, "level": record.get("difficulty", ""),
        },
    )  # fmt: skip


def tests(cases: Sequence[Mapping[str, Any]]) -> tuple[dict[str, str], ...]:
    """Their test cases as ours; of a call, input and output stay JSON text, one argument per line."""
    return tuple({"input": str(c["input"]), "expected": str(c["output"])} for c in cases)


def with_hidden(problem: Problem) -> Problem:
    """The problem with public and hidden tests. Raises DataError when the file changed or its pickle is no string."""
    path, offset = problem.meta["hidden"]
    try:
        with open(path, "rb") as f:
            f.seek(int(offset))
            record = json.loads(f.readline())
    except (OSError, ValueError):
        record = {}
    if f"livecodebench-{record.get('question_id')}" != problem.id:
        raise DataError(f"{path}: the hidden tests of {problem.id} are not where they were; load the suite again")
    hidden = hidden_tests(str(record.get("private_test_cases") or "[]"), f"{path}, {problem.id}")
    return replace(problem, tests=(*problem.tests, *tests(hidden)))


def hidden_tests(text: str, where: str) -> list[dict[str, Any]]:
    """Test cases from JSON, or from base64 of zlib of a pickled JSON string."""
    try:
        found = json.loads(text)
    except ValueError:
        try:
            unpacker = zlib.decompressobj()
            raw = unpacker.decompress(base64.b64decode(text), MAX_TESTS)
            if unpacker.unconsumed_tail:
                raise DataError(f"{where}: hidden tests of more than {MAX_TESTS >> 20} MiB")
            found = json.loads(string_only(raw))
        except (ValueError, zlib.error, pickle.UnpicklingError, EOFError, IndexError, TypeError) as e:
            raise DataError(f"{where}: the hidden tests cannot be read ({e}); fetch the file again") from None
    return list(found)


class _Strings(pickle.Unpickler):
    """A pickle of plain values: naming any class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def string_only(raw: bytes) -> str:
    """The one string a pickle holds. Raises pickle.UnpicklingError for anything else."""
    value = _Strings(io.BytesIO(raw)).load()
    if not isinstance(value, str):
        raise pickle.UnpicklingError(f"it holds a {type(value).__name__}, not a string")
    return value


def about(problems: Sequence[Problem], options: Mapping[str, Any]) -> str:
    """The window in words: version, dates found, count."""
    dates = sorted(str(p.meta["date"]) for p in problems)
    return f"version {options.get('version') or 'all'}, contests {dates[0]} to {dates[-1]}, {len(problems)} problems"


SUITE = Suite(
    name="livecodebench",
    title="LiveCodeBench",
    group="code & agentic",
    source=Source(
        "livecodebench/code_generation_lite",
        "CC (see its card); statements belong to their contests",
        "livecodebench",
        ("livecodebench/test*.jsonl", "code_generation_lite/test*.jsonl"),
    ),
    prompt=PROMPT,
    make=make,
    options={"start": None, "end": None, "version": None, "errata": "keep"},
    about=about,
    views={
        "livecodebench_fixed": lambda _, items: second_verdict(items, "fixed"),
        "livecodebench_official": lambda _, items: second_verdict(items, "official"),
    },
    samples=3,
    max_tokens=65536,
)
