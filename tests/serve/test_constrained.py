"""Answers that are held to a form: they parse and validate whatever the random model would have liked to write."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest
from starlette.testclient import TestClient

from h1r.engine import LLM

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "What is 2+2?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "kind": {"enum": ["add", "sub"]},
        "parts": {"type": "array", "items": {"type": "integer", "minimum": -9, "maximum": 9}, "maxItems": 3},
    },
    "required": ["name", "kind", "parts"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA}}
TOOLS = [
    {"type": "function", "function": {"name": "sum", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
]
TWO = {"type": "function", "function": {"name": "sum"}}
PARAMETERS = {"sum": SCHEMA, "now": {"type": "object", "maxProperties": 0}}
NO_THOUGHT = {"chat_template_kwargs": {"enable_thinking": False}}


def post(client: TestClient, body: dict, status: int = 200, path: str = CHAT) -> dict:
    response = client.post(path, json={"messages": MESSAGES} | body if path == CHAT else body)
    assert response.status_code == status, response.text
    return response.json()


def streamed(client: TestClient, body: dict, n: int) -> list[dict]:
    """The message of each choice, put together from its chunks."""
    out = [{"content": "", "reasoning": "", "calls": [], "pieces": 0, "finish": None} for _ in range(n)]
    with client.stream("POST", CHAT, json={"messages": MESSAGES, "stream": True} | body) as response:
        events = [e[6:] for e in b"".join(response.iter_raw()).split(b"\n\n") if e]
    for event in events[:-1]:
        for choice in json.loads(event)["choices"]:
            made, delta = out[choice["index"]], choice["delta"]
            made["content"] += delta.get("content") or ""
            made["reasoning"] += delta.get("reasoning") or ""
            made["finish"] = choice["finish_reason"] or made["finish"]
            for call in delta.get("tool_calls", []):
                assert call["index"] in (len(made["calls"]) - 1, len(made["calls"]))
                if call["index"] == len(made["calls"]):
                    made["calls"].append({"name": call["function"]["name"], "arguments": ""})
                made["calls"][-1]["arguments"] += call["function"]["arguments"]
                made["pieces"] += 1
    return out


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 3.0, "top_p": 0.9, "top_k": 20},
        {"thinking_token_budget": 7},
        {"thinking_budget": 0, "temperature": 0.0},
        {"frequency_penalty": 1.5, **NO_THOUGHT},
        {"thinking_token_budget": 30, "thinking_landing": 20, "loop_breaker": True},
    ],
)
def test_a_schema_holds(client: TestClient, llm: LLM, how: dict):
    think = {str(llm.tokenizer.id("<think>")): 100 if "thinking" in " ".join(how) else -100}
    body = {"response_format": FORM, "n": 4, "seed": 5, "max_tokens": 400, "logit_bias": think, **how}
    if how.get("chat_template_kwargs"):
        body["logit_bias"] = {}
    got = post(client, body)
    for choice, mine in zip(got["choices"], streamed(client, body, 4), strict=True):
        message = choice["message"]
        assert choice["finish_reason"] == mine["finish"] == "stop"
        jsonschema.validate(json.loads(message["content"]), SCHEMA)
        assert message["content"] == mine["content"] and message.get("reasoning", "") == mine["reasoning"]
        if "thinking_token_budget" in how:
            assert message["reasoning"] and choice.get("reasoning_stop", "budget") == "budget"
    budget = how.get("thinking_token_budget", how.get("thinking_budget", 0))
    assert got["usage"]["reasoning_tokens"] <= 4 * budget
    if how == {"temperature": 1.0}:
        assert len({c["message"]["content"] for c in got["choices"]}) == 4


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize(
    ("form", "holds"),
    [
        ({"json": SCHEMA}, lambda t: jsonschema.validate(json.loads(t), SCHEMA) is None),
        ({"json": json.dumps(SCHEMA), "disable_any_whitespace": True}, lambda t: not re.search(r"[,:]\s", t)),
        ({"json_object": True}, lambda t: isinstance(json.loads(t), dict)),
        ({"regex": r"[a-c]{3,9}/\d{2}"}, lambda t: re.fullmatch(r"[a-c]{3,9}/\d{2}", t)),
        ({"choice": ["yes", "no", "per\"haps<b>"]}, lambda t: t in ("yes", "no", "per\"haps<b>")),
        ({"grammar": 'root ::= ("ab" | "ba"){1,4} "."'}, lambda t: re.fullmatch(r"(ab|ba){1,4}\.", t)),
        ({"grammar": 'start: A "-" A\nA: /[0-9]{2}/'}, lambda t: re.fullmatch(r"\d\d-\d\d", t)),
    ],
)  # fmt: skip
def test_structured_outputs(client: TestClient, path: str, form: dict, holds):
    body = {"structured_outputs": form, "max_tokens": 300, "n": 3, "seed": 1}
    body |= {"logit_bias": {"2": -100}} if path == CHAT else {"prompt": "add"}
    finished = 0
    for choice in post(client, body | NO_THOUGHT if path == CHAT else body, path=path)["choices"]:
        text = choice["message"]["content"] if path == CHAT else choice["text"]
        if choice["finish_reason"] == "stop":
            finished += 1
            assert holds(text), text
    assert finished == 3 or "json_object" in form


def test_completions_wait_for_a_thought_that_the_prompt_opened(client: TestClient):
    body = {"prompt": "add<think>", "max_tokens": 60, "structured_outputs": {"choice": ["yes"]}, "seed": 1}
    body |= {"thinking_token_budget": 5, "skip_special_tokens": False}
    text = post(client, body, path="/v1/completions")["choices"][0]["text"]
    assert re.search(r"</think>\n*yes(<\|\w+\|>)?$", text)


@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize("choice", ["required", TWO])
def test_required_calls(client: TestClient, llm: LLM, choice, many: bool):
    body = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": many, "n": 6, "seed": 3, "max_tokens": 600}
    # ends are made less likely, so that some choices call twice
    body |= {"thinking_token_budget": 9, "logit_bias": {str(i): -1 for i in llm.stop_ids}}
    got = post(client, body)
    counts = []
    finished = 0
    for whole, mine in zip(got["choices"], streamed(client, body, 6), strict=True):
        calls = [c["function"] for c in whole["message"]["tool_calls"]]
        assert calls == mine["calls"] and whole["message"]["content"] is None and mine["content"] == ""
        assert whole["finish_reason"] == mine["finish"]
        counts.append(len(calls))
        if whole["finish_reason"] == "length":
            continue
        finished += 1
        assert whole["finish_reason"] == "tool_calls" and mine["pieces"] > len(calls)
        for call in calls:
            jsonschema.validate(json.loads(call["arguments"]), PARAMETERS[call["name"]])
            assert choice == "required" or call["name"] == "sum"
    assert finished >= 3 and (set(counts) == {1} if not many or choice == TWO else max(counts) > 1)


def test_an_answer_or_calls(client: TestClient, llm: LLM):
    open_call = llm.tokenizer.id("<tool_call>")
    body = {"tools": TOOLS, "response_format": FORM, "seed": 3, "max_tokens": 400, **NO_THOUGHT}
    answer = post(client, body | {"logit_bias": {str(open_call): -100}})["choices"][0]
    jsonschema.validate(json.loads(answer["message"]["content"]), SCHEMA)
    body |= {"logit_bias": {str(open_call): 100}, "parallel_tool_calls": False}
    called = post(client, body)["choices"][0]
    (call,) = called["message"]["tool_calls"]
    jsonschema.validate(json.loads(call["function"]["arguments"]), PARAMETERS[call["function"]["name"]])


def test_strict_tools_bind_free_calls_and_one_call_is_one(client: TestClient, llm: LLM):
    open_call = llm.tokenizer.id("<tool_call>")
    strict = [{"type": "function", "function": TOOLS[0]["function"] | {"strict": True}}]
    body = {"tools": strict, "seed": 3, "max_tokens": 600, "n": 3, "logit_bias": {str(open_call): 100}, **NO_THOUGHT}
    for choice in post(client, body)["choices"]:
        for call in choice["message"]["tool_calls"][: -1 if choice["finish_reason"] == "length" else None]:
            jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)
    assert any(len(c["message"]["tool_calls"]) > 1 for c in post(client, body)["choices"])
    for choice in post(client, body | {"parallel_tool_calls": False})["choices"]:
        assert len(choice["message"]["tool_calls"]) == 1 and choice["finish_reason"] == "tool_calls"


def test_a_stop_string_still_cuts(client: TestClient):
    body = {"response_format": FORM, "seed": 1, "max_tokens": 400, "stop": '"kind"', **NO_THOUGHT}
    choice = post(client, body)["choices"][0]
    assert choice["stop_reason"] == '"kind"' and re.match(r'\s*\{\s*"name"\s*:', choice["message"]["content"])


@pytest.mark.parametrize(
    ("body", "words", "field"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "frob"}}}},
         "response_format: .*frob", "response_format"),
        ({"response_format": {"type": "json_schema"}}, "json_schema goes with", "response_format"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type", "response_format"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex: ", "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice: ", "structured_outputs"),
        ({"structured_outputs": {"grammar": "start: ]"}}, "structured_outputs.grammar: ", "structured_outputs"),
        ({"structured_outputs": {"json": "{"}}, "json is no JSON", "structured_outputs"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "exactly one", "structured_outputs"),
        ({"structured_outputs": {"regexp": "a"}}, "structured_outputs.regexp: unknown", "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}, "response_format": FORM}, "not together", "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}, "tools": TOOLS}, "tool_choice to none", "structured_outputs"),
        ({"response_format": FORM, "ignore_eos": True}, "ignore_eos", "ignore_eos"),
        ({"guided_json": {}}, "guided_json: unknown field", "guided_json"),
        ({"tool_choice": "required"}, "tool_choice: required needs tools", "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": TOOLS}, "no tool is called 'g'",
         "tool_choice"),
        ({"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 3}}}]},
         "tools.0.function.parameters: ", "tools"),
        ({"tools": [{"type": "function", "function": {"name": 3}}]}, "tools: ", "tools"),
        ({"thinking_budget": -1}, "thinking_budget", "thinking_budget"),
        ({"thinking_budget": 1, "thinking_token_budget": 1}, "another name", "thinking_budget"),
        ({"thinking_landing": 5}, "needs thinking_token_budget", "thinking_landing"),
    ],
)  # fmt: skip
def test_refusals(client: TestClient, body: dict, words: str, field: str):
    for extra in ({}, {"stream": True}):
        error = post(client, body | extra, 400)["error"]
        assert re.search(words, error["message"]) and error["param"] == field, error


def test_budgets_leave_an_answer(client: TestClient, llm: LLM):
    think, end = (str(llm.tokenizer.id(mark)) for mark in ("<think>", "</think>"))
    body = {"logit_bias": {think: 100, end: -100}, "max_tokens": 64, "seed": 2, "n": 3, "return_token_ids": True}
    for fields, thought, why in (
        ({"thinking_token_budget": 10}, 10, "budget"),
        ({"thinking_token_budget": 1000}, 46, "reserve"),  # 64 less a quarter, <think> and </think>
        ({"answer_reserve": 40}, 22, "reserve"),
    ):
        got = post(client, body | fields)
        assert got["usage"]["reasoning_tokens"] == 3 * thought
        for choice in got["choices"]:
            assert choice["reasoning_stop"] == why and choice["token_ids"][thought + 1] == int(end)
            assert len(choice["token_ids"]) > thought + 2
    loop = body | {"loop_breaker": True, "max_tokens": 300, "temperature": 0, "n": 1}
    choice = post(client, loop)["choices"][0]
    assert choice["reasoning_stop"] == "loop" and int(end) in choice["token_ids"]
