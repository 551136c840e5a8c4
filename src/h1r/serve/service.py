"""What every handler shares: the engine, its name, its limits, its counters; and errors as answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from h1r.engine import LLM
from h1r.errors import CheckpointError, ConfigError, DataError, H1RError
from h1r.search import DeepConfConfig
from h1r.serve.flight import Gone
from h1r.serve.metrics import Metrics
from h1r.text import Tokenizer
from h1r.types import Prompt, SamplingParams, Trace

if TYPE_CHECKING:
    from h1r.serve.turns import Turns
    from h1r.text.grammar import Grammars

log = logging.getLogger(__name__)

AnswerOf = Callable[[Trace], str | None]
Same = Callable[[str, str], bool]
R = TypeVar("R")

LONG = 1 << 16  # characters of a text that takes noticeable time to encode


class Refused(Exception):
    """An answer other than 200. kind: OpenAI's error type."""

    def __init__(
        self, status: int, message: str, param: str | None = None, kind: str | None = None, retry: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.retry = status, message, param, retry
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")


@dataclass(slots=True, kw_only=True)
class Service:
    """One per app.

    defaults   sampling where a request is silent
    turns      who may go next; draining: no new requests are taken
    answer_of  a trace's final answer, same: whether two answers are equal; for /v1/deepthink
    deepconf   warm-up, share kept and window where a deepthink request is silent; all of it is told in the model's card
    """

    llm: LLM
    model: str
    defaults: SamplingParams
    turns: Turns
    metrics: Metrics
    answer_of: AnswerOf | None = None
    same: Same | None = None
    deepconf: DeepConfConfig = field(default_factory=DeepConfConfig)
    running: int = 0
    extra_names: tuple[str, ...] = field(default=())
    _grammars: Grammars | None = field(default=None, init=False)

    @property
    def grammars(self) -> Grammars:
        """Compiles what answers are held to; made when first asked for."""
        from h1r.text.grammar import Grammars

        if self._grammars is None:
            assert self.llm.tokenizer is not None
            self._grammars = Grammars(self.llm.tokenizer, int(self.llm.loop.engine.vocab))
        return self._grammars

    @property
    def context(self) -> int:
        return int(self.llm.loop.engine.context)

    def check_model(self, name: str) -> None:
        """Raises Refused (404) for a model that is not served here."""
        if name and name != self.model and name not in self.extra_names:
            raise Refused(404, f"model {name!r} is not served here; use {self.model!r}", "model", "not_found_error")

    def room(self, prompt: Prompt) -> int:
        """Tokens left for an answer. Raises Refused (400) when there is none."""
        left = self.context - len(prompt.token_ids)
        if left < 1:
            raise Refused(
                400,
                f"the prompt has {len(prompt.token_ids)} tokens, the context holds {self.context}: shorten the prompt",
                "messages" if prompt.messages else "prompt",
            )
        return left

    async def encoded(self, characters: int, work: Callable[[], R]) -> R:
        """The result of `work`, which encodes a text; a long one in a thread, so that others are served meanwhile.

        Raises Refused (400) for a text that no encoding brings into the context.
        """
        if characters > LONG:
            most = self.context * self._longest()
            if characters > most:
                words = (
                    f"the text has {characters} characters, the context of {self.context} tokens holds {most} at most"
                )
                raise Refused(400, f"{words}: shorten the prompt", "prompt")
            return await asyncio.to_thread(work)
        return work()

    def _longest(self) -> int:
        """Characters of the longest token."""
        tokenizer = self.llm.tokenizer
        if tokenizer is None or tokenizer.inner.normalizer is not None:
            return 1 << 20
        return max(len(token) for token in tokenizer.inner.get_vocab(with_added_tokens=True))

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request; its turn it was given by the gate."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1


def need_tokenizer(here: Service) -> Tokenizer:
    """Raises Refused when the checkpoint has none."""
    if here.llm.tokenizer is None:
        raise Refused(400, "this checkpoint has no tokenizer: send token ids to /v1/completions", "messages")
    return here.llm.tokenizer


def service(request: Request) -> Service:
    """The app's Service."""
    found: Service = request.app.state.service
    return found


def error_body(message: str, kind: str, param: str | None, code: int) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def answer_error(error: BaseException) -> Response:
    """Any exception of a handler as a response."""
    if isinstance(error, Gone):
        return Response(status_code=499)
    if not isinstance(error, Refused):
        error = as_refused(error)
    headers = {} if error.retry is None else {"retry-after": str(error.retry)}
    content = error_body(error.message, error.kind, error.param, error.status)
    return JSONResponse(content, status_code=error.status, headers=headers)


def as_refused(error: BaseException) -> Refused:
    """What went wrong in the engine or the text room, in the client's terms."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, (ConfigError, DataError, CheckpointError)):
        return Refused(400, str(error))
    if isinstance(error, UnicodeError):
        return Refused(400, "the text holds half a surrogate pair, which is no character: send valid Unicode")
    if isinstance(error, H1RError):
        return Refused(500, str(error))
    log.error("request failed", exc_info=error)
    return Refused(500, f"the server failed on this request ({type(error).__name__}); it goes on serving others")
