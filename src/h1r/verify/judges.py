"""Outputs and return values against what was expected, by one of two graders, outside the sandbox.

fixed      lines stripped, blank lines at the end ignored; a line equal as text or token by token as numbers, to 1e-6
           (absolute or relative) where the expected token is written as a float; values likewise, tuples as lists
official   LiveCodeBench's: no tolerance; a line equal as text or as exact decimals; values by ==, only the outermost
           tuple a list
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any

GRADERS = ("fixed", "official")
TOLERANCE = 1e-6
MAX_TOKEN = 400  # digits of a number that is compared as one
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,4})?")


def output(got: str, want: str, grader: str) -> bool:
    """Whether a program's stdout is the expected one."""
    left, right = got.strip().split("\n"), want.strip().split("\n")
    if len(left) != len(right):
        return False
    line = _official_line if grader == "official" else _line
    return all(line(a.strip(), b.strip()) for a, b in zip(left, right))


def _line(got: str, want: str) -> bool:
    if got == want:
        return True
    left, right = got.split(), want.split()
    return len(left) == len(right) and all(_token(a, b) for a, b in zip(left, right))


def _token(got: str, want: str) -> bool:
    if got == want:
        return True
    if len(got) > MAX_TOKEN or len(want) > MAX_TOKEN or not NUMBER.fullmatch(got) or not NUMBER.fullmatch(want):
        return False
    a, b = Decimal(got), Decimal(want)
    if a == b:
        return True
    return bool(re.search(r"[.eE]", want)) and abs(a - b) <= Decimal(TOLERANCE) * max(Decimal(1), abs(b))


def _official_line(got: str, want: str) -> bool:
    if got == want:
        return True
    if len(got) > 1_000_000 or len(want) > 1_000_000:
        return False
    try:
        return [Decimal(t) for t in got.split()] == [Decimal(t) for t in want.split()]
    except InvalidOperation:
        return False


def value(got: Any, want: Any, grader: str) -> bool:
    """Whether a returned value, as it came out of the sandbox, is the expected one. Iterative: depth is no attack."""
    got, todo = _plain(got), []
    todo.append((got, _plain(want)))
    while todo:
        a, b = todo.pop()
        if isinstance(a, list) and isinstance(b, list):
            if len(a) != len(b):
                return False
            todo += list(zip(a, b))
        elif isinstance(a, dict) and isinstance(b, dict):
            if a.keys() != b.keys():
                return False
            todo += [(a[k], b[k]) for k in a]
        elif isinstance(a, float | int) and isinstance(b, float | int):
            near = grader == "fixed" and isinstance(b, float) and abs(a - b) <= TOLERANCE * max(1.0, abs(b))
            if not (a == b or near or (a != a and b != b)):
                return False
        elif type(a) is not type(b) or a != b:
            return False
    return True


def _plain(x: Any) -> Any:
    """Tagged values of the sandbox as JSON has them: keys of dictionaries become text, sets stay apart from lists."""
    if isinstance(x, (list, tuple)):
        return [_plain(v) for v in x]
    if not isinstance(x, dict):
        return x
    if set(x) != {"t", "v"}:
        return {str(k): _plain(v) for k, v in x.items()}
    tag, v = x["t"], x["v"]
    if tag == "dict":
        return {_key(k): _plain(i) for k, i in v}
    if tag == "int":
        return int(v, 16)
    if tag == "float":
        return float(v)
    return ("tagged", tag, repr(v)[:10_000])


def _key(k: Any) -> str:
    return str(_plain(k))


def short(x: Any) -> str:
    """The beginning of a value, for a reason."""
    try:
        text = (
            x if isinstance(x, str) else repr(_plain(x) if not isinstance(x, (list, dict)) or len(x) < 50 else x)[:200]
        )
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists in lists in lists
        text = f"a value of type {type(x).__name__} too large to show"
    return repr(text[:60]) + ("…" if len(text) > 60 else "")
