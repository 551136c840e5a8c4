"""A chat's answer by DeepConf: one completion, the most confident trace that agrees with the vote, and the vote beside it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from h1r.search import DeepConfResult
from h1r.serve.answers import head, reasoning_tokens, usage
from h1r.serve.deepthink import best_of, launch, report
from h1r.serve.flight import Gone, finish_reason
from h1r.serve.protocol import ChatRequest
from h1r.serve.service import Service, as_refused, error_body, need_tokenizer
from h1r.serve.stream import HEADERS, frame
from h1r.types import Prompt, SamplingParams


async def chat_answer(
    request: Request, here: Service, body: ChatRequest, prompt: Prompt, params: SamplingParams
) -> Response:
    """A chat's answer by DeepConf, as one completion with the vote beside it; streamed, in one chunk."""
    assert body.deepconf is not None
    begun = time.monotonic()
    thinking, run, _ = launch(request, here, body.deepconf, prompt, params, False)

    async def made() -> tuple[dict[str, Any], dict[str, Any]]:
        result = await run
        told = report(here, result, time.monotonic() - begun, False)
        return _completion(here, body, prompt, result, told), told

    async def events() -> AsyncIterator[bytes]:
        try:
            whole, told = await made()
            choice = whole["choices"][0]
            same = {k: whole[k] for k in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
            delta = {"index": 0, "delta": choice["message"], "logprobs": None, "finish_reason": None}
            ended = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": choice["finish_reason"]}
            yield frame(same | {"choices": [delta]}) + frame(same | {"choices": [ended], "deepconf": told})
            if body.include_usage:
                yield frame(same | {"choices": [], "usage": whole["usage"]})
            yield b"data: [DONE]\n\n"
        except Gone:
            here.metrics.disconnected.inc()
        # the edge of one request: its client gets the error, the server goes on
        except Exception as e:
            said = as_refused(e)
            yield frame(error_body(said.message, said.kind, said.param, said.status))
        finally:
            thinking.stop()

    if body.stream:
        return StreamingResponse(events(), media_type="text/event-stream", headers=HEADERS)
    return JSONResponse((await made())[0])


def _completion(
    here: Service, body: ChatRequest, prompt: Prompt, result: DeepConfResult, told: dict[str, Any]
) -> dict[str, Any]:
    tokenizer = need_tokenizer(here)
    best = best_of(here, result)
    trace = result.traces[
        max(range(len(result.traces)), key=lambda i: result.stats[i].lowest) if best is None else best
    ]
    message: dict[str, Any] = {"role": "assistant", "content": trace.content}
    if body.include_reasoning and trace.reasoning:
        message |= {"reasoning_content": trace.reasoning, "reasoning": trace.reasoning}
    thought = sum(reasoning_tokens(tokenizer, t.token_ids) for t in result.traces)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(trace.stop)}
    out = head("chat.completion", "chatcmpl", here.model) | {"choices": [choice], "deepconf": told}
    return out | {"usage": usage(len(prompt.token_ids), result.tokens, thought)}
