"""Characters to tokens. A token is (kind, value): num, sym, word, cmd, text, op; spaces are remembered on the token."""

from __future__ import annotations

import re
from typing import NamedTuple

from h1r.verify.latex import TooBig, Unreadable

MAX_TOKENS = 4000
FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "arccot",
        "arcsec",
        "arccsc",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "coth",
        "sech",
        "csch",
        "arcsinh",
        "arccosh",
        "arctanh",
        "asinh",
        "acosh",
        "atanh",
        "arsinh",
        "arcosh",
        "artanh",
        "log",
        "ln",
        "lg",
        "exp",
        "sqrt",
        "cbrt",
        "abs",
        "gcd",
        "lcm",
        "max",
        "min",
        "floor",
        "ceil",
        "det",
        "binom",
        "factorial",
        "sgn",
        "sign",
        "Re",
        "Im",
        "arg",
        "mod",
        "re",
        "im",
        "conjugate",
    ]
)
SPELLED = {"Max": "max", "Min": "min", "Abs": "abs", "binomial": "binom", "ceiling": "ceil"}  # sympy's own names
CONSTANTS = frozenset(["pi", "infty", "inf", "infinity", "oo"])
GREEK = frozenset(
    [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "varepsilon",
        "zeta",
        "eta",
        "theta",
        "vartheta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
        "rho",
        "varrho",
        "sigma",
        "tau",
        "upsilon",
        "phi",
        "chi",
        "psi",
        "omega",
        "Gamma",
        "Delta",
        "Theta",
        "Lambda",
        "Xi",
        "Pi",
        "Sigma",
        "Upsilon",
        "Phi",
        "Psi",
        "Omega",
        "ell",
        "hbar",
    ]
)
WORDS = frozenset(  # units and small words: never products of letters
    "and or cm mm km kg mg ml mi ft in yd hr min sec mph kmh pm am if is the for of per day rad deg pct".split()  # noqa: SIM905
)
FLOAT = re.compile(r"(?<![\w.])((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)[eE]([-+]?\d{1,3})(?![\w.])")
PROSE = re.compile(r"\s+[A-Za-z]{2,}")
TEXT_COMMANDS = frozenset(
    ["text", "mbox", "textbf", "textit", "textrm", "mathrm", "operatorname", "texttt", "textsf", "hbox", "emph"]
)
TOKEN = re.compile(
    r"(?P<num>\d+(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+\.\d+|\d+(?:\.(?!\d))?|\.\d+)"
    r"|(?P<cmd>\\[A-Za-z]+)|(?P<esc>\\.)|(?P<word>[A-Za-z]+)|(?P<space>\s+)"
    r"|(?P<op><=|>=|!=|==|=<|=>|[-+*/^_=<>(){}\[\]|,;:!'&%#?@\"`])|(?P<other>.)",
    re.DOTALL,
)
RELATIONS = {
    "=": "=", "==": "=", "<": "<", ">": ">", "<=": "<=", "=<": "<=", ">=": ">=", "\\le": "<=", "\\ge": ">=", "\\ne": "!=",
    "!=": "!=", "\\approx": "~", "\\equiv": "===", "\\in": "in", "\\notin": "notin", "\\subset": "sub", "\\subseteq": "sube",
    "\\to": "to", "\\sim": "sim", "\\cong": "cong", "\\simeq": "~", "\\parallel": "par", "\\perp": "perp", "\\coloneqq": "=",
    "\\propto": "prop", "\\mapsto": "to",
}  # fmt: skip
STOPPERS = frozenset(
    [
        "\\cdot",
        "\\times",
        "\\div",
        "\\cup",
        "\\cap",
        "\\setminus",
        "\\pm",
        "\\mp",
        "\\rangle",
        "\\rfloor",
        "\\rceil",
        "\\bmod",
        "\\pmod",
        "\\land",
        "\\wedge",
        "\\lor",
        "\\vee",
        "\\choose",
        "\\over",
        "\\cdots",
        "\\bullet",
        "\\circ",
        "\\implies",
        "\\Rightarrow",
        "\\iff",
        "\\Leftrightarrow",
        "\\text",
        "\\right",
        "\\mod",
        "\\%",
        "\\quad",
    ]
)


class Token(NamedTuple):
    kind: str
    value: str
    space: bool  # space stood before it


def tokens(text: str, commas: str = "thousands") -> list[Token]:
    """Tokens of a cleaned text. commas: what 1,234 and 1,5 are: "thousands", "list" (always separators), "decimal";
    or "float": what 1e3 is."""
    out: list[Token] = []
    space, i = False, 0
    if commas == "float":
        text = FLOAT.sub(r"(\1*10^{\2})", text)
    if commas == "decimal":
        text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    while i < len(text):
        match = TOKEN.match(text, i)
        assert match is not None
        kind, value, i = str(match.lastgroup), match.group(), match.end()
        if kind == "space":
            space = True
            continue
        if kind == "num" and "," in value and (commas == "list" or not re.match(r"\d{1,3}(,\d{3})+(\.\d+)?$", value)):
            value = value.split(",")[0]
            i = match.start() + len(value)
        if kind == "cmd" and value[1:] in TEXT_COMMANDS:
            i = _text(text, i, out, space, value[1:])
        elif kind == "cmd" and value == r"\begin":
            end = text.find("}", i)
            out.append(Token("begin", text[i + 1 : end].strip("{ ") if end > 0 else "", space))
            i = end + 1 if end > 0 else len(text)
        elif kind == "cmd" and value == r"\end":
            end = text.find("}", i)
            out.append(Token("end", text[i + 1 : end].strip("{ ") if end > 0 else "", space))
            i = end + 1 if end > 0 else len(text)
        elif kind == "word":
            _word(value, out, space, text[i : i + 24])
        elif kind == "other":
            raise Unreadable(f"character {value!r}")
        else:
            out.append(Token({"esc": "op"}.get(kind, kind), value.rstrip(".") if kind == "num" else value, space))
        space = False
        if len(out) > MAX_TOKENS:
            raise TooBig("too many tokens")
    return out


def _text(text: str, i: int, out: list[Token], space: bool, command: str) -> int:
    """\\text{...}: its words as one token; a name of a function or a single letter as itself."""
    while i < len(text) and text[i] in " *":
        i += 1
    if i >= len(text) or text[i] != "{":
        return i
    depth, end = 0, i
    while end < len(text):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
        if depth == 0:
            break
    content = re.sub(r"[\\$]\w*|[{}]", " ", text[i + 1 : end - 1]) if "\\" in text[i:end] else text[i + 1 : end - 1]
    stripped = content.strip()
    if stripped in FUNCTIONS:
        out.append(Token("cmd", "\\" + stripped, space))
    elif (
        command in ("mathrm", "operatorname")
        and re.fullmatch(r"[A-Za-z]", stripped)
        and (not out or out[-1].kind != "num")
    ):
        out.append(Token("sym", stripped, space))
    elif re.fullmatch(r"[-+]?\d[\d.,]*", stripped):
        out.extend(tokens(stripped))
    elif stripped:
        out.append(Token("text", stripped, space))
    return end


def _word(word: str, out: list[Token], space: bool, after: str) -> None:
    """Letters in a row: a known name, a single letter, or, when neither, one word for the parser to decide about."""
    word = SPELLED.get(word, word)
    if (word in FUNCTIONS and len(word) > 1) or word in CONSTANTS or (word in GREEK and word not in ("Pi",)):
        out.append(Token("cmd", "\\" + word, space))
    elif len(word) == 1:
        out.append(Token("sym", word, space))
    elif (
        len(word) <= 3 and word.lower() not in WORDS and not PROSE.match(after) and not (out and out[-1].kind == "word")
    ):
        out.extend(Token("sym", letter, space and i == 0) for i, letter in enumerate(word))
    else:
        out.append(Token("word", word, space))
