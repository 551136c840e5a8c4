"""Whose turn it is: how many requests are at work, who waits, who is told to come again later.

The engine decodes so many sequences at once; requests beyond that wait here, by client (an API key is a client, all
without a key are one). When a place is free it goes to the client with the fewest requests at work, among equals to the
one served longest ago, so that a client who sends a thousand requests delays another's single one by no more than it takes
for one to end. Event loop only: no locks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from h1r.errors import ConfigError
from h1r.serve.service import Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one server takes upon itself.

    in_flight  requests at work or waiting; further ones get a 429
    at_work    requests handed to the engine at once; None: all of in_flight
    per_key    requests of one key in flight; further ones get a 429; None: no limit of its own
    wait       seconds a request waits for its turn before a 503
    seconds    longest life of a request; then a 503, or an error event where the answer has begun; None: for ever
    stall      seconds a client may neither send nor take a byte
    body       bytes of a body; longer ones get a 413
    """

    in_flight: int = 1024
    at_work: int | None = None
    per_key: int | None = None
    wait: float = 600.0
    seconds: float | None = None
    stall: float = 60.0
    body: int = 16 << 20

    def __post_init__(self) -> None:
        for name in ("in_flight", "at_work", "per_key", "wait", "seconds", "stall", "body"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name}={value}: must be more than 0")


class Turns:
    """Counts requests and hands out places. draining: no new ones are taken."""

    def __init__(self, limits: Limits, rejected: Callable[[], None] = lambda: None) -> None:
        self.limits, self._rejected = limits, rejected
        self.draining = False
        self.working: dict[str, int] = {}
        self.waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._served: dict[str, int] = {}  # the number of its latest turn
        self._turn = 0
        self._places = min(limits.at_work or limits.in_flight, limits.in_flight)
        self._working = self._waiting = 0

    async def enter(self, client: str) -> None:
        """Returns when it is the client's turn; then `leave` must be called. Raises Refused: 429, or 503 when it took long."""
        self.admit(client)
        if self._working < self._places and not self._waiting:
            self._take(client)
            return
        place = asyncio.get_running_loop().create_future()
        line = self.waiting.setdefault(client, deque())
        line.append(place)
        self._waiting += 1
        self._serve()
        try:
            await asyncio.wait_for(asyncio.shield(place), self.limits.wait)
        except BaseException as e:
            if place.done():
                # given a place in the very moment of giving up
                self.leave(client)
            else:
                place.cancel()
                line.remove(place)
                if not line and self.waiting.get(client) is line:
                    del self.waiting[client]
                self._waiting -= 1
            if isinstance(e, TimeoutError):
                self._rejected()
                raise Refused(503, f"no turn came within {self.limits.wait:g} s; try again later", retry=10) from None
            raise

    def admit(self, client: str) -> None:
        """Raises Refused for what there is no room to wait in."""
        if self.draining:
            raise Refused(503, "the server is shutting down; try another one", retry=5)
        mine = self.working.get(client, 0) + len(self.waiting.get(client, ()))
        if self.limits.per_key is not None and mine >= self.limits.per_key:
            self._rejected()
            raise Refused(429, f"{mine} requests of this key are in flight already", None, "rate_limit_error", 1)
        if self._working + self._waiting >= self.limits.in_flight:
            self._rejected()
            told = f"{self._working + self._waiting} requests are in flight already; try again"
            raise Refused(429, told, None, "rate_limit_error", 1)

    def leave(self, client: str) -> None:
        """A request is over: its place goes to whoever is next."""
        self._working -= 1
        self.working[client] -= 1
        if not self.working[client]:
            del self.working[client]
        self._serve()

    def _serve(self) -> None:
        while self._working < self._places and self._waiting:
            client = min(self.waiting, key=lambda c: (self.working.get(c, 0), self._served.get(c, 0)))
            place = self.waiting[client].popleft()
            if not self.waiting[client]:
                del self.waiting[client]
            self._waiting -= 1
            self._take(client)
            place.set_result(None)

    def _take(self, client: str) -> None:
        self._working, self._turn = self._working + 1, self._turn + 1
        self._served[client] = self._turn
        self.working[client] = self.working.get(client, 0) + 1
