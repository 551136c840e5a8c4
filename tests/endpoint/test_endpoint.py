"""Endpoint against a small OpenAI-compatible server made here: bodies sent, traces received, retries, watches."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from h1r.endpoint import Endpoint
from h1r.endpoint.wire import Growing, body, derive_seed
from h1r.errors import ConfigError, EndpointError
from h1r.types import Message, Prompt, SamplingParams, StopReason, Trace

CHAT = Prompt(messages=({"role": "user", "content": "2+2?"},))
TOKENS = Prompt(token_ids=(5, 6, 7))


class Server:
    """Answers with `answer(path, body, count)`: a dict, a (status, dict) or a list of stream events."""

    def __init__(self, answer: Callable[[str, dict[str, Any], int], Any]) -> None:
        self.seen: list[tuple[str, dict[str, Any], Mapping[str, str]]] = []
        self.sent: list[int] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                got = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    outer.seen.append((self.path, got, dict(self.headers)))
                    count = len(outer.seen)
                answer_ = answer(self.path, got, count)
                if isinstance(answer_, list):
                    self._stream(answer_)
                    return
                status, content = answer_ if isinstance(answer_, tuple) else (200, answer_)
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def _stream(self, events: Sequence[Any]) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                count = 0
                try:
                    for event in events:
                        if isinstance(event, float):
                            time.sleep(event)
                            continue
                        text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
                        self.wfile.write(f"data: {text}\n\n".encode())
                        self.wfile.flush()
                        count += 1
                except (BrokenPipeError, ConnectionResetError):
                    pass
                outer.sent.append(count)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(answer: Callable[[str, dict[str, Any], int], Any]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def token(name: str, logprob: float, top: Sequence[float]) -> dict[str, Any]:
    return {
        "token": f"token_id:{name}",
        "logprob": logprob,
        "top_logprobs": [{"token": f"token_id:{i}", "logprob": lp} for i, lp in enumerate(top)],
    }


def chat_answer(content: str = "4", reasoning: str = "two and two", n: int = 1) -> dict[str, Any]:
    entries = {"content": [token("11", -0.5, (-0.5, -1.5)), token("12", -2.0, (-1.0, -2.0, -9.0))]}
    message = {"role": "assistant", "content": content, "reasoning_content": reasoning}
    choices = [{"index": i, "message": message, "logprobs": entries, "finish_reason": "stop"} for i in range(n)]
    return {"choices": choices[::-1], "usage": {"completion_tokens": 2 * n}}


def test_chat_becomes_traces(serve: Callable[..., Server]) -> None:
    server = serve(lambda path, got, count: chat_answer(n=got["n"]))
    with Endpoint(server.url + "/v1", "m", api_key="secret", k=2) as endpoint:
        ((first, second),) = endpoint.generate([CHAT], SamplingParams(n=2, seed=3, logprobs=1))
    path, got, headers = server.seen[0]
    assert (path, got["model"], got["n"], got["seed"], got["top_logprobs"]) == ("/v1/chat/completions", "m", 2, 3, 2)
    assert headers["Authorization"] == "Bearer secret"
    assert (first.index, second.index) == (0, 1)
    assert (first.reasoning, first.content, first.stop) == ("two and two", "4", StopReason.STOP)
    assert first.token_ids == (11, 12)
    np.testing.assert_allclose(first.logprobs, [-0.5, -2.0])
    # the mean of the two likeliest, the third ignored
    np.testing.assert_allclose(first.confidence, [1.0, 1.5])
    assert first.top == (((0, -0.5),), ((0, -1.0),))
    assert endpoint.granted == 2


def test_tempered_logprobs_are_raw_only(serve: Callable[..., Server]) -> None:
    server = serve(lambda *_: chat_answer())
    with Endpoint(server.url, "m") as endpoint:
        ((trace,),) = endpoint.generate([CHAT], SamplingParams(temperature=0.6))
    np.testing.assert_allclose(trace.raw_logprobs, [-0.5, -2.0])
    assert len(trace.logprobs) == 0


def test_tokens_go_to_completions_and_text_is_split(serve: Callable[..., Server]) -> None:
    def answer(path: str, got: dict[str, Any], count: int) -> dict[str, Any]:
        logprobs = {
            "tokens": ["token_id:8", "token_id:9"],
            "token_logprobs": [-0.25, -1.0],
            "top_logprobs": [{"token_id:8": -0.25, "token_id:1": -2.0}, {"token_id:9": -1.0}],
        }
        text = "<think>\nhm\n</think>\n\nfour"
        return {"choices": [{"index": 0, "text": text, "logprobs": logprobs, "finish_reason": "length"}]}

    server = serve(answer)
    with Endpoint(server.url, "m") as endpoint:
        ((trace,),) = endpoint.generate([TOKENS], SamplingParams(max_tokens=2, stop_ids=(3,), ignore_eos=True, top_k=7))
    path, got, _ = server.seen[0]
    assert path == "/v1/completions" and got["prompt"] == [5, 6, 7]
    assert (got["max_tokens"], got["stop_token_ids"], got["ignore_eos"], got["top_k"]) == (2, [3], True, 7)
    assert got["skip_special_tokens"] is False
    assert (trace.reasoning.strip(), trace.content.strip(), trace.stop) == ("hm", "four", StopReason.LENGTH)
    assert trace.token_ids == (8, 9)
    np.testing.assert_allclose(trace.confidence, [1.125, 1.0])


def test_server_that_tells_no_ids_still_tells_lengths(serve: Callable[..., Server]) -> None:
    choice = {"index": 0, "message": {"content": "abc"}, "finish_reason": "stop"}
    server = serve(lambda *_: {"choices": [choice], "usage": {"completion_tokens": 3}})
    with Endpoint(server.url, "m", k=0, dialect="openai") as endpoint:
        ((trace,),) = endpoint.generate([CHAT], SamplingParams(max_tokens=9))
    assert trace.token_ids == (-1, -1, -1) and trace.content == "abc"
    assert server.seen[0][1]["max_completion_tokens"] == 9


def test_openai_dialect_refuses_what_it_cannot_say() -> None:
    with pytest.raises(ConfigError, match=r"top_k, min_p"):
        body(
            CHAT,
            SamplingParams(top_k=5, min_p=0.1),
            model="m",
            dialect="openai",
            k=0,
            n=1,
            seed=None,
            stream=False,
        )


def test_thinking_fields_travel_to_our_server_and_are_refused_elsewhere() -> None:
    def sent(dialect: str, sampling: SamplingParams) -> dict[str, Any]:
        return body(CHAT, sampling, model="m", dialect=dialect, k=0, n=1, seed=None, stream=False)  # type: ignore[arg-type]

    own = SamplingParams(thinking_budget=9, thinking_landing=3, answer_reserve=5, loop_breaker=True)
    got = sent("h1r", own)
    want = {"thinking_token_budget": 9, "thinking_landing": 3, "answer_reserve": 5, "loop_breaker": True}
    assert {k: got.get(k) for k in want} == want
    assert sent("vllm", SamplingParams(thinking_budget=0))["thinking_token_budget"] == 0
    with pytest.raises(ConfigError, match="thinking_landing, answer_reserve, loop_breaker: only our own"):
        sent("vllm", own)
    with pytest.raises(ConfigError, match="thinking_token_budget: the OpenAI API"):
        sent("openai", SamplingParams(thinking_budget=9))
    with pytest.raises(ConfigError, match="response_format"):
        sent("h1r", SamplingParams(grammar=object()))  # type: ignore[arg-type]


def test_seeds_differ_per_prompt_and_trace() -> None:
    seeds = {derive_seed(7, j, i) for j in range(40) for i in range(40)}
    assert len(seeds) == 1600 and derive_seed(7, 0, 0) == 7 and derive_seed(None, 3, 4) is None


def test_retries_until_the_server_is_up(serve: Callable[..., Server]) -> None:
    def answer(path: str, got: dict[str, Any], count: int) -> Any:
        return (503, {"error": {"message": "busy"}}) if count < 3 else chat_answer()

    server = serve(answer)
    with Endpoint(server.url, "m", backoff=0.01) as endpoint:
        assert endpoint.ask([{"role": "user", "content": "2+2?"}]) == "4"
    assert len(server.seen) == 3


def test_a_refusal_is_told_at_once(serve: Callable[..., Server]) -> None:
    server = serve(lambda *_: (400, {"error": {"message": "max_tokens too large"}}))
    with (
        Endpoint(server.url, "m", backoff=0.01) as endpoint,
        pytest.raises(EndpointError, match="400: max_tokens too large"),
    ):
        endpoint.generate([CHAT], SamplingParams())
    assert len(server.seen) == 1


def test_giving_up_names_the_server() -> None:
    with (
        Endpoint("http://127.0.0.1:9", "m", retries=1, backoff=0.01) as endpoint,
        pytest.raises(EndpointError, match=r"127.0.0.1:9.*2 attempts"),
    ):
        endpoint.ask([{"role": "user", "content": "hi"}])


class Bar:
    """Ends a trace at its first confidence under the bar, and everything else once told to."""

    def __init__(self, bar: float, siblings: bool = False) -> None:
        self.bar, self.siblings = bar, siblings
        self.steps: list[tuple[int, float]] = []
        self.finished: dict[int, Trace] = {}

    def step(self, traces: Sequence[int], confidences: Sequence[float]) -> Mapping[int, StopReason]:
        self.steps += zip(traces, confidences, strict=True)
        low = {i: StopReason.LOW_CONFIDENCE for i, c in zip(traces, confidences, strict=True) if c < self.bar}
        if low and self.siblings:
            return dict.fromkeys(range(9), StopReason.CONSENSUS)
        return low

    def finish(self, index: int, trace: Trace) -> None:
        self.finished[index] = trace


def events(confidences: Sequence[float], pause: float = 0.0) -> list[Any]:
    """One chunk a token; text holds U+2028, at which a careless reader would cut the line."""
    out: list[Any] = []
    for i, c in enumerate(confidences):
        delta = {"content": f"t{i}\u2028"}
        out += [{"choices": [{"index": 0, "delta": delta, "logprobs": {"content": [token(str(i), -c, (-c,))]}}]}, pause]
    out.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return [*out, {"choices": [], "usage": {"completion_tokens": len(confidences)}}, "[DONE]"]


def test_watch_cancels_a_stream(serve: Callable[..., Server]) -> None:
    long = [9.0, 8.0, 1.0, *[9.0] * 200]
    server = serve(lambda path, got, count: events(long, 0.005) if got["seed"] == 5 else events([9.0, 9.0]))
    watch = Bar(2.0)
    with Endpoint(server.url, "m", k=1) as endpoint:
        ((low, fine),) = endpoint.generate([CHAT], SamplingParams(n=2, seed=5), [watch])
    assert low.stop == StopReason.LOW_CONFIDENCE and 3 <= len(low.token_ids) < 50
    assert [c for i, c in watch.steps if i == 0] == [9.0, 8.0, 1.0]
    assert fine.stop == StopReason.STOP and fine.content == "t0\u2028t1\u2028" and fine.token_ids == (0, 1)
    assert set(watch.finished) == {0, 1}
    deadline = time.monotonic() + 5
    while len(server.sent) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(server.sent) == 2 and max(server.sent) < 150  # the server saw the connection close


def test_watch_ends_siblings_that_have_not_begun(serve: Callable[..., Server]) -> None:
    server = serve(lambda *_: events([1.0, 1.0]))
    watch = Bar(2.0, siblings=True)
    with Endpoint(server.url, "m", k=1, concurrency=1) as endpoint:
        (group,) = endpoint.generate([CHAT], SamplingParams(n=5), [watch])
    assert [t.stop for t in group] == [StopReason.CONSENSUS] * 5
    assert len(server.seen) == 1 and group[4].token_ids == () and len(watch.finished) == 5


def test_a_broken_stream_starts_anew_and_the_watch_sees_each_token_once(serve: Callable[..., Server]) -> None:
    whole = events([5.0, 6.0, 7.0])
    server = serve(lambda path, got, count: whole[:4] if count == 1 else whole)
    watch = Bar(0.0)
    with Endpoint(server.url, "m", k=1, backoff=0.01) as endpoint:
        ((trace,),) = endpoint.generate([CHAT], SamplingParams(n=1, seed=1), [watch])
    assert [c for _, c in watch.steps] == [5.0, 6.0, 7.0]
    assert trace.token_ids == (0, 1, 2) and trace.content == "t0\u2028t1\u2028t2\u2028"


def test_concurrency_is_bounded(serve: Callable[..., Server]) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def answer(*_: Any) -> dict[str, Any]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.03)
        with lock:
            running -= 1
        return chat_answer()

    server = serve(answer)
    with Endpoint(server.url, "m", concurrency=3) as endpoint:
        groups = endpoint.generate([CHAT] * 12, SamplingParams(seed=1))
    assert len(groups) == 12 and most == 3
    assert len({got["seed"] for _, got, _ in server.seen}) == 12


def test_streamed_tool_call_is_put_together() -> None:
    growing = Growing(0)
    parts: list[Message] = [
        {"index": 0, "id": "c1", "function": {"name": "add", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a": 1,'}},
        {"index": 0, "function": {"arguments": ' "b": 2}'}},
    ]
    for part in parts:
        growing.add({"delta": {"tool_calls": [part]}})
    growing.add({"delta": {}, "finish_reason": "tool_calls"})
    trace = growing.trace(CHAT, 0, SamplingParams())
    assert trace.tool_calls == ({"id": "c1", "name": "add", "arguments": {"a": 1, "b": 2}},)
    assert trace.stop == StopReason.STOP


def test_arrays_of_our_own_server_win() -> None:
    growing = Growing(1)
    arrays = {"logprobs": [-3.0], "raw_logprobs": [-2.0], "confidence": [4.0], "version": 8}
    entries = {"content": [token("4", -2.0, (-1.0,))]}
    growing.add({"delta": {"content": "x"}, "token_ids": [4], "logprobs": entries, "trace": arrays})
    growing.add({"delta": {}, "finish_reason": "low_confidence"})
    trace = growing.trace(CHAT, 0, SamplingParams(temperature=0.5))
    assert (trace.logprobs[0], trace.raw_logprobs[0], trace.confidence[0], trace.version) == (-3.0, -2.0, 4.0, 8)
    assert trace.token_ids == (4,) and trace.stop == StopReason.LOW_CONFIDENCE
    assert math.isclose(growing.confidence[0], 1.0)


def test_load_posts_or_says_why_not(serve: Callable[..., Server]) -> None:
    server = serve(lambda path, got, count: {"version": got["version"]} if count == 1 else (404, {"detail": "no"}))
    with Endpoint(server.url, "m", admin_key="root") as endpoint:
        endpoint.load("/weights/7", 7)
        assert server.seen[0][:2] == ("/admin/weights", {"path": "/weights/7", "version": 7})
        assert server.seen[0][2]["Authorization"] == "Bearer root"
        with pytest.raises(EndpointError, match="cannot be swapped"):
            endpoint.load("/weights/8", 8)


def test_load_reaches_a_vllm_in_development_mode(serve: Callable[..., Server]) -> None:
    """Frozen, read, forgotten, resumed; and resumed also where reading fails."""
    for status in (200, 500):
        answers = {"/admin/weights": 404, "/collective_rpc": status}
        server = serve(lambda path, got, count, answers=answers: (answers.get(path, 200), {"detail": "x"}))
        with Endpoint(server.url, "m") as endpoint:
            if status == 200:
                endpoint.load("/weights/7", 7)
            else:
                with pytest.raises(EndpointError, match="collective_rpc"):
                    endpoint.load("/weights/7", 7)
        paths = [path for path, *_ in server.seen]
        forgotten = ["/reset_prefix_cache?reset_running_requests=true"] if status == 200 else []
        assert paths == ["/admin/weights", "/pause?mode=keep", "/collective_rpc", *forgotten, "/resume"]
        assert server.seen[2][1] == {"method": "reload_weights", "kwargs": {"weights_path": "/weights/7"}}
