"""Promise 6, second half: streamed pieces concatenate to the whole, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h1r.text import Split, Splitter, split
from h1r.text.split import Event

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
ADD = {"name": "add", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("<think>\nr1\n\nr2\n</think>\n\nanswer\n", Split("r1\n\nr2", "answer", (), True)),
        ("<think>\n\n</think>\n\nplain", Split("", "plain", (), True)),
        ("plain", Split("", "plain", (), True)),
        ("  \n<think>r</think>a", Split("r", "a", (), True)),
        ("<think>never closed \\boxed{3}", Split("never closed \\boxed{3}", "", (), False)),
        ("<think>", Split("", "", (), False)),
        ("", Split("", "", (), True)),
        ("<thin", Split("", "<thin", (), True)),
        ("<think>r</thin", Split("r</thin", "", (), False)),
        (f"<think>r</think>\n\n{CALL}\n{CALL}\n", Split("r", "", (ADD, ADD), True)),
        (f"<think>r</think>\n\ntext\n{CALL}\nmore", Split("r", "text\nmore", (ADD,), True)),
        (f"<think>{CALL}</think>\n\na", Split(CALL, "a", (), True)),
        ("<think>r</think>a <think> is a tag, </think> too", Split("r", "a <think> is a tag, </think> too", (), True)),
        ("Sure. <think>r</think>a", Split("r", "Sure. a", (), True)),
    ],
)
def test_whole(text, want):
    assert split(text)[:4] == want[:4]


def test_a_missing_think_tag():
    got = split("step 1\nstep 2\n</think>\n\n7")
    assert got[:4] == ("step 1\nstep 2", "7", (), True)
    assert got.notes == ("</think> without <think>: the text before it is reasoning",)


@pytest.mark.parametrize("text", ["r\n</think>\n\na", "<think>\nr\n</think>\n\na", "\n<think>r</think>a"])
def test_a_prompt_that_opened_the_thought(text):
    """The model may open it a second time; the tag is then no part of the reasoning."""
    assert split(text, opened=True)[:4] == ("r", "a", (), True)
    assert split("no end", opened=True)[:4] == ("no end", "", (), False)
    assert split("a <think> b</think>c", opened=True)[:2] == ("a <think> b", "c")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("{nope", "is not JSON"),
        ('{"arguments": {}}', "names no function"),
        ('{"name": "f", "arguments": 3}', "has arguments that are not an object"),
        ("[" * 20000, "is not JSON"),
    ],
)
def test_a_malformed_call_stays_content_with_a_note(body, why):
    got = split(f"<think>r</think>\n\n<tool_call>{body}</tool_call> after")
    assert got.tool_calls == ()
    assert got.content == f"<tool_call>{body}</tool_call> after"
    assert got.notes == (f"tool call {why}: left in the answer",)


def test_calls_in_odd_forms():
    assert split('<tool_call>{"name": "f"}</tool_call>').tool_calls == ({"name": "f", "arguments": {}},)
    assert split('<tool_call>{"name":"f","arguments":"{\\"a\\": 1}"}</tool_call>').tool_calls[0]["arguments"] == {
        "a": 1
    }
    cut = split('a\n<tool_call>{"name": "f"')
    assert cut.content == 'a\n<tool_call>{"name": "f"'
    assert cut.notes == ("tool call never closed: left in the answer",)


def joined(events: list[Event]) -> tuple[str, str, list]:
    reasoning, content, calls = "", "", []
    for event in events:
        if event.kind == "recall":
            reasoning, content = reasoning + content, ""
        elif event.kind == "tool_call":
            calls.append(event.call)
        elif event.kind == "reasoning":
            reasoning += event.text
        else:
            content += event.text
    return reasoning, content, calls


FRAGMENTS = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    '{"name": "f", "arguments": {}}',
    "a",
    "\n",
    " ",
    "<",
    "</",
]


@given(
    st.lists(st.sampled_from([*FRAGMENTS, "</thi", "é\n\n"]), max_size=14).map("".join),
    st.randoms(use_true_random=False),
    st.booleans(),
)
@settings(max_examples=600, deadline=None)
def test_any_cut_gives_the_same(text, rng, opened):
    want = split(text, opened)
    splitter, events, at = Splitter(opened), [], 0
    while at < len(text):
        step = rng.randint(1, 5)
        events += splitter.feed(text[at : at + step])
        at += step
    events += splitter.finish()
    assert splitter.result() == want
    assert joined(events) == (want.reasoning, want.content, list(want.tool_calls))


def test_text_is_streamed_as_soon_as_it_cannot_be_a_tag():
    splitter = Splitter()
    assert splitter.feed("<think>\nab") == [Event("reasoning", "ab")]
    assert splitter.feed("c\n") == [Event("reasoning", "c")]
    assert splitter.feed("d</thi") == [Event("reasoning", "\nd")]
    assert splitter.feed("nk>\n\n4") == [Event("content", "4")]
    assert splitter.feed("2") == [Event("content", "2")]


def test_a_tag_inside_a_string_of_a_call_is_no_tag():
    body = '\n{"name": "add", "arguments": {"a": "x</tool_call>\\"y"}}\n'
    got = split(f"<tool_call>{body}</tool_call> after")
    assert got.tool_calls == ({"name": "add", "arguments": {"a": 'x</tool_call>"y'}},) and got.content == "after"
    odd = '<tool_call>{"name: f}</tool_call> after ' + CALL
    got = split(odd)
    assert got.tool_calls == (ADD,) and got.content == '<tool_call>{"name: f}</tool_call> after '
    for size in range(1, 9):
        splitter = Splitter()
        events = [e for i in range(0, len(odd), size) for e in splitter.feed(odd[i : i + size])] + splitter.finish()
        assert splitter.result() == got and joined(events)[1:] == (got.content, list(got.tool_calls))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_bound_answer_is_kept_to_the_letter(size):
    answer = '{"a": "</think><think><tool_call>{}</tool_call>"}\n'
    for text, want in (
        (f"<think>\nr\n</think>\n\n{answer}", ("r", answer, ())),
        (answer, ("", answer, ())),
        (f"\n{CALL}\n{CALL}\n", ("", "", (ADD, ADD))),
        (f"<think>r</think>\n{CALL}", ("r", "", (ADD,))),
        ("<thinking>", ("", "<thinking>", ())),
    ):
        splitter = Splitter(bound=True)
        events = [e for i in range(0, len(text), size) for e in splitter.feed(text[i : i + size])] + splitter.finish()
        assert splitter.result()[:3] == want and joined(events) == (want[0], want[1], list(want[2]))
