"""The same server before an engine that is not ours: vLLM, or any OpenAI-compatible server.

Keys, limits, log and page are those of `app`; chat and completions go through as they are, streams as they come, and what
the engine behind refuses it refuses itself. /v1/deepthink runs here, over an Endpoint: the policy reads the confidence off
the log-probabilities of streamed traces, and ends a trace by closing its connection.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

import h1r
from h1r.endpoint import Endpoint
from h1r.engine import Event
from h1r.errors import EndpointError
from h1r.serve import deepthink, info
from h1r.serve.app import guard
from h1r.serve.metrics import Metrics
from h1r.serve.record import Record
from h1r.serve.service import AnswerOf, Refused, Same, Service
from h1r.serve.turns import Limits, Turns
from h1r.types import Prompt, SamplingParams, StopReason, Trace, Watch

THROUGH = ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize")
HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "host",
        "content-length",
        "authorization",
    }
)
"""Headers of one connection, and the key: the server behind has its own."""


def proxy(
    url: str,
    model: str | None = None,
    *,
    key: str | None = None,
    answer_of: AnswerOf | None = None,
    same: Same | None = None,
    api_keys: Sequence[str] = (),
    limits: Limits | None = None,
    record: Record | None = None,
    cors_origins: Sequence[str] = (),
    dialect: Any = "vllm",
) -> FastAPI:
    """An ASGI app before the server at `url`. Raises EndpointError when that does not answer.

    model  its name there; None: the first it has. key: what it wants of us
    """
    root = url.rstrip("/").removesuffix("/v1")
    card = _card(root, model, key)
    limits = limits or Limits()
    metrics = Metrics(None, card["id"])
    turns = Turns(limits, metrics.rejected.inc)
    endpoint = Endpoint(root, card["id"], key, dialect=dialect, k=20, concurrency=limits.in_flight)

    @asynccontextmanager
    async def lifespan(made: FastAPI) -> AsyncIterator[None]:
        most = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        async with httpx2.AsyncClient(base_url=root, timeout=None, limits=most, headers=headers) as made.state.client:
            yield
        endpoint.close()

    made = FastAPI(title="open-h1r", version=h1r.__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    made.state.started = int(time.time())
    made.state.service = Service(
        llm=Far(endpoint, int(card.get("max_model_len") or 1 << 18)),  # type: ignore[arg-type]
        model=card["id"],
        defaults=SamplingParams(),
        turns=turns,
        metrics=metrics,
        answer_of=answer_of,
        same=same,
    )
    for path in THROUGH:
        made.add_api_route(path, through, methods=["POST"])
    made.add_api_route("/health", health, methods=["GET"])
    for room in (deepthink, info):
        made.include_router(room.router)
    guard(made, turns, api_keys, (), record, cors_origins)
    return made


async def through(request: Request) -> Response:
    """One request to the server behind; leaving it, or being left, closes that connection."""
    body = await request.body()
    headers = [(k, v) for k, v in request.headers.items() if k not in HOP]
    stack = AsyncExitStack()
    leaving = asyncio.ensure_future(_gone(request))
    call = request.app.state.client.stream("POST", request.url.path, content=body, headers=headers)
    opening = asyncio.ensure_future(stack.enter_async_context(call))
    try:
        await asyncio.wait({opening, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            opening.cancel()
            return Response(status_code=499)
        answer = opening.result()
    except httpx2.TransportError as e:
        raise Refused(502, f"the engine behind does not answer ({type(e).__name__}); try again", retry=5) from None
    finally:
        leaving.cancel()

    async def chunks() -> AsyncIterator[bytes]:
        try:
            async for chunk in answer.aiter_raw():
                yield chunk
        except httpx2.TransportError:
            yield b'data: {"error": {"message": "the engine behind broke off; send the request again", "code": 502}}\n\n'
        finally:
            await stack.aclose()

    kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP}
    return StreamingResponse(chunks(), status_code=answer.status_code, headers=kept)


async def health(request: Request) -> Response:
    """Ready when the server behind is."""
    try:
        behind = (await request.app.state.client.get("/health", timeout=5)).status_code == 200
    except httpx2.TransportError:
        behind = False
    ready = behind and not request.app.state.turns.draining
    return JSONResponse({"live": True, "ready": ready}, status_code=200 if ready else 503)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _card(root: str, model: str | None, key: str | None) -> dict[str, Any]:
    """What the server says of its model. Raises EndpointError."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx2.get(f"{root}/v1/models", headers=headers, timeout=10)
        cards: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
    except (httpx2.HTTPError, ValueError, KeyError) as e:
        raise EndpointError(f"{root}: no list of models ({e}); is the server up, and is this its address?") from None
    found = next((c for c in cards if model in (None, c["id"])), None)
    if found is None:
        raise EndpointError(f"{root} has no model {model!r}, but {', '.join(str(c['id']) for c in cards)}")
    return found


class Far:
    """Stands where an LLM does for /v1/deepthink and the model's card. Its prompts are messages: the other side renders."""

    tokenizer = None
    version = 0

    def __init__(self, endpoint: Endpoint, context: int) -> None:
        self._endpoint, self.context = endpoint, context
        # where an LLM keeps its loop, and the loop its engine
        self.loop = self.engine = self

    def prompt(self, prompt: Prompt) -> Prompt:
        return prompt

    def submit(
        self, prompt: Prompt, sampling: SamplingParams, watch: Watch | None = None, row: int = 0,
        on_event: Callable[[Event], None] | None = None,
    ) -> Errand:  # fmt: skip
        assert on_event is None, "single tokens are for our own engine"
        return Errand(self._endpoint, prompt, sampling, watch)


class Errand:
    """A Ticket whose traces are written elsewhere: itself the Watch of its traces, so that it can end them."""

    def __init__(self, endpoint: Endpoint, prompt: Prompt, sampling: SamplingParams, watch: Watch | None) -> None:
        self._watch = watch
        self._aborted = False
        self.done: Future[list[Trace]] = Future()

        def run() -> None:
            try:
                self.done.set_result(endpoint.generate([prompt], sampling, [self])[0])
            except Exception as e:  # the edge of one request
                self.done.set_exception(e)

        threading.Thread(target=run, name="h1r-errand", daemon=True).start()

    def result(self, timeout: float | None = None) -> list[Trace]:
        return self.done.result(timeout)

    def abort(self, index: int | None = None) -> None:
        """Every trace ends with its next token."""
        self._aborted = True

    def step(self, traces: Sequence[int], confidences: Sequence[float]) -> dict[int, StopReason]:
        if self._aborted:
            return dict.fromkeys(traces, StopReason.ABORT)
        return dict(self._watch.step(traces, confidences)) if self._watch is not None else {}

    def finish(self, index: int, trace: Trace) -> None:
        if self._watch is not None:
            self._watch.finish(index, trace)
