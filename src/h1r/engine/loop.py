"""One engine for many threads: a thread that steps while there is work, and tickets for those who wait.

The thread is started by the first submission and ends when it has been idle for a moment, so an LLM that nobody uses
costs nothing and can be collected. Everything that touches the engine runs on it, between two steps.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from h1r.engine.engine import Engine
from h1r.engine.request import Event
from h1r.engine.traffic import Traffic
from h1r.errors import WorkerLost
from h1r.types import Prompt, SamplingParams, Trace, Watch

R = TypeVar("R")

LINGER = 1.0  # seconds an idle thread waits for more
FAREWELL = 60.0  # seconds a program that ends waits for the step in hand


class Ticket:
    """A request in flight. `on_event` is called on the engine's thread for every event and must not block."""

    def __init__(self, loop: Loop, traces: int, on_event: Callable[[Event], None] | None) -> None:
        self.loop, self.on_event, self.number = loop, on_event, -1
        self.traces: list[Trace | None] = [None] * traces
        self.missing = traces
        self.done: Future[list[Trace]] = Future()

    def result(self, timeout: float | None = None) -> list[Trace]:
        """The traces, by index. Raises what went wrong with this request, or TimeoutError."""
        return self.done.result(timeout)

    def abort(self, index: int | None = None) -> None:
        """End one trace or all: the result then holds what they had, with StopReason.ABORT. Returns at once."""
        self.loop.post(lambda engine: engine.abort(self.number, index))

    def take(self, event: Event) -> None:
        """Called by the loop."""
        if event.trace is not None:
            self.traces[event.index] = event.trace
            self.missing -= 1
        if self.on_event is not None:
            self.on_event(event)


class Loop:
    """Owns an Engine; every method may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.traffic = Traffic()
        self._wake = threading.Condition()
        self._orders: list[Callable[[Engine], None]] = []
        self._tickets: dict[int, Ticket] = {}
        self._thread: threading.Thread | None = None
        self._over = False

    def submit(
        self, prompt: Prompt, sampling: SamplingParams, watch: Watch | None = None, row: int = 0,
        on_event: Callable[[Event], None] | None = None,
    ) -> Ticket:  # fmt: skip
        """Queue a prompt. A refused one (ConfigError) shows when its result is asked for."""
        ticket = Ticket(self, sampling.n, on_event)

        def order(engine: Engine) -> None:
            try:
                ticket.number = engine.add(prompt, sampling, watch, row, stream=on_event is not None)
                self._tickets[ticket.number] = ticket
            except Exception as e:  # the edge of one request
                ticket.done.set_exception(e)

        self.post(order)
        return ticket

    def call(self, verb: Callable[[Engine], R]) -> R:
        """Run `verb` on the engine between two steps, and wait for its result."""
        if threading.current_thread() is self._thread:
            return verb(self.engine)
        future: Future[R] = Future()

        def order(engine: Engine) -> None:
            try:
                future.set_result(verb(engine))
            except Exception as e:  # the edge of one request
                future.set_exception(e)

        self.post(order)
        return future.result()

    def post(self, order: Callable[[Engine], None]) -> None:
        """Leave an order for the engine's thread, starting it when there is none."""
        with self._wake:
            self._orders.append(order)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="h1r-engine", daemon=True)
                _started.add(self)
                self._thread.start()
            self._wake.notify()

    def leave(self) -> None:
        """The program ends: no step after the one in hand."""
        with self._wake:
            self._over, thread = True, self._thread
            self._wake.notify()
        if thread is not None:
            thread.join(FAREWELL)

    def _run(self) -> None:
        try:
            self._turn()
        # the thread dies: whoever waits is told, and the next order starts another
        except BaseException as e:
            with self._wake:
                self._thread = None
            self._give_up(WorkerLost(f"the engine's thread died ({e!r}); send the request again"))
            raise

    def _turn(self) -> None:
        while True:
            with self._wake:
                unused = not self._orders and not self.engine.busy
                if self._over or (unused and not self._wake.wait(LINGER)):
                    self._thread = None
                    return
                orders, self._orders = self._orders, []
            for order in orders:
                try:
                    order(self.engine)
                except Exception as e:  # an abort that failed half-way: as a step that failed
                    self._give_up(e)
            try:
                idle, begun = self.engine.scheduler.idle, time.monotonic()
                events = self.engine.step()
                if not idle:
                    self.traffic.add(self.engine, time.monotonic() - begun)
            except Exception as e:  # the edge of all requests in flight: none of them may wait for ever
                self._give_up(e)
                continue
            for event in events:
                self._deliver(event)

    def _deliver(self, event: Event) -> None:
        ticket = self._tickets.get(event.request)
        if ticket is None:
            return
        try:
            ticket.take(event)
        except Exception as e:  # the edge of one request: its listener broke
            self._tickets.pop(event.request)
            self.engine.abort(event.request)
            ticket.done.set_exception(e)
            return
        if not ticket.missing:
            self._tickets.pop(event.request)
            failure = self.engine.failures.pop(event.request, None)
            if failure is not None:
                ticket.done.set_exception(failure)
            else:
                ticket.done.set_result([t for t in ticket.traces if t is not None])

    def _give_up(self, error: Exception) -> None:
        """A step failed: every request in flight gets the error, and the engine starts over empty."""
        tickets, self._tickets = self._tickets, {}
        self.engine.reset()
        for ticket in tickets.values():
            ticket.done.set_exception(error)


_started: weakref.WeakSet[Loop] = weakref.WeakSet()


@atexit.register
def _farewell() -> None:
    """A thread that the interpreter ends inside PyTorch or a kernel takes the process with it (abort, exit code 134)."""
    for loop in list(_started):
        loop.leave()
