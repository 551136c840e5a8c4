from __future__ import annotations

import json

import numpy as np
import pytest

from h1r.errors import ConfigError
from h1r.text import Tokenizer, converse, render, row, train
from h1r.text.grammar import Grammars
from h1r.types import StopReason, Trace

TOKENIZER = train(["What is 12 + 34? use add, the answer is \\boxed{46}"] * 9, 400, system="Think.")
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
ASK = {"role": "user", "content": "12 + 34?"}
TURN1 = '<think>\nuse add\n</think>\n\n<tool_call>\n{"name": "add", "arguments":{"a": 12, "b": 34}}\n</tool_call>\n'
TURN2 = "<think>\nit said 46\n</think>\n\n\\boxed{46}"


def oddly(text: str) -> list[int]:
    """Ids that decode to `text` but are not those the tokenizer would choose: one per byte or special token."""
    out = []
    for i in TOKENIZER.encode(text):
        data = TOKENIZER.decode([i])
        out += [i] if data.startswith("<") else [TOKENIZER.encode(c)[0] for c in data]
    return out


def writer(*turns: str, stop: str = "<|im_end|>", reason: StopReason = StopReason.STOP):
    seen, left = [], list(turns)

    def generate(prompt):
        seen.append(prompt.token_ids)
        text = left.pop(0)
        ids = [*oddly(text), *([TOKENIZER.id(stop)] if stop else [])]
        return Trace(prompt=prompt, token_ids=tuple(ids), stop=reason, text=text)

    return generate, seen


def add(calls):
    return [{"role": "tool", "content": str(c["arguments"]["a"] + c["arguments"]["b"])} for c in calls]


def test_two_turns_token_in_token_out():
    generate, seen = writer(TURN1, TURN2)
    got = converse([ASK], generate, add, TOKENIZER, [TOOL])
    assert got.ended == "answer"
    assert seen[0] == render([ASK], [TOOL], tokenizer=TOKENIZER).token_ids
    wrote = [*oddly(TURN1), TOKENIZER.id("<|im_end|>")]
    assert list(seen[1][len(seen[0]) : len(seen[0]) + len(wrote)]) == wrote
    assert wrote != TOKENIZER.encode(TURN1 + "<|im_end|>")
    # The same text, and the same division of labour, as the training row of this conversation.
    target = row(got.messages, TOKENIZER, tools=[TOOL])
    assert TOKENIZER.decode(got.token_ids) == TOKENIZER.decode(target.token_ids)
    mine = TOKENIZER.decode([i for i, w in zip(got.token_ids, got.written, strict=True) if w])
    assert mine == TOKENIZER.decode([i for i, w in zip(target.token_ids, target.streams["ce"], strict=True) if w])
    assert got.messages[2] == {"role": "tool", "content": "46"}


def test_a_turn_ended_by_another_stop_is_closed_by_us():
    for stop in ("<|end_of_text|>", ""):
        generate, seen = writer(TURN1, TURN2, stop=stop)
        converse([ASK], generate, add, TOKENIZER, [TOOL])
        assert (
            TOKENIZER.decode(seen[1]).count("</tool_call>\n" + stop + "<|im_end|>\n<|im_start|>user\n<tool_resp") == 1
        )


def test_budgets_and_ends():
    generate, seen = writer(TURN1, TURN1, TURN1)
    assert (converse([ASK], generate, add, TOKENIZER, [TOOL], turns=2).ended, len(seen)) == ("turns", 2)
    assert converse([ASK], writer(TURN1)[0], lambda calls: [], TOKENIZER).ended == "act"
    assert converse([ASK], writer(TURN1, TURN2)[0], add, TOKENIZER, max_tokens=10).ended == "length"
    cut = converse([ASK], writer(TURN1, reason=StopReason.LENGTH)[0], add, TOKENIZER)
    assert (cut.ended, len(cut.traces), sum(cut.written)) == ("length", 1, len(cut.traces[0].token_ids))


def test_a_checkpoints_own_template():
    foreign = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% if m.tool_calls %}!{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    t = Tokenizer(TOKENIZER.inner, template=foreign)
    generate, seen = writer(TURN1, TURN2)
    converse([ASK], generate, add, t)
    assert t.decode(seen[1]).endswith(
        "</tool_call>\n<|im_end|>\n<|im_start|>tool\n46<|im_end|>\n<|im_start|>assistant\n"
    )


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "op": {"enum": ["add", "sub"]}},
    "required": ["a", "op"],
    "additionalProperties": False,
}


def test_grammar_binds_the_answer_and_leaves_the_thought_free():
    grammar = Grammars(TOKENIZER, 512).compile(SCHEMA)
    rng = np.random.default_rng(0)
    finished = 0
    for _ in range(12):
        state, ids = grammar.begin(), []
        for i in TOKENIZER.encode("<think>\nany } text {\n</think>\n\n"):
            assert state.mask()[i]
            state.accept(i)
        assert state.bound
        for _ in range(300):
            mask = state.mask()
            assert mask.shape == (512,) and not mask[TOKENIZER.vocab_size :].any()
            ids.append(int(rng.choice(np.flatnonzero(mask))))
            state.accept(ids[-1])
            if ids[-1] in TOKENIZER.stop_ids:
                break
        if ids[-1] in TOKENIZER.stop_ids:
            finished += 1
            value = json.loads(TOKENIZER.decode(ids[:-1]))
            assert isinstance(value["a"], int) and value["op"] in ("add", "sub") and len(value) == 2
    assert finished >= 6


def test_grammar_details():
    grammars = Grammars(TOKENIZER)
    grammar = grammars.compile("[ab]", "regex")
    start = grammar.begin()
    allowed = {TOKENIZER.decode([i]).strip("\n") for i in np.flatnonzero(start.mask())}
    assert allowed == {"<think>", "", "a", "b"}
    thought = grammar.begin(opened=True).mask()
    assert not thought[list(TOKENIZER.stop_ids)].any()
    assert int(thought.sum()) == TOKENIZER.vocab_size - 2
    start.accept(TOKENIZER.encode("a")[0])
    assert set(np.flatnonzero(start.mask())) == set(TOKENIZER.stop_ids)
    for source, kind in (("(", "regex"), ({"type": "nonsense"}, "json"), ("start: ]", "lark")):
        with pytest.raises(ConfigError, match=f"grammar of kind {kind}"):
            grammars.compile(source, kind)
