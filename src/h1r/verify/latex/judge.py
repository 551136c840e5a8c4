"""One comparison, inside a worker: parse both, compare, then the last resorts. Returns plain values, raises nothing for text.

judge(gold, answer, policy) -> {"verdict", "why", "tier", "gold", "answer"} with verdict correct, incorrect or unscored.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

from h1r.verify.latex import TooBig, Unreadable, symbolic
from h1r.verify.latex.lex import FLOAT
from h1r.verify.latex.parse import Node, parse
from h1r.verify.latex.same import same
from h1r.verify.latex.text import MAX_CHARS, key
from h1r.verify.policy import Policy

COMMA = re.compile(r"\d,\d")
FORM_CHARS = 300


def readings(text: str, policy: Policy) -> list[Node]:
    """Every tree a text may stand for: 1,234 is a number or a pair, 1,5 a pair or a decimal. Raises as `parse` does."""
    first = parse(text)
    found = [first]
    if COMMA.search(text):
        modes = ["list"]
        if (
            policy.decimal_comma
            and re.fullmatch(r"\s*-?\d+,\d+\s*(?:[^\d,].*)?", text)
            and (text.strip().lstrip("-").startswith("0,") or not re.search(r"\d,\d{3}(?!\d)", text))
        ):
            modes.append("decimal")
        for commas in modes:
            try:
                tree = parse(text, commas)
            except (Unreadable, TooBig):
                continue
            if tree not in found:
                found.append(tree)
    if re.search(r"(?<![A-Za-z\\])I(?![A-Za-z])", text) and "\\" not in text:  # sympy's imaginary unit
        found.append(parse(re.sub(r"(?<![A-Za-z\\])I(?![A-Za-z])", "i", text)))
    if re.search(r"\\log(?![A-Za-z]|\s*[_^])", text):  # log is the natural or the common logarithm
        found.append(parse(re.sub(r"\\log(?![A-Za-z]|\s*[_^])", r"\\log_{10} ", text)))
    if FLOAT.search(text):
        found.append(parse(text, "float"))
    return found


def form(tree: Node | None) -> str:
    """A tree as one short line."""
    return show(tree)[:FORM_CHARS] if tree is not None else ""


def show(node: Any) -> str:
    """Nested tuples as s-expressions."""
    if isinstance(node, tuple):
        if node and node[0] in ("num", "dec"):
            text = (
                str(node[1])
                if node[1].numerator.bit_length() < 2000 and node[1].denominator.bit_length() < 2000
                else "(long number)"
            )
            return text
        if len(node) == 2 and node[0] in ("sym", "const", "text", "named"):
            return str(node[1])
        return "(" + " ".join(show(c) for c in node) + ")"
    return str(node)


def _read(text: str, policy: Policy) -> tuple[list[Node], str]:
    """(readings, "") or ([], why there are none). A limit is reported as "limit: ..."."""
    try:
        return readings(text, policy), ""
    except TooBig as e:
        return [], f"limit: {e}"
    except (Unreadable, ArithmeticError, ValueError) as e:
        return [], f"unreadable: {e}"
    except RecursionError:
        return [], "limit: nested too deeply"


def judge(gold: str, answer: str, policy: Policy, ready: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Compare. `ready` is called once the gold is read: whatever takes too long afterwards is the answer's doing."""
    if key(gold) == key(answer) and key(gold):
        return _result("correct", "the same text", "string")
    golds, gold_trouble = _read(gold, policy)
    ready()
    answers, answer_trouble = _read(answer, policy)
    forms = {"gold": form(golds[0] if golds else None), "answer": form(answers[0] if answers else None)}
    trouble = ""
    if golds and answers:
        for a, b in itertools.product(golds, answers):
            found, trouble = _compare(a, b, policy, trouble)
            if found is not None and found[0]:
                return _result("correct", "the same value", found[1], **forms)
        if not trouble:
            return _result("incorrect", "another value", "value", **forms)
    if answer_trouble.startswith("limit") or trouble.startswith("limit"):
        return _result("incorrect", (answer_trouble or trouble), "limit", **forms)
    if golds and answers and symbolic.handles(golds[0], answers[0]):
        verdict = symbolic.same(golds[0], answers[0])
        if verdict is not None:
            return _result("correct" if verdict else "incorrect", "by sympy", "symbolic", **forms)
    if policy.math_verify and len(gold) < MAX_CHARS and len(answer) < MAX_CHARS:
        verdict = symbolic.math_verify(gold, answer)
        if verdict is not None:
            return _result("correct" if verdict else "incorrect", "by math-verify", "math-verify", **forms)
    if gold_trouble and not golds:
        return _result("unscored", f"gold {gold_trouble}", "none", **forms)
    return _result("incorrect", answer_trouble or trouble or "not comparable", "none", **forms)


def _compare(a: Node, b: Node, policy: Policy, trouble: str) -> tuple[tuple[bool, str] | None, str]:
    try:
        return tuple(same(a, b, policy)), trouble  # type: ignore[return-value]
    except TooBig as e:
        return None, f"limit: {e}"
    except (MemoryError, RecursionError):
        return None, "limit: memory"
    except (Unreadable, ArithmeticError, ValueError, TypeError, AttributeError, KeyError, IndexError) as e:
        return None, trouble or f"undecided: {e}"


def _result(verdict: str, why: str, tier: str, gold: str = "", answer: str = "") -> dict[str, Any]:
    return {"verdict": verdict, "why": why[:300], "tier": tier, "gold": gold, "answer": answer}
