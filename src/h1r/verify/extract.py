"""Where the answer stands in a reply. Linear scans with length caps; no regular expression that can backtrack badly.

Order: the last complete \\boxed after the closing </think> (boxes joined by "and" or a comma form one list); otherwise,
flagged as a fallback, what follows "the answer is", the last $...$, the whole reply when it is one short expression,
the last number. A reply whose thought never closes has no answer.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_REPLY = 2_000_000  # characters looked at, from the end
MAX_ANSWER = 200_000  # characters an extracted answer may have
JOIN_GAP = 44  # characters between two boxes that may still be one list
BOX = re.compile(r"(?:\\(?:boxed|fbox|framebox)|\\?beginboxed)(?![A-Za-z])")
DIGITS = r"[-+]?[$€£]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+,\d{1,2}(?![\d,])|\d+)(?:\.\d+)?(?:/\d+)?"
NUMBER = re.compile(rf"(?<![\w.]){DIGITS}|(?<![\w.])[-+]?\.\d+")
SAID = re.compile(rf"\b(?:is|are|be|by|equals?|=) {{0,3}}(?:exactly |about |approximately )?({DIGITS})(?![\w$])")
PREFIX = re.compile(r"(?:final answer|answer)(?:\s+is)?\s{0,4}(?::|\bis\b|=)?\s{0,4}", re.IGNORECASE)
HEDGE = re.compile(
    r"\b(?:i (?:do not|don't|dont) know|cannot (?:be )?determine|can't (?:be )?determine|no idea)\b", re.IGNORECASE
)
FUNCTIONS = (
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "arcsin",
    "arccos",
    "arctan",
    "sinh",
    "cosh",
    "tanh",
    "log",
    "ln",
    "exp",
)
NAMES = frozenset([*FUNCTIONS, "sqrt", "pi", "inf", "abs", "max", "min", "gcd", "lcm", "or", "and"])
CODE = re.compile(r"__\w+__|\blambda\b|\bimport\b|\b(?:eval|exec|open)\s?\(")


class Span(NamedTuple):
    """An extracted answer. how: boxed, prefix, math, whole, number, none; only boxed is not a fallback."""

    text: str
    how: str
    start: int = 0
    boxes: int = 0
    parts: tuple[str, ...] = ()  # the boxes that were joined to one list, when there were several

    @property
    def fallback(self) -> bool:
        return self.how not in ("boxed", "none")


class Reply(NamedTuple):
    """What comes after the thought. closed is False when a <think> was opened and never closed."""

    text: str
    closed: bool


def after_think(text: str) -> Reply:
    """The part of a raw text that counts as the answer."""
    text = text[-MAX_REPLY:]
    end = text.rfind("</think>")
    rest = text[end + len("</think>") :] if end >= 0 else text
    return Reply("", False) if "<think>" in rest else Reply(rest, True)


def answer(text: str, fallback: bool = True) -> Span:
    """The answer of a reply (think part already removed)."""
    text = text[-MAX_REPLY:]
    boxed = _boxed(text)
    if boxed is not None:
        return (_announced(text, boxed) or boxed) if fallback else boxed
    if not fallback or HEDGE.search(text) or "\\boxed" in text:
        return Span("", "none")
    return _prefixed(text) or _math(text) or _whole(text) or _closing(text) or _number(text) or Span("", "none")


def _announced(text: str, boxed: Span) -> Span | None:
    """What an explicit "the final answer is" after the last box says, where it says a value: it is the later word."""
    tail = text[_boxes(text)[-1][1] :]
    if not re.search(r"final answer is", tail, re.IGNORECASE):
        return None
    found = _prefixed(tail)
    return found if found and re.search(r"\d", found.text) and len(found.text) < 200 else None


def gold(text: str) -> str:
    """A gold answer without its wrapping: \\boxed{}, one pair of dollar signs, surrounding space."""
    boxed = _boxed(text)
    if boxed is not None:
        return boxed.text
    text = text.strip()
    for opener, closer in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        inner = text[len(opener) : -len(closer)]
        if (
            len(text) > len(opener) + len(closer)
            and text.startswith(opener)
            and text.endswith(closer)
            and opener not in inner
        ):
            return inner.strip()
    return text


def group(text: str, start: int) -> int:
    """Index just after the brace group that opens at `start`, or -1 when it never closes."""
    depth, i = 0, start
    while i < len(text):
        c = text[i]
        if c == "\\":
            i += 2
            continue
        if c == "{":
            depth += 1
        elif c == "}":
            depth -= 1
            if depth == 0:
                return i + 1
        i += 1
    return -1


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """Complete outermost boxes as (start, end, content), in order; one pass, unclosed ones are skipped."""
    found: list[tuple[int, int, str]] = []
    closes = _brace_pairs(text)
    position = 0
    for match in BOX.finditer(text):
        if match.start() < position:
            continue
        i = match.end()
        while i < len(text) and text[i] == " ":
            i += 1
        if i >= len(text):
            break
        if text[i] == "{":
            end = closes.get(i, -1)
            if end < 0:
                continue
            content = text[i + 1 : end - 1]
        else:
            bare = re.compile(r"-?(?:\d[\d,.]*\d|\w)").match(text, i)
            if bare is None:
                continue
            end, content = bare.end(), bare.group()
        found.append((match.start(), end, content))
        position = end
    return found


def _brace_pairs(text: str) -> dict[int, int]:
    """For each opening brace the index after its partner."""
    pairs: dict[int, int] = {}
    stack: list[int] = []
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        token = match.group()
        if token == "{":
            stack.append(match.start())
        elif token == "}" and stack:
            pairs[stack.pop()] = match.end()
    return pairs


def _boxed(text: str) -> Span | None:
    boxes = _boxes(text)
    if not boxes:
        return None
    first = len(boxes) - 1
    while (
        first > 0 and len(boxes) - first < 32 and _joins(text[boxes[first - 1][1] : boxes[first][0]], len(boxes) <= 4)
    ):
        first -= 1
    parts = [_inner(content) for _, _, content in boxes[first:]]
    tail = text[boxes[-1][1] : boxes[-1][1] + 24]
    joined = parts[-1] + _suffix(tail) if len(set(parts)) == 1 else ", ".join(parts)
    return Span(
        joined.strip()[:MAX_ANSWER], "boxed", boxes[first][0], len(boxes), tuple(parts) if len(set(parts)) > 1 else ()
    )


def _inner(content: str) -> str:
    """A box inside a box counts once."""
    for _ in range(8):
        inner = _boxes(content)
        if not inner:
            break
        start, end, text = inner[-1]
        outside = (content[:start] + content[end:]).strip(" $.,")
        content = text if not outside else content[:start] + text + content[end:]
    return content.strip()


def _joins(gap: str, touching: bool = False) -> bool:
    """Two boxes are one list when little more than a comma, "and" or "or" stands between them; touching: or nothing."""
    if not gap:
        return touching
    if len(gap) > JOIN_GAP or "\n\n" in gap:
        return False
    gap = re.sub(r"[A-Za-z](?:_\{?\w{1,3}\}?)?(?:\([a-z]\))?\s{0,2}=\s{0,2}$", "", gap)
    for space in ("\\quad", "\\qquad", "\\,", "\\;", "\\text", "\\ ", "$", "{", "}", "&", "\\(", "\\)"):
        gap = gap.replace(space, " ")
    words = re.findall(r"[A-Za-z]+|[^\sA-Za-z]", gap)
    if not words:
        return False
    if words[-1].lower() in ("and", "or") and (len(words) <= 3 or (len(words) <= 8 and not set(words) & set(".;:!?"))):
        return True
    return all(w in (",", ";") for w in words)


def _suffix(tail: str) -> str:
    """What belongs to the answer although it stands outside the box: a base, a percent sign."""
    base = re.match(r"\s{0,2}(_\{?\w{1,3}\}?)", tail)
    if base:
        return base.group(1)
    return "\\%" if re.match(r"[\s$]{0,3}(?:\\?%|percent\b|pct\b)", tail, re.IGNORECASE) else ""


def _prefixed(text: str) -> Span | None:
    """After the last "answer is" or "answer:", up to the end of that sentence."""
    last = None
    for match in PREFIX.finditer(text):
        if match.group().rstrip().lower() not in ("answer", "final answer"):
            last = match
    if last is None:
        return None
    rest = text[last.end() : last.end() + 4000].lstrip(" *:=")
    spans = _math_spans(rest)
    sentence = re.split(r"\.(?:\s|$)|\n", rest, maxsplit=1)[0]
    if spans and (said := _last(SAID, sentence)) and said.start() >= spans[0][1]:
        return Span(said.group(1) + _suffix(sentence[said.end() : said.end() + 24]), "prefix", last.end())
    if spans and spans[0][0] < 40:
        joined = [spans[0]]
        while len(joined) < len(spans) and _joins(rest[joined[-1][1] : spans[len(joined)][0]]):
            joined.append(spans[len(joined)])
        content = ", ".join(s[2] for s in joined)
        return Span(content + _suffix(rest[joined[-1][1] : joined[-1][1] + 24]), "prefix", last.end())
    line = rest.split("\n", 1)[0]
    line = re.split(r"\.(?:\s|$)|\bI hope\b", line, maxsplit=1)[0].strip(" *")
    if not line or len(line) > 300:
        return None
    if len(line.split()) > 4 and (number := _number(line)):
        return Span(number.text, "prefix", last.end())
    return Span(line, "prefix", last.end())


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    last = None
    for match in pattern.finditer(text):
        last = match
    return last


def _math_spans(text: str) -> list[tuple[int, int, str]]:
    """Delimited formulas, in order: $$..$$, $..$, \\(..\\), \\[..\\]."""
    spans: list[tuple[int, int, str]] = []
    i = 0
    closer_of = {"$$": "$$", "$": "$", "\\(": "\\)", "\\[": "\\]"}
    pattern = re.compile(r"\\\$|\$\$|\$|\\\(|\\\[")
    while match := pattern.search(text, i):
        opener = match.group()
        if opener == "\\$":
            i = match.end()
            continue
        end = text.find(closer_of[opener], match.end())
        while opener in ("$", "$$") and end > 0 and text[end - 1] == "\\":
            end = text.find(closer_of[opener], end + 1)
        if end < 0:
            i = match.end()
            if opener != "$" and len(spans) == 0 and text.find(closer_of[opener]) < 0 and i > len(text) // 2:
                break
            if opener in ("\\(", "\\[", "$$", "$"):
                break
            continue
        if content := text[match.end() : end].strip():
            spans.append((match.start(), end + len(closer_of[opener]), content))
        i = end + len(closer_of[opener])
    return spans


def _math(text: str) -> Span | None:
    spans = _math_spans(text)
    if not spans:
        return None
    joined = [spans[-1]]
    for span in reversed(spans[:-1]):
        if len(joined) >= 32 or not _joins(text[span[1] : joined[0][0]]):
            break
        joined.insert(0, span)
    tail = text[joined[-1][1] :]
    if said := _last(SAID, tail):  # "... of $ABC$. So the volume increases by 100 %": the later word
        return Span(
            said.group(1) + _suffix(tail[said.end() : said.end() + 24]), "number", joined[-1][1] + said.start(1)
        )
    content = ", ".join(s[2] for s in joined)
    return Span((content + _suffix(text[joined[-1][1] : joined[-1][1] + 24]))[:MAX_ANSWER], "math", joined[0][0])


def _whole(text: str) -> Span | None:
    """The reply itself, when it is short and looks like an expression or one word rather than like prose."""
    stripped = text.strip()
    stripped = stripped if stripped.endswith("...") else stripped.rstrip(".")
    if re.match(r"[A-Za-z]{3,30} ?: .*\d", stripped):
        return None
    if not stripped or "\n" in stripped or CODE.search(stripped):
        return None
    words = [
        w
        for w in re.findall(
            r"[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+(?:\{[A-Za-z ]{1,60}\})?|\[[\w.]{1,9}\]", " ", stripped)
        )
        if w not in NAMES
    ]
    formula = bool(re.search(r"[\d\\^_=<>+*/(){}\[\]]", stripped))
    if len(stripped) <= 2000 and (not words or (formula and len(words) <= 2) or (not formula and len(words) <= 4)):
        return Span(stripped, "whole")
    return Span(stripped[:MAX_ANSWER], "whole") if formula and not words else None


def _closing(text: str) -> Span | None:
    """A tuple, interval or set that ends a sentence of prose."""
    match = re.search(r"\bis\s{1,3}([(\[{][^()\[\]{}]{1,200}[)\]}])\.?\s*$", text[-400:])
    return Span(match.group(1), "math") if match else None


def _number(text: str) -> Span | None:
    if CODE.search(text):
        return None
    last = None
    for match in NUMBER.finditer(text):
        last = match
    if last is None:
        return None
    tail = text[last.end() : last.end() + 24]
    if re.match(r"[A-Za-z]", tail) and not re.match(r"[a-z]{1,3}(?![A-Za-z])", tail):
        return None
    return Span(last.group() + _suffix(tail), "number", last.start())
