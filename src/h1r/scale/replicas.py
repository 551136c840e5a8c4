"""Replicas of an app behind one address. The app factory is an argument: this room knows no server.

Each replica is a Ray actor that runs the app on a port of its own; a small proxy here sends every request to the
replica with the fewest in flight and passes streams through as they come; `?replica=1` names one, for its metrics. A
replica that dies is started again; its requests end with a 502 that says so. A client that leaves closes the replica's
connection, so the engine stops too. Paths in `everywhere` go to all replicas, and to those that are started later.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from h1r.errors import ConfigError, WorkerLost
from h1r.scale.cluster import ray

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade", b"host", b"content-length"}
"""Headers that belong to one connection and are not passed on."""


class _Replica:
    """Lives in an actor: the app, answering on a port of its own."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._server = _server(factory())
        threading.Thread(target=self._server.run, args=([self._socket],), daemon=True).start()

    def port(self) -> int:
        """Where it answers, once it does."""
        while not self._server.started:
            time.sleep(0.02)
        return int(self._socket.getsockname()[1])


class Fleet:
    """The ASGI proxy: knows each replica's port and how many requests it holds."""

    def __init__(
        self, count: int, factory: Callable[[], Any], cpus: float, gpus: float, everywhere: tuple[str, ...] = ()
    ) -> None:
        self._ray = ray()
        self._everywhere = everywhere
        self._told: dict[str, tuple[Message, bytes]] = {}  # the last request to each of those paths that all took
        self._factory, self._resources = factory, {"num_cpus": cpus, "num_gpus": gpus, "max_concurrency": 4}
        self.actors = [self._start() for _ in range(count)]
        self.ports: list[int | None] = [int(self._ray.get(actor.port.remote())) for actor in self.actors]
        self.held = [0] * count
        self.restarts = 0
        self._client: Any = None
        self._tasks: set[asyncio.Task[None]] = set()

    def _start(self) -> Any:
        return self._ray.remote(_Replica).options(**self._resources).remote(self._factory)

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        body = await _body(receive)
        living = [i for i, port in enumerate(self.ports) if port is not None]
        if not living:
            await _refuse(send, 503, "every replica is starting again; retry in a moment")
            return
        if scope["path"] in self._everywhere:
            await self._tell_all(living, scope, body, send)
            return
        named = _named(scope)
        if named is not None and named not in living:
            await _refuse(send, 404, f"replica={named}: there are {', '.join(map(str, living))}")
            return
        chosen = min(living, key=lambda i: self.held[i]) if named is None else named
        self.held[chosen] += 1
        passing = asyncio.create_task(self._pass_on(chosen, scope, body, send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            passing.cancel()
            self.held[chosen] -= 1
        if passing.done() and not passing.cancelled() and passing.exception() is not None:
            raise passing.exception()  # type: ignore[misc]

    async def _pass_on(self, chosen: int, scope: Message, body: bytes, send: Any) -> None:
        import httpx2

        url, headers = self._url(chosen, scope), [(k, v) for k, v in scope["headers"] if k not in HOP]
        begun = False
        try:
            async with self._client.stream(scope["method"], url, headers=headers, content=body) as answer:
                kept = [(k.lower(), v) for k, v in answer.headers.raw if k.lower() not in HOP - {b"content-length"}]
                await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
                begun = True
                async for chunk in answer.aiter_raw():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except httpx2.TransportError:
            self._replace(chosen)
            if begun:
                raise WorkerLost("the replica died while it answered; send the request again") from None
            await _refuse(send, 502, "the replica died before it answered; send the request again")

    def _url(self, chosen: int, scope: Message) -> str:
        query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        return f"http://127.0.0.1:{self.ports[chosen]}{scope['raw_path'].decode()}{query}"

    async def _tell_all(self, living: list[int], scope: Message, body: bytes, send: Any) -> None:
        """One request to every replica; the answer is the worst."""
        answers = await asyncio.gather(*(self._tell(i, scope, body) for i in living))
        status, kind, content = max(answers, key=lambda a: a[0])
        if status < 300:
            self._told[scope["path"]] = scope, body
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": content})

    async def _tell(self, chosen: int, scope: Message, body: bytes) -> tuple[int, bytes, bytes]:
        import httpx2

        headers = [(k, v) for k, v in scope["headers"] if k not in HOP]
        try:
            answer = await self._client.request(
                scope["method"], self._url(chosen, scope), headers=headers, content=body
            )
        except httpx2.TransportError:
            self._replace(chosen)
            return 502, b"text/plain", f"replica {chosen} died; the others did as told: send the request again".encode()
        return answer.status_code, answer.headers.get("content-type", "text/plain").encode(), answer.content

    def _replace(self, chosen: int) -> None:
        """Start a dead replica again, once however many of its requests noticed."""
        if self.ports[chosen] is None:
            return
        self.ports[chosen] = None
        task = asyncio.create_task(self._restart(chosen))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _restart(self, chosen: int) -> None:
        self.restarts += 1
        log.warning("replica %d is gone; starting another", chosen)
        self._ray.kill(self.actors[chosen], no_restart=True)
        self.actors[chosen] = self._start()
        self.ports[chosen] = int(await self.actors[chosen].port.remote())
        for scope, body in self._told.values():
            await self._tell(chosen, scope, body)

    async def _lifespan(self, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        import httpx2

        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
        async with httpx2.AsyncClient(timeout=None, limits=limits) as self._client:
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return

    def close(self) -> None:
        for actor in self.actors:
            self._ray.kill(actor, no_restart=True)


@contextmanager
def replicas(
    factory: Callable[[], Any],
    count: int,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    cpus: float = 1,
    gpus: float = 0,
    front: Callable[[Any], Any] = lambda fleet: fleet,
    everywhere: tuple[str, ...] = (),
    drain: int = 5,
) -> Iterator[tuple[str, Fleet]]:
    """Serve `count` replicas of the ASGI app `factory` builds, for the time of the block; yields (address, fleet).

    port 0 takes a free one. Needs a session: `with cluster():`.

    front       wraps the proxy, an ASGI app, in another
    everywhere  paths that go to every replica
    drain       seconds that answers in flight have left at the end
    """
    if count < 1:
        raise ConfigError(f"replicas={count}: must be 1 or more")
    try:
        bound = socket.create_server((host, port))
    except OSError as e:
        raise ConfigError(f"{host}:{port}: cannot be bound ({e.strerror}); choose another port") from None
    fleet = Fleet(count, factory, cpus, gpus, everywhere)
    server = _server(front(fleet), drain)
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://{host}:{bound.getsockname()[1]}", fleet
    finally:
        server.should_exit = True
        thread.join(timeout=drain + 5)
        fleet.close()


def _server(app: Any, drain: int = 5) -> Any:
    import uvicorn

    return uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=drain))


def _named(scope: Message) -> int | None:
    """The replica that the query names."""
    for part in scope["query_string"].split(b"&"):
        name, _, value = part.partition(b"=")
        if name == b"replica" and value.isdigit():
            return int(value)
    return None


async def _body(receive: Callable[[], Awaitable[Message]]) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _gone(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(send: Any, status: int, words: str) -> None:
    import json

    content = json.dumps({"error": {"message": words, "type": "server_error", "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"2")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
