"""POST /v1/chat/completions: render, write, take apart. Whole or streamed, the same Voice speaks.

`stop` strings count in the answer alone, never inside the thought. The thought is sent as `reasoning_content` and
`reasoning`, equal, because clients disagree on the name. Log-probabilities are those of the raw logits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from h1r.serve import answers
from h1r.serve.bind import Rule, rule_of
from h1r.serve.deepchat import chat_answer
from h1r.serve.flight import End, Flight, Token, finish_reason
from h1r.serve.protocol import ChatRequest, characters, messages, sampling
from h1r.serve.service import Service, need_tokenizer, service
from h1r.serve.stream import streamed
from h1r.serve.voice import Voice
from h1r.text import Tokenizer, render
from h1r.text.split import OPEN
from h1r.types import Prompt, StopReason, Trace

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat(request: Request, body: ChatRequest) -> Response:
    """The next assistant turn, `n` times."""
    here = service(request)
    here.check_model(body.model)
    tokenizer = need_tokenizer(here)
    tools = body.tools if body.tool_choice != "none" else []
    said = messages(body.messages)
    prompt = await here.encoded(characters(said), lambda: render(said, tools, body.thinking, tokenizer=tokenizer))
    room = here.room(prompt)
    rule = await rule_of(here, body)
    params = replace(sampling(body, here.defaults, room, rule.grammar), stop=())
    if body.deepconf is not None:
        return await chat_answer(request, here, body, prompt, params)
    answer = _Answer(here, body, prompt, tokenizer, rule, bool(tools))
    admission = here.admitted()
    admission.__enter__()
    flight = Flight(here.llm, request)
    await flight.__aenter__()
    # stop strings and the end of an only call are looked for while the text grows; else the ends are enough
    tokens = body.stream or bool(body.stops) or answer.single
    flight.launch(prompt, params, tokens=tokens)
    if body.stream:
        answer.flight = flight
        return await streamed(here, flight, admission, answer.chunks, answer.last)
    try:
        answer.flight = flight
        while not flight.over:
            answer.chunks(await flight.take())
    finally:
        flight.close()
        admission.__exit__(None, None, None)
    return JSONResponse(answer.whole())


class _Answer:
    """What one chat request has become so far."""

    def __init__(
        self,
        here: Service,
        body: ChatRequest,
        prompt: Prompt,
        tokenizer: Tokenizer,
        rule: Rule,
        offered: bool,
    ) -> None:
        self.here, self.body, self.prompt, self.tokenizer = here, body, prompt, tokenizer
        self.head = answers.head("chat.completion.chunk" if body.stream else "chat.completion", "chatcmpl", here.model)
        self.inside = prompt.text.rstrip().endswith(OPEN)
        # a grammar that holds everything counts the calls itself
        self.single = offered and not body.parallel_tool_calls and not rule.whole
        self.voices = [
            Voice(body.stops, offered, bound=rule.whole, opened=self.inside, single=self.single) for _ in range(body.n)
        ]
        self.choices: dict[int, dict[str, Any]] = {}
        self.completion = self.thought = 0
        self.opened: set[int] = set()
        self.flight: Flight | None = None
        self.begun = time.monotonic()
        self.first: float | None = None

    def chunks(self, events: Sequence[Token | End]) -> list[dict[str, Any]]:
        """Chunks for these events; a choice's tokens that came together travel together."""
        made: list[dict[str, Any]] = []
        waiting: dict[int, list[Token]] = {}
        for event in events:
            if self.first is None:
                self.first = time.monotonic()
                self.here.metrics.first_token.observe(self.first - self.begun)
            if isinstance(event, Token):
                waiting.setdefault(event.index, []).append(event)
                continue
            made += self._tokens(event.index, waiting.pop(event.index, []))
            made += self._end(event)
        for index, tokens in waiting.items():
            made += self._tokens(index, tokens)
        return made

    def _tokens(self, index: int, tokens: list[Token]) -> list[dict[str, Any]]:
        voice = self.voices[index]
        spoken: list[Token] = []
        delta: dict[str, Any] = {}
        for token in tokens:
            if voice.cut:
                break
            spoken.append(token)
            for key, value in voice.hear(token.text).items():
                delta[key] = delta[key] + value if key in delta else value
            if voice.cut:
                assert self.flight is not None
                self.flight.abort(0, index)
        voice.tokens += spoken
        if not spoken or not self.body.stream:
            return []
        return self._chunk(index, delta, spoken)

    def _end(self, event: End) -> list[dict[str, Any]]:
        voice, trace = self.voices[event.index], event.trace
        delta = voice.end(trace.text)
        length = len(voice.tokens) if voice.cut else len(trace.token_ids)
        kept = trace if not voice.cut else cut(trace, length)
        voice.reason = finish_reason(StopReason.STOP if voice.cut else trace.stop, bool(voice.said))
        thought = answers.reasoning_tokens(self.tokenizer, kept.token_ids, self.inside)
        self.completion += length
        self.thought += thought
        self._count(voice.reason, length)
        if self.body.stream:
            ended = {"index": event.index, "delta": {}, "logprobs": None, "finish_reason": voice.reason}
            if voice.scan.hit is not None:
                ended["stop_reason"] = voice.scan.hit
            if trace.reasoning_stop:
                ended["reasoning_stop"] = trace.reasoning_stop
            said = self._chunk(event.index, delta, []) if delta else []
            return [*said, self.head | {"choices": [ended]} | self._so_far(length)]
        self.choices[event.index] = self._choice(voice, kept, event.index)
        return []

    def _count(self, reason: str, length: int) -> None:
        metrics, now = self.here.metrics, time.monotonic()
        metrics.finished(reason)
        metrics.generation_tokens.inc(length)
        if length > 1 and self.first is not None and self.body.stream:
            metrics.per_token.observe((now - self.first) / (length - 1))

    def _chunk(self, index: int, delta: dict[str, Any], tokens: Sequence[Token]) -> list[dict[str, Any]]:
        """A chunk, unless it would say nothing."""
        body = self.body
        if not body.include_reasoning:
            delta = {k: v for k, v in delta.items() if k not in ("reasoning", "reasoning_content")}
        asked = body.logprobs or body.return_token_ids or body.return_trace or body.confidence
        new = index not in self.opened
        if not delta and not new and not (asked and tokens):
            return []
        if new:
            self.opened.add(index)
            delta = {"role": "assistant", "content": ""} | delta
        choice: dict[str, Any] = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        if body.logprobs:
            choice["logprobs"] = {"content": [self._entry(t.token_id, t.raw_logprob, t.top) for t in tokens]}
        if body.return_token_ids:
            choice["token_ids"] = [t.token_id for t in tokens]
        if body.confidence:
            choice["confidence"] = [t.confidence for t in tokens]
        if body.return_trace:
            choice["trace"] = {
                "logprobs": [t.logprob for t in tokens],
                "raw_logprobs": [t.raw_logprob for t in tokens],
                "confidence": [t.confidence for t in tokens],
                "version": self.here.llm.version,
            }
        chunk = self.head | {"choices": [choice]} | self._so_far(len(self.voices[index].tokens))
        if new and body.return_token_ids:
            chunk["prompt_token_ids"] = list(self.prompt.token_ids)
        return [chunk]

    def _so_far(self, length: int) -> dict[str, Any]:
        return {"usage": answers.usage(len(self.prompt.token_ids), length)} if self.body.counts_always else {}

    def _choice(self, voice: Voice, trace: Trace, index: int) -> dict[str, Any]:
        body = self.body
        message: dict[str, Any] = {"role": "assistant", "content": voice.content or (None if voice.said else "")}
        if voice.said:
            message["tool_calls"] = voice.said
        if body.include_reasoning and voice.reasoning:
            message |= {"reasoning_content": voice.reasoning, "reasoning": voice.reasoning}
        choice: dict[str, Any] = {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": voice.reason,
            "stop_reason": voice.scan.hit,
        }
        if trace.reasoning_stop:
            choice["reasoning_stop"] = trace.reasoning_stop
        if body.logprobs:
            tops: Sequence[Any] = trace.top if trace.top else [()] * len(trace.token_ids)
            rows = zip(trace.token_ids, trace.raw_logprobs, tops, strict=True)
            choice["logprobs"] = {"content": [self._entry(t, float(lp), top) for t, lp, top in rows]}
        if body.return_token_ids:
            choice["token_ids"] = list(trace.token_ids)
        if body.confidence:
            choice["confidence"] = [float(c) for c in trace.confidence]
        if body.return_trace:
            choice["trace"] = answers.trace_arrays(trace)
        return choice

    def _entry(self, token_id: int, logprob: float, top: answers.Top) -> dict[str, Any]:
        return answers.chat_entry(self.tokenizer, token_id, logprob, top, self.body.return_tokens_as_token_ids)

    def last(self) -> list[dict[str, Any]]:
        """What a stream says at its end."""
        self._done()
        return [self.head | {"choices": [], "usage": self._usage()}] if self.body.include_usage else []

    def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        self._done()
        out = self.head | {"choices": [self.choices[i] for i in sorted(self.choices)], "usage": self._usage()}
        if self.body.return_token_ids:
            out["prompt_token_ids"] = list(self.prompt.token_ids)
        return out

    def _done(self) -> None:
        metrics = self.here.metrics
        metrics.whole.observe(time.monotonic() - self.begun)
        metrics.prompt_tokens.inc(len(self.prompt.token_ids))
        metrics.forked.inc((self.body.n - 1) * (len(self.prompt.token_ids) - 1))

    def _usage(self) -> dict[str, Any]:
        return answers.usage(len(self.prompt.token_ids), self.completion, self.thought)


def cut(trace: Trace, length: int) -> Trace:
    """The first `length` tokens of a trace that ran on a little after its stop string."""
    return replace(
        trace,
        token_ids=trace.token_ids[:length],
        logprobs=trace.logprobs[:length],
        raw_logprobs=trace.raw_logprobs[:length],
        confidence=trace.confidence[:length],
        top=trace.top[:length],
    )
