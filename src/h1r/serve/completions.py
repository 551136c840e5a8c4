"""POST /v1/completions: text or token ids go on, without a chat format. `echo` with `logprobs` scores a prompt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from h1r.serve import answers
from h1r.serve.bind import rule_of
from h1r.serve.flight import End, Flight, Token, finish_reason
from h1r.serve.prompts import PromptScores, score_prompts
from h1r.serve.protocol import CompletionRequest, sampling
from h1r.serve.service import Refused, Service, service
from h1r.serve.stream import streamed
from h1r.text import Tokenizer
from h1r.types import Prompt, Trace

router = APIRouter()


@router.post("/v1/completions")
async def complete(request: Request, body: CompletionRequest) -> Response:
    """Continue each prompt `n` times; choice j * n + i is trace i of prompt j."""
    here = service(request)
    here.check_model(body.model)
    given = body.prompts
    longest = max((len(g) for g in given if isinstance(g, str)), default=0)
    prompts = await here.encoded(longest, lambda: [read_prompt(here, g, body.add_special_tokens) for g in given])
    room = min(here.room(p) for p in prompts)
    rule = await rule_of(here, body)
    params = sampling(body, here.defaults, room, rule.grammar)
    if params.stop and here.llm.tokenizer is None:
        raise Refused(400, "stop strings need a tokenizer, and this checkpoint has none: use stop_token_ids", "stop")
    answer = _Answer(here, body, prompts)
    with here.admitted():
        if body.echo and body.logprobs is not None:
            answer.scores = await score_prompts(here.llm, prompts, body.logprobs)
        if body.max_tokens == 0:
            return JSONResponse(answer.echoed())
    admission = here.admitted()
    admission.__enter__()
    flight = Flight(here.llm, request)
    await flight.__aenter__()
    for row, prompt in enumerate(prompts):
        flight.launch(prompt, params, row, tokens=body.stream)
    if body.stream:
        return await streamed(here, flight, admission, answer.chunks, answer.last)
    try:
        while not flight.over:
            answer.chunks(await flight.take())
    finally:
        flight.close()
        admission.__exit__(None, None, None)
    return JSONResponse(answer.whole())


def read_prompt(here: Service, given: str | list[int], special: bool) -> Prompt:
    """Text or ids as a Prompt. Raises Refused for ids outside the vocabulary, and for text without a tokenizer."""
    vocab = int(here.llm.loop.engine.vocab)
    if isinstance(given, str):
        tokenizer = here.llm.tokenizer
        if tokenizer is None:
            raise Refused(400, "this checkpoint has no tokenizer: give the prompt as token ids", "prompt")
        ids = tokenizer.encode(given, special)
        if not ids:
            raise Refused(400, "prompt: empty; give text or token ids", "prompt")
        return Prompt(text=given, token_ids=tuple(ids))
    bad = next((i for i in given if i >= vocab), None)
    if bad is not None:
        raise Refused(400, f"token id {bad} is outside the vocabulary of {vocab}", "prompt")
    return Prompt(token_ids=tuple(given))


class _Answer:
    """What one request has become so far."""

    def __init__(self, here: Service, body: CompletionRequest, prompts: list[Prompt]) -> None:
        self.here, self.body, self.prompts = here, body, prompts
        self.tokenizer = here.llm.tokenizer
        self.head = answers.head("text_completion", "cmpl", here.model)
        self.scores: list[PromptScores] | None = None
        self.choices: dict[int, dict[str, Any]] = {}
        self.offsets: dict[int, int] = {}
        self.heard: dict[int, int] = {}
        self.completion = 0
        self.hidden = control_ids(self.tokenizer) if body.skip_special_tokens and self.tokenizer else frozenset[int]()
        self.begun = time.monotonic()
        self.first: float | None = None
        self.written: dict[int, int] = {}

    def chunks(self, events: Sequence[Token | End]) -> list[dict[str, Any]]:
        """Chunks for these events; a choice's tokens that came together travel together."""
        made: list[dict[str, Any]] = []
        waiting: dict[int, list[Token]] = {}
        for event in events:
            if self.first is None:
                self.first = time.monotonic()
                self.here.metrics.first_token.observe(self.first - self.begun)
            place = event.row * self.body.n + event.index
            if isinstance(event, Token):
                waiting.setdefault(place, []).append(event)
            elif self.body.stream:
                made += self._chunk(place, waiting.pop(place, []), None)
                made += self._chunk(place, [], event.trace)
                self._count(event.trace)
            else:
                self.choices[place] = self._choice(place, event.row, event.trace)
                self._count(event.trace)
        for place, tokens in waiting.items():
            made += self._chunk(place, tokens, None)
        return made

    def _count(self, trace: Trace) -> None:
        length = len(trace.token_ids)
        self.completion += length
        self.here.metrics.finished(finish_reason(trace.stop))
        self.here.metrics.generation_tokens.inc(length)

    def _chunk(self, place: int, tokens: Sequence[Token], ended: Trace | None) -> list[dict[str, Any]]:
        body = self.body
        self.written[place] = self.written.get(place, 0) + len(tokens)
        text = "".join(t.text for t in tokens if t.token_id not in self.hidden)
        self.heard[place] = self.heard.get(place, 0) + sum(len(t.text) for t in tokens)
        if ended is not None:
            # half a character, held back to the end
            text += ended.text[self.heard[place] :]
        asked = body.logprobs is not None or body.return_token_ids or body.return_trace
        if not text and ended is None and not (asked and tokens):
            return []
        choice: dict[str, Any] = {
            "index": place,
            "text": text,
            "logprobs": None,
            "finish_reason": None if ended is None else finish_reason(ended.stop),
        }
        if tokens and body.logprobs is not None:
            offset = self.offsets.get(place, 0)
            self.offsets[place] = offset + len(text)
            choice["logprobs"] = answers.completion_logprobs(
                self.tokenizer,
                [t.token_id for t in tokens],
                [t.raw_logprob for t in tokens],
                [t.top for t in tokens],
                body.return_tokens_as_token_ids,
                offset,
            )
        if body.return_token_ids:
            choice["token_ids"] = [t.token_id for t in tokens]
        if tokens and body.return_trace:
            choice["trace"] = {
                "logprobs": [t.logprob for t in tokens],
                "raw_logprobs": [t.raw_logprob for t in tokens],
                "confidence": [t.confidence for t in tokens],
                "version": self.here.llm.version,
            }
        chunk = self.head | {"choices": [choice]}
        if body.counts_always:
            length = self.written[place] if ended is None else len(ended.token_ids)
            chunk["usage"] = answers.usage(len(self.prompts[place // body.n].token_ids), length)
        return [chunk]

    def _choice(self, place: int, row: int, trace: Trace) -> dict[str, Any]:
        body = self.body
        text = self._text(trace)
        ids, logprobs, tops = list(trace.token_ids), [float(x) for x in trace.raw_logprobs], list(trace.top)
        tops = tops or [()] * len(ids)
        choice: dict[str, Any] = {
            "index": place,
            "text": text,
            "logprobs": None,
            "finish_reason": finish_reason(trace.stop),
        }
        if body.logprobs is not None:
            values: list[float | None] = list(logprobs)
            named: list[answers.Top | None] = list(tops)
            if self.scores is not None:
                scored = self.scores[row]
                ids, values, named = scored.ids + ids, scored.logprobs + values, scored.tops + named
            choice["logprobs"] = answers.completion_logprobs(
                self.tokenizer, ids, values, named, body.return_tokens_as_token_ids
            )
        if body.echo:
            choice["text"] = self._prompt_text(row) + text
        if body.return_token_ids:
            choice |= {"token_ids": list(trace.token_ids), "prompt_token_ids": list(self.prompts[row].token_ids)}
        if body.return_trace:
            choice["trace"] = answers.trace_arrays(trace)
        return choice

    def _text(self, trace: Trace) -> str:
        """The text, control tokens dropped where they are not wanted."""
        if self.tokenizer is None or not self.hidden.intersection(trace.token_ids):
            return trace.text
        if self.body.stops:
            # cut inside a token, perhaps: the ids no longer tell where the text ends
            return _without(trace.text, self.tokenizer, self.hidden)
        return self.tokenizer.decode([i for i in trace.token_ids if i not in self.hidden])

    def _prompt_text(self, row: int) -> str:
        prompt = self.prompts[row]
        return prompt.text or (self.tokenizer.decode(prompt.token_ids) if self.tokenizer else "")

    def echoed(self) -> dict[str, Any]:
        """Prompts given back without a token of ours."""
        for row, prompt in enumerate(self.prompts):
            for i in range(self.body.n):
                place = row * self.body.n + i
                choice: dict[str, Any] = {"index": place, "text": self._prompt_text(row), "finish_reason": "length"}
                choice["logprobs"] = None
                if self.scores is not None:
                    s = self.scores[row]
                    as_id = self.body.return_tokens_as_token_ids
                    choice["logprobs"] = answers.completion_logprobs(self.tokenizer, s.ids, s.logprobs, s.tops, as_id)
                if self.body.return_token_ids:
                    choice |= {"token_ids": [], "prompt_token_ids": list(prompt.token_ids)}
                self.choices[place] = choice
        return self.whole()

    def last(self) -> list[dict[str, Any]]:
        """What a stream says at its end."""
        self._done()
        return [self.head | {"choices": [], "usage": self._usage()}] if self.body.include_usage else []

    def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        self._done()
        return self.head | {"choices": [self.choices[i] for i in sorted(self.choices)], "usage": self._usage()}

    def _done(self) -> None:
        metrics, prompt = self.here.metrics, sum(len(p.token_ids) for p in self.prompts)
        metrics.whole.observe(time.monotonic() - self.begun)
        metrics.prompt_tokens.inc(prompt)
        metrics.forked.inc((self.body.n - 1) * (prompt - len(self.prompts)))

    def _usage(self) -> dict[str, Any]:
        return answers.usage(sum(len(p.token_ids) for p in self.prompts), self.completion)


def control_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids of tokens that readers do not want to see."""
    return frozenset(i for i, token in tokenizer.inner.get_added_tokens_decoder().items() if token.special)


def _without(text: str, tokenizer: Tokenizer, hidden: frozenset[int]) -> str:
    for token in hidden:
        text = text.replace(tokenizer.decode([token]), "")
    return text
