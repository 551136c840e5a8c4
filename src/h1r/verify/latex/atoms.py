"""The smallest things a formula is made of: numbers, letters, brackets, and commands with their arguments."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from h1r.verify.latex import TooBig, Unreadable
from h1r.verify.latex.lex import FUNCTIONS, GREEK, WORDS, Token

if TYPE_CHECKING:
    from h1r.verify.latex.parse import Parser

Node = tuple[Any, ...]
MAX_DIGITS = 20_000
INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sec": "arcsec", "csc": "arccsc",
           "sinh": "arcsinh", "cosh": "arccosh", "tanh": "arctanh"}  # fmt: skip
CANONICAL = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh",
             "atanh": "arctanh", "arsinh": "arcsinh", "arcosh": "arccosh", "artanh": "arctanh", "lg": "log10",
             "sgn": "sign", "Re": "re", "Im": "im", "factorial": "factorial"}  # fmt: skip
ACCENTS = frozenset(
    f"\\{name}"
    for name in (
        "overline", "bar", "hat", "widehat", "tilde", "vec", "overrightarrow", "dot", "ddot", "mathbb", "mathrm", "mathbf",
        "overleftrightarrow", "overarc", "widetilde", "mathfrak", "mathscr",
    )
)  # fmt: skip
SETS = {"R": "R", "Z": "Z", "N": "N", "Q": "Q", "C": "C"}
MATRICES = frozenset(
    ["matrix", "pmatrix", "bmatrix", "vmatrix", "Vmatrix", "Bmatrix", "smallmatrix", "array", "psmallmatrix"]
)


def number(text: str) -> Node:
    """A number as written: ("num", Fraction), or ("dec", Fraction, places) when it has a decimal point."""
    digits = text.replace(",", "")
    if len(digits) > MAX_DIGITS:
        raise TooBig("a number with too many digits")
    if "." not in digits:
        return ("num", Fraction(_integer(digits)))
    whole, _, part = digits.partition(".")
    if not part:
        return ("num", Fraction(_integer(whole)))
    return ("dec", Fraction(_integer(whole + part), 10 ** len(part)), len(part))


def _integer(digits: str) -> int:
    """int() of any length up to MAX_DIGITS: the interpreter's own limit on digits is 4300."""
    value = 0
    for i in range(0, len(digits), 4000):
        piece = digits[i : i + 4000]
        value = value * 10 ** len(piece) + int(piece)
    return value


def symbol(name: str) -> Node:
    return ("const", name) if name in ("e", "i") else ("sym", name)


def atom(p: Parser) -> Node:
    """One operand. Raises Unreadable where none stands."""
    token = p.peek()
    if token.kind == "num":
        p.at += 1
        return number(token.value)
    if token.kind == "sym":
        p.at += 1
        return symbol(token.value)
    if token.kind in ("word", "text"):
        return _words(p)
    if token.kind == "begin":
        return _environment(p)
    if token.kind == "cmd":
        return command(p)
    if token.value in ("(", "[", "]", "\\{"):
        return bracket(p)
    if token.value == "{":
        return _braces(p)
    if token.value == "|":
        return _bars(p)
    if token.value in ("+", "-"):
        return p.unary()
    if token.value == "." or token.value == "?":
        p.at += 1
        return ("text", token.value)
    raise Unreadable(f"an operand was expected, found {token.value or 'the end'!r}")


def _words(p: Parser) -> Node:
    """A short unknown word is a product of letters, anything else is text."""
    token = p.take()
    if (
        token.kind == "word"
        and len(token.value) <= 3
        and token.value.lower() not in WORDS
        and p.peek().kind not in ("word",)
    ):
        return ("mul", tuple(symbol(c) for c in token.value))
    words = [token.value]
    while p.peek().kind in ("word", "text") or (p.peek().kind == "sym" and p.peek().space):
        words.append(p.take().value)
    return ("text", " ".join(" ".join(words).split()))


def _braces(p: Parser) -> Node:
    p.take("{")
    items, _ = p.sequence(("}",))
    p.take("}")
    if not items:
        raise Unreadable("an empty group")
    return items[0] if len(items) == 1 else ("list", tuple(items))  # TeX's own braces group, they make no set


def _bars(p: Parser) -> Node:
    p.take("|")
    p.bars += 1
    outer, inner = p.bars, p.additive()
    p.bars = outer - 1
    p.take("|")
    return ("fn", "abs", (inner,))


def bracket(p: Parser) -> Node:
    """( [ \\{ ] and what they enclose: a grouped operand, tuple, interval, set."""
    opener = p.take().value
    bars, p.bars = p.bars, 0
    integrals, p.integrals = p.integrals, 0
    if opener == "\\{":
        node = _set(p)
    else:
        items, _ = p.sequence((")", "]", "["))
        closer = p.take().value
        if closer not in (")", "]", "["):
            raise Unreadable(f"bracket closed by {closer!r}")
        node = _enclosed(opener, items, closer)
    p.bars, p.integrals = bars, integrals
    return node


def _enclosed(opener: str, items: list[Node], closer: str) -> Node:
    low, high = opener == "[", closer == "]"
    if len(items) == 1:
        if (opener == "(" and closer == ")") or (low and high):
            return items[0]
        raise Unreadable("a half-open bracket around one thing")
    if not items:
        return ("set", ()) if opener == "\\{" else ("tuple", ())
    if opener == "(" and closer == ")":
        return ("tuple", tuple(items))
    if low and high and len(items) != 2:
        return ("brack", tuple(items))
    if len(items) != 2:
        raise Unreadable("an interval has two ends")
    return ("brack", tuple(items)) if low and high else ("interval", items[0], items[1], low, high)


def _set(p: Parser) -> Node:
    p.bars, p.colons = 1, False
    items, _ = p.sequence(("\\}", "|", ":"))
    p.bars, p.colons = 0, True
    if p.peek().value in ("|", ":"):
        p.at += 1
        conditions, word = p.sequence(("\\}",))
        p.take("\\}")
        if not items or not conditions:
            raise Unreadable("a set without a rule")
        return (
            "setb",
            items[0],
            conditions[0] if len(conditions) == 1 else ("and" if word != "or" else "or", tuple(conditions)),
        )
    p.take("\\}")
    return ("set", tuple(items))


def _environment(p: Parser) -> Node:
    """A matrix as rows; cases and aligned lines as a list."""
    name = p.take().value.rstrip("*")
    if name == "array" and p.peek().value == "{":
        p.argument_tokens()
    rows: list[tuple[Node, ...]] = []
    row: list[Node] = []
    while p.peek().kind != "end":
        token = p.peek()
        if token.kind == "eof":
            raise Unreadable("an environment that never ends")
        if token.value == "&":
            p.at += 1
        elif token.value in ("\\\\", ";"):
            p.at += 1
            rows.append(tuple(row))
            row = []
        elif token.value in (",", "["):
            p.at += 1
        else:
            row.append(p.relation())
    p.at += 1
    rows = [r for r in [*rows, tuple(row)] if r]
    if name in ("vmatrix",):
        return ("fn", "det", (("matrix", tuple(rows)),))
    if name in MATRICES:
        return ("matrix", tuple(rows))
    items = [cell for r in rows for cell in r]
    if not items:
        raise Unreadable("an empty environment")
    return ("list", tuple(items)) if len(items) > 1 else items[0]


def command(p: Parser) -> Node:
    """A backslash word and its arguments."""
    from h1r.verify.latex import calculus

    token = p.take()
    name = token.value[1:]
    if name == "frac":
        return calculus.fraction(p)
    if name == "sqrt":
        return _root(p)
    if name in ("binom", "choose"):
        if p.peek().value == "(":
            return _call(p, "binom")
        top = p.argument()
        return ("fn", "binom", (top, p.argument()))
    if name in FUNCTIONS:
        return function(p, name)
    if name in ("pi", "infty", "inf", "infinity", "oo"):
        return ("const", "pi" if name == "pi" else "inf")
    if name in ("sum", "prod", "int", "lim"):
        return getattr(calculus, {"sum": "total", "prod": "total", "int": "integral", "lim": "limit"}[name])(p, name)  # type: ignore[no-any-return]
    if name in ("lfloor", "lceil"):
        inner = p.additive()
        p.take("\\rfloor" if name == "lfloor" else "\\rceil")
        return ("fn", "floor" if name == "lfloor" else "ceil", (inner,))
    if name == "langle":
        items, _ = p.sequence(("\\rangle",))
        p.take("\\rangle")
        return ("tuple", tuple(items))
    if name == "ldots":
        return ("dots",)
    if name == "emptyset":
        return ("set", ())
    if token.value in ACCENTS:
        return _accented(p, name)
    if name in GREEK or name in ("partial", "nabla", "ell", "top", "prime"):
        return ("sym", name)
    if name in ("overset", "underset", "stackrel", "color", "textcolor"):
        p.argument()
        return p.argument()
    if name in ("boxed", "fbox", "mathrm"):
        return p.argument()
    raise Unreadable(f"command {token.value}")


def _accented(p: Parser, name: str) -> Node:
    start = p.at
    if p.peek().value == "{":
        p.argument_tokens()
    else:
        p.at += 1
    inner = "".join(t.value for t in p.items[start : p.at]).strip("{}")
    if name == "mathbb" and inner in SETS:
        return ("named", SETS[inner])
    if name in ("mathrm", "mathbf", "mathfrak", "mathscr"):
        return symbol(inner) if len(inner) == 1 else ("text", inner)
    name = {"bar": "overline", "overrightarrow": "vec"}.get(name, name)
    return ("sym", f"{name}({inner})")


def _root(p: Parser) -> Node:
    degree: Node = ("num", Fraction(2))
    if p.peek().value == "[":
        p.at += 1
        degree = p.additive()
        p.take("]")
    if p.peek().kind == "num":
        return ("root", number(p.take().value), degree)
    return ("root", bracket(p) if p.peek().value == "(" else p.argument(), degree)


def function(p: Parser, name: str) -> Node:
    """sin x, sin^2 x, log_2 8, max(1, 2): the argument reaches over implicit factors, not over an operator."""
    name = CANONICAL.get(name, name)
    power: Node | None = None
    base: Node | None = None
    while p.peek().value in ("^", "_") and p.peek().kind == "op":
        if p.take().value == "_":
            base = p.argument() if p.peek().value == "{" or p.peek().kind != "num" else number(p.take().value)
        elif power is None:
            power = ("neg", p.power_operand()) if p.accept("-") else p.power_operand()
    if power in (("neg", ("num", Fraction(1))),) and name in INVERSE:
        name, power = INVERSE[name], None
    node = _call(p, name) if p.peek().value == "(" else ("fn", name, _listed(_argument(p)))
    if base is not None and name == "log":
        node = ("fn", "logb", (*node[2], base))
    return node if power is None else ("pow", node, power)


def _call(p: Parser, name: str) -> Node:
    inner = bracket(p)
    items = inner[1] if inner[0] == "tuple" else (inner,)
    if name == "log" and len(items) == 2:
        return ("fn", "logb", items)
    return ("fn", name, tuple(items))


def _argument(p: Parser) -> Node:
    if p.peek().value == "{":
        inner = p.argument()
        return inner
    node = p.unary()
    while (
        p.starts_factor()
        and p.peek().value not in ("(", "[", "\\frac")
        and not (p.peek().kind == "cmd" and p.peek().value[1:] in FUNCTIONS and p.peek().value != "\\sqrt")
    ):
        right = p.power()
        node = ("mul", (*(node[1] if node[0] == "mul" else (node,)), right))
    return node


def _listed(node: Node) -> tuple[Node, ...]:
    return node[1] if node[0] in ("set", "list") else (node,)


def is_letter(token: Token) -> bool:
    return token.kind == "sym" or (token.kind == "cmd" and token.value[1:] in GREEK)
