"""The server over a tiny random checkpoint: what it answers equals what the engine gives, whole and streamed."""

from __future__ import annotations

import json
import math
import threading
import time

import numpy as np
import pytest
from starlette.testclient import TestClient

from h1r.engine import LLM, Engine, EngineConfig
from h1r.engine.loop import Loop
from h1r.engine.traffic import weights
from h1r.errors import ConfigError
from h1r.search import DeepConfConfig
from h1r.serve import Limits, app, check_binding, read_keys
from h1r.serve.answers import StopScan
from h1r.serve.deepthink import settings
from h1r.serve.protocol import DeepThinkRequest
from h1r.serve.voice import Voice
from h1r.text import render
from h1r.types import Prompt, SamplingParams

MESSAGES = [{"role": "user", "content": "What is 2+2?"}]
GREEDY = {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True}


def post(client: TestClient, path: str, body: dict, status: int = 200) -> dict:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


def stream(client: TestClient, path: str, body: dict) -> list[dict]:
    with client.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200
        lines = list(response.iter_raw())
    events = [e[6:] for e in b"".join(lines).split(b"\n\n") if e]
    assert events[-1] == b"[DONE]"
    return [json.loads(e) for e in events[:-1]]


def test_chat_equals_the_engine(client: TestClient, llm: LLM):
    prompt = render(MESSAGES, tokenizer=llm.tokenizer)
    want = llm.generate([prompt], SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=3))[0][0]
    body = {"messages": MESSAGES, "logprobs": True, "top_logprobs": 3, "return_token_ids": True, **GREEDY}
    got = post(client, "/v1/chat/completions", body)
    choice = got["choices"][0]
    assert choice["token_ids"] == list(want.token_ids) and got["prompt_token_ids"] == list(prompt.token_ids)
    assert choice["message"]["content"] == want.content and choice["finish_reason"] == "length"
    entries = choice["logprobs"]["content"]
    np.testing.assert_allclose([e["logprob"] for e in entries], want.raw_logprobs, rtol=1e-6)
    assert all(len(e["top_logprobs"]) == 3 and e["logprob"] == e["top_logprobs"][0]["logprob"] for e in entries)
    assert bytes(entries[0]["bytes"]).decode(errors="replace") == entries[0]["token"]
    assert got["usage"]["prompt_tokens"] == len(prompt.token_ids) and got["usage"]["completion_tokens"] == 24


@pytest.mark.parametrize("n", [1, 3])
def test_stream_equals_whole(client: TestClient, llm: LLM, n: int):
    # a lone </think> late in the answer turns it into a thought, which a stream cannot take back
    bias = {str(llm.tokenizer.id(mark)): -100 for mark in ("</think>", "<tool_call>")}
    body = {"messages": MESSAGES, "max_tokens": 30, "seed": 5, "n": n, "logit_bias": bias}
    body |= {"return_token_ids": True, "return_trace": True}
    whole = post(client, "/v1/chat/completions", body)
    chunks = stream(client, "/v1/chat/completions", body | {"stream_options": {"include_usage": True}})
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]
    for i in range(n):
        mine = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["index"] == i]
        assert mine[0]["delta"]["role"] == "assistant"
        want = whole["choices"][i]
        for name in ("content", "reasoning_content", "reasoning"):
            assert "".join(c["delta"].get(name) or "" for c in mine) == (want["message"].get(name) or "")
        assert [t for c in mine for t in c.get("token_ids", [])] == want["token_ids"]
        for name in ("logprobs", "raw_logprobs", "confidence"):
            np.testing.assert_allclose([v for c in mine if "trace" in c for v in c["trace"][name]], want["trace"][name])
        assert mine[-1]["finish_reason"] == want["finish_reason"]


def test_stop_string_ends_the_answer(client: TestClient, llm: LLM):
    body = {"messages": MESSAGES, "max_tokens": 60, "seed": 3, "return_token_ids": True, "ignore_eos": True}
    body["logit_bias"] = {str(llm.tokenizer.id(mark)): -100 for mark in ("<think>", "</think>", "<tool_call>")}
    free = post(client, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
    stop = free[10:12]
    cut = post(client, "/v1/chat/completions", body | {"stop": stop})
    choice = cut["choices"][0]
    assert choice["message"]["content"] == free[: free.find(stop)]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    assert cut["usage"]["completion_tokens"] == len(choice["token_ids"]) < 60
    chunks = stream(client, "/v1/chat/completions", body | {"stop": [stop]})
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == choice["message"]["content"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 500])
def test_voice_takes_a_stream_apart(size: int):
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    text = f"<think>\nfirst END two\n</think>\n\nfour {call} more END never"
    voice = Voice(["END"], offered=True)
    deltas = [voice.hear(text[i : i + size]) for i in range(0, len(text), size)] + [voice.end(text)]
    joined = {k: "".join(d.get(k, "") for d in deltas) for k in ("reasoning", "reasoning_content", "content")}
    assert joined["reasoning"].strip() == "first END two" == joined["reasoning_content"].strip()
    assert joined["content"].split() == ["four", "more"] and voice.scan.hit == "END"
    calls = [c for d in deltas for c in d.get("tool_calls", [])]
    assert calls[0]["function"]["name"] == "add" and all("name" not in c["function"] for c in calls[1:])
    assert {c["index"] for c in calls} == {0} and (len(calls) > 1 or size > 3)
    assert "".join(c["function"]["arguments"] for c in calls) == '{"a": 1}'
    plain = Voice([], offered=False)
    plain.end(call)
    assert '"add"' in plain.content and "<tool_call>" in plain.content


def test_stop_scan_survives_any_cut():
    text = "abcab<end>zz"
    for size in range(1, len(text) + 1):
        scan = StopScan(["<end>", "<x"])
        shown = "".join(scan.push(text[i : i + size]) for i in range(0, len(text), size)) + scan.flush()
        assert (shown, scan.hit) == ("abcab", "<end>")
    scan = StopScan(["<end>"])
    assert scan.push("a<en") + scan.flush() == "a<en"


def test_completions_take_tokens_text_and_lists(client: TestClient, llm: LLM):
    ids = llm.tokenizer.encode("add the")
    want = llm.generate([ids, [5, 6, 7]], SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))
    body = {
        "max_tokens": 8,
        "temperature": 0,
        "ignore_eos": True,
        "skip_special_tokens": False,
        "return_token_ids": True,
    }
    for prompt in ("add the", ids, ["add the"], [ids]):
        got = post(client, "/v1/completions", body | {"prompt": prompt})["choices"]
        assert got[0]["text"] == want[0][0].text and got[0]["token_ids"] == list(want[0][0].token_ids)
    got = post(client, "/v1/completions", body | {"prompt": [ids, [5, 6, 7]], "n": 2})["choices"]
    assert [c["index"] for c in got] == [0, 1, 2, 3]
    assert [c["token_ids"] for c in got] == [list(want[j][0].token_ids) for j in (0, 0, 1, 1)]
    chunks = stream(client, "/v1/completions", body | {"prompt": [ids, [5, 6, 7]]})
    for j in range(2):
        text = "".join(c["choices"][0]["text"] for c in chunks if c["choices"][0]["index"] == j)
        assert text == want[j][0].text


def test_echo_scores_the_prompt_exactly(client: TestClient, llm: LLM):
    ids = [7, 300 % llm.loop.engine.vocab, 12, 99, 45]
    want = llm.score([ids])[0]
    body = {"prompt": [ids, ids[:3]], "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
    got = post(client, "/v1/completions", body)["choices"]
    lp = got[0]["logprobs"]
    assert lp["token_logprobs"][0] is None and lp["top_logprobs"][0] is None and len(lp["tokens"]) == len(ids) + 1
    np.testing.assert_allclose(lp["token_logprobs"][1:-1], want[1:], rtol=1e-4, atol=1e-5)
    # the generated token is the likeliest, with the very same number
    assert lp["token_logprobs"][-1] == max(lp["top_logprobs"][-1].values())
    np.testing.assert_allclose(got[1]["logprobs"]["token_logprobs"][1:-1], want[1:3], rtol=1e-4, atol=1e-5)
    zero = post(client, "/v1/completions", body | {"max_tokens": 0})["choices"][0]["logprobs"]
    assert zero["token_logprobs"] == lp["token_logprobs"][:-1]


def test_thought_and_answer_come_apart(client: TestClient, llm: LLM):
    think, end = llm.tokenizer.id("<think>"), llm.tokenizer.id("</think>")
    body = {"messages": MESSAGES, "max_tokens": 5, "temperature": 0, "return_token_ids": True, "ignore_eos": True}
    first = post(client, "/v1/chat/completions", body | {"logit_bias": {str(think): 100}})
    message = first["choices"][0]["message"]
    # five times <think>: the first opens the thought, which never closes
    assert message["content"] == "" and message["reasoning_content"] == message["reasoning"] == "<think>" * 4
    assert first["usage"]["reasoning_tokens"] == 4
    second = post(client, "/v1/chat/completions", body | {"logit_bias": {str(end): 100}})
    assert second["usage"]["reasoning_tokens"] == 0


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"top_logprobs": 3}, "top_logprobs: needs logprobs"),
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n: "),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"messages": [{"role": "user", "content": "long " * 2000}]}, "shorten the prompt"),
    ],
)
def test_refusals_name_the_field(client: TestClient, extra: dict, words: str):
    for streamed in (False, True):
        error = post(client, "/v1/chat/completions", {"messages": MESSAGES, "stream": streamed} | extra, 400)["error"]
        assert words in error["message"] and error["type"] == "invalid_request_error" and error["code"] == 400


def test_harmless_fields_and_nulls_pass(client: TestClient):
    body = {"messages": MESSAGES, "max_tokens": 2, "user": "u", "metadata": {"a": "b"}, "store": True, "stop": None}
    assert post(client, "/v1/chat/completions", body)["usage"]["completion_tokens"] <= 2


def test_broken_bodies_are_400_and_413(llm: LLM):
    with TestClient(app(llm, "tiny", limits=Limits(body=10_000))) as client:
        for data, status in ((b"{", 400), (b"\xff\xfe{}", 400), (b"[]", 400), (b"x" * 20_000, 413)):
            response = client.post("/v1/completions", content=data, headers={"content-type": "application/json"})
            assert response.status_code == status and response.json()["error"]["message"]
        vocab = llm.loop.engine.vocab
        assert "vocabulary" in post(client, "/v1/completions", {"prompt": [vocab]}, 400)["error"]["message"]
        assert post(client, "/v1/completions", {"prompt": []}, 400)["error"]["message"].startswith("prompt: empty")
        assert client.post("/v1/nothing").status_code == 404 and client.get("/v1/completions").status_code == 405
        assert post(client, "/v1/completions", {"prompt": "a", "model": "other"}, 404)["error"]["param"] == "model"


def test_keys(llm: LLM, tmp_path):
    (tmp_path / "keys").write_text("# ours\nfirst-secret\nsecond-secret # theirs\n")
    keys = read_keys(tmp_path / "keys")
    assert keys == ("first-secret", "second-secret")
    with TestClient(app(llm, "tiny", api_keys=keys)) as client:
        assert client.get("/v1/models").status_code == 401 and client.get("/health").status_code == 200
        ok = {"authorization": "Bearer second-secret"}
        assert client.get("/v1/models", headers=ok).json()["data"][0]["id"] == "tiny"
        assert client.post("/admin/weights", json={"path": "x", "version": 1}, headers=ok).status_code == 403
    with pytest.raises(ConfigError, match="other machines"):
        check_binding("0.0.0.0", ())
    check_binding("0.0.0.0", keys)
    check_binding("::1", ())


def test_weights_are_swapped(client: TestClient, checkpoint, llm: LLM):
    before = llm.version
    body = {"path": str(checkpoint), "version": before + 5}
    assert client.post("/admin/weights", json=body).status_code == 401
    headers = {"authorization": "Bearer administrator"}
    assert client.post("/admin/weights", json=body, headers=headers).json()["version"] == before + 5
    assert client.get("/version").json()["weights_version"] == before + 5
    bad = client.post("/admin/weights", json=body | {"path": "/nowhere"}, headers=headers)
    assert bad.status_code == 400 and "/nowhere" in bad.json()["error"]["message"]


def test_tokens_round_trip_and_metrics(client: TestClient, llm: LLM):
    tokens = post(client, "/tokenize", {"prompt": "add 2+2"})["tokens"]
    assert post(client, "/detokenize", {"tokens": tokens})["prompt"] == "add 2+2"
    chat = post(client, "/tokenize", {"messages": MESSAGES})
    assert chat["tokens"] == list(render(MESSAGES, tokenizer=llm.tokenizer).token_ids)
    post(client, "/v1/completions", {"prompt": [1, 2, 3, 4], "max_tokens": 3, "n": 2, "ignore_eos": True})
    text = client.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(lines['vllm:generation_tokens_total{model_name="tiny"}']) == 6
    assert float(lines['vllm:prompt_tokens_total{model_name="tiny"}']) == 4
    assert float(lines['h1r:forked_prefill_tokens_total{model_name="tiny"}']) == 3
    kept = len(llm.loop.engine.scheduler.prefixes.kept)
    assert float(lines['h1r:state_slots_used{model_name="tiny"}']) == kept
    assert float(lines['h1r:achieved_bytes_per_second{model_name="tiny"}']) > 0
    again = client.get("/metrics").text
    assert 'h1r:achieved_bytes_per_second{model_name="tiny"} 0.0' in again
    for name in ("h1r:state_slot_usage_perc", "h1r:deepconf_saved_tokens_total", "h1r:prefix_cached_tokens_total"):
        assert f'{name}{{model_name="tiny"}}' in again


def test_traffic_is_weights_states_and_keys(llm: LLM):
    """Three steps of one trace: two layers, 32 conv channels and more, one K/V head of 16."""
    loop = Loop(Engine(llm.loop.engine.runner.model, llm.config, EngineConfig(memory_bytes=8 << 20, prefixes=0)))
    loop.submit(Prompt(token_ids=(5,)), SamplingParams(max_tokens=3)).result()
    cache = loop.engine.runner.cache
    slot = sum(t[:, 0].numel() * t.element_size() for t in (cache.conv, cache.ssm))
    token = 2 * 2 * 16 * cache.k.element_size()  # keys and values of two layers
    # the sequence is gone from memory when its last step is counted
    assert loop.traffic.bytes == 3 * weights(llm.loop.engine.runner.model) + 2 * 2 * slot + (1 + 2) * token
    assert loop.traffic.seconds > 0


def test_too_many_requests_are_told_to_wait(llm: LLM):
    with TestClient(app(llm, "tiny", limits=Limits(in_flight=1))) as client:
        body = {"prompt": [1, 2, 3], "max_tokens": 300, "ignore_eos": True}
        first = threading.Thread(target=lambda: client.post("/v1/completions", json=body))
        first.start()
        deadline = time.monotonic() + 10
        while client.app.state.service.running == 0 and time.monotonic() < deadline:
            time.sleep(0.005)
        refused = client.post("/v1/completions", json=body)
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        first.join()


def test_deepthink_votes_and_tells(client: TestClient):
    body = {
        "messages": MESSAGES,
        "traces": 8,
        "warmup": 4,
        "window": 4,
        "keep_fraction": 0.5,
        "max_tokens": 40,
        "seed": 7,
    }
    for rolling in (True, False):
        got = post(client, "/v1/deepthink", body | {"rolling": rolling, "return_traces": True})
        assert got["traces"] == 8 and len(got["trace_stats"]) == 8
        assert got["tokens"] == sum(t["tokens"] for t in got["trace_stats"])
        assert sum(v["count"] for v in got["votes"]) == sum(t["voted"] for t in got["trace_stats"])
        assert math.isclose(got["share"], got["votes"][0]["weight"] / sum(v["weight"] for v in got["votes"]))
        for t in got["trace_stats"]:
            windows = [sum(t["confidence"][i : i + 4]) / 4 for i in range(len(t["confidence"]) - 3)]
            if windows:
                assert math.isclose(t["lowest"], min(windows), abs_tol=1e-3)
            if t["stop"] == "low_confidence":
                assert min(windows) < got["bar"] + 1e-6
    events = stream(client, "/v1/deepthink", body)
    kinds = [e["type"] for e in events]
    assert kinds[0] == "started" and kinds[-1] == "result" and kinds.count("finished") == 8
    result = events[-1]
    assert sum(e["tokens"] for e in events if e["type"] == "finished") == result["tokens"]
    for rolling in (True, False):
        events = stream(client, "/v1/deepthink", body | {"rolling": rolling, "return_traces": True})
        result = events[-1]
        assert [e["bar"] for e in events if e["type"] == "bar"] == [result["bar"]]
        last = [e for e in events if e["type"] == "vote"][-1]
        assert (last["votes"], last["majority"]) == (result["votes"], result["majority"]["votes"])
        told = [e for e in events if e["type"] == "confidence"]
        for t in result["trace_stats"]:
            mine = {e["tokens"]: e["mean"] for e in told if e["index"] == t["index"]}
            assert max(mine) == t["tokens"]
            for n, mean in mine.items():
                window = t["confidence"][max(0, n - body["window"]) : n]
                assert math.isclose(mean, sum(window) / len(window), abs_tol=2e-3)
    assert post(client, "/v1/deepthink", body | {"vote": "loudest"}, 400)["error"]["message"].count("loudest") == 1


def test_a_chat_may_think_deep(client: TestClient):
    deep = {"traces": 6, "warmup": 3, "window": 4, "keep_fraction": 0.5}
    body = {"messages": MESSAGES, "max_tokens": 40, "seed": 7, "temperature": 0.6, "top_p": 0.95, "deepconf": deep}
    got = post(client, "/v1/chat/completions", body)
    told = got["deepconf"]
    want = post(client, "/v1/deepthink", {k: v for k, v in body.items() if k != "deepconf"} | deep)
    assert {k: told[k] for k in ("answer", "votes", "tokens")} == {k: want[k] for k in ("answer", "votes", "tokens")}
    assert got["choices"][0]["message"]["content"] == want["message"]["content"]
    assert got["usage"]["completion_tokens"] == told["tokens"] == sum(t["tokens"] for t in told["trace_stats"])
    chunks = stream(client, "/v1/chat/completions", body | {"stream_options": {"include_usage": True}})
    assert chunks[0]["choices"][0]["delta"]["content"] == got["choices"][0]["message"]["content"]
    assert chunks[1]["deepconf"]["votes"] == told["votes"] and chunks[-1]["usage"] == got["usage"]
    for extra in ({"n": 2}, {"logprobs": True}, {"response_format": {"type": "json_object"}}, {"stop": "a"}):
        error = post(client, "/v1/chat/completions", body | extra, 400)["error"]
        assert error["message"].endswith("not together with deepconf") and error["param"] == next(iter(extra))
    error = post(client, "/v1/chat/completions", body | {"deepconf": {"trace": 2}}, 400)["error"]
    assert "did you mean" in error["message"] or "deepconf.trace" in error["message"]


def test_health_is_live_and_ready_until_it_drains(client: TestClient):
    assert client.get("/health").json() == {"live": True, "ready": True}
    client.app.state.turns.draining = True
    gone = client.get("/health")
    assert gone.status_code == 503 and gone.json() == {"live": True, "ready": False}
    assert client.post("/v1/completions", json={"prompt": [1]}).status_code == 503


def test_deepthink_takes_the_checkpoints_settings_where_silent(llm: LLM):
    own = DeepConfConfig(keep_fraction=0.25, window=6, warmup=3, consensus=0.9)
    with TestClient(app(llm, "tiny", deepconf=own)) as client:
        card = client.get("/v1/models").json()["data"][0]
        assert card["deepconf"] == {"keep_fraction": 0.25, "window": 6, "warmup": 3, "consensus": 0.9}
    silent = DeepThinkRequest(messages=MESSAGES, traces=8)
    assert settings(own, silent, None) == DeepConfConfig(keep_fraction=0.25, window=6, warmup=3, budget=8, rolling=True)
    said = DeepThinkRequest(messages=MESSAGES, traces=8, warmup=5, window=9, keep_fraction=1, consensus=0.8)
    assert settings(own, said, None) == DeepConfConfig(
        keep_fraction=1, window=9, warmup=5, budget=8, consensus=0.8, rolling=True
    )


def test_page_is_self_contained(client: TestClient):
    page = client.get("/")
    assert page.status_code == 200 and "/*STYLE*/" not in page.text and "/*SCRIPT*/" not in page.text
    assert "Think harder" in page.text and "--accent" in page.text
    # SVG's name is an address that nobody fetches
    text = page.text.replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in text and "https://" not in text


def test_every_chunk_may_count(client: TestClient):
    """Counts grow with the tokens, choice by choice, and end at those of the whole."""
    options = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    for path, ask in (("/v1/chat/completions", {"messages": MESSAGES}), ("/v1/completions", {"prompt": [5, 6, 7]})):
        chunks = stream(client, path, ask | GREEDY | options | {"n": 2, "stream": True})
        *told, last = chunks
        for index in (0, 1):
            counts = [c["usage"]["completion_tokens"] for c in told if c["choices"][0]["index"] == index]
            assert counts == sorted(counts) and counts[-1] == 24
        assert last["choices"] == [] and last["usage"]["completion_tokens"] == 48
        assert {c["usage"]["prompt_tokens"] for c in chunks} == {last["usage"]["prompt_tokens"]}
