"""Values as JSON and back. What comes back is built from exact builtin types, whatever class it had.

A value is null, true, false, a number, a string, a list, or {"t": tag, "v": content} for what JSON lacks.
Nothing of a candidate's own methods decides what the other side sees, apart from what the value is.
"""

from __future__ import annotations

import builtins
import decimal
import fractions
import math
from collections.abc import Callable
from typing import Any

MAX_NODES = 3_000_000
MAX_DEPTH = 200


class TooLarge(ValueError):
    """More than MAX_NODES values, or nested deeper than MAX_DEPTH."""


class Foreign(TypeError):
    """A value with no plain form."""


class Encoder:
    """Counts what it has seen; `other` decides what becomes of objects with no plain form."""

    def __init__(self, other: Callable[[Any], Any] | None = None, tuples: bool = True) -> None:
        self.left = MAX_NODES
        self.other = other
        self.tuples = tuples

    def encode(self, x: Any, depth: int = 0) -> Any:
        self.left -= 1
        if self.left < 0 or depth > MAX_DEPTH:
            raise TooLarge("a value too large to report")
        kind = type(x)
        if x is None or kind is bool or kind is str:
            return x
        if isinstance(x, bool):
            return bool(x)
        if isinstance(x, int):
            return _integer(int.__add__(x, 0))
        if isinstance(x, float):
            return _float(float.__add__(x, 0.0))
        if isinstance(x, str):
            return str.__str__(x)
        if isinstance(x, list):
            return [self.encode(v, depth + 1) for v in list.__iter__(x)]
        if isinstance(x, tuple):
            items = [self.encode(v, depth + 1) for v in tuple.__iter__(x)]
            return {"t": "tuple", "v": items} if self.tuples else items
        if isinstance(x, dict):
            return {
                "t": "dict",
                "v": [[self.encode(k, depth + 1), self.encode(v, depth + 1)] for k, v in dict.items(x)],
            }
        if isinstance(x, (set, frozenset)):
            walk = set.__iter__ if isinstance(x, set) else frozenset.__iter__
            return {"t": "set", "v": [self.encode(v, depth + 1) for v in walk(x)]}  # type: ignore[arg-type]
        if isinstance(x, complex):
            return {"t": "complex", "v": [_float(complex.__add__(x, 0j).real), _float(complex.__add__(x, 0j).imag)]}
        if isinstance(x, (bytes, bytearray)):
            return {"t": "bytes", "v": bytes(x).hex()}
        if isinstance(x, type) and x.__module__ == "builtins":
            return {"t": "type", "v": x.__name__}
        return self._foreign(x, depth)

    def _foreign(self, x: Any, depth: int) -> Any:
        module = getattr(type(x), "__module__", "")
        if module == "numpy" and hasattr(x, "tolist"):
            return self.encode(x.tolist(), depth + 1)
        if type(x) in (decimal.Decimal, fractions.Fraction):
            return {"t": type(x).__name__, "v": str(x)}
        if module == "collections" and type(x).__name__ == "deque":
            return [self.encode(v, depth + 1) for v in list(x)]
        if self.other is not None:
            return self.other(x)
        raise Foreign(f"a value of type {type(x).__name__} has no plain form")


def _integer(x: int) -> Any:
    return x if -(1 << 62) < x < (1 << 62) else {"t": "int", "v": hex(x)}


def _float(x: float) -> Any:
    return x if math.isfinite(x) else {"t": "float", "v": repr(x)}


def decode(x: Any, other: Callable[[str, Any], Any] | None = None) -> Any:
    """The value again. `other(tag, content)` builds what is not plain."""
    if isinstance(x, list):
        return [decode(v, other) for v in x]
    if not isinstance(x, dict):
        return x
    tag, v = x["t"], x["v"]
    if tag == "tuple":
        return tuple(decode(i, other) for i in v)
    if tag == "dict":
        return {_hashable(decode(k, other)): decode(i, other) for k, i in v}
    if tag == "set":
        return {_hashable(decode(i, other)) for i in v}
    if tag == "int":
        return int(v, 16)
    if tag == "float":
        return float(v)
    if tag == "complex":
        return complex(decode(v[0]), decode(v[1]))
    if tag in ("Decimal", "Fraction"):
        return (decimal.Decimal if tag == "Decimal" else fractions.Fraction)(str(v))
    if tag == "type":
        return getattr(builtins, str(v))
    if tag == "bytes":
        return bytes.fromhex(v)
    if other is not None:
        return other(tag, v)
    raise Foreign(tag)


def _hashable(x: Any) -> Any:
    if isinstance(x, list):
        return tuple(_hashable(v) for v in x)
    return frozenset(_hashable(v) for v in x) if isinstance(x, set) else x
