"""One spelling: Unicode symbols to LaTeX, layout commands dropped, so that the lexer sees few forms."""

from __future__ import annotations

import re
import unicodedata

MAX_CHARS = 20_000  # of an answer that is to be parsed (equal strings of any length are equal)

UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ",
    "∗": "*", "∙": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "⩽": r"\le ",
    "⩾": r"\ge ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^\circ ",
    "√": r"\sqrt ", "∛": r"\sqrt[3]", "±": r"\pm ", "∓": r"\mp ", "…": r"\ldots ", "⋯": r"\ldots ", "θ": r"\theta ",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "φ": r"\phi ", "ω": r"\omega ", "μ": r"\mu ",
    "σ": r"\sigma ", "δ": r"\delta ", "ε": r"\epsilon ", "Δ": r"\Delta ", "∠": "", "⌊": r"\lfloor ", "⌋": r"\rfloor ",
    "⌈": r"\lceil ", "⌉": r"\rceil ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}", "⟨": r"\langle ", "⟩": r"\rangle ", "′": "'", "’": "'", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "∖": r"\setminus ", "∣": "|", "“": '"', "”": '"',
    "€": "", "£": "", "¥": "", "→": r"\to ", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "⁄": "/", "∕": "/",
}  # fmt: skip
SUPERSCRIPT = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n"))
SUBSCRIPT = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n"))
INVISIBLE = dict.fromkeys([0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0xAD, 0x2061, 0x2062, 0x2063, 0])

DROPPED = re.compile(
    r"\\(?:left|right|bigl|bigr|Bigl|Bigr|biggl|biggr|Biggl|Biggr|big|Big|bigg|Bigg|middle|displaystyle|textstyle"
    r"|scriptstyle|limits|nolimits|boldsymbol|mathbf|bm|pmb|mathit|mathsf|mathcal|hline|label|nonumber|noindent|phantom"
    r"|vphantom|strut|angle|measuredangle|triangle|hfill|hspace|vspace|centering|ensuremath|underline|rm|bf|it)(?![A-Za-z])"
)
ALIASES = (
    (re.compile(r"\\(?:dfrac|tfrac|cfrac|sfrac|nicefrac|flatfrac|Frac)(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:dbinom|tbinom)(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\(?:leq|leqslant|leqq)(?![A-Za-z])"), r"\\le"),
    (re.compile(r"\\(?:geq|geqslant|geqq)(?![A-Za-z])"), r"\\ge"),
    (re.compile(r"\\(?:neq|not\s*=)"), r"\\ne"),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:ast|star)(?![A-Za-z])"), "*"),
    (re.compile(r"\\colon(?![A-Za-z])"), ":"),
    (re.compile(r"\\(?:dots|cdots|dotsc|dotsb|dotso|vdots|ddots)(?![A-Za-z])"), r"\\ldots"),
    (re.compile(r"\\(?:bigcup)(?![A-Za-z])"), r"\\cup"),
    (re.compile(r"\\(?:backslash|smallsetminus)(?![A-Za-z])"), r"\\setminus"),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset"),
    (re.compile(r"\\(?:lbrace)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\(?:lbrack)(?![A-Za-z])"), "["),
    (re.compile(r"\\(?:rbrack)(?![A-Za-z])"), "]"),
    (re.compile(r"\\lparen(?![A-Za-z])"), "("),
    (re.compile(r"\\rparen(?![A-Za-z])"), ")"),
    (re.compile(r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])"), "|"),
    (re.compile(r"\\(?:lVert|rVert|Vert|\|)"), "|"),
    (re.compile(r"\\varphi(?![A-Za-z])"), r"\\phi"),
    (re.compile(r"\\(?:exponentialE|mathrm\{e\}|operatorname\{e\}|text\{e\})(?![A-Za-z])"), "e"),
    (re.compile(r"\\(?:imaginaryI|mathrm\{i\}|operatorname\{i\}|imath)(?![A-Za-z])"), "i"),
    (re.compile(r"\\differentialD(?![A-Za-z])|\\mathrm\{d\}"), "d"),
    (re.compile(r"\\degree(?:s)?(?![A-Za-z])|\\textdegree(?![A-Za-z])"), r"^\\circ "),
    (re.compile(r"\\(?:rightarrow|longrightarrow)(?![A-Za-z])"), r"\\to"),
    (re.compile(r"\\(?:euro|pounds|texteuro)(?![A-Za-z])"), ""),
)  # fmt: skip
REPEATING = re.compile(r"(?<![\d.])(\d{0,30})\.(\d{0,30})\\(?:overline|bar|dot)\s?(?:\{(\d{1,30})\}|(\d))")
THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\[,!;:]|,\\!|\\!,|\{\\,\}|,\\ ?!)+\s*(?=\d{3}(?!\d))")
ENDINGS = re.compile(r"(?:[\s.,;:]|\\\\|\\[,;:! ]|\\q?quad)+$")


def clean(text: str) -> str:
    """The text with every known variant of spelling removed. Linear in its length."""
    text = text.translate(INVISIBLE)
    text = "".join(UNICODE.get(c, c) for c in text)
    text = _scripts(_scripts(text, SUPERSCRIPT, "^"), SUBSCRIPT, "_")
    text = unicodedata.normalize("NFKC", text)
    text = text.replace(r"\$", "").replace("$", "").replace("~", " ")
    text = re.sub(r"(?<!\\)((?:\\\\)*)\\[ \n]", r"\1 ", text)
    text = text.replace("**", "^") if re.search(r"[\w)]\s*\*\*\s*[\w(-]", text) else text.replace("**", "")
    text = text.replace(r"\%", "%").replace(r"\#", "#").replace(r"\&", "&").replace(r"\_", "_")
    if "\\begin" not in text:  # a doubled backslash before a command is an escape too many, not a new line
        text = re.sub(
            r"\\\\(?=(?:le|leq|ge|geq|frac|sqrt|pi|infty|in|cup|left|right|cdot|times|boxed|text)(?![a-z]))",
            r"\\",
            text,
        )
    text = text.replace("...", r"\ldots ")
    text = re.sub(r"[_^]\{\s{0,9}\}", "", text)
    if "\\int" in text:  # the differential inside the fraction
        text = re.sub(
            r"\\frac\s?\{(\d{0,9})\s?(?:d|\\differentialD) ?(\\?[a-z]+)\s?\}\{([^{}]{1,99})\}",
            lambda m: rf"\frac{{{m[1] or 1}}}{{{m[3]}}} d{m[2]}",
            text,
        )
    text = re.sub(r"\\\\\s?\[-?[\d.]+ ?(?:pt|em|ex|mm|cm)\]", r"\\\\", text)
    text = re.sub(r"(?<![\d.])\d{1,3}(?: \d{3})+(?:(?![\d ])|(?= \d+/\d))", lambda m: m.group().replace(" ", ""), text)
    text = REPEATING.sub(_repeating, text)
    text = THOUSANDS.sub("", THOUSANDS.sub("", text))
    text = re.sub(r"(\d),\s?\\!\s*(?=\d{3}(?!\d))", r"\1", text)
    text = DROPPED.sub("", text)
    for pattern, replacement in ALIASES:
        text = pattern.sub(replacement, text)
    text = re.sub(
        r"\\[!,;:>]|\\q?quad(?![A-Za-z])|\\(?:thinspace|medspace|thickspace|enspace|space)(?![A-Za-z])", " ", text
    )
    text = ENDINGS.sub("", text.strip()[-1_000_000:]) if text.strip()[-1:] in ".,;:\\ dm!" else text.strip()
    return text.strip()


def _scripts(text: str, table: dict[str, str], mark: str) -> str:
    """x² to x^{2}."""
    if not any(c in table for c in text):
        return text
    pattern = re.compile("[" + "".join(table) + "]+")
    return pattern.sub(lambda m: mark + "{" + "".join(table[c] for c in m.group()) + "}", text)


def _repeating(match: re.Match[str]) -> str:
    """0.1\\overline{6} as the fraction it is."""
    whole, fixed, period = match.group(1) or "0", match.group(2), match.group(3) or match.group(4)
    below = (10 ** len(period) - 1) * 10 ** len(fixed)
    above = int(whole + fixed + period) - int(whole + fixed)
    return rf"(\frac{{{above}}}{{{below}}})"


def key(text: str) -> str:
    """The string tier: two texts with one key are the same answer."""
    text = re.sub(
        r"\\(?:text|mathrm|textbf|mbox|operatorname|textit|mathbf|textrm|rm)\s?\{([^{}\\]*)\}", r"\1", clean(text)
    )
    text = re.sub(r"\\([A-Za-z]+)\s+", r"\\\1 ", text)
    return re.sub(r"\s+(?![A-Za-z\d])|(?<![A-Za-z\d])\s+|(?<=[A-Za-z])\s+(?=\d)", "", text).strip(".")
