"""The app: routes, gate and error answers around one LLM; and `listen`, which runs it until it is told to end."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

import h1r
from h1r.engine import LLM
from h1r.errors import ConfigError, H1RError
from h1r.search import DeepConfConfig
from h1r.serve import chat, completions, deepthink, info, protocol
from h1r.serve.flight import Gone
from h1r.serve.formats import Strict
from h1r.serve.gate import Gate, check_binding
from h1r.serve.metrics import Metrics
from h1r.serve.record import Record
from h1r.serve.service import AnswerOf, Refused, Same, Service, answer_error
from h1r.serve.turns import Limits, Turns
from h1r.types import SamplingParams

BODIES: dict[str, type[Strict]] = {
    "/v1/chat/completions": protocol.ChatRequest,
    "/v1/completions": protocol.CompletionRequest,
    "/v1/deepthink": protocol.DeepThinkRequest,
    "/tokenize": protocol.TokenizeRequest,
    "/detokenize": protocol.DetokenizeRequest,
    "/admin/weights": protocol.WeightsRequest,
}


def app(
    llm: LLM,
    model_name: str,
    *,
    answer_of: AnswerOf | None = None,
    same: Same | None = None,
    deepconf: DeepConfConfig | None = None,
    api_keys: Sequence[str] = (),
    admin_keys: Sequence[str] = (),
    defaults: SamplingParams | None = None,
    limits: Limits | None = None,
    record: Record | None = None,
    cors_origins: Sequence[str] = (),
) -> FastAPI:
    """An OpenAI-compatible ASGI app over `llm`.

    answer_of  a trace's final answer, same: whether two are equal; without them /v1/deepthink answers 501
    deepconf   warm-up, share kept and window where a deepthink request is silent; None: the paper's
    api_keys   who may use it (empty: everybody who reaches it); admin_keys: who may swap weights (empty: nobody)
    defaults   sampling where a request is silent; None: temperature 1 and no truncation, as OpenAI documents
    limits     of number, size and time; None: those of Limits, and as many at work as the engine can decode at once
    record     where every request leaves a line
    """
    limits = limits or Limits()
    if limits.at_work is None:
        # beyond these the engine's own queue would wait, and that one knows no clients
        limits = replace(limits, at_work=llm.loop.engine.memory.slots.limit)
    metrics = Metrics(llm.loop, model_name)
    turns = Turns(limits, metrics.rejected.inc)
    made = FastAPI(title="open-h1r", version=h1r.__version__, docs_url=None, redoc_url=None)
    made.state.service = Service(
        llm=llm,
        model=model_name,
        defaults=defaults or SamplingParams(),
        turns=turns,
        metrics=metrics,
        answer_of=answer_of,
        same=same,
        deepconf=deepconf or DeepConfConfig(),
    )
    made.state.started = int(time.time())
    for room in (chat, completions, deepthink, info):
        made.include_router(room.router)
    guard(made, turns, api_keys, admin_keys, record, cors_origins)
    return made


def guard(
    made: FastAPI,
    turns: Turns,
    api_keys: Sequence[str],
    admin_keys: Sequence[str],
    record: Record | None,
    cors_origins: Sequence[str],
) -> None:
    """Put error answers, gate and CORS around an app's routes."""
    made.state.turns = turns
    made.add_exception_handler(RequestValidationError, _invalid)
    made.add_exception_handler(HTTPException, _http)
    for kind in (Refused, Gone, H1RError):
        made.add_exception_handler(kind, _told)
    made.add_middleware(Gate, keys=tuple(api_keys), admin=tuple(admin_keys), turns=turns, record=record)
    if cors_origins:
        made.add_middleware(
            CORSMiddleware, allow_origins=list(cors_origins), allow_methods=["GET", "POST"], allow_headers=["*"]
        )


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    body = BODIES.get(request.scope["path"])
    words, field = protocol.explain(error.errors(), sorted(body.model_fields) if body else [])
    return answer_error(Refused(400, words, field))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: f"no such path: {request.url.path}", 405: f"{request.method} is not for {request.url.path}"}
    return answer_error(Refused(error.status_code, words.get(error.status_code, str(error.detail))))


async def _told(request: Request, error: Exception) -> Response:
    return answer_error(error)


def bind(host: str, port: int) -> socket.socket:
    """A socket that holds the address but refuses connections until it is served: a model may take minutes to load. Raises
    ConfigError for an address that cannot be had."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as e:
        bound.close()
        raise ConfigError(f"{host}:{port}: cannot be bound ({e.strerror or e}); choose another --port") from None
    return bound


def listen(
    made: Any, host: str = "127.0.0.1", port: int = 8000, *, keys: Sequence[str] = (), drain: int = 30,
    bound: socket.socket | None = None,
) -> None:  # fmt: skip
    """Serve until SIGTERM or Ctrl-C; answers in flight get `drain` seconds to finish. Raises ConfigError for an address
    that cannot be bound, or that others reach while there is no key. bound: the address, where it is held already."""
    import uvicorn

    check_binding(host, keys)
    bound = bound or bind(host, port)
    config = uvicorn.Config(
        made, log_level="warning", access_log=False, timeout_graceful_shutdown=drain, timeout_keep_alive=30
    )
    server = uvicorn.Server(config)
    told = server.handle_exit

    def drain_first(number: int, stack: Any) -> None:
        made.state.turns.draining = True
        told(number, stack)

    server.handle_exit = drain_first  # type: ignore[method-assign, assignment]
    with bound, suppress(KeyboardInterrupt):
        server.run(sockets=[bound])
