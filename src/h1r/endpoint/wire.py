"""The OpenAI wire format, both ways and pure: prompt and sampling -> request body; choice or stream chunk -> Trace.

Dialects: "openai" sends the published fields alone and refuses what they cannot say; "vllm" adds the extensions that
vLLM, SGLang and our own server share (top_k, min_p, stop_token_ids, return_token_ids, ...); "h1r" also asks our server
for the arrays of the trace (`return_trace`): both log-probabilities, confidence, weights version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from h1r.errors import ConfigError, EndpointError
from h1r.text import split
from h1r.types import Prompt, SamplingParams, StopReason, Trace

Dialect = Literal["openai", "vllm", "h1r"]

UNKNOWN_ID = -1
"""Stands in `Trace.token_ids` for a token whose id the server did not tell, so that lengths stay true."""

_STOPS = {
    "stop": StopReason.STOP,
    "tool_calls": StopReason.STOP,
    "function_call": StopReason.STOP,
    "eos_token": StopReason.STOP,
    "length": StopReason.LENGTH,
    "low_confidence": StopReason.LOW_CONFIDENCE,
    "consensus": StopReason.CONSENSUS,
    "loop": StopReason.LOOP,
}


def route(prompt: Prompt) -> str:
    """Where a prompt goes: exact token ids and raw text to completions, messages to chat."""
    return "completions" if prompt.token_ids or not prompt.messages else "chat/completions"


def derive_seed(seed: int | None, prompt: int, trace: int) -> int | None:
    """A seed of its own for trace `trace` of prompt `prompt`; (seed, 0, 0) stays as given."""
    if seed is None:
        return None
    return (seed + 1_000_003 * prompt + 7_368_787 * trace) % (1 << 31)


def body(
    prompt: Prompt,
    sampling: SamplingParams,
    *,
    model: str,
    dialect: Dialect,
    k: int,
    n: int,
    seed: int | None,
    stream: bool,
) -> dict[str, Any]:
    """The JSON request. k: log-probabilities per token for the confidence (0: none). Raises ConfigError when the
    dialect has no field for what `sampling` asks."""
    chat = route(prompt) == "chat/completions"
    out: dict[str, Any] = {"model": model, "temperature": sampling.temperature, "top_p": sampling.top_p, "n": n}
    if chat:
        out["messages"] = [dict(m) for m in prompt.messages]
        if prompt.tools:
            out["tools"] = [dict(t) for t in prompt.tools]
    else:
        out["prompt"] = list(prompt.token_ids) if prompt.token_ids else prompt.text
    out["max_completion_tokens" if chat and dialect == "openai" else "max_tokens"] = sampling.max_tokens
    k = max(k, sampling.logprobs)
    if k and chat:
        out |= {"logprobs": True, "top_logprobs": k}
    elif k:
        out["logprobs"] = k
    if seed is not None:
        out["seed"] = seed
    if sampling.stop:
        out["stop"] = list(sampling.stop)
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(sampling, name):
            out[name] = getattr(sampling, name)
    if sampling.logit_bias:
        out["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if stream:
        out |= {"stream": True, "stream_options": {"include_usage": True}}
    return out | _extensions(sampling, dialect, chat)


def _extensions(sampling: SamplingParams, dialect: Dialect, chat: bool) -> dict[str, Any]:
    """Fields beyond the published API."""
    out: dict[str, Any] = {}
    if sampling.top_k:
        out["top_k"] = sampling.top_k
    if sampling.min_p:
        out["min_p"] = sampling.min_p
    if sampling.repetition_penalty != 1:
        out["repetition_penalty"] = sampling.repetition_penalty
    if sampling.stop_ids:
        out["stop_token_ids"] = list(sampling.stop_ids)
    if sampling.ignore_eos:
        out["ignore_eos"] = True
    if sampling.thinking_budget is not None:
        out["thinking_token_budget"] = sampling.thinking_budget
    own = {
        name: getattr(sampling, name)
        for name in ("thinking_landing", "answer_reserve", "loop_breaker")
        if getattr(sampling, name) not in (None, 0, False)
    }
    if dialect != "h1r" and own:
        raise ConfigError(f"{', '.join(own)}: only our own server has such fields; use dialect='h1r' if this is one")
    if sampling.grammar is not None:
        raise ConfigError("grammar: masks cannot travel; ask the server for response_format or structured_outputs")
    out |= own
    if dialect == "openai":
        if out:
            raise ConfigError(
                f"{', '.join(out)}: the OpenAI API has no such field; use dialect='vllm' if this server does"
            )
        return out
    out |= {"return_token_ids": True, "return_tokens_as_token_ids": True}
    if not chat:
        # <think> is a special token in most tokenizers; without it reasoning and answer could not be told apart
        out["skip_special_tokens"] = False
    if dialect == "h1r":
        out["return_trace"] = True
    return out


class Growing:
    """One trace while its choice arrives, whole or in chunks."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.fewest: int | None = None
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.confidence: list[float] = []
        self.top: list[tuple[tuple[int, float], ...]] = []
        self.text = ""
        self.reasoning = ""
        self.content = ""
        self.calls: dict[int, dict[str, Any]] = {}
        self.finish: str | None = None
        self.arrays: dict[str, list[float]] = {}
        self.version = 0

    def add(self, choice: Mapping[str, Any]) -> int:
        """Take in a choice or a chunk's choice; returns how many tokens with a confidence it brought."""
        before = len(self.confidence)
        message = choice.get("message") or choice.get("delta") or {}
        self.text += choice.get("text") or ""
        # servers name the thought `reasoning_content` or `reasoning`; ours sends both, equal
        self.reasoning += message.get("reasoning_content") or message.get("reasoning") or ""
        self.content += message.get("content") or ""
        for position, call in enumerate(message.get("tool_calls") or ()):
            self._add_call(call.get("index", position), call)
        self._add_tokens(choice)
        self._add_arrays(choice.get("trace") or {})
        self.finish = choice.get("finish_reason") or self.finish
        return len(self.confidence) - before

    def _add_call(self, index: int, call: Mapping[str, Any]) -> None:
        function = call.get("function") or {}
        known = self.calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        known["id"] = call.get("id") or known["id"]
        known["name"] += function.get("name") or ""
        known["arguments"] += function.get("arguments") or ""

    def _add_tokens(self, choice: Mapping[str, Any]) -> None:
        given = choice.get("logprobs") or {}
        entries = _entries(given)
        for name, logprob, top in entries:
            self.logprobs.append(logprob)
            likeliest = sorted(top, key=lambda pair: -pair[1])[: self.k] if self.k else []
            if likeliest:
                self.confidence.append(-sum(lp for _, lp in likeliest) / len(likeliest))
                self.fewest = min(len(likeliest), self.fewest or len(likeliest))
            pairs = [(_token_id(t), lp) for t, lp in sorted(top, key=lambda pair: -pair[1])]
            self.top.append(tuple((t, lp) for t, lp in pairs if t != UNKNOWN_ID))
            if not choice.get("token_ids"):
                self.ids.append(_token_id(name))
        self.ids.extend(choice.get("token_ids") or ())

    def _add_arrays(self, arrays: Mapping[str, Any]) -> None:
        self.version = arrays.get("version", self.version)
        for name in ("logprobs", "raw_logprobs", "confidence"):
            self.arrays.setdefault(name, []).extend(arrays.get(name) or ())

    def trace(
        self,
        prompt: Prompt,
        index: int,
        sampling: SamplingParams,
        stop: StopReason | None = None,
        tokens: int | None = None,
    ) -> Trace:
        """The Trace so far. stop overrides the server's finish reason; tokens: the count from `usage`, where it told
        neither ids nor log-probabilities. Raises EndpointError on a tool call whose arguments are not JSON."""
        reasoning, content = self.reasoning, self.content
        calls: tuple[Mapping[str, Any], ...] = tuple(_call(c) for _, c in sorted(self.calls.items()))
        text = self.text
        if text or (not reasoning and "</think>" in content):
            text = text or content
            parts = split(text)
            reasoning, content, calls = parts.reasoning, parts.content, calls or tuple(parts.tool_calls)
        else:
            text = f"<think>\n{reasoning}\n</think>\n\n{content}" if reasoning else content
        ids = self.ids or [UNKNOWN_ID] * (tokens or 0)
        raw = np.asarray(self.arrays.get("raw_logprobs") or self.logprobs, np.float32)
        sampled = np.asarray(self.arrays.get("logprobs") or (self.logprobs if is_plain(sampling) else ()), np.float32)
        wanted = sampling.logprobs
        return Trace(
            prompt=prompt,
            token_ids=tuple(ids),
            stop=stop or _STOPS.get(self.finish or "", StopReason.ABORT),
            logprobs=sampled,
            raw_logprobs=raw,
            confidence=np.asarray(self.arrays.get("confidence") or self.confidence, np.float32),
            top=tuple(pairs[:wanted] for pairs in self.top) if wanted else (),
            text=text,
            reasoning=reasoning,
            content=content,
            tool_calls=calls,
            index=index,
            version=self.version,
        )


def is_plain(sampling: SamplingParams) -> bool:
    """Whether the sampled distribution is the raw one, so that the raw log-probabilities a server reports are both."""
    off = sampling.presence_penalty == sampling.frequency_penalty == 0 and sampling.repetition_penalty == 1
    cut = sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0
    return sampling.temperature == 1 and off and not cut and not sampling.logit_bias


def _entries(given: Mapping[str, Any]) -> list[tuple[str, float, list[tuple[str, float]]]]:
    """(token, log p, likeliest tokens) per position, from either of the two published shapes."""
    if given.get("content"):
        return [
            (e["token"], float(e["logprob"]), [(t["token"], float(t["logprob"])) for t in e.get("top_logprobs") or ()])
            for e in given["content"]
        ]
    tokens: Sequence[str] = given.get("tokens") or ()
    tops: Sequence[Mapping[str, float] | None] = given.get("top_logprobs") or [None] * len(tokens)
    return [
        (token, float("nan") if logprob is None else float(logprob), [(t, float(lp)) for t, lp in (top or {}).items()])
        for token, logprob, top in zip(tokens, given.get("token_logprobs") or (), tops, strict=True)
    ]


def _token_id(token: str) -> int:
    """The id of a token written as "token_id:123" (return_tokens_as_token_ids), else UNKNOWN_ID."""
    head, _, number = token.rpartition(":")
    return int(number) if head == "token_id" and number.isdigit() else UNKNOWN_ID


def _call(parts: Mapping[str, Any]) -> dict[str, Any]:
    try:
        arguments = json.loads(parts["arguments"] or "{}")
    except ValueError:
        raise EndpointError(f"tool call {parts['name']!r}: the server sent arguments that are not JSON") from None
    return {"id": parts["id"], "name": parts["name"], "arguments": arguments}
