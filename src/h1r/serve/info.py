"""Everything around writing: models, health, version, tokens, counters, the page, and the swap of weights."""

from __future__ import annotations

import asyncio
import time
from importlib import resources
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import HTMLResponse, JSONResponse, Response

import h1r
from h1r.report import stylesheet
from h1r.serve.protocol import DetokenizeRequest, TokenizeRequest, WeightsRequest, messages
from h1r.serve.service import Refused, need_tokenizer, service
from h1r.text import render

router = APIRouter()

SCRIPTS = ("page_answer.js", "page_traces.js", "page.js")


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """What is served."""
    return {"object": "list", "data": [_card(request)]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """One model's card."""
    service(request).check_model(name)
    return _card(request)


def _card(request: Request) -> dict[str, Any]:
    here = service(request)
    return {
        "id": here.model,
        "object": "model",
        "created": request.app.state.started,
        "owned_by": "h1r",
        "max_model_len": here.context,
        "weights_version": here.llm.version,
        "deepconf": {name: getattr(here.deepconf, name) for name in ("keep_fraction", "window", "warmup", "consensus")},
    }


@router.get("/health")
async def health(request: Request) -> Response:
    """Live and ready: 200; shutting down: 503."""
    here = service(request)
    ready = not here.turns.draining
    return JSONResponse({"live": True, "ready": ready}, status_code=200 if ready else 503)


@router.get("/version")
async def version(request: Request) -> dict[str, Any]:
    """Of the software and of the weights."""
    return {"version": h1r.__version__, "server": "h1r", "weights_version": service(request).llm.version}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus text."""
    return Response(service(request).metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.post("/tokenize")
async def tokenize(request: Request, body: TokenizeRequest) -> dict[str, Any]:
    """Ids of a text, or of messages in the chat format."""
    here = service(request)
    here.check_model(body.model)
    tokenizer = need_tokenizer(here)
    if (body.prompt is None) == (body.messages is None):
        raise Refused(400, "give either prompt or messages", "prompt")
    turns, text = body.messages, body.prompt or ""

    def work() -> list[int]:
        if turns is not None:
            return list(render(messages(turns), body.tools, tokenizer=tokenizer).token_ids)
        return tokenizer.encode(text, body.add_special_tokens)

    ids = await asyncio.to_thread(work)
    out: dict[str, Any] = {"count": len(ids), "max_model_len": here.context, "tokens": ids}
    if body.return_token_strs:
        out["token_strs"] = [tokenizer.decode([i]) for i in ids]
    return out


@router.post("/detokenize")
async def detokenize(request: Request, body: DetokenizeRequest) -> dict[str, Any]:
    """Text of ids, control tokens included."""
    here = service(request)
    here.check_model(body.model)
    tokenizer = need_tokenizer(here)
    bad = next((i for i in body.tokens if i >= tokenizer.vocab_size), None)
    if bad is not None:
        raise Refused(400, f"token id {bad} is outside the vocabulary of {tokenizer.vocab_size}", "tokens")
    return {"prompt": tokenizer.decode(body.tokens)}


@router.post("/admin/weights")
async def weights(request: Request, body: WeightsRequest) -> dict[str, Any]:
    """Swap the weights between two steps; what is in flight goes on with the new ones. Needs an admin key."""
    here = service(request)
    begun = time.monotonic()
    await asyncio.to_thread(here.llm.load, body.path, body.version)
    return {"version": here.llm.version, "seconds": time.monotonic() - begun}


@router.get("/", include_in_schema=False)
async def page(request: Request) -> HTMLResponse:
    """The chat page: one file, nothing fetched from elsewhere."""
    files = resources.files("h1r.serve")
    html = files.joinpath("page.html").read_text(encoding="utf-8")
    script = "".join(files.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    filled = html.replace("/*STYLE*/", stylesheet()).replace("/*SCRIPT*/", script)
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
    )
    headers = {"content-security-policy": f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}
    return HTMLResponse(filled, headers=headers)
