"""Tool calls as a grammar: whatever is drawn from its masks is a call that obeys the tool's schema."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest

from h1r.errors import ConfigError
from h1r.text import split, train
from h1r.text.calls import arguments_schema, call_grammar
from h1r.text.grammar import Grammars

TOKENIZER = train(['{"name": "add", "arguments": {"a": 1, "op": "x"}}', "plus and minus"] * 3, 320)
GRAMMARS = Grammars(TOKENIZER)
ADD = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "op": {"type": "string", "maxLength": 6}},
    "required": ["a", "op"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "add", "parameters": ADD}},
    {"type": "function", "function": {"name": 'odd "é"'}},
]
SCHEMA = {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"], "additionalProperties": False}


def drawn(source: str, seed: int) -> str | None:
    """A text drawn evenly from the masks; None when it did not end in time."""
    rng, state, ids = np.random.default_rng(seed), GRAMMARS.compile(source, "lark", thinks=False).begin(), []
    for _ in range(400):
        ids.append(int(rng.choice(np.flatnonzero(state.mask()))))
        if ids[-1] in TOKENIZER.stop_ids:
            return TOKENIZER.decode(ids[:-1])
        state.accept(ids[-1])
    return None


@pytest.mark.parametrize("many", [True, False])
def test_required_calls_parse_and_obey(many: bool) -> None:
    source = call_grammar(TOOLS, TOKENIZER, many=many)
    texts = [t for seed in range(25) if (t := drawn(source, seed)) is not None]
    assert len(texts) >= 20
    counts, names = set(), set()
    for text in texts:
        got = split(text)
        assert got.content == "" and got.notes == ()
        counts.add(len(got.tool_calls))
        for call in got.tool_calls:
            names.add(call["name"])
            tool = next(t for t in TOOLS if t["function"]["name"] == call["name"])
            jsonschema.validate(call["arguments"], arguments_schema(tool))
    assert names == {"add", 'odd "é"'} and (counts == {1} if not many else max(counts) > 1)


def test_an_answer_or_calls() -> None:
    source = call_grammar(TOOLS, TOKENIZER, required=False, answer=SCHEMA)
    answers = calls = 0
    for seed in range(20):
        text = drawn(source, seed)
        if text is None:
            continue
        if text.startswith("<tool_call>"):
            calls += bool(split(text).tool_calls)
        else:
            answers += 1
            jsonschema.validate(json.loads(text), SCHEMA)
    assert answers and calls


def test_text_then_strict_calls() -> None:
    state = GRAMMARS.compile(call_grammar(TOOLS[:1], TOKENIZER, required=False), "lark", thinks=False).begin()
    for i in TOKENIZER.encode('Let me see.\n<tool_call>\n{"name": "add", "arguments": {"a": 1'):
        assert state.mask()[i]
        state.accept(i)
    assert not state.mask()[TOKENIZER.encode("}")[0]]  # `op` is still missing


def test_bad_parameters_are_refused() -> None:
    for parameters, words in ((3, "JSON schema"), ({"type": "array"}, "arguments are an object")):
        with pytest.raises(ConfigError, match=words):
            arguments_schema({"function": {"name": "f", "parameters": parameters}})


def test_other_kinds_and_whitespace() -> None:
    for source, kind, want in ((["yes", "no"], "choice", {"yes", "no"}), ('root ::= "a" | "b"', "gbnf", {"a", "b"})):
        grammar = GRAMMARS.compile(source, kind, thinks=False)
        seen = set()
        for seed in range(12):
            rng, state, ids = np.random.default_rng(seed), grammar.begin(), []
            while not ids or ids[-1] not in TOKENIZER.stop_ids:
                ids.append(int(rng.choice(np.flatnonzero(state.mask()))))
                state.accept(ids[-1])
            seen.add(TOKENIZER.decode(ids[:-1]))
        assert seen == want
    for source in ([], [""], [1]):
        with pytest.raises(ConfigError, match="choice"):
            GRAMMARS.compile(source, "choice")
    state, blanks = GRAMMARS.compile({}, thinks=False).begin(), 0
    for i in TOKENIZER.encode("["):
        state.accept(i)
    newline = TOKENIZER.encode("\n")[0]
    while state.mask()[newline]:
        state.accept(newline)
        blanks += 1
    assert blanks == 2
    assert GRAMMARS.compile({}) is not GRAMMARS.compile({}) and len(GRAMMARS._kept) < 10
