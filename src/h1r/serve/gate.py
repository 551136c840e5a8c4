"""What stands before every handler: keys, limits of size, number and time, the log, and the last resort for an error nobody
foresaw."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from h1r.errors import ConfigError
from h1r.serve.flight import TOKENS
from h1r.serve.record import Record
from h1r.serve.service import Refused, answer_error, error_body
from h1r.serve.turns import Limits, Turns

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN = frozenset({"/", "/health", "/favicon.ico"})
"""Paths that need no key: the page itself holds nothing, and probes carry none."""

WRITING = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/deepthink"})
"""Paths that keep the engine busy: these wait for their turn, and have a time limit."""

AUTHENTICATION = "authentication_error"


class Gate:
    """ASGI middleware. keys: who may use the server (none: everybody); admin: who may use /admin (none: nobody)."""

    def __init__(
        self, app: Any, keys: Sequence[str], admin: Sequence[str], turns: Turns, record: Record | None = None
    ) -> None:
        self._app, self._turns, self._record = app, turns, record
        self._keys = [k.encode() for k in keys]
        self._admin = [k.encode() for k in admin]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passage = Passage(receive, send, self._turns.limits, scope)
        try:
            await self._pass(scope, passage)
        except Refused as refused:
            await passage.refuse(refused)
        finally:
            passage.close()
            if self._record is not None and scope["path"] not in OPEN:
                self._record.put(passage.told(self._record.prompts))

    async def _pass(self, scope: Message, passage: Passage) -> None:
        token = _token(scope)
        passage.client = _fingerprint(token) if self._keys or self._admin else "-"
        self._check(scope, token)
        await passage.read()
        if scope["method"] != "POST" or scope["path"] not in WRITING:
            await passage.run(self._app)
            return
        entering = asyncio.ensure_future(self._turns.enter(passage.client))
        try:
            await passage.unless_gone(entering)
        except BaseException:
            if not entering.cancel() and entering.exception() is None:
                self._turns.leave(passage.client)
            raise
        try:
            await passage.run(self._app)
        finally:
            self._turns.leave(passage.client)

    def _check(self, scope: Message, token: bytes) -> None:
        """Raises Refused for a key that is missing or wrong."""
        path: str = scope["path"]
        if scope["method"] == "OPTIONS":
            return
        if path.startswith("/admin/"):
            if not self._admin:
                raise Refused(403, "administration is off: start the server with an admin key", kind=AUTHENTICATION)
            if not known(token, self._admin):
                raise Refused(401, "this needs the admin key: Authorization: Bearer <key>", kind=AUTHENTICATION)
        elif path not in OPEN and self._keys and not known(token, [*self._keys, *self._admin]):
            words = "the API key is missing or wrong: send Authorization: Bearer <key>"
            raise Refused(401, words, kind=AUTHENTICATION)


class Passage:
    """One request on its way through: its body, its clock, what was sent of its answer.

    To the app, a request that took too long looks like a client that left: it stops the engine by the same road.
    """

    def __init__(self, receive: Receive, send: Send, limits: Limits, scope: Message) -> None:
        self._receive, self._send, self._limits, self._scope = receive, send, limits, scope
        self.client = "-"
        self._body = b""
        self._gone = asyncio.Event()
        self._expired = self._left = self._ended = False
        self._status = 0
        self._stream = False
        self._begun = time.monotonic()
        self._first: float | None = None
        self._ear: asyncio.Task[None] | None = None
        self._clock: asyncio.TimerHandle | None = None
        self._tokens: dict[str, int] = {}
        scope[TOKENS] = self._tokens

    async def read(self) -> None:
        """The whole body. Raises Refused when it is too large, or comes too slowly."""
        declared = next((v for k, v in self._scope["headers"] if k == b"content-length"), b"0")
        too_large = Refused(413, f"the body is larger than {self._limits.body} bytes; send less")
        if declared.isdigit() and int(declared) > self._limits.body:
            raise too_large
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            try:
                async with asyncio.timeout(self._limits.stall):
                    message = await self._receive()
            except TimeoutError:
                raise Refused(408, f"the body did not come for {self._limits.stall:g} s; send it again") from None
            if message["type"] == "http.disconnect":
                self._leave()
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._limits.body:
                raise too_large
            more = message.get("more_body", False)
        self._body = b"".join(parts)

    async def unless_gone(self, waiting: asyncio.Future[None]) -> None:
        """Wait, but no longer than the client does. Raises Refused (499) then, or what the waiting raises."""
        await asyncio.sleep(0)
        if waiting.done():
            waiting.result()
            return
        self._listen()
        leaving: asyncio.Future[Any] = asyncio.ensure_future(self._gone.wait())
        await asyncio.wait([waiting, leaving], return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not waiting.done():
            raise Refused(499, "the client left")
        waiting.result()

    async def run(self, app: Any) -> None:
        """Let the app answer, within the time it has."""
        self._listen()
        if self._limits.seconds is not None and self._scope["path"] in WRITING:
            self._clock = asyncio.get_running_loop().call_later(self._limits.seconds, self._expire)
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if not replayed:
                replayed = True
                return {"type": "http.request", "body": self._body, "more_body": False}
            await self._gone.wait()
            return {"type": "http.disconnect"}

        try:
            await app(self._scope, replay, self._pass_on)
        # the edge of one request: the client gets a 500, the server goes on
        except Exception as e:
            if self._left:
                return
            if not self._status and not self._expired:
                await answer_error(e)({"type": "http"}, self._receive, self._pass_on)
                return
            if not self._expired:
                raise
        if self._expired and not self._ended:
            await self._say_expired()

    async def _pass_on(self, message: Message) -> None:
        """What the app sends; after the end of its time, or of the client's patience, nobody wants it."""
        if not self._expired:
            await self._emit(message)

    async def _emit(self, message: Message) -> None:
        if self._left:
            return
        if message["type"] == "http.response.start":
            self._status = message["status"]
            kind = next((v for k, v in message.get("headers", ()) if k == b"content-type"), b"")
            self._stream = kind.startswith(b"text/event-stream")
        elif self._first is None and message.get("body"):
            self._first = time.monotonic()
        try:
            async with asyncio.timeout(self._limits.stall):
                await self._send(message)
        except TimeoutError:
            # a reader that takes nothing: its answer is dropped, and the connection with it
            self._leave()
        self._ended = message["type"] == "http.response.body" and not message.get("more_body")

    async def _say_expired(self) -> None:
        refused = Refused(503, f"the answer took longer than {self._limits.seconds:g} s; ask for less", retry=30)
        if not self._status:
            await self.refuse(refused)
        elif self._stream:
            frame = json.dumps(error_body(refused.message, refused.kind, None, refused.status)).encode()
            await self._emit({"type": "http.response.body", "body": b"data: " + frame + b"\n\n"})

    async def refuse(self, refused: Refused) -> None:
        """Send an error instead of an answer."""
        headers = {"www-authenticate": "Bearer"} if refused.status == 401 else {}
        response = answer_error(refused)
        response.headers.update(headers)
        await response({"type": "http"}, self._receive, self._emit)

    def _listen(self) -> None:
        if self._ear is None:
            self._ear = asyncio.create_task(self._hear())

    async def _hear(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._ended:
            self._leave()

    def _leave(self) -> None:
        self._left = True
        self._gone.set()

    def _expire(self) -> None:
        self._expired = True
        self._gone.set()

    def close(self) -> None:
        """The request is over."""
        if self._clock is not None:
            self._clock.cancel()
        if self._ear is not None:
            self._ear.cancel()

    def told(self, prompts: bool) -> dict[str, Any]:
        """The log's line."""
        entry: dict[str, Any] = {
            "client": self.client,
            "method": self._scope["method"],
            "path": self._scope["path"],
            "status": self._status or 499,
            "seconds": round(time.monotonic() - self._begun, 4),
        }
        if self._first is not None:
            entry["first"] = round(self._first - self._begun, 4)
        entry |= self._tokens
        entry |= {name: True for name, so in (("left", self._left), ("expired", self._expired)) if so}
        if prompts:
            entry["body"] = self._body.decode(errors="replace")
        return entry


def _token(scope: Message) -> bytes:
    given: bytes = next((v for k, v in scope["headers"] if k == b"authorization"), b"")
    return given[7:].strip() if given[:7].lower() == b"bearer " else b""


def _fingerprint(token: bytes) -> str:
    """A name for a key that does not give it away."""
    return hashlib.sha256(token).hexdigest()[:8] if token else "-"


def known(token: bytes, keys: Sequence[bytes]) -> bool:
    """Whether the token is one of the keys; the time taken does not tell which, or how nearly."""
    found = False
    for key in keys:
        found |= hmac.compare_digest(token, key)
    return found


def read_keys(path: str | Path) -> tuple[str, ...]:
    """Keys from a file, one per line, # begins a comment. Raises ConfigError when there is none, or a short one."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: the key file cannot be read ({e}); write one key per line") from None
    keys = tuple(k for line in lines if (k := line.partition("#")[0].strip()))
    if not keys:
        raise ConfigError(f"{path}: holds no key; write one per line")
    if any(len(k) < 8 for k in keys):
        raise ConfigError(f"{path}: a key shorter than 8 characters can be guessed; use a longer one")
    return keys


def check_binding(host: str, keys: Sequence[str]) -> None:
    """Raises ConfigError for an address that others can reach, unless there is a key."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and not keys:
        raise ConfigError(f"host {host} can be reached from other machines: give --api-key-file, or bind 127.0.0.1")
