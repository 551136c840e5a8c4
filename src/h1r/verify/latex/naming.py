"""What an equation says of a name: x = 5 answers "what is x" with 5, and so does 5 = x, or a chain that ends in 5."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from h1r.verify.latex.value import symbols

Node = tuple[Any, ...]


def has(node: Any, kind: str) -> bool:
    return (
        isinstance(node, tuple)
        and bool(node)
        and (node[0] == kind or any(has(c, kind) for c in node if isinstance(c, tuple)))
    )


def rounded(node: Node) -> bool:
    return node[0] == "rel" and "~" in node[1][1::2]


def unrounded(node: Node) -> Node:
    """What stands before an approximation: pi ~ 3.14 is pi, x = 1/3 ~ 0.33 is x = 1/3."""
    if not rounded(node):
        return node
    cut = node[1].index("~")
    if cut > 1:
        return ("rel", node[1][:cut])
    return node if is_name(node[1][0]) and node[1][0][0] != "const" else node[1][0]


def is_name(node: Node) -> bool:
    """What may stand left of a definition: a letter, f(x), (x, y), a word, anything made of letters alone."""
    if node[0] in ("sym", "text"):
        return True
    if node[0] == "const":
        return node[1] in ("e", "i")
    if node[0] == "ratio":
        return all(is_name(c) for c in node[1])
    if node[0] in ("mul", "add", "tuple", "list", "set"):
        first = node[1][0]
        called = node[0] == "mul" and len(node[1]) == 2 and first[0] == "sym" and first[1][0] in "fghPEFGTVSaA"
        return all(is_name(c) or (called and c is not first and c[0] == "num") for c in node[1])
    if node[0] == "pow":  # f^{-1}(x)
        return is_name(node[1]) and node[2] == ("neg", ("num", Fraction(1)))
    if node[0] in ("fn", "div"):
        return all(is_name(c) for c in (node[2] if node[0] == "fn" else node[1:]))
    return False


def unassigned(node: Node, other: Node) -> Node:
    """x = 5 (or 5 = x, or a chain that ends in 5) as 5, when the other side is no equation."""
    if node[0] == "list" and node[1][0][0] == "rel" and not any(i[0] == "rel" for i in node[1][1:]):
        head = _value_of(node[1][0])
        return ("list", (head, *node[1][1:])) if head is not None else node
    if node[0] == "list" and all(i[0] == "rel" for i in node[1]) and not has(other, "rel"):
        values = [_value_of(i) for i in node[1]]
        if other[0] == "list" and (grouped := _grouped(node, other)) is not None:
            return grouped
        return ("list", tuple(values)) if all(v is not None for v in values) else node
    if node[0] == "rel" and other[0] in ("interval", "tuple", "brack") and len(node[1]) == 5 and len(symbols(node)) > 1:
        low, high = node[1][0], node[1][4]  # 0 < f(x) < 1 is the interval of its values
        if is_name(node[1][2]) and not symbols(low) and not symbols(high):
            return ("rel", (low, node[1][1], ("sym", "x"), node[1][3], high))
    if node[0] != "rel" or (
        other[0] == "rel" and _value_of(other) is not None and "in" not in (node[1][1], other[1][1])
    ):
        return _same_name(node, other)
    value = _value_of(node)
    if value is None or (other[0] == "rel" and "in" not in node[1]):
        return node
    return value


def _value_of(node: Node) -> Node | None:
    if node[0] != "rel" or any(op not in ("=", "in", "~") for op in node[1][1::2]):
        return None
    left, right = node[1][0], node[1][-1]
    if node[1][1] == "in":
        return right if is_name(left) else None
    if is_name(left) and not (is_name(right) and right[0] == "sym" and left[0] != "sym"):
        return right  # type: ignore[no-any-return]
    if not symbols(left) and right[0] == "sym":
        return left  # type: ignore[no-any-return]
    if not symbols(node) and not has(node, "text"):
        return right  # type: ignore[no-any-return]
    return right if len(node[1]) > 3 and is_name(left) else None


def _grouped(node: Node, other: Node) -> Node | None:
    """p=5, q=2; p=7, q=2 as (5, 2), (7, 2), beside such a list."""
    sizes = {len(t[1]) for t in other[1] if t[0] == "tuple"}
    names = [i[1][0] for i in node[1]]
    if len(sizes) != 1 or any(t[0] != "tuple" for t in other[1]):
        return None
    size = sizes.pop()
    if len(names) % size or any(n != names[k % size] for k, n in enumerate(names)):
        return None
    values = [_value_of(i) for i in node[1]]
    if any(v is None for v in values):
        return None
    return ("list", tuple(("tuple", tuple(values[k : k + size])) for k in range(0, len(values), size)))


def _same_name(node: Node, other: Node) -> Node:
    """Of two definitions of one name (or of y and f(x)), the defined side."""
    if node[0] != "rel" or other[0] != "rel" or set(node[1][1::2]) != {"="} or set(other[1][1::2]) != {"="}:
        return node
    name, named = node[1][0], other[1][0]
    if name == named and is_name(name):  # of a chain a = b = c the last side
        return node[1][-1]  # type: ignore[no-any-return]
    if len(node[1]) != 3 or len(other[1]) != 3:
        return node
    functions = [n == ("sym", "y") or (n[0] == "mul" and n[1][0] == ("sym", "f")) for n in (name, named)]
    return node[1][2] if all(functions) else node
