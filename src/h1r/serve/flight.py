"""From the engine's thread to an HTTP handler: what one request started, and its events as they come.

The engine calls back on its own thread; a mailbox carries the news over to the event loop. Leaving the block, or the
client leaving, aborts every trace that still runs: the engine frees its memory before the next step.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

from starlette.requests import Request

from h1r.engine import LLM, Event, Ticket
from h1r.types import Prompt, SamplingParams, StopReason, Trace, Watch

TOKENS = "h1r.tokens"
"""Where a request's scope counts its tokens, for the log."""


class Token(NamedTuple):
    """One token of trace `index` of prompt `row`. top: the likeliest (id, log p), raw logits, where asked for."""

    row: int
    index: int  # type: ignore[assignment]
    token_id: int
    logprob: float
    raw_logprob: float
    confidence: float
    top: tuple[tuple[int, float], ...]
    text: str


class End(NamedTuple):
    """A trace ended."""

    row: int
    index: int  # type: ignore[assignment]
    trace: Trace


class Gone(Exception):
    """The client left before its answer."""


class Flight:
    """An async context: `launch` prompts, then `take` events until `over`."""

    def __init__(self, llm: LLM, request: Request | None) -> None:
        self._llm, self._request = llm, request
        self._loop = asyncio.get_running_loop()
        self._items: deque[Token | End | _Landed | BaseException] = deque()
        self._wake = asyncio.Event()
        self._signalled = False
        self._tickets: list[Ticket] = []
        self._left = False
        self._running = 0
        self._watching: asyncio.Task[None] | None = None
        self._counts: dict[str, int] = {} if request is None else request.scope.get(TOKENS, {})

    async def __aenter__(self) -> Flight:
        if self._request is not None:
            self._watching = asyncio.create_task(self._watch(self._request))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Abort what still runs. May be called again."""
        if self._watching is not None:
            self._watching.cancel()
        self._abort()

    def launch(
        self, prompt: Prompt, sampling: SamplingParams, row: int = 0, *, tokens: bool, watch: Watch | None = None
    ) -> Ticket:
        """Start a prompt. tokens: bring every token, not the ends alone."""
        listener = _Listener(self, row, sampling.logprobs > 0, tokens)
        self._running += 1
        self._count("prompt_tokens", len(prompt.token_ids))
        # Ends are events too, so that a trace is known before its siblings are done.
        ticket = self._llm.loop.submit(
            self._llm.prompt(prompt), sampling, watch, row, on_event=listener if tokens else None
        )
        self._tickets.append(ticket)
        ticket.done.add_done_callback(listener.done)
        return ticket

    def abort(self, row: int, index: int) -> None:
        """End one trace; its End follows."""
        self._tickets[row].abort(index)

    @property
    def over(self) -> bool:
        """Every trace has ended and was taken."""
        return self._running == 0 and not self._items

    async def take(self) -> list[Token | End]:
        """What happened since the last call; waits for something. Raises what went wrong, or Gone."""
        await self._wake.wait()
        self._wake.clear()
        self._signalled = False
        if self._left:
            raise Gone
        out: list[Token | End] = []
        while self._items:
            item = self._items.popleft()
            if isinstance(item, _Landed):
                self._running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                if isinstance(item, End):
                    self._count("completion_tokens", len(item.trace.token_ids))
                out.append(item)
        return out

    def _count(self, what: str, tokens: int) -> None:
        self._counts[what] = self._counts.get(what, 0) + tokens

    def put(self, *items: Any) -> None:
        """From any thread."""
        self._items.extend(items)
        if not self._signalled:
            self._signalled = True
            self._signal()

    def _signal(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:
            # the server has shut down: nobody waits any more
            self._abort()

    async def _watch(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._abort()
        self._wake.set()

    def _abort(self) -> None:
        for ticket in self._tickets:
            if not ticket.done.done():
                ticket.abort()


class _Landed:
    """A ticket is done."""


class _Listener:
    """Callbacks of one ticket, on the engine's thread."""

    def __init__(self, flight: Flight, row: int, wants_top: bool, tokens: bool) -> None:
        self._flight, self._row, self._wants_top, self._tokens = flight, row, wants_top, tokens
        self._last: dict[int, Event] = {}

    def __call__(self, event: Event) -> None:
        if event.trace is not None:
            last = self._last.pop(event.index, None)
            if last is not None:
                self._flight.put(self._token(last, event.trace.raw_logprobs, event.trace.top))
            self._flight.put(End(self._row, event.index, event.trace))
            return
        live = self._flight._llm.loop.engine.live.get(event.request, {}).get(event.index)
        if live is None:
            # It ended with this token: the Trace, which comes next, knows the rest.
            self._last[event.index] = event
        else:
            self._flight.put(self._token(event, live.raw_logprobs, live.top))

    def _token(self, event: Event, raw: Any, top: Sequence[Any]) -> Token:
        likeliest = top[-1] if self._wants_top and len(top) else ()
        return Token(
            self._row,
            event.index,
            event.token_id,
            event.logprob,
            float(raw[-1]),
            event.confidence,
            likeliest,
            event.text,
        )

    def done(self, future: Any) -> None:
        error = future.exception()
        if error is not None:
            self._flight.put(error)
            return
        if not self._tokens:
            self._flight.put(*(End(self._row, t.index, t) for t in future.result()))
        self._flight.put(_Landed())


def finish_reason(stop: StopReason, calls: bool = False) -> str:
    """OpenAI's word for the end of a trace; reasons OpenAI does not know keep their own name."""
    return "tool_calls" if calls and stop is StopReason.STOP else str(stop.value)
