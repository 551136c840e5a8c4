"""POST /v1/deepthink: one question thought through many times, weak traces ended in the engine's step, a weighted vote.

The policy is search's; this file runs it beside the event loop, tells what happens while it happens, and ends
everything when the client leaves. Which answer a trace gives, and which answers are equal, are the app's arguments.

Events of a stream, in `type`: started, confidence (a window's mean), finished (with stop reason), vote, result.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from h1r.engine import Ticket
from h1r.search import DeepConfConfig, DeepConfResult, online, tally
from h1r.serve.answers import finite, head
from h1r.serve.flight import Gone
from h1r.serve.protocol import DeepThinkRequest, messages
from h1r.serve.service import Refused, Service, as_refused, error_body, service
from h1r.serve.stream import HEADERS, frame
from h1r.types import Answer, Prompt, SamplingParams, StopReason, Trace, Watch

router = APIRouter()

TOLD_EVERY = 16
"""Tokens between two confidence events of a trace."""

Tell = Callable[[dict[str, Any]], None]


@router.post("/v1/deepthink")
async def deepthink(request: Request, body: DeepThinkRequest) -> Response:
    """Answer by DeepConf; plain majority is always reported beside it."""
    here = service(request)
    here.check_model(body.model)
    if here.answer_of is None:
        raise Refused(
            501, "this server was started without a way to read answers: deepthink is off", kind="server_error"
        )
    prompt = here.llm.prompt(Prompt(messages=tuple(messages(body.messages))))
    room = here.room(prompt)
    params = SamplingParams(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        max_tokens=min(body.max_tokens or room, room),
        seed=body.seed,
    )
    config = DeepConfConfig(
        keep_fraction=body.keep_fraction,
        window=body.window,
        warmup=min(body.warmup or min(16, max(1, body.traces // 2)), body.traces),
        budget=body.traces,
        consensus=body.consensus,
        method=body.vote,
        rolling=body.rolling,
        seed=0 if body.seed is None else body.seed,
    )
    admission = here.admitted()
    admission.__enter__()
    mail: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(event: Any) -> None:
        loop.call_soon_threadsafe(mail.put_nowait, event)

    thinking = Thinking(here, tell if body.stream else _silent)
    run = loop.run_in_executor(None, thinking.run, prompt, params, config)
    leaving = asyncio.create_task(_gone(request))
    leaving.add_done_callback(lambda task: None if task.cancelled() else thinking.stop())

    def over(done: asyncio.Future[DeepConfResult]) -> None:
        leaving.cancel()
        if not done.cancelled():
            # looked at here, because a stream whose client left never asks
            done.exception()
        admission.__exit__(None, None, None)
        mail.put_nowait(None)

    run.add_done_callback(over)
    if body.stream:
        events = _events(here, body, thinking, run, mail, time.monotonic())
        return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)
    begun = time.monotonic()
    result = await run
    return JSONResponse(report(here, body, result, time.monotonic() - begun))


async def _events(
    here: Service,
    body: DeepThinkRequest,
    thinking: Thinking,
    run: asyncio.Future[DeepConfResult],
    mail: asyncio.Queue[Any],
    begun: float,
) -> AsyncIterator[bytes]:
    try:
        while (event := await mail.get()) is not None:
            yield frame(event)
        result = await run
        yield frame({"type": "result"} | report(here, body, result, time.monotonic() - begun))
        yield b"data: [DONE]\n\n"
    except Gone:
        here.metrics.disconnected.inc()
    # the edge of one request: its client gets the error, the server goes on
    except Exception as e:
        told = as_refused(e)
        yield frame(error_body(told.message, told.kind, told.param, told.status))
    finally:
        thinking.stop()


def _silent(event: dict[str, Any]) -> None: ...


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Thinking:
    """One run of the policy, in a worker thread: a `generate` for search that tells, and that can be stopped."""

    def __init__(self, here: Service, tell: Tell) -> None:
        self._here, self._tell = here, tell
        self._tickets: list[Ticket] = []
        self._stopped = False
        self._launched = 0
        self._answers: list[tuple[str, float]] = []

    def run(self, prompt: Prompt, sampling: SamplingParams, config: DeepConfConfig) -> DeepConfResult:
        """Blocks until the vote is known. Raises Gone after `stop`."""
        assert self._here.answer_of is not None
        result = online(self.generate, prompt, sampling, config, self._here.answer_of, self._here.same)
        metrics = self._here.metrics
        metrics.saved.inc(result.saved)
        metrics.stopped.inc(result.stopped)
        metrics.generation_tokens.inc(result.tokens)
        metrics.prompt_tokens.inc(len(prompt.token_ids))
        return result

    def stop(self) -> None:
        """End what runs, from any thread."""
        self._stopped = True
        for ticket in self._tickets:
            if not ticket.done.done():
                ticket.abort()

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingParams, watches: Sequence[Watch | None] | None = None
    ) -> list[list[Trace]]:
        """As types.Generator, on the shared engine."""
        if self._stopped:
            raise Gone
        out = []
        for row, prompt in enumerate(prompts):
            told = _Told(watches[row] if watches else None, self._tell, self._launched, self._finished)
            self._tell({"type": "started", "first": self._launched, "traces": sampling.n})
            self._launched += sampling.n
            self._here.metrics.forked.inc((sampling.n - 1) * max(0, len(prompt.token_ids) - 1))
            ticket = self._here.llm.loop.submit(prompt, sampling, told, row)
            self._tickets.append(ticket)
            out.append(ticket.result())
        if self._stopped:
            raise Gone
        return out

    def _finished(self, index: int, trace: Trace) -> None:
        """On the engine's thread: a trace ended; the plain vote so far."""
        assert self._here.answer_of is not None
        self._here.metrics.finished(str(trace.stop.value))
        whole = trace.stop in (StopReason.STOP, StopReason.LENGTH)
        answer = self._here.answer_of(trace) if whole else None
        event = {"type": "finished", "index": index, "stop": trace.stop.value, "tokens": len(trace.token_ids)}
        self._tell(event | {"answer": answer})
        if answer is not None:
            self._answers.append((answer, 1.0))
            self._tell({"type": "vote", "votes": _votes(tally(self._answers))})


class _Told:
    """A Watch around a Watch (or none) that tells what it sees. first: number of this phase's first trace."""

    def __init__(self, inner: Watch | None, tell: Tell, first: int, finished: Callable[[int, Trace], None]) -> None:
        self._inner, self._tell, self._first, self._finished = inner, tell, first, finished
        self._recent: dict[int, list[float]] = {}

    def step(self, traces: Sequence[int], confidences: Sequence[float]) -> Mapping[int, StopReason]:
        for index, confidence in zip(traces, confidences, strict=True):
            recent = self._recent.setdefault(index, [])
            recent.append(confidence)
            if len(recent) == TOLD_EVERY:
                mean = sum(recent) / TOLD_EVERY
                recent.clear()
                self._tell({"type": "confidence", "index": self._first + index, "mean": round(finite(mean), 3)})
        return self._inner.step(traces, confidences) if self._inner is not None else {}

    def finish(self, index: int, trace: Trace) -> None:
        self._finished(self._first + index, trace)
        if self._inner is not None:
            self._inner.finish(index, trace)


def report(here: Service, body: DeepThinkRequest, result: DeepConfResult, seconds: float) -> dict[str, Any]:
    """The result as JSON. `message`: the most confident trace behind the answer, in full."""
    voters = [i for i in result.voters if _agrees(here, result.answers[i], result.answer.value)]
    pool = voters or [i for i, a in enumerate(result.answers) if _agrees(here, a, result.answer.value)]
    best = max(pool, key=lambda i: result.stats[i].lowest, default=None)
    out = head("deepthink", "think", here.model) | {
        "answer": result.answer.value,
        "share": result.answer.share,
        "votes": _votes(result.answer),
        "majority": {
            "answer": result.majority.value,
            "share": result.majority.share,
            "votes": _votes(result.majority),
        },
        "traces": len(result.traces),
        "stopped": result.stopped,
        "fallback": result.fallback,
        "bar": finite(result.bar),
        "tokens": result.tokens,
        "warmup_tokens": result.warmup_tokens,
        "saved_tokens": round(result.saved),
        "seconds": seconds,
        "message": None,
    }
    if best is not None:
        trace = result.traces[best]
        said = {"content": trace.content, "reasoning_content": trace.reasoning, "reasoning": trace.reasoning}
        out["message"] = {"role": "assistant", "trace": best} | said
    out["trace_stats"] = [_stats(result, i, body.return_traces) for i in range(len(result.traces))]
    return out


def _agrees(here: Service, answer: str | None, winner: str | None) -> bool:
    if answer is None or winner is None:
        return False
    return answer == winner or (here.same is not None and here.same(answer, winner))


def _stats(result: DeepConfResult, i: int, whole: bool) -> dict[str, Any]:
    trace, stats = result.traces[i], result.stats[i]
    out: dict[str, Any] = {
        "index": i,
        "stop": trace.stop.value,
        "tokens": stats.tokens,
        "answer": result.answers[i],
        "voted": i in result.voters,
        "mean": finite(stats.mean),
        "tail": finite(stats.tail),
        "bottom": finite(stats.bottom),
        "lowest": finite(stats.lowest),
    }
    if whole:
        out |= {"content": trace.content, "reasoning_content": trace.reasoning}
        out["confidence"] = [round(finite(c), 4) for c in trace.confidence]
    return out


def _votes(answer: Answer) -> list[dict[str, Any]]:
    return [{"value": v.value, "count": v.traces, "weight": v.weight} for v in answer.votes]
