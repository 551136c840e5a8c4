"""Whether two trees mean the same: symmetric by construction, each kind of object by its own rule.

Scalars: exact rationals; residues modulo three primes where they are too long to write; numbers to 60 and then 240
digits; values at random points where symbols are left. Collections: element by element. Real sets and inequalities:
the same members among all their critical points, their neighbours and random points.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import mpmath
from mpmath import mp

from h1r.verify.latex import Unreadable, sets
from h1r.verify.latex.naming import has, rounded, unassigned, unrounded
from h1r.verify.latex.numeric import evaluate
from h1r.verify.latex.scalar import Finding, scalars
from h1r.verify.latex.value import exact, symbols
from h1r.verify.policy import Policy

Node = tuple[Any, ...]
SAID: dict[str, Node] = {
    **dict.fromkeys(("allrealnumbers", "allreals", "realnumbers", "anyrealnumber", "allrealx"), ("named", "R")),
    **dict.fromkeys(("nosolution", "nosolutions", "norealsolution", "norealsolutions", "emptyset"), ("set", ())),
}
ORDERED = ("tuple", "brack", "interval")
SEVERAL = ("list", "tuple", "brack", "set")
MAX_ITEMS = 200
NUMERIC_FAILURES = (ArithmeticError, ValueError, TypeError, mpmath.libmp.NoConvergence)


def same(a: Node, b: Node, policy: Policy) -> Finding:
    """Compare two trees. Raises TooBig or Unreadable when no tier could decide."""
    if a == b or (a[0] == b[0] and a[0] in ("union", "inter") and _flat(a) == _flat(b)):
        return Finding(True, "structure")
    if rounded(a) != rounded(b):
        a, b = unrounded(a), unrounded(b)
    a, b = unassigned(a, b), unassigned(b, a)
    if a == b:
        return Finding(True, "structure")
    if has(a, "pm") or has(b, "pm"):
        left, right = spread(a), spread(b)
        return _unordered(left, right, policy)
    kinds = {a[0], b[0]}
    if (a[0] == "text") != (b[0] == "text"):
        a, b = SAID.get(letters(a), a) if a[0] == "text" else a, SAID.get(letters(b), b) if b[0] == "text" else b
        kinds = {a[0], b[0]}
        if a == b:
            return Finding(True, "text")
    if "text" in kinds:
        return Finding(letters(a) == letters(b) != "", "text")
    if "base" in kinds:
        return Finding(_base(a) == _base(b), "exact")
    for node, other in ((a, b), (b, a)):
        if node[0] == "pct":
            return _percent(node, other, policy)
        if node[0] == "deg":
            inner = other[1] if other[0] == "deg" else other
            return (
                _either(same(node[1], inner, policy), node, other, policy)
                if other[0] != "deg"
                else same(node[1], inner, policy)
            )
    if sets.is_set(a) or sets.is_set(b):
        return Finding(sets.same(a, b), "set")
    if "rel" in kinds or "pmod" in kinds:
        return _relations(a, b, policy)
    if kinds & {*SEVERAL, "matrix", "interval"}:
        return _collections(a, b, policy)
    if "ratio" in kinds:
        return _ratios(a, b, policy)
    if kinds & {"dots", "named", "setb", "or", "and"}:
        return Finding(False, "structure")
    return scalars(a, b, policy)


def _flat(node: Node) -> list[str]:
    """Members of a chain of unions or intersections, in one order."""
    inner = [_flat(c) if c[0] == node[0] else [repr(c)] for c in node[1:]]
    return sorted({m for members in inner for m in members})


def spread(node: Node) -> list[Node]:
    """Every value of a tree with plus-minus signs; the items of a list, each spread."""
    if node[0] in ("list", "set"):
        return [v for item in node[1] for v in spread(item)]
    if not has(node, "pm"):
        return [node]
    return [_signed(node, 1), _signed(node, -1)]


def _signed(node: Any, sign: int) -> Any:
    if not isinstance(node, tuple):
        return node
    if node and node[0] == "pm":
        term = _signed(node[2], sign)
        term = term if sign * node[3] > 0 else ("neg", term)
        return term if node[1] is None else ("add", (_signed(node[1], sign), term))
    return tuple(_signed(c, sign) for c in node)


def letters(node: Node) -> str:
    """A word as written, whatever it was read as."""
    if node[0] in ("text", "sym", "const"):
        return "".join(c for c in str(node[1]).casefold() if c.isalnum())
    if node[0] == "mul" and all(c[0] in ("sym", "const", "text") for c in node[1]):
        return "".join(letters(c) for c in node[1])
    if node[0] == "num" and node[1].denominator == 1 and abs(node[1]) < 10**12:
        return str(node[1])
    return ""


def _base(node: Node) -> tuple[str, str]:
    """Digits and base; a number without a base is taken to be in the one asked for only when written alike."""
    if node[0] == "base":
        return node[1].lstrip("0") or "0", node[2]
    return "", ""


def _percent(node: Node, other: Node, policy: Policy) -> Finding:
    if other[0] == "pct":
        return same(node[1], other[1], policy)
    first = same(("div", node[1], ("num", Fraction(100))), other, policy)
    return first if first.same or not policy.percent_as_number else same(node[1], other, policy)


def _either(first: Finding, node: Node, other: Node, policy: Policy) -> Finding:
    """Degrees dropped, or degrees in radians against a multiple of pi."""
    return first if first.same or not has(other, "const") else scalars(node, other, policy)


# ---- several things


def _collections(a: Node, b: Node, policy: Policy) -> Finding:
    if "matrix" in (a[0], b[0]):
        left, right = _rows(a), _rows(b)
        if (left is None and has(a, "matrix")) or (right is None and has(b, "matrix")):
            raise Unreadable("matrix arithmetic")
        if left is None or right is None or [len(r) for r in left] != [len(r) for r in right]:
            return Finding(False, "structure")
        return _ordered([c for r in left for c in r], [c for r in right for c in r], policy)
    if "interval" in (a[0], b[0]):
        if a[0] != b[0] or a[3:] != b[3:]:
            return Finding(False, "structure")
        return _ordered(a[1:3], b[1:3], policy)
    left_items, right_items = _items(a), _items(b)
    kinds = {a[0], b[0]}
    if kinds == {"tuple", "brack"} and len(left_items) == 2:
        return Finding(False, "structure")
    if "set" in kinds and kinds & set(ORDERED):
        return Finding(False, "structure")
    if has(a, "dots") or has(b, "dots") or kinds & set(ORDERED) or not policy.unordered_lists:
        return _ordered(left_items, right_items, policy)
    if "set" in kinds or (left_items and all(i[0] == "tuple" for i in (*left_items, *right_items))):
        left_items, right_items = _distinct(left_items, policy), _distinct(right_items, policy)
    return _unordered(left_items, right_items, policy)


def _items(node: Node) -> Sequence[Node]:
    return node[1] if node[0] in SEVERAL else (node,)


def _rows(node: Node) -> list[Sequence[Node]] | None:
    """Rows of a matrix; a tuple is one column."""
    if node[0] == "matrix":
        rows = list(node[1])
        return (
            [(r[0],) for r in rows]
            if all(len(r) == 1 for r in rows)
            else [(c,) for c in rows[0]]
            if len(rows) == 1
            else rows
        )
    if node[0] in ("tuple", "brack"):
        if all(c[0] in ("brack", "tuple") for c in node[1]):
            return [c[1] for c in node[1]]
        return [(c,) for c in node[1]]
    return None


def _ordered(a: Sequence[Node], b: Sequence[Node], policy: Policy) -> Finding:
    if len(a) != len(b):
        return Finding(False, "structure")
    tier = "structure"
    for x, y in zip(a, b):
        found = same(x, y, policy)
        if not found.same:
            return found
        tier = found.tier if found.tier != "structure" else tier
    return Finding(True, tier)


def _distinct(items: Sequence[Node], policy: Policy) -> list[Node]:
    kept: list[Node] = []
    for item in items[:MAX_ITEMS]:
        if not any(same(item, k, policy).same for k in kept):
            kept.append(item)
    return kept


def _unordered(a: Sequence[Node], b: Sequence[Node], policy: Policy) -> Finding:
    if len(a) != len(b):
        return Finding(False, "structure")
    if len(a) > MAX_ITEMS:
        return Finding(sorted(map(repr, a)) == sorted(map(repr, b)), "structure")
    left, tier = list(b), "structure"
    for x in a:
        for y in left:
            found = same(x, y, policy)
            if found.same:
                tier = found.tier if found.tier != "structure" else tier
                left.remove(y)
                break
        else:
            return Finding(False, "structure")
    return Finding(True, tier)


def _ratios(a: Node, b: Node, policy: Policy) -> Finding:
    if a[0] != b[0]:
        ratio, other = (a, b) if a[0] == "ratio" else (b, a)
        return (
            scalars(("div", *ratio[1]), other, policy)
            if len(ratio[1]) == 2 and other[0] == "div"
            else Finding(False, "structure")
        )
    if len(a[1]) != len(b[1]):
        return Finding(False, "structure")
    left, right = [exact(x) for x in a[1]], [exact(x) for x in b[1]]
    if all(left) and all(right):
        return Finding(len({x / y for x, y in zip(left, right) if x and y}) == 1, "exact")
    return _ordered(a[1], b[1], policy)


def _relations(a: Node, b: Node, policy: Policy) -> Finding:
    if a[0] == "pmod" or b[0] == "pmod":
        return _modular(a, b, policy)
    if a[0] != b[0]:
        return Finding(False, "structure")
    left, right = a[1], b[1]
    if (
        len(left) != 3
        or len(right) != 3
        or left[1] not in ("=", "<", "<=", ">", ">=", "!=")
        or right[1] not in ["=", "<", "<=", ">", ">=", "!="]
    ):
        if left[1::2] != right[1::2]:
            return Finding(False, "structure")
        return _ordered(left[0::2], right[0::2], policy)
    flip = {"<": ">", "<=": ">="}
    (la, op_a, ra), (lb, op_b, rb) = left, right
    if op_a in flip:
        la, op_a, ra = ra, flip[op_a], la
    if op_b in flip:
        lb, op_b, rb = rb, flip[op_b], lb
    if op_a != op_b:
        return Finding(False, "structure")
    f, g = ("add", (la, ("neg", ra))), ("add", (lb, ("neg", rb)))
    ratio = _constant_ratio(f, g)
    return Finding(ratio is not None and (op_a in ("=", "!=") or ratio > 0), "identity")


def _modular(a: Node, b: Node, policy: Policy) -> Finding:
    """x = 3 (mod 7), 10 (mod 7) and the bare number 3 are one residue; a bare 10 is not, unless it is what is written."""
    if a[0] != b[0]:
        residue, number = (a, b) if a[0] == "pmod" else (b, a)
        told, value = _residue(residue), exact(number)
        if told is None or value is None:
            return Finding(False, "structure")
        return Finding(value in (told[1], told[2]), "exact")
    moduli = same(a[2], b[2], policy)
    if not moduli.same:
        return moduli
    left, right = _residue(a), _residue(b)
    if left is None or right is None:
        return same(a[1], b[1], policy)
    return Finding(left[1] == right[1] and (left[0] == right[0] or None in (left[0], right[0])), "exact")


def _residue(node: Node) -> tuple[Node | None, Fraction, Fraction] | None:
    """(x, r, as written) of x = r (mod m), r from 0 to below m, x None where it is not named; None where these are no numbers."""
    inner, modulus = node[1], exact(node[2])
    name, written = None, inner
    if inner[0] == "rel":
        if len(inner[1]) != 3 or inner[1][1] not in ("===", "="):
            return None
        name, written = inner[1][0], inner[1][2]
    value = exact(written)
    return None if value is None or not modulus else (name, value % modulus, value)


def _constant_ratio(f: Node, g: Node) -> Any:
    """f/g when it is one non-zero constant at random points, else None."""
    names = sorted(symbols(f) | symbols(g))
    if symbols(f) != symbols(g):
        return None
    rng, ratios = random.Random(7), []
    with mp.workdps(40):
        for _ in range(8):
            env = {n: mp.mpf(rng.randint(-400, 400) * 2 + 1) / 37 for n in names}
            try:
                x, y = evaluate(f, env), evaluate(g, env)
            except NUMERIC_FAILURES:
                continue
            if x == 0 or y == 0 or mp.im(x) != 0 or mp.im(y) != 0:
                continue
            ratios.append(x / y)
        if len(ratios) < 3 or any(abs(r - ratios[0]) > mp.mpf(10) ** -25 * abs(r) for r in ratios):
            return None
    return ratios[0]
