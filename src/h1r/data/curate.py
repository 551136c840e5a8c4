"""Which problems with traces are worth training on: a reason to drop, or none.

The rules are those the Falcon-H1R report states: no empty reasoning or answer, math ends in a box, code parses and is
in the right language, tool turns have their results, nothing too long; wrong solutions go, except a share of the hard
ones. Token counts and verdicts come from the caller (`count`, `correct`): this room has neither tokenizer nor verifier.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from h1r.data.parallel import ordered
from h1r.errors import ConfigError
from h1r.types import Message, Problem

FENCE = re.compile(r"```([\w+#.-]*)[^\n]*\n(.*?)```", re.DOTALL)
ALIASES = {"py": "python", "python3": "python", "c++": "cpp", "cc": "cpp", "js": "javascript", "ts": "typescript"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterConfig:
    """max_tokens 0: any length. keep_incorrect: share of wrong solutions kept among problems at least `hard` difficult.
    foreign: largest share of letters outside the Latin and Greek scripts in a reply; 1 allows any language."""

    max_tokens: int = 0
    reasoning: bool = True
    box: bool = True
    syntax: bool = True
    foreign: float = 1.0
    keep_incorrect: float = 0.0
    hard: float = 0.75
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("foreign", "keep_incorrect", "hard"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be from 0 to 1")
        if self.max_tokens < 0:
            raise ConfigError(f"max_tokens={self.max_tokens}: must be 0 (any length) or more")


def curate(
    problems: Iterable[Problem],
    config: FilterConfig,
    *,
    count: Callable[[str], int] | None = None,
    correct: Callable[[Problem], bool | None] | None = None,
    tally: Counter[str] | None = None,
    workers: int = 1,
) -> Iterator[Problem]:
    """The problems that pass, in order; `tally` counts "kept" and every reason to drop. With several workers, `count` and
    `correct` must be picklable."""
    work = partial(reason, config=config, count=count, correct=correct)
    for problem, why in ordered(work, problems, workers):
        if tally is not None:
            tally[why or "kept"] += 1
        if not why:
            yield problem


def reason(
    problem: Problem,
    config: FilterConfig,
    *,
    count: Callable[[str], int] | None = None,
    correct: Callable[[Problem], bool | None] | None = None,
) -> str:
    """Why a problem's solution is not fit for training; "" when it is."""
    last = problem.solution[-1] if problem.solution else None
    if last is None or last.get("role") != "assistant":
        return "no solution"
    answer, calls = str(last.get("content") or "").strip(), last.get("tool_calls")
    if config.reasoning and not str(last.get("reasoning_content") or "").strip():
        return "empty reasoning"
    if not answer and not calls:
        return "empty answer"
    if config.box and problem.kind == "math" and "\\boxed{" not in answer:
        return "no final box"
    if problem.kind == "code" and (why := _code(answer, str(problem.meta.get("language", "")), config.syntax)):
        return why
    if _unanswered_calls((*problem.messages, *problem.solution)):
        return "tool result missing"
    if config.foreign < 1 and foreign_share(f"{last.get('reasoning_content') or ''} {answer}") > config.foreign:
        return "foreign language"
    if config.max_tokens and (count or _words)(text_of((*problem.messages, *problem.solution))) > config.max_tokens:
        return "too long"
    if correct is not None and correct(problem) is False:
        hard = problem.difficulty is not None and problem.difficulty >= config.hard
        if not (hard and share(problem.id, config.seed) < config.keep_incorrect):
            return "incorrect"
    return ""


def share(name: str, seed: int) -> float:
    """A number in [0, 1) that belongs to (name, seed): a fair, order-free coin for keeping a share."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") / 2**64


def text_of(messages: Iterable[Message]) -> str:
    """All that is said in some turns, reasoning and calls included."""
    parts: list[str] = []
    for m in messages:
        parts += [str(m.get("reasoning_content") or ""), str(m.get("content") or "")]
        parts += [str(c.get("function", c)) for c in m.get("tool_calls") or ()]
    return "\n".join(p for p in parts if p)


def _code(answer: str, language: str, syntax: bool) -> str:
    fences = FENCE.findall(answer)
    if not fences:
        return "no code block"
    named, body = fences[-1]
    found = ALIASES.get(named.lower(), named.lower())
    wanted = ALIASES.get(language.lower(), language.lower())
    if wanted and found and found != wanted:
        return "wrong language"
    if syntax and (found or wanted) == "python":
        try:
            ast.parse(body)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return "syntax error"
    return ""


def _unanswered_calls(messages: Iterable[Message]) -> bool:
    """Whether a call is followed by anything but its results; a call that ends the conversation may still wait."""
    open_calls = 0
    for m in messages:
        if m.get("role") == "tool":
            open_calls -= 1
            if not str(m.get("content") or "").strip():
                return True
        elif open_calls > 0:
            return True
        if m.get("tool_calls"):
            open_calls = len(m["tool_calls"])
    return False


def foreign_share(text: str) -> float:
    """Share of a text's letters that are neither Latin nor Greek."""
    letters = [c for c in text if c.isalpha()]
    # Latin with its extensions ends at U+024F, Greek (formulas) is U+0370 to U+03FF
    foreign = sum(not (c <= "\u024f" or "\u0370" <= c <= "\u03ff" or "\u1d00" <= c <= "\u214f") for c in letters)
    return foreign / len(letters) if letters else 0.0


def _words(text: str) -> int:
    return len(text.split())
