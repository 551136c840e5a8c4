"""HTTP with patience: retries with growing, jittered waits, and server-sent events read line by line.

Retried: no connection, a broken or silent one, and the statuses that say "later" (408, 425, 429, 500, 502, 503, 504;
Retry-After is obeyed). Any other refusal is an EndpointError at once, with the server's own words.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from h1r.errors import ContextError, EndpointError, H1RError

TOO_LONG = re.compile(
    r"context.{0,20}(?:length|window|exceed)|maximum context|max_model_len|context holds|too many tokens", re.I
)
LATER = frozenset({408, 425, 429, 500, 502, 503, 504})

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """retries after the first attempt; before retry i, backoff * 2**i seconds, jittered by half, at most `longest`."""

    retries: int = 5
    backoff: float = 0.5
    longest: float = 30.0
    draw: random.Random = field(default_factory=lambda: random.Random(0))

    def wait(self, attempt: int, retry_after: str | None) -> float:
        """Seconds before attempt number `attempt` + 1."""
        if retry_after and retry_after.strip().isdigit():
            return min(float(retry_after), self.longest)
        return min(self.backoff * 2.0**attempt, self.longest) * self.draw.uniform(0.5, 1.0)


def post(client: httpx2.Client, path: str, payload: Mapping[str, Any], patience: Patience) -> Any:
    """POST JSON, answer JSON. Raises EndpointError."""
    for attempt in range(patience.retries + 1):
        last = attempt == patience.retries
        try:
            response = client.post(path, json=payload)
        except httpx2.TransportError as e:
            _pause(patience, attempt, last, None, f"{_where(client, path)}: {type(e).__name__}: {e}", e)
            continue
        if response.status_code in LATER and not last:
            _pause(patience, attempt, last, response.headers.get("retry-after"), refusal(client, path, response), None)
            continue
        if response.status_code >= 400:
            raise _refused(refusal(client, path, response), response.status_code)
        try:
            return response.json()
        except ValueError:
            raise EndpointError(
                f"{_where(client, path)}: the answer is not JSON; is this an OpenAI-compatible server?"
            ) from None
    raise AssertionError("the last attempt either returns or raises")


def stream(
    client: httpx2.Client, path: str, payload: Mapping[str, Any], patience: Patience
) -> Generator[dict[str, Any] | None, None, None]:
    """POST and yield each event's JSON object. After a break the request starts anew: a None announces that what was
    yielded so far is void. Closing the iterator closes the connection. Raises EndpointError."""
    for attempt in range(patience.retries + 1):
        last = attempt == patience.retries
        try:
            with client.stream("POST", path, json=payload) as response:
                if response.status_code >= 400:
                    response.read()
                    words = refusal(client, path, response)
                    if response.status_code not in LATER or last:
                        raise _refused(words, response.status_code)
                    retry_after = response.headers.get("retry-after")
                else:
                    if attempt:
                        yield None
                    if (yield from _events(response, _where(client, path))):
                        return
                    words, retry_after = f"{_where(client, path)}: the stream ended before [DONE]", None
        except httpx2.TransportError as e:
            words, retry_after = f"{_where(client, path)}: {type(e).__name__}: {e}", None
        _pause(patience, attempt, last, retry_after, words, None)


def _events(response: httpx2.Response, where: str) -> Generator[dict[str, Any], None, bool]:
    """The `data:` objects of an event stream; returns whether it was complete. Lines end at \\n alone: str.splitlines
    would also cut inside JSON text at U+2028 and its like."""
    rest = b""
    for chunk in response.iter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            line = line.strip()
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return True
            try:
                event = json.loads(data)
            except ValueError:
                raise EndpointError(f"{where}: an event is not JSON: {data[:80]!r}") from None
            if "error" in event:
                raise EndpointError(f"{where}: {_message(event)}")
            yield event
    return False


def _pause(
    patience: Patience, attempt: int, last: bool, retry_after: str | None, words: str, cause: BaseException | None
) -> None:
    if last:
        raise EndpointError(f"{words} (after {attempt + 1} attempts); is the server up?") from cause
    seconds = patience.wait(attempt, retry_after)
    log.warning("%s; trying again in %.1f s", words, seconds)
    time.sleep(seconds)


def refusal(client: httpx2.Client, path: str, response: httpx2.Response) -> str:
    """A sentence about an HTTP error, the server's own message included."""
    try:
        said = _message(response.json())
    except ValueError:
        said = response.text.strip()[:200]
    hint = "; give api_key=" if response.status_code in (401, 403) else ""
    return f"{_where(client, path)}: HTTP {response.status_code}: {said or 'no reason given'}{hint}"


def _refused(words: str, status: int) -> H1RError:
    """The error for a refusal: a full context is the conversation's doing, not the server's."""
    full = status in (400, 413, 422) and TOO_LONG.search(words)
    return ContextError(words) if full else EndpointError(words)


def _message(answer: Any) -> str:
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return str(error)


def _where(client: httpx2.Client, path: str) -> str:
    return f"{str(client.base_url).rstrip('/')}/{path.lstrip('/')}"
