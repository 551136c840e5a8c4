"""The server from outside, over a real socket: our Endpoint and the `openai` client; clients that leave; many at once."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal

import httpx2
import numpy as np
import pydantic
import pytest
import uvicorn

from h1r.endpoint import Endpoint
from h1r.engine import LLM
from h1r.serve import app
from h1r.text import render
from h1r.types import SamplingParams, StopReason

MESSAGES = ({"role": "user", "content": "What is 2+2?"},)


@pytest.fixture(scope="module")
def url(llm: LLM) -> Iterator[str]:
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app(llm, "tiny", admin_keys=["administrator"]), log_level="error"))
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=10)


def test_endpoint_returns_the_engine_traces(url: str, llm: LLM):
    prompt = render(MESSAGES, tokenizer=llm.tokenizer)
    sampling = SamplingParams(temperature=0.7, max_tokens=20, n=3, seed=11, top_p=0.9, logprobs=2)
    want = llm.generate([prompt], sampling)[0]
    with Endpoint(url, "tiny", dialect="h1r") as endpoint:
        (got,) = endpoint.generate([prompt], sampling)
    for mine, theirs in zip(got, want, strict=True):
        assert mine.token_ids == theirs.token_ids and mine.stop == theirs.stop
        assert mine.content == theirs.content and mine.reasoning == theirs.reasoning
        for name in ("logprobs", "raw_logprobs", "confidence"):
            np.testing.assert_allclose(getattr(mine, name), getattr(theirs, name), rtol=1e-5)
        assert [[i for i, _ in top] for top in mine.top] == [[i for i, _ in top] for top in theirs.top]
        assert mine.version == llm.version


def test_confidence_is_the_same_through_top_logprobs(url: str, llm: LLM):
    """A server without our extension: twenty log-probabilities a token give the engine's own confidence."""
    prompt = render(MESSAGES, tokenizer=llm.tokenizer)
    sampling = SamplingParams(max_tokens=15, seed=4)
    (want,) = llm.generate([prompt], sampling)[0]
    with Endpoint(url, "tiny", dialect="vllm", k=20) as endpoint:
        ((got,),) = endpoint.generate([prompt], sampling)
    np.testing.assert_allclose(got.confidence, want.confidence, rtol=1e-4)
    assert got.token_ids == want.token_ids and endpoint.granted == 20


class First:
    """Ends trace 1 at its fifth token."""

    def __init__(self):
        self.seen = [0, 0]

    def step(self, traces, confidences):
        for i in traces:
            self.seen[i] += 1
        return {1: StopReason.LOW_CONFIDENCE} if self.seen[1] == 5 else {}

    def finish(self, index, trace): ...


def test_watch_over_the_wire_frees_the_engine(url: str, llm: LLM):
    prompt = render(MESSAGES, tokenizer=llm.tokenizer)
    watch = First()
    with Endpoint(url, "tiny", dialect="h1r") as endpoint:
        sampling = SamplingParams(max_tokens=300, n=2, seed=2, ignore_eos=True)
        ((whole, ended),) = endpoint.generate([prompt], sampling, [watch])
    assert ended.stop == StopReason.LOW_CONFIDENCE and 5 <= len(ended.token_ids) < 100
    assert whole.stop == StopReason.LENGTH and len(whole.token_ids) == 300
    idle(llm)


def test_client_that_leaves_frees_memory(url: str, llm: LLM):
    body = {"prompt": [1, 2, 3], "max_tokens": 900, "ignore_eos": True, "stream": True}
    with httpx2.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as response:
        next(response.iter_raw())
    idle(llm)
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{url}/v1/completions", json=body | {"stream": False}, timeout=0.2)
    idle(llm)


def idle(llm: LLM) -> None:
    """Long before 900 tokens could be written, nothing is in flight and no memory is held."""
    deadline = time.monotonic() + 5
    while llm.loop.engine.busy and time.monotonic() < deadline:
        time.sleep(0.01)
    llm.loop.call(lambda engine: engine.check_integrity())


def test_sixty_streams_at_once_are_not_mixed_up(url: str, llm: LLM):
    prompts = [[3 + i, 20 + i % 7, 40] for i in range(60)]
    sampling = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    want = [group[0].token_ids for group in llm.generate(prompts, sampling)]

    def ask(prompt: list[int]) -> tuple[int, ...]:
        body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
        answer = httpx2.post(f"{url}/v1/completions", json=body, timeout=60)
        return tuple(answer.json()["choices"][0]["token_ids"])

    with ThreadPoolExecutor(60) as pool:
        assert list(pool.map(ask, prompts)) == want


def test_openai_client(url: str, llm: LLM):
    openai = pytest.importorskip("openai", reason="needs the openai client")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    assert [m.id for m in client.models.list()] == ["tiny"]
    kind = {"model": "tiny", "messages": list(MESSAGES), "temperature": 0, "max_tokens": 12}
    whole = client.chat.completions.create(**kind, logprobs=True, top_logprobs=4, extra_body={"ignore_eos": True})
    assert whole.usage.completion_tokens == 12 == len(whole.choices[0].logprobs.content)
    chunks = list(
        client.chat.completions.create(
            **kind, stream=True, stream_options={"include_usage": True}, extra_body={"ignore_eos": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content and chunks[-1].usage.completion_tokens == 12
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    client.chat.completions.create(**kind, tools=[tool])
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "frob"}}}
    with pytest.raises(openai.BadRequestError, match="frob"):
        client.chat.completions.create(**kind, response_format=form)
    done = client.completions.create(model="tiny", prompt="add", max_tokens=3, logprobs=2, echo=True)
    assert done.choices[0].text.startswith("add") and len(done.choices[0].logprobs.tokens) >= 4


class Add(pydantic.BaseModel):
    a: Literal[1, 2]
    word: Annotated[str, pydantic.Field(max_length=8)]


def test_openai_client_parses_answers_and_calls(url: str):
    openai = pytest.importorskip("openai", reason="needs the openai client")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    kind = {"model": "tiny", "messages": list(MESSAGES), "max_tokens": 300}
    extra = {"thinking_token_budget": 6}
    for seed in range(4):
        done = client.chat.completions.parse(**kind, seed=seed, response_format=Add, extra_body=extra)
        assert isinstance(done.choices[0].message.parsed, Add)
        tools = [openai.pydantic_function_tool(Add)]
        called = client.chat.completions.parse(
            **kind, seed=seed, tools=tools, tool_choice="required", parallel_tool_calls=False, extra_body=extra
        )
        (call,) = called.choices[0].message.tool_calls
        assert isinstance(call.function.parsed_arguments, Add) and called.choices[0].finish_reason == "tool_calls"
        with client.chat.completions.stream(
            **kind, seed=seed, tools=tools, tool_choice="required", parallel_tool_calls=False, extra_body=extra
        ) as events:
            pieces = [e.arguments_delta for e in events if e.type == "tool_calls.function.arguments.delta"]
            (same,) = events.get_final_completion().choices[0].message.tool_calls
        assert same.function.parsed_arguments == call.function.parsed_arguments
        assert "".join(pieces) == call.function.arguments and len(pieces) > 3


def test_weights_load_over_the_wire(url: str, llm: LLM, checkpoint):
    with Endpoint(url, "tiny", admin_key="administrator") as endpoint:
        endpoint.load(str(checkpoint), 41)
        assert llm.version == 41 and endpoint.models() == ["tiny"]
