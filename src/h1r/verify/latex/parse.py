"""Tokens to a tree of nested tuples, by precedence climbing. Nothing is evaluated here.

    scalars    num Fraction | dec Fraction places | sym name | const pi e i inf | add mul (items) | neg div pow |
               root a n | fn name (args) | fact a k | pm a b sign | pct a | deg a | mixed whole part | base digits b |
               sum prod var lo hi body | int var lo hi body | lim var to side body | diff var order body | mod a n
    several    list tuple brack set (items) | interval lo hi closed closed | matrix rows | setb left condition | dots
    sets       union inter minus a b | named R
    relations  rel (a, op, b, op, c ...) | or and (items) | ratio (items)
    words      text string

Implicit multiplication binds as explicit. Limits: tokens, nesting depth; beyond them TooBig, outside the grammar Unreadable.
"""

from __future__ import annotations

from typing import Any

from h1r.verify.latex import TooBig, Unreadable, atoms
from h1r.verify.latex.lex import GREEK, RELATIONS, STOPPERS, WORDS, Token, tokens
from h1r.verify.latex.text import MAX_CHARS, clean

Node = tuple[Any, ...]
MAX_DEPTH = 120


class Parser:
    """Holds the token position, the depth, and which closers are awaited."""

    def __init__(self, items: list[Token]) -> None:
        self.items = items
        self.at = 0
        self.depth = 0
        self.bars = 0
        self.integrals = 0
        self.colons = True

    def peek(self, ahead: int = 0) -> Token:
        return self.items[self.at + ahead] if self.at + ahead < len(self.items) else Token("eof", "", False)

    def take(self, value: str | None = None) -> Token:
        token = self.peek()
        if token.kind == "eof" or (value is not None and token.value != value):
            raise Unreadable(f"expected {value or 'more'}, found {token.value or 'the end'!r}")
        self.at += 1
        return token

    def accept(self, *values: str) -> bool:
        if self.peek().kind in ("op", "cmd") and self.peek().value in values:
            self.at += 1
            return True
        return False

    # ---- levels, loosest first

    def sequence(self, closers: tuple[str, ...] = ()) -> tuple[list[Node], str]:
        """Items separated by commas, semicolons or words, and the last word that separated ("," "or" "and")."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooBig("nested too deeply")
        items: list[Node] = []
        word = ","
        while True:
            while self.peek().kind == "text" and self.peek().value.lower() in ("and", "or") and not items:
                self.at += 1
            if self.peek().kind == "eof" or self.peek().value in closers:
                break
            items.append(self.relation())
            joined = self.separator(closers)
            if joined is None:
                break
            word = joined if joined != "," else word
        self.depth -= 1
        return items, word

    def separator(self, closers: tuple[str, ...]) -> str | None:
        found = None
        while True:
            token = self.peek()
            text = token.value.strip(" ,.;").lower() if token.kind in ("text", "word") else ""
            if token.kind == "op" and token.value in (",", ";", "&") and token.value not in closers:
                found = found or ","
            elif text in ("and", "or") or (
                token.kind == "cmd" and token.value in ("\\land", "\\wedge", "\\lor", "\\vee")
            ):
                found = "or" if text == "or" or token.value in ("\\lor", "\\vee") else "and"
            elif token.kind == "esc" or (token.kind == "op" and token.value == "\\\\"):
                found = found or ","
            else:
                return found
            self.at += 1

    def relation(self) -> Node:
        left = self.union()
        parts: list[Any] = [left]
        while self.peek().kind in ("op", "cmd") and self.peek().value in RELATIONS:
            op = RELATIONS[self.take().value]
            if op == "<" and self.accept("="):
                op = "<="
            elif op == ">" and self.accept("="):
                op = ">="
            parts += [op, self.union()]
        node: Node = ("rel", tuple(parts)) if len(parts) > 1 else left
        if self.accept("\\pmod", "\\mod"):
            node = ("pmod", node, self.argument())
        elif self.peek().value == "(" and self.peek(1).value == "\\mod":
            self.at += 2
            node = ("pmod", node, self.additive())
            self.take(")")
        return self.trailer(node)

    def trailer(self, node: Node) -> Node:
        """Words behind an expression: percent, degrees, a unit, "and" for the caller, or a remark."""
        while self.peek().kind in ("text", "word"):
            text = self.peek().value.strip(" ,.;:()").lower()
            if text in ("and", "or"):
                return node
            self.at += 1
            if text.split()[:1] in (["percent"], ["pct"], ["percentage"]):
                node = ("pct", node)
            elif text in ("factorial",):
                node = ("fact", node, 1)
            elif text in ("for", "where", "if", "when", "with", "such that", "as"):
                self.at = self.remark_end()
                return node
            if self.accept("^"):
                self.argument()
            while self.peek().value in ("/", "\\cdot") and self.peek(1).kind in ("text", "word"):
                self.at += 1
        return node

    def remark_end(self) -> int:
        return len(self.items)

    def union(self) -> Node:
        node = self.ratio()
        while self.peek().kind == "cmd" and self.peek().value in ("\\cup", "\\cap", "\\setminus"):
            name = {"\\cup": "union", "\\cap": "inter", "\\setminus": "minus"}[self.take().value]
            node = (name, node, self.ratio())
        return node

    def ratio(self) -> Node:
        parts = [self.additive()]
        while self.colons and self.peek().value == ":" and self.peek().kind == "op" and self.peek(1).value != "=":
            self.at += 1
            parts.append(self.additive())
        if self.peek().value == ":" and self.peek(1).value == "=":
            self.at += 1
        return parts[0] if len(parts) == 1 else ("ratio", tuple(parts))

    def additive(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooBig("nested too deeply")
        node: Node | None = None
        while True:
            token = self.peek()
            if token.value in ("+", "-") and token.kind == "op":
                self.at += 1
                term = self.product()
                term = ("neg", term) if token.value == "-" else term
                node = term if node is None else ("add", (*(node[1] if node[0] == "add" else (node,)), term))
            elif token.value in ("\\pm", "\\mp"):
                self.at += 1
                node = ("pm", node, self.product(), 1 if token.value == "\\pm" else -1)
            elif node is None:
                node = self.product()
            else:
                break
        self.depth -= 1
        return node

    def product(self) -> Node:
        node = self.unary()
        while True:
            token = self.peek()
            if token.kind in ("op", "cmd") and token.value in ("*", "\\cdot", "\\times", "\\bullet"):
                self.at += 1
                node = _mul(node, self.unary())
            elif token.kind in ("op", "cmd") and token.value in ("/", "\\div"):
                self.at += 1
                node = ("div", node, self.unary())
            elif (token.kind == "cmd" and token.value == "\\bmod") or (
                token.kind == "cmd" and token.value == "\\mod" and node[0] in ("num", "sym")
            ):
                self.at += 1
                node = ("mod", node, self.unary())
            elif token.kind == "cmd" and token.value in ("\\choose", "\\over"):
                self.at += 1
                right = self.product()
                node = ("div", node, right) if token.value == "\\over" else ("fn", "binom", (node, right))
            elif self.starts_factor():
                node = self.juxtapose(node)
            else:
                return node

    def juxtapose(self, node: Node) -> Node:
        """Implicit multiplication, except that 3\\frac{1}{2} and 3 1/2 are mixed numbers."""
        token = self.peek()
        if node[0] == "num" and node[1].denominator == 1 and token.value == "\\frac":
            part = self.power()
            plain = part[0] == "div" and part[1][0] == part[2][0] == "num"
            if plain and 0 < part[1][1] < part[2][1]:
                return ("mixed", node, part)
            return _mul(node, part)
        if node[0] == "num" and token.kind == "num" and self.peek(1).value == "/" and self.peek(2).kind == "num":
            return self.postfix(self.mixed(node))
        if token.kind == "num" and node[0] in ("num", "dec"):
            raise Unreadable("two numbers side by side")
        return _mul(node, self.power())

    def mixed(self, whole: Node) -> Node:
        """11 5/6; anything that only looks like one (11 7/6, 4 0/0, 11.0 4/9) is no number, and no product either."""
        before = self.items[self.at - 1]
        top, bottom = self.take(), (self.take("/"), self.take())[1]
        if before.kind != "num" or not (before.value + top.value + bottom.value).replace(",", "").isdigit():
            return ("text", "no mixed number")
        above, below = atoms.number(top.value), atoms.number(bottom.value)
        if above[1] >= below[1]:
            return ("text", "no mixed number")
        return ("mixed", whole, ("div", above, below))

    def starts_factor(self) -> bool:
        token = self.peek()
        if self.integrals and self.is_differential():
            return False
        if token.kind in ("num", "sym", "begin"):
            return True
        if token.kind == "word":
            return len(token.value) <= 3 and token.value.lower() not in WORDS
        if token.kind == "cmd":
            return token.value not in STOPPERS and token.value not in RELATIONS
        if token.value == "|":
            return self.bars == 0
        return token.kind == "op" and token.value in ("(", "[", "{")

    def is_differential(self) -> bool:
        token = self.peek()
        if token.kind == "word":
            return len(token.value) == 2 and token.value[0] == "d"
        return (
            token.kind == "sym"
            and token.value == "d"
            and (self.peek(1).kind == "sym" or self.peek(1).value[1:] in GREEK)
        )

    def unary(self) -> Node:
        token = self.peek()
        if token.kind == "op" and token.value in ("+", "-"):
            self.at += 1
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise TooBig("nested too deeply")
            inner = self.unary()
            self.depth -= 1
            return ("neg", inner) if token.value == "-" else inner
        return self.power()

    def power(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooBig("nested too deeply")
        node = self.postfix(atoms.atom(self))
        self.depth -= 1
        return node

    def postfix(self, node: Node) -> Node:
        while True:
            token = self.peek()
            if token.value == "^" and token.kind == "op":
                self.at += 1
                node = self.exponent(node)
            elif token.value == "_" and token.kind == "op" and node[0] in ("sym", "num", "text"):
                self.at += 1
                node = self.subscript(node)
            elif token.value == "!" and token.kind == "op":
                count = 0
                while self.accept("!"):
                    count += 1
                node = ("fact", node, count)
            elif token.value == "%" and token.kind == "op":
                self.at += 1
                node = ("pct", node)
            elif token.value == "'" and token.kind == "op":
                self.at += 1
                node = ("sym", node[1] + "'") if node[0] == "sym" else node
            else:
                return node

    def exponent(self, node: Node) -> Node:
        if self.peek().value == "\\circ":
            self.at += 1
            if self.peek().kind == "sym" and self.peek().value in ("C", "F"):
                self.at += 1
            return ("deg", node)
        if self.peek().value == "{" and self.peek(1).value == "\\circ" and self.peek(2).value == "}":
            self.at += 3
            return ("deg", node)
        if self.peek().value in ("\\prime", "\\top", "\\dagger", "*"):
            return (
                ("sym", f"{node[1]}{self.take().value}")
                if node[0] == "sym"
                else ("pow", node, ("sym", self.take().value))
            )
        if self.accept("-"):
            power: Node = ("neg", self.power_operand())
        else:
            self.accept("+")
            power = self.power_operand()
        return ("pow", node, power)

    def power_operand(self) -> Node:
        token = self.peek()
        if token.value == "{":
            return self.argument()
        node = atoms.atom(self)
        while self.accept("!"):
            node = ("fact", node, 1)
        if self.peek().value == "^":
            self.at += 1
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise TooBig("nested too deeply")
            node = self.exponent(node)
            self.depth -= 1
        return node

    def subscript(self, node: Node) -> Node:
        start = self.at
        if self.peek().value == "{":
            self.argument_tokens()
        else:
            self.at += 1
        inner = "".join(t.value for t in self.items[start : self.at]).strip("{}")
        if node[0] == "num":
            return ("base", str(node[1]), inner)
        return ("sym", f"{node[1]}_{inner}")

    def argument_tokens(self) -> None:
        depth = 0
        while True:
            value = self.take().value
            depth += {"{": 1, "}": -1}.get(value, 0)
            if depth == 0:
                return

    def argument(self) -> Node:
        """What a command takes: {...}, or one token (one digit of a number)."""
        token = self.peek()
        if token.value == "{" and token.kind == "op":
            self.at += 1
            items, _ = self.sequence(("}",))
            self.take("}")
            if not items:
                raise Unreadable("an empty group")
            return items[0] if len(items) == 1 else ("list", tuple(items))
        if token.kind == "num" and len(token.value) > 1 and "." not in token.value:
            self.items[self.at] = Token("num", token.value[1:], False)
            return atoms.number(token.value[0])
        if token.kind == "word":
            self.items[self.at] = Token("sym" if len(token.value) == 2 else "word", token.value[1:], False)
            return atoms.symbol(token.value[0])
        return atoms.atom(self)


def _mul(a: Node, b: Node) -> Node:
    return ("mul", (*(a[1] if a[0] == "mul" else (a,)), b))


def parse(text: str, commas: str = "thousands") -> Node:
    """The tree of one answer. Raises Unreadable or TooBig."""
    if len(text) > MAX_CHARS:
        raise TooBig(f"{len(text)} characters")
    parser = Parser(tokens(clean(text), commas))
    try:
        items, word = parser.sequence()
    except RecursionError:
        raise TooBig("nested too deeply") from None
    if parser.peek().kind != "eof":
        raise Unreadable(f"cannot read from {parser.peek().value!r}")
    if not items:
        raise Unreadable("nothing there")
    if len(items) == 1:
        return items[0]
    if word in ("or", "and") and all(i[0] == "rel" and i[1][1] in ("<", ">", "<=", ">=", "!=", "in") for i in items):
        return (word, tuple(items))
    return ("list", tuple(items))
