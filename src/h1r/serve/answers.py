"""Shapes of answers: log-probabilities in OpenAI's two forms, tool calls, usage, and text cut at stop strings."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from h1r.text import Tokenizer
from h1r.types import Trace

Top = Sequence[tuple[int, float]]


class StopScan:
    """Cuts growing text at the first stop string; holds back what may yet become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit: str | None = None

    def push(self, text: str) -> str:
        """The text that may be shown now; nothing after a hit."""
        if self.hit is not None or not self._stops:
            return "" if self.hit is not None else text
        whole = self._held + text
        found = [(at, s) for s in self._stops if (at := whole.find(s)) >= 0]
        if found:
            at, self.hit = min(found, key=lambda pair: (pair[0], -len(pair[1])))
            self._held = ""
            return whole[:at]
        keep = max((n for s in self._stops for n in range(1, len(s)) if whole.endswith(s[:n])), default=0)
        self._held = whole[len(whole) - keep :]
        return whole[: len(whole) - keep]

    def flush(self) -> str:
        """What was held back, at the end."""
        held, self._held = self._held, ""
        return "" if self.hit is not None else held


def token_name(tokenizer: Tokenizer | None, token_id: int, as_id: bool) -> str:
    """A token as its text, or as "token_id:5" where asked for (or where there is no tokenizer)."""
    return f"token_id:{token_id}" if as_id or tokenizer is None else tokenizer.decode([token_id])


def chat_entry(tokenizer: Tokenizer | None, token_id: int, logprob: float, top: Top, as_id: bool) -> dict[str, Any]:
    """One element of choices[].logprobs.content."""

    def named(identity: int, value: float) -> dict[str, Any]:
        known = list(tokenizer.token_bytes(identity)) if tokenizer is not None else None
        return {"token": token_name(tokenizer, identity, as_id), "logprob": finite(value), "bytes": known}

    likeliest = [named(identity, value) for identity, value in top]
    return named(token_id, logprob) | {"top_logprobs": likeliest}


def completion_logprobs(
    tokenizer: Tokenizer | None,
    ids: Sequence[int],
    logprobs: Sequence[float | None],
    tops: Sequence[Top | None],
    as_id: bool,
    offset: int = 0,
) -> dict[str, Any]:
    """choices[].logprobs of a completion. The chosen token stands in each `top` with the very same number."""
    names = [token_name(tokenizer, i, as_id) for i in ids]
    named: list[dict[str, float] | None] = []
    offsets = []
    for name, logprob, top in zip(names, logprobs, tops, strict=True):
        offsets.append(offset)
        offset += len(name)
        if logprob is None or top is None:
            named.append(None)
            continue
        entry: dict[str, float] = {}
        for identity, value in top:
            # two ids may read alike (halves of a character): the likelier one keeps the name
            entry.setdefault(token_name(tokenizer, identity, as_id), finite(value))
        entry.setdefault(name, finite(logprob))
        named.append(entry)
    return {
        "tokens": names,
        "token_logprobs": [None if lp is None else finite(lp) for lp in logprobs],
        "top_logprobs": named,
        "text_offset": offsets,
    }


def finite(value: float) -> float:
    """JSON has no -inf."""
    return max(float(value), -9999.0)


def trace_arrays(trace: Trace) -> dict[str, Any]:
    """The `trace` extension: exact arrays for training and search."""
    return {
        "logprobs": [float(x) for x in trace.logprobs],
        "raw_logprobs": [float(x) for x in trace.raw_logprobs],
        "confidence": [float(x) for x in trace.confidence],
        "version": trace.version,
    }


def tool_call(name: str, arguments: str, identity: str = "") -> dict[str, Any]:
    """A call as OpenAI writes it; arguments are JSON as the model wrote it."""
    function = {"name": name, "arguments": arguments}
    return {"id": identity or f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def usage(prompt: int, completion: int, reasoning: int | None = None) -> dict[str, Any]:
    """Token counts; reasoning tokens both where OpenAI puts them and where SGLang does."""
    out: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if reasoning is not None:
        out |= {"reasoning_tokens": reasoning, "completion_tokens_details": {"reasoning_tokens": reasoning}}
    return out


def reasoning_tokens(tokenizer: Tokenizer, ids: Sequence[int], opened: bool = False) -> int:
    """Tokens inside the thought, its tags not counted. Where tags are no tokens of their own, by decoding."""
    if tokenizer.has("</think>") and tokenizer.has("<think>"):
        begin, end = tokenizer.id("<think>"), tokenizer.id("</think>")
        ids = list(ids)
        start = ids.index(begin) + 1 if begin in ids else 0
        if end in ids:
            return max(0, ids.index(end) - start)
        return len(ids) - start if begin in ids or opened else 0
    text = tokenizer.decode(ids)
    if "</think>" not in text:
        return len(ids) if text.lstrip().startswith("<think>") or opened else 0
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if "</think>" in tokenizer.decode(ids[:middle]) else (middle + 1, high)
    return low


def head(kind: str, prefix: str, model: str) -> dict[str, Any]:
    """id, object, created, model."""
    return {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}
