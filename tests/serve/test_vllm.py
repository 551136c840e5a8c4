"""Opt-in: the committed checkpoint served by vLLM, behind our proxy, writes our greedy tokens.

    H1R_VLLM_PYTHON=/path/to/vllm/bin/python .venv/bin/python -m pytest -m peer tests/serve/test_vllm.py

names the interpreter of an environment that has vLLM (a CPU build does). H1R_VLLM_PYTHON=own puts our own server in its place,
which tries the test itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from chromium import free_port
from h1r.engine import LLM
from h1r.scale import vllm
from h1r.serve.proxy import proxy
from h1r.text import render
from h1r.types import SamplingParams
from serving import serving

PYTHON = os.environ.get("H1R_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.peer,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PYTHON, reason="H1R_VLLM_PYTHON names no interpreter with vLLM"),
]
NANO = Path(__file__).parents[2] / "models" / "nano"  # its heads are of a size that vLLM's CPU attention knows
MESSAGES = [{"role": "user", "content": "What is 2+2?"}]
KEY = "a-long-secret"


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(NANO, dtype="float32", memory_bytes=1 << 27)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = vllm.Server(
        model=str(NANO), name="tiny", python=PYTHON, port=free_port(), dtype="float32", max_model_len=1024, eager=True,
        reasoning_parser="", tools=False, environment={"VLLM_CPU_KVCACHE_SPACE": "1"},
    )  # fmt: skip
    own = [
        sys.executable,
        "-m",
        "h1r",
        "serve",
        str(NANO),
        "--served-model-name",
        "tiny",
        "--port",
        str(server.port),
    ]
    log = tmp_path_factory.mktemp("vllm") / "log"
    with (
        vllm.launch(server, log, arguments=own if PYTHON == "own" else None) as behind,
        serving(
            proxy(behind, "tiny", answer_of=lambda t: t.content, same=lambda a, b: a == b, api_keys=[KEY])
        ) as front,
    ):
        yield front


def post(url: str, path: str, body: dict) -> dict:
    got = httpx2.post(
        f"{url}{path}", json={"model": "tiny"} | body, headers={"authorization": f"Bearer {KEY}"}, timeout=300
    )
    assert got.status_code == 200, got.text
    return got.json()


def test_greedy_tokens_are_ours(url: str, llm: LLM):
    prompts = [list(range(5, 5 + n)) for n in (1, 7, 40)] + [list(render(MESSAGES, tokenizer=llm.tokenizer).token_ids)]
    sampling = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True)
    body = {"temperature": 0, "max_tokens": 16, "ignore_eos": True, "return_token_ids": True}
    for prompt, (want,) in zip(prompts, llm.generate(prompts, sampling), strict=True):
        choice = post(url, "/v1/completions", body | {"prompt": prompt})["choices"][0]
        assert choice["token_ids"] == list(want.token_ids)


def test_the_proxy_keeps_keys_and_votes(url: str):
    assert httpx2.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": [5]}).status_code == 401
    deep = {"messages": MESSAGES, "traces": 4, "warmup": 2, "window": 4, "max_tokens": 24, "seed": 1}
    told = post(url, "/v1/deepthink", deep)
    assert len(told["trace_stats"]) == 4 and told["tokens"] > 0
