"""POST /v1/deepthink: one question thought through many times, weak traces ended in the engine's step, a weighted vote;
and the same behind a chat's `deepconf`, whose answer is the most confident trace that agrees with the vote.

The policy is search's; this file runs it beside the event loop, tells what happens while it happens, and ends
everything when the client leaves. Which answer a trace gives, and which answers are equal, are the app's arguments.

Events of a stream, in `type`: started, confidence (mean of the last window), bar (the threshold is known), finished
(with stop reason), vote (as far as it has come, and the plain majority), result.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from h1r.engine import Ticket
from h1r.search import (
    DeepConfConfig,
    DeepConfResult,
    DeepConfWatch,
    Stats,
    Window,
    online,
    statistics,
    tally,
    weight_of,
)
from h1r.serve.answers import finite, head
from h1r.serve.flight import TOKENS, Gone
from h1r.serve.protocol import DeepConf, DeepThinkRequest, characters, messages
from h1r.serve.service import Refused, Service, as_refused, error_body, service
from h1r.serve.stream import HEADERS, frame
from h1r.types import Answer, Prompt, SamplingParams, StopReason, Trace, Watch

router = APIRouter()

TOLD_EVERY = 16
"""Most tokens between two confidence events of a trace while it is short; a long one is told about more rarely."""

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
    said = Prompt(messages=tuple(messages(body.messages)))
    prompt = await here.encoded(characters(said.messages), lambda: here.llm.prompt(said))
    room = here.room(prompt)
    params = SamplingParams(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        max_tokens=min(body.max_tokens or room, room),
        seed=body.seed,
    )
    begun = time.monotonic()
    thinking, run, mail = launch(request, here, body, prompt, params, body.stream)
    if body.stream:
        events = _events(here, body, thinking, run, mail, begun)
        return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)
    result = await run
    return JSONResponse(report(here, result, time.monotonic() - begun, body.return_traces))


def launch(
    request: Request, here: Service, body: DeepConf, prompt: Prompt, params: SamplingParams, telling: bool
) -> tuple[Thinking, asyncio.Future[DeepConfResult], asyncio.Queue[Any]]:
    """Start a run beside the event loop; it ends early when the client leaves. The queue brings events, then None."""
    if here.answer_of is None:
        raise Refused(
            501, "this server was started without a way to read answers: deepthink is off", kind="server_error"
        )
    config = settings(here.deepconf, body, params.seed)
    admission = here.admitted()
    admission.__enter__()
    mail: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(event: Any) -> None:
        loop.call_soon_threadsafe(mail.put_nowait, event)

    thinking = Thinking(here, config, tell if telling else _silent, request.scope.get(TOKENS))
    run = loop.run_in_executor(None, thinking.run, prompt, params)
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
    return thinking, run, mail


def settings(own: DeepConfConfig, body: DeepConf, seed: int | None) -> DeepConfConfig:
    """What the request says, then what suits the checkpoint; consensus only where asked for. Raises ConfigError."""
    warmup = min(own.warmup, max(1, body.traces // 2)) if body.warmup is None else min(body.warmup, body.traces)
    return DeepConfConfig(
        keep_fraction=own.keep_fraction if body.keep_fraction is None else body.keep_fraction,
        window=own.window if body.window is None else body.window,
        warmup=warmup,
        budget=body.traces,
        consensus=body.consensus,
        method=body.vote,
        rolling=body.rolling,
        seed=0 if seed is None else seed,
    )


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
        yield frame({"type": "result"} | report(here, result, time.monotonic() - begun, body.return_traces))
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

    def __init__(self, here: Service, config: DeepConfConfig, tell: Tell, counts: dict[str, int] | None = None) -> None:
        """counts: where the log's line takes its token numbers from."""
        self._here, self._config, self._tell = here, config, tell
        self._counts = {} if counts is None else counts
        self._tickets: list[Ticket] = []
        self._stopped = False
        self._launched = 0
        self._ballots: list[tuple[str, Stats]] = []
        self._next = 1
        self._bar: float | None = None

    def run(self, prompt: Prompt, sampling: SamplingParams) -> DeepConfResult:
        """Blocks until the vote is known. Raises Gone after `stop`."""
        assert self._here.answer_of is not None
        self._counts |= {"prompt_tokens": len(prompt.token_ids), "completion_tokens": 0}
        result = online(self.generate, prompt, sampling, self._config, self._here.answer_of, self._here.same)
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
            inner = watches[row] if watches else None
            self._tell({"type": "started", "first": self._launched, "traces": sampling.n})
            self._heed(inner)
            told = _Told(inner, self._tell, self._launched, self._config.window, self._heed, self._finished)
            self._launched += sampling.n
            self._here.metrics.forked.inc((sampling.n - 1) * max(0, len(prompt.token_ids) - 1))
            ticket = self._here.llm.loop.submit(self._here.llm.prompt(prompt), sampling, told, row)
            self._tickets.append(ticket)
            out.append(ticket.result())
        if self._stopped:
            raise Gone
        return out

    def _finished(self, index: int, trace: Trace) -> None:
        """On the engine's thread: a trace ended; the plain vote so far."""
        assert self._here.answer_of is not None
        self._here.metrics.finished(str(trace.stop.value))
        self._counts["completion_tokens"] = self._counts.get("completion_tokens", 0) + len(trace.token_ids)
        whole = trace.stop in (StopReason.STOP, StopReason.LENGTH)
        answer = self._here.answer_of(trace) if whole else None
        stats = statistics(trace.confidence, self._config.window, self._config.window)
        event = {"type": "finished", "index": index, "stop": trace.stop.value, "tokens": stats.tokens}
        self._tell(event | {"answer": answer, "lowest": finite(stats.lowest)})
        if answer is not None:
            self._ballots.append((answer, stats))
            if len(self._ballots) >= self._next:
                self._tell_vote()

    def _heed(self, watch: Watch | None) -> None:
        """The bar changes who votes: told as soon as a watch knows it."""
        if isinstance(watch, DeepConfWatch) and watch.bar is not None and watch.bar != self._bar:
            self._bar = watch.bar
            self._tell({"type": "bar", "bar": finite(self._bar)})
            self._tell_vote()

    def _tell_vote(self) -> None:
        # on the engine's thread, and counted anew each time: more rarely the more there are
        self._next = len(self._ballots) + max(1, len(self._ballots) // 32)
        if self._tell is _silent:
            return
        bar, method = self._bar, self._config.method
        voted = [(a, weight_of(s, method)) for a, s in self._ballots if bar is None or s.lowest >= bar]
        majority = tally([(a, 1.0) for a, _ in self._ballots])
        self._tell({"type": "vote", "votes": _votes(tally(voted)), "majority": _votes(majority)})


class _Told:
    """A Watch around a Watch (or none) that tells what it sees. first: number of this phase's first trace."""

    def __init__(
        self,
        inner: Watch | None,
        tell: Tell,
        first: int,
        window: int,
        heed: Callable[[Watch | None], None],
        finished: Callable[[int, Trace], None],
    ) -> None:
        self._inner, self._tell, self._first, self._heed, self._finished = inner, tell, first, heed, finished
        self._size = window
        self._every = min(TOLD_EVERY, max(1, window // 4))
        self._windows: dict[int, Window] = {}
        self._next: dict[int, int] = {}

    def step(self, traces: Sequence[int], confidences: Sequence[float]) -> Mapping[int, StopReason]:
        for index, confidence in zip(traces, confidences, strict=True):
            if index not in self._windows:
                self._windows[index] = Window(self._size)
                self._next[index] = self._every
            window = self._windows[index]
            window.push(float(confidence))
            if window.count >= self._next[index]:
                self._next[index] = window.count + max(self._every, window.count // 64)
                self._say(index, window)
        return self._inner.step(traces, confidences) if self._inner is not None else {}

    def finish(self, index: int, trace: Trace) -> None:
        window = self._windows.pop(index, None)
        if window is not None:
            self._say(index, window)
        self._finished(self._first + index, trace)
        if self._inner is not None:
            self._inner.finish(index, trace)
            self._heed(self._inner)

    def _say(self, index: int, window: Window) -> None:
        event = {"type": "confidence", "index": self._first + index, "tokens": window.count}
        self._tell(event | {"mean": round(finite(window.mean), 3)})


def best_of(here: Service, result: DeepConfResult) -> int | None:
    """The most confident trace behind the answer."""
    voters = [i for i in result.voters if _agrees(here, result.answers[i], result.answer.value)]
    pool = voters or [i for i, a in enumerate(result.answers) if _agrees(here, a, result.answer.value)]
    return max(pool, key=lambda i: result.stats[i].lowest, default=None)


def report(here: Service, result: DeepConfResult, seconds: float, traces: bool) -> dict[str, Any]:
    """The result as JSON. `message`: the most confident trace behind the answer, in full; traces: all of them."""
    best = best_of(here, result)
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
    out["trace_stats"] = [_stats(result, i, traces) for i in range(len(result.traces))]
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
