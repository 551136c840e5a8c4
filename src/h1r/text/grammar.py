"""Token masks that keep an answer inside a JSON schema, a regular expression, a choice or a grammar (llguidance).

A thought is free: the grammar binds after </think>, or at once where a trace does not begin with <think>. Line ends
between the thought and the answer are allowed. Masks are plain numpy arrays; the sampler applies them to its logits.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import GbnfToLarkError, any_to_lark

from h1r.errors import ConfigError
from h1r.text.split import CLOSE, OPEN
from h1r.text.tokenizer import Tokenizer

Mask = npt.NDArray[np.bool_]
Kind = Literal["json", "regex", "choice", "lark", "gbnf"]

KEPT = 64  # compiled grammars a Grammars remembers
WHITESPACE = r"[\n\r]{0,2}[ \t]{0,64}"
"""Between the parts of a JSON text, where its schema does not say: bounded, so that an answer cannot be blank for ever."""


class Grammars:
    """Compiles grammars for one tokenizer. Thread-safe.

    vocab   columns of the model's logits when that is more than the tokenizer has ids; the surplus is never allowed
    """

    def __init__(self, tokenizer: Tokenizer, vocab: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.vocab = max(vocab or 0, tokenizer.vocab_size)
        if not tokenizer.stop_ids:
            raise ConfigError("a grammar needs a tokenizer with a stop token, else an answer could not end")
        self._inner = LLTokenizer(tokenizer.inner.to_str(), n_vocab=self.vocab, eos_token=list(tokenizer.stop_ids))
        self._kept: OrderedDict[tuple[str, str], LLMatcher] = OrderedDict()
        self._lock = Lock()
        self.line_ends = np.zeros(self.vocab, bool)
        for i in range(tokenizer.vocab_size):
            data = tokenizer.token_bytes(i)
            self.line_ends[i] = bool(data) and not data.strip(b"\n")

    def compile(
        self, source: str | Mapping[str, Any] | Sequence[str], kind: Kind = "json", thinks: bool = True
    ) -> Grammar:
        """A grammar that every trace given it obeys. Raises ConfigError when it does not compile.

        kind    json (source: a schema, or {} for any JSON value), regex, choice (of strings), lark, or gbnf
        thinks  a thought may come first; False: the answer begins with the first token, unless the prompt opened a thought
        """
        if kind in ("regex", "lark", "gbnf") and not isinstance(source, str):
            raise ConfigError(f"grammar of kind {kind}: its source must be a string")
        key = kind, source if isinstance(source, str) else json.dumps(source)
        with self._lock:
            matcher = self._kept.get(key)
            if matcher is not None:
                self._kept.move_to_end(key)
        if matcher is None:
            matcher = self._matcher(*key)
            with self._lock:
                self._kept[key] = matcher
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return Grammar(self, matcher, thinks)

    def _matcher(self, kind: str, source: str) -> LLMatcher:
        try:
            compiled = _compiled(source, kind)
        except (ValueError, TypeError, RecursionError, GbnfToLarkError) as e:
            raise ConfigError(f"grammar of kind {kind}: {e}") from None
        matcher = LLMatcher(self._inner, compiled, log_level=0)
        if matcher.is_error():
            reason = " ".join(matcher.get_error().split())
            raise ConfigError(f"grammar of kind {kind} does not compile: {reason}")
        return matcher


class Grammar:
    """A compiled grammar (types.Grammar), shared by every trace that must obey it."""

    def __init__(self, grammars: Grammars, matcher: LLMatcher, thinks: bool) -> None:
        self.grammars, self.thinks = grammars, thinks
        self._matcher = matcher

    def begin(self, opened: bool = False) -> Constraint:
        """The state of one trace. opened: its prompt ended inside a thought."""
        return Constraint(self.grammars, self._matcher.deep_copy(), opened, self.thinks)


class Constraint:
    """What one trace may write next (types.Constraint). Ask `mask` before each token, tell `accept` after it."""

    def __init__(self, grammars: Grammars, matcher: LLMatcher, opened: bool, thinks: bool) -> None:
        self._grammars = grammars
        self._matcher = matcher
        self._state: Literal["start", "thought", "gap", "answer"] = (
            "thought" if opened else "start" if thinks else "answer"
        )
        self._seen = b""

    @property
    def bound(self) -> bool:
        """Whether the next token is held to the grammar."""
        return self._state != "thought"

    @property
    def done(self) -> bool:
        """Whether the answer is complete and nothing but a stop token may follow."""
        return bool(self._matcher.is_stopped())

    def mask(self) -> Mask:
        """[V] bool, True where a token may come next. In a thought all but the stop tokens may."""
        tokenizer = self._grammars.tokenizer
        if self._state == "thought":
            free = np.zeros(self._grammars.vocab, bool)
            free[: tokenizer.vocab_size] = True
            free[list(tokenizer.stop_ids)] = False
            return free
        allowed = self._grammar_mask()
        if self._state in ("start", "gap"):
            allowed |= self._grammars.line_ends
        if self._state == "start" and tokenizer.has(OPEN):
            allowed[tokenizer.id(OPEN)] = True
        if not allowed.any():
            raise ConfigError(f"the grammar allows no next token: {self._trouble() or 'a dead end'}")
        return allowed

    def accept(self, token_id: int) -> None:
        """The trace went on with `token_id`, which the last mask allowed."""
        data = self._grammars.tokenizer.token_bytes(token_id)
        if self._state == "start" and data == OPEN.encode():
            self._state = "thought"
        elif self._state == "thought":
            self._seen = (self._seen + data)[-len(data) - len(CLOSE) :]
            if CLOSE.encode() in self._seen:
                self._state = "gap"
        elif self._state != "answer" and self._grammars.line_ends[token_id]:
            return
        else:
            self._state = "answer"
            if not (self._matcher.is_stopped() or self._matcher.consume_token(token_id)):
                raise ConfigError(f"the grammar does not allow token {token_id}: {self._trouble()}")

    def _grammar_mask(self) -> Mask:
        if self._matcher.is_stopped():
            only_stop = np.zeros(self._grammars.vocab, bool)
            only_stop[list(self._grammars.tokenizer.stop_ids)] = True
            return only_stop
        bits = np.zeros((self._grammars.vocab + 31) // 32, np.int32)
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        if self._matcher.is_error():
            raise ConfigError(f"the grammar is beyond its limits: {self._trouble()}")
        return np.unpackbits(bits.view(np.uint8), bitorder="little")[: self._grammars.vocab].astype(bool)

    def _trouble(self) -> str:
        """What the matcher has to say, without its inner state."""
        return str(self._matcher.get_error()).partition("\n")[0]


def plain_json(schema: Any) -> Any:
    """A schema with bounded whitespace, unless it says something about that itself."""
    if isinstance(schema, Mapping) and "x-guidance" not in schema:
        return {**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}}
    return schema


def _compiled(source: str, kind: str) -> str:
    if kind == "json":
        return LLMatcher.grammar_from_json_schema(json.dumps(plain_json(json.loads(source))))
    if kind == "choice":
        words = json.loads(source)
        if not words or not all(isinstance(w, str) and w for w in words):
            raise ConfigError("grammar of kind choice: give one string or more, none of them empty")
        return LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(w) for w in words))
    if kind not in ("regex", "lark", "gbnf"):
        raise ConfigError(f"grammar kind {kind!r} is unknown; use json, regex, choice, lark or gbnf")
    if kind == "regex":
        return LLMatcher.grammar_from_regex(source)
    return LLMatcher.grammar_from_lark(any_to_lark(source) if kind == "gbnf" else source)
