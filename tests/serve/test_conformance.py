"""`make test-conformance`: public clients, unmodified, from outside: openai, lm-eval, guidellm. Nothing is fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydantic
import pytest

from h1r.engine import LLM
from h1r.serve import app
from h1r.text import render
from h1r.types import SamplingParams
from serving import serving

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

MESSAGES = [{"role": "user", "content": "What is 2+2?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "add the numbers",
        "parameters": {
            "type": "object",
            "properties": {"fast": {"type": "boolean"}},
            "required": ["fast"],
            "additionalProperties": False,
        },
    },
}
GREEDY = {"temperature": 0, "max_tokens": 12, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def url(llm: LLM) -> Iterator[str]:
    with serving(app(llm, "tiny", api_keys=["a-long-secret"])) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str):
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=f"{url}/v1", api_key="a-long-secret", max_retries=0)


def test_openai_chat_and_stream(client, llm: LLM):
    prompt = render(MESSAGES, tokenizer=llm.tokenizer)
    want = llm.generate([prompt], SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=4))[0][0]
    whole = client.chat.completions.create(model="tiny", messages=MESSAGES, logprobs=True, top_logprobs=4, **GREEDY)
    choice = whole.choices[0]
    assert choice.message.content == want.content and choice.finish_reason == "length"
    assert whole.usage.completion_tokens == 12 and whole.usage.prompt_tokens == len(prompt.token_ids)
    entries = choice.logprobs.content
    np.testing.assert_allclose([e.logprob for e in entries], want.raw_logprobs, rtol=1e-5)
    assert [e.top_logprobs[0].token for e in entries] == [e.token for e in entries]
    chunks = list(client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True, **GREEDY))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == want.content


def test_openai_errors_are_its_own(client, url: str):
    import openai

    with pytest.raises(openai.BadRequestError, match="temprature"):
        client.chat.completions.create(model="tiny", messages=MESSAGES, extra_body={"temprature": 1})
    with pytest.raises(openai.NotFoundError, match="not served"):
        client.chat.completions.create(model="other", messages=MESSAGES)
    with pytest.raises(openai.AuthenticationError, match="API key"):
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong").models.list()


def test_openai_completions_echo(client, llm: LLM):
    ids = llm.tokenizer.encode("add the numbers")
    got = client.completions.create(model="tiny", prompt=ids, echo=True, logprobs=2, max_tokens=1, temperature=0)
    np.testing.assert_allclose(
        got.choices[0].logprobs.token_logprobs[1:-1], llm.score([ids])[0][1:], rtol=1e-4, atol=1e-5
    )


def test_openai_tools_are_offered(client):
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, tools=[TOOL], **GREEDY)
    assert answer.usage.prompt_tokens > 60
    turns = [
        *MESSAGES,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"fast": true}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "4"},
    ]
    assert client.chat.completions.create(model="tiny", messages=turns, tools=[TOOL], **GREEDY).choices


UNTHINKING = {"chat_template_kwargs": {"enable_thinking": False}}


def test_openai_forced_tool(client):
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, tools=[TOOL], tool_choice="required", max_tokens=200, extra_body=UNTHINKING
    )
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "add" and isinstance(json.loads(call.function.arguments)["fast"], bool)


def test_openai_typed_parse(client):
    class Verdict(pydantic.BaseModel):
        right: bool

    answer = client.chat.completions.parse(
        model="tiny", messages=MESSAGES, response_format=Verdict, max_tokens=200, extra_body=UNTHINKING
    )
    assert isinstance(answer.choices[0].message.parsed, Verdict)


DOCUMENTS = [
    {"question": "What is 2+2?", "choices": [" The answer is 4.", " add the numbers"], "gold": 0},
    {"question": "add the numbers", "choices": [" user", " system assistant"], "gold": 1},
    {"question": "The answer", "choices": [" is 4.", " is 2+2?"], "gold": 0},
]
HARNESS = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
{rest}
"""
CHOICES = 'doc_to_choice: "{{choices}}"\ndoc_to_target: "{{gold}}"\nmetric_list: [{metric: acc}]'
WRITTEN = (
    'doc_to_target: "{{choices[gold]}}"\nmetric_list: [{metric: exact_match}]\n'
    'generation_kwargs: {until: ["\\n\\n\\n"], max_gen_toks: 9, temperature: 0}'
)


def test_lm_eval_scores_and_generates(url: str, llm: LLM, checkpoint: Path, tmp_path: Path, monkeypatch):
    harness = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("OPENAI_API_KEY", "a-long-secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(d) + "\n" for d in DOCUMENTS))
    for name, kind, rest in (("choose", "multiple_choice", CHOICES), ("write", "generate_until", WRITTEN)):
        (tmp_path / f"{name}.yaml").write_text(HARNESS.format(name=name, data=data, kind=kind, rest=rest))
    told = harness.simple_evaluate(
        model="local-completions",
        model_args=f"model=tiny,base_url={url}/v1/completions,tokenizer={checkpoint},num_concurrent=4,max_length=512",
        tasks=["choose", "write"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    encode = llm.tokenizer.encode
    for sample in told["samples"]["choose"]:
        for (context, continuation), ((got, _),) in zip(sample["arguments"], sample["resps"], strict=True):
            whole, start = encode(context + continuation), len(encode(context))
            np.testing.assert_allclose(float(got), float(llm.score([whole])[0][start:].sum()), rtol=1e-4)
    greedy = SamplingParams(temperature=0, max_tokens=9, stop=("\n\n\n",))
    for sample in told["samples"]["write"]:
        want = llm.generate([encode(sample["doc"]["question"])], greedy)[0][0]
        assert sample["resps"][0][0] == llm.tokenizer.decode(want.token_ids, skip_special=True)


@pytest.mark.parametrize("streamed", ["false", "true"])
def test_guidellm_counts_what_we_wrote(url: str, checkpoint: Path, tmp_path: Path, streamed: str):
    """A load client: 24 requests, 6 at once, every one answered with the tokens asked for."""
    pytest.importorskip("guidellm")
    program = Path(sys.executable).with_name("guidellm")
    out = tmp_path / "out.json"
    command = [str(program), "run", "--disable-console"]
    command += ["--backend", f"kind=openai_http,target={url},model=tiny,api_key=a-long-secret,stream={streamed}"]
    command += ["--profile", "kind=concurrent,streams=6", "--constraint", "kind=max_requests,count=24"]
    command += ["--tokenizer", f"kind=huggingface_auto,model={checkpoint}"]
    command += ["--data", "kind=synthetic_text,prompt_tokens=16,output_tokens=10", "--output", f"kind=json,path={out}"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (measured,) = json.loads(out.read_text())["benchmarks"]
    totals = measured["metrics"]["request_totals"]
    assert totals["successful"] == 24 and totals["errored"] == 0
    assert measured["metrics"]["output_token_count"]["successful"]["mean"] == 10
