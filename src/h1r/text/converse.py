"""A conversation with tools, token in, token out: the model writes a turn, its calls are acted on, the results are
appended, the model writes on. What the model wrote is never decoded and encoded again, so the ids that are trained on
are the ids that were sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from h1r.errors import DataError
from h1r.text import template as chat
from h1r.text.split import split
from h1r.text.tokenizer import Tokenizer
from h1r.types import Message, Prompt, StopReason, Trace

Generate = Callable[[Prompt], Trace]
Act = Callable[[Sequence[Mapping[str, Any]]], Sequence[Message]]


class Conversation(NamedTuple):
    """token_ids: the whole of it [T]; written: [T] bool, True where the model wrote. messages: the prompt's and all
    that followed. ended: why it is over: "answer" (a turn without calls), "turns", "length" (a turn was cut), or
    "act" (nothing to add)."""

    messages: tuple[Message, ...]
    traces: tuple[Trace, ...]
    token_ids: tuple[int, ...]
    written: tuple[bool, ...]
    ended: str


def converse(
    messages: Sequence[Message],
    generate: Generate,
    act: Act,
    tokenizer: Tokenizer,
    tools: Sequence[Mapping[str, Any]] = (),
    turns: int = 8,
    thinking: bool = True,
    max_tokens: int | None = None,
) -> Conversation:
    """Let the model and its tools take turns.

    generate    writes one turn after a prompt of exact ids; its trace must hold token_ids
    act         answers a turn's tool calls ({"name", "arguments"} each) with messages, role tool usually; an empty
                sequence ends the conversation
    turns       assistant turns at most
    max_tokens  no further turn once the conversation has this many tokens
    """
    prompt = chat.render(messages, tools, thinking, tokenizer=tokenizer)
    ids, written = list(prompt.token_ids), [False] * len(prompt.token_ids)
    said, traces, ended = list(messages), [], "turns"
    for turn in range(turns):
        trace = generate(Prompt(messages=tuple(said), token_ids=tuple(ids), tools=tuple(tools)))
        traces.append(trace)
        ids += trace.token_ids
        written += [True] * len(trace.token_ids)
        message, calls = message_of(trace, tokenizer)
        said.append(message)
        if trace.stop is not StopReason.STOP:
            ended = "length"
            break
        if not calls:
            ended = "answer"
            break
        if turn + 1 == turns or (max_tokens is not None and len(ids) >= max_tokens):
            ended = "turns" if turn + 1 == turns else "length"
            break
        results = [dict(r) for r in act(calls)]
        if not results:
            ended = "act"
            break
        new = given(said, results, tokenizer, tools, trace, thinking)
        said += results
        ids += new
        written += [False] * len(new)
    return Conversation(tuple(said), tuple(traces), tuple(ids), tuple(written), ended)


def given(
    said: Sequence[Message], results: Sequence[Message], tokenizer: Tokenizer, tools: Sequence[Mapping[str, Any]], trace: Trace,
    thinking: bool = True,
) -> list[int]:  # fmt: skip
    """Ids of what stands between the turn that `trace` wrote (the last of `said`) and the next: the results, and the next turn's
    head."""
    return tokenizer.encode(_between(said, results, tokenizer, tools, thinking, trace))


def message_of(trace: Trace, tokenizer: Tokenizer) -> tuple[Message, Sequence[Mapping[str, Any]]]:
    """The assistant message a trace amounts to, and its calls; split here where the generator left it whole."""
    if trace.content or trace.reasoning or trace.tool_calls:
        reasoning, content, calls = trace.reasoning, trace.content, trace.tool_calls
    else:
        text = trace.text or tokenizer.decode([i for i in trace.token_ids if i not in tokenizer.stop_ids])
        reasoning, content, calls, *_ = split(text)
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [dict(c) for c in calls]
    return message, calls


def _between(
    said: Sequence[Message],
    results: Sequence[Message],
    tokenizer: Tokenizer,
    tools: Sequence[Mapping[str, Any]],
    thinking: bool,
    trace: Trace,
) -> str:
    """The text from behind the stop token of the turn just written to the point where the next turn begins."""
    # A turn may end with another stop token, or with none when a stop string ended it.
    stop = tokenizer.stop_ids[0]
    closed = bool(trace.token_ids) and trace.token_ids[-1] == stop
    head = "" if closed else tokenizer.decode([stop])
    if tokenizer.template is None:
        return head + "\n" + chat.render_text(results, (), True, thinking=thinking, system=None)
    before = chat.render_jinja(tokenizer.template, said, tools, False).rstrip("\n")
    after = chat.render_jinja(tokenizer.template, [*said, *results], tools, True, enable_thinking=thinking)
    if not after.startswith(before):
        raise DataError("the checkpoint's chat template rewrites earlier turns when a tool result follows; use another")
    return head + after[len(before) :]
