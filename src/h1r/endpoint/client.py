"""The client: `generate`, `ask` and `load` over one server, several requests in flight, watches fed from streams."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from h1r.endpoint import http
from h1r.endpoint.wire import Dialect, Growing, body, derive_seed, route
from h1r.errors import ConfigError, EndpointError
from h1r.types import Message, Prompt, SamplingParams, StopReason, Trace, Watch

log = logging.getLogger(__name__)


class Endpoint:
    """A Generator over an OpenAI-compatible server; thread-safe.

    url          the server's root, with or without /v1
    dialect      which fields the server knows: see `wire`
    k            likeliest tokens asked for, for Trace.confidence (0: none); servers may grant fewer: see `granted`
    concurrency  requests in flight at once; timeout: seconds of silence after which a request is given up and retried
    extra        fields added to every request body
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str | None = None,
        *,
        admin_key: str | None = None,
        dialect: Dialect = "vllm",
        k: int = 20,
        concurrency: int = 64,
        timeout: float = 3600.0,
        retries: int = 5,
        backoff: float = 0.5,
        extra: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 <= k <= 20:
            raise ConfigError(f"k={k}: servers return 0 to 20 log-probabilities per token")
        if concurrency < 1:
            raise ConfigError(f"concurrency={concurrency}: must be 1 or more")
        root = url.rstrip("/").removesuffix("/v1")
        if not root.startswith(("http://", "https://")):
            raise ConfigError(f"url={url!r}: give it as http://host:port")
        self.model, self.dialect, self.k = model, dialect, k
        self.granted: int | None = None
        self._concurrency = concurrency
        self._extra = dict(extra or {})
        self._admin_key = admin_key or api_key
        self._patience = http.Patience(retries=retries, backoff=backoff, draw=random.Random(seed))
        self._client = httpx2.Client(
            base_url=root,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx2.Timeout(timeout, connect=10.0, pool=None),
            limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingParams, watches: Sequence[Watch | None] | None = None
    ) -> list[list[Trace]]:
        """A group of `sampling.n` traces per prompt, in order. Each trace of a watched prompt is a request, streamed.

        Raises EndpointError when any trace could not be had; the rest is then cancelled.
        """
        if watches is not None and len(watches) != len(prompts):
            raise ConfigError(f"{len(watches)} watches for {len(prompts)} prompts: give one (or None) for each")
        if watches and any(watches) and self.k == 0:
            raise ConfigError("a Watch needs confidences: make the Endpoint with k >= 1")
        jobs: list[Callable[[], list[Trace]]] = []
        sizes: list[int] = []
        for j, prompt in enumerate(prompts):
            watch = watches[j] if watches else None
            if watch is None:
                jobs.append(self._whole(prompt, sampling, _seed(prompt, sampling, j, 0)))
                sizes.append(1)
            else:
                group = _Watched(watch)
                jobs.extend(self._watched(prompt, sampling, group, j, i) for i in range(sampling.n))
                sizes.append(sampling.n)
        answers = self._all(jobs)
        out, at = [], 0
        for size in sizes:
            out.append([trace for answer in answers[at : at + size] for trace in answer])
            at += size
        return out

    def _all(self, jobs: Sequence[Callable[[], list[Trace]]]) -> list[list[Trace]]:
        if not jobs:
            return []
        with ThreadPoolExecutor(min(self._concurrency, len(jobs)), thread_name_prefix="endpoint") as pool:
            futures = [pool.submit(job) for job in jobs]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _whole(self, prompt: Prompt, sampling: SamplingParams, seed: int | None) -> Callable[[], list[Trace]]:
        """A job: one plain request for all n traces of a prompt."""
        payload = self._body(prompt, sampling, n=sampling.n, seed=seed, stream=False)

        def run() -> list[Trace]:
            answer = http.post(self._client, f"/v1/{route(prompt)}", payload, self._patience)
            choices = answer.get("choices") if isinstance(answer, dict) else None
            if not isinstance(choices, list) or len(choices) != sampling.n:
                got = len(choices) if isinstance(choices, list) else "no"
                raise EndpointError(
                    f"/v1/{route(prompt)}: asked for {sampling.n} choices, got {got}; does the server support n?"
                )
            tokens = (answer.get("usage") or {}).get("completion_tokens") if sampling.n == 1 else None
            out = []
            for index, choice in enumerate(sorted(choices, key=lambda c: c.get("index", 0))):
                growing = Growing(self.k)
                growing.add(choice)
                self._note(growing)
                out.append(growing.trace(prompt, index, sampling, tokens=tokens))
            return out

        return run

    def _watched(
        self, prompt: Prompt, sampling: SamplingParams, group: _Watched, j: int, index: int
    ) -> Callable[[], list[Trace]]:
        """A job: trace `index` of prompt `j`, streamed past the group's Watch."""
        payload = self._body(prompt, sampling, n=1, seed=_seed(prompt, sampling, j, index), stream=True)

        def run() -> list[Trace]:
            growing = Growing(self.k)
            stop = group.ended(index)
            tokens: int | None = None
            if stop is None:
                events = http.stream(self._client, f"/v1/{route(prompt)}", payload, self._patience)
                for event in events:
                    if event is None:
                        growing = Growing(self.k)
                        continue
                    tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
                    for choice in event.get("choices") or ():
                        growing.add(choice)
                    stop = group.grew(index, growing.confidence)
                    if stop is not None:
                        events.close()
                        break
            self._note(growing)
            trace = growing.trace(prompt, index, sampling, stop=stop, tokens=tokens)
            group.finish(index, trace)
            return [trace]

        return run

    def _body(
        self, prompt: Prompt, sampling: SamplingParams, *, n: int, seed: int | None, stream: bool
    ) -> dict[str, Any]:
        made = body(prompt, sampling, model=self.model, dialect=self.dialect, k=self.k, n=n, seed=seed, stream=stream)
        return made | self._extra

    def _note(self, growing: Growing) -> None:
        """Remember, and say once, how many log-probabilities per token the server really grants."""
        if growing.fewest is None or (self.granted is not None and growing.fewest >= self.granted):
            return
        self.granted = growing.fewest
        if growing.fewest < self.k:
            log.warning(
                "%s grants %d log-probabilities per token, not %d: confidences use those",
                self.model,
                self.granted,
                self.k,
            )

    def ask(self, messages: Sequence[Message], sampling: SamplingParams | None = None) -> str:
        """The answer (without its reasoning) to one conversation; greedy unless told otherwise. For judges."""
        sampling = sampling or SamplingParams(temperature=0.0, max_tokens=4096)
        prompt = Prompt(messages=tuple(messages))
        payload = body(
            prompt, sampling, model=self.model, dialect=self.dialect, k=0, n=1, seed=sampling.seed, stream=False
        )
        answer = http.post(self._client, "/v1/chat/completions", payload | self._extra, self._patience)
        growing = Growing(0)
        try:
            growing.add(answer["choices"][0])
        except (KeyError, IndexError, TypeError):
            raise EndpointError("/v1/chat/completions: the answer holds no choice") from None
        return growing.trace(prompt, 0, sampling).content

    def models(self) -> list[str]:
        """Names the server answers to."""
        try:
            response = self._client.get("/v1/models")
        except httpx2.TransportError as e:
            raise EndpointError(f"{self._client.base_url}: {e}; is the server up?") from None
        if response.status_code >= 400:
            raise EndpointError(http.refusal(self._client, "/v1/models", response))
        return [str(m["id"]) for m in response.json()["data"]]

    def load(self, path: str, version: int) -> None:
        """Have the server swap its weights for those at `path` (which it must see), ours by POST /admin/weights, a vLLM in
        development mode by its own routes. Raises EndpointError."""
        answer = self._order("/admin/weights", {"path": path, "version": version})
        if answer.status_code in (404, 405):
            self._reload(path)
        elif answer.status_code >= 400:
            raise EndpointError(http.refusal(self._client, "/admin/weights", answer))

    def _reload(self, path: str) -> None:
        """vLLM: what is in flight is frozen, the weights are read into place, cached prefixes forgotten (running requests compute
        theirs again), and all goes on."""
        paused = self._order("/pause?mode=keep")
        if paused.status_code in (404, 405):
            raise EndpointError(
                f"{self._client.base_url}: neither POST /admin/weights (ours) nor /pause (vLLM with VLLM_SERVER_DEV_MODE=1), so "
                f"weights cannot be swapped; restart it on {path}"
            )
        try:
            for order, said in (
                ("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}}),
                ("/reset_prefix_cache?reset_running_requests=true", None),
            ):
                answer = self._order(order, said)
                if answer.status_code >= 400:
                    raise EndpointError(http.refusal(self._client, order, answer))
        finally:
            self._order("/resume")

    def _order(self, route: str, body: Mapping[str, Any] | None = None) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self._admin_key}"} if self._admin_key else {}
        try:
            return self._client.post(route, json=body or {}, headers=headers)
        except httpx2.TransportError as e:
            raise EndpointError(f"{self._client.base_url}: weights not swapped ({e}); is the server up?") from None


def _seed(prompt: Prompt, sampling: SamplingParams, place: int, trace: int) -> int | None:
    """Of a request: the prompt's own, or from its place among the prompts."""
    return derive_seed(sampling.seed, place, trace) if prompt.seed is None else derive_seed(prompt.seed, 0, trace)


class _Watched:
    """The traces of one watched prompt: calls into its Watch one at a time, remembers whom it wants ended."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._lock = threading.Lock()
        self._stops: dict[int, StopReason] = {}
        self._shown: dict[int, int] = {}

    def ended(self, index: int) -> StopReason | None:
        with self._lock:
            return self._stops.get(index)

    def grew(self, index: int, confidence: Sequence[float]) -> StopReason | None:
        """Show the Watch what it has not seen of trace `index` (after a reconnection the beginning comes twice)."""
        with self._lock:
            for value in confidence[self._shown.get(index, 0) :]:
                if index in self._stops:
                    break
                self._shown[index] = self._shown.get(index, 0) + 1
                self._stops.update(self._watch.step([index], [value]))
            return self._stops.get(index)

    def finish(self, index: int, trace: Trace) -> None:
        with self._lock:
            self._watch.finish(index, trace)
