"""What a model wrote, taken apart: reasoning, answer, tool calls; whole or while it streams.

A thought is closed by </think>. It may lack its <think> (a prompt had opened it, or the model forgot): text before a
lone </think> is reasoning then. A thought that is never closed is all reasoning, and there is no answer. After the
thought, <tool_call>{json}</tool_call> is a call (a tag inside one of its strings is no tag); what does not parse stays part
of the answer, with a note.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

OPEN, CLOSE, CALL, CALLED = "<think>", "</think>", "<tool_call>", "</tool_call>"


class Split(NamedTuple):
    """closed: no thought was left open. notes: what was found wrong, one sentence each."""

    reasoning: str
    content: str
    tool_calls: tuple[Mapping[str, Any], ...]
    closed: bool
    notes: tuple[str, ...] = ()


class Event(NamedTuple):
    """Something a stream brought. kind `recall`: what was sent as content so far turned out to be reasoning.
    A tool_call's text is what stood between its tags."""

    kind: Literal["reasoning", "content", "tool_call", "recall"]
    text: str = ""
    call: Mapping[str, Any] | None = None


def split(text: str, opened: bool = False) -> Split:
    """Take a finished text apart. opened: the prompt ended inside a thought. A tool call is {"name", "arguments"}."""
    splitter = Splitter(opened)
    for _ in splitter.feed(text):
        pass
    for _ in splitter.finish():
        pass
    return splitter.result()


class Splitter:
    """`split` for text that arrives in pieces: the same result for every way to cut it.

    Joined events give `reasoning` and `content` (after a `recall`, content so far moves to reasoning).
    bound: a grammar holds the answer: tags count only at its beginning or behind a call, the rest is kept to the letter.
    """

    def __init__(self, opened: bool = False, bound: bool = False) -> None:
        self._bound = bound
        self._state: Literal["start", "think", "answer", "call"] = "think" if opened else "start"
        self._tolerates_open = opened
        self._closed = not opened
        self._may_recall = not opened and not bound
        self._buffer = ""
        self._held = ""
        self._parts: dict[str, list[str]] = {"reasoning": [], "content": []}
        self._calls: list[Mapping[str, Any]] = []
        self._notes: list[str] = []

    def feed(self, piece: str) -> list[Event]:
        """Events this piece completes. Text that may be the beginning of a tag waits for the next piece."""
        self._buffer += piece
        return list(self._advance(final=False))

    def finish(self) -> list[Event]:
        """The text is over: what waited is given out. Call it once."""
        events = list(self._advance(final=True))
        if self._state == "call":
            events += self._end_call(self._buffer, closed=False)
            self._buffer = ""
        self._held = ""
        return events

    @property
    def call(self) -> str | None:
        """What stands so far of a call that is being written, None outside of one."""
        return self._buffer if self._state == "call" else None

    def result(self) -> Split:
        """What was found; complete after `finish`."""
        reasoning, content = ("".join(self._parts[k]) for k in ("reasoning", "content"))
        return Split(reasoning, content, tuple(self._calls), self._closed, tuple(self._notes))

    def _advance(self, final: bool) -> Iterator[Event]:
        while self._buffer:
            if self._state == "call":
                at = _call_end(self._buffer, final)
                if at < 0:
                    return
                body, self._buffer = self._buffer[:at], self._buffer[at + len(CALLED) :]
                yield from self._end_call(body, closed=True)
                continue
            tags = self._tags()
            at, tag = min(((self._buffer.find(t), t) for t in tags if t in self._buffer), default=(-1, ""))
            if at < 0:
                keep = 0 if final else _partial(self._buffer, tags)
                ready = self._buffer[: len(self._buffer) - keep]
                self._buffer = self._buffer[len(ready) :]
                yield from self._emit(ready)
                return
            before, self._buffer = self._buffer[:at], self._buffer[at + len(tag) :]
            yield from self._cross(before, tag)

    def _tags(self) -> tuple[str, ...]:
        if self._bound and self._state != "think":
            tags = (OPEN, CALL) if self._state == "start" else (CALL,)
            rest = self._buffer.lstrip()
            begins = any(t.startswith(rest[: len(t)]) for t in tags)
            return tags if begins and not self._parts["content"] else ()
        if self._state == "start":
            return (OPEN, CLOSE, CALL) if self._may_recall else (CALL,)
        if self._state == "think":
            return (CLOSE, OPEN) if self._tolerates_open else (CLOSE,)
        return (CALL,)

    def _cross(self, before: str, tag: str) -> Iterator[Event]:
        """A tag was found after `before`."""
        if self._state == "think" and tag == OPEN:
            # A second <think> is dropped where it repeats the prompt's, and is text anywhere else.
            if before.strip():
                yield from self._emit(before + OPEN)
            self._tolerates_open = False
            return
        yield from self._emit(before)
        if tag == OPEN:
            self._state, self._closed, self._may_recall, self._held = "think", False, False, ""
        elif tag == CALL:
            self._state = "call"
        else:
            if self._state == "start":
                yield from self._recall()
            self._state, self._closed, self._may_recall, self._held = "answer", True, False, ""

    def _recall(self) -> Iterator[Event]:
        self._parts["reasoning"] = self._parts["content"]
        self._parts["content"] = []
        self._notes.append("</think> without <think>: the text before it is reasoning")
        yield Event("recall")

    def _emit(self, text: str) -> Iterator[Event]:
        """Give text out under the current state, line ends at either edge withheld."""
        kind: Literal["reasoning", "content"] = "reasoning" if self._state == "think" else "content"
        text = self._held + text
        self._held = ""
        if not self._parts[kind]:
            blank = (self._state == "start" and not self._bound) or self._tolerates_open
            text = text.lstrip() if blank else text.lstrip("\n")
        body = text if self._bound and kind == "content" else text.rstrip("\n")
        if body:
            self._held = text[len(body) :]
            self._parts[kind].append(body)
            if self._state == "think":
                self._tolerates_open = False
            yield Event(kind, body)
        elif self._parts[kind]:
            self._held = text

    def _end_call(self, body: str, closed: bool) -> list[Event]:
        self._state = "start" if self._may_recall else "answer"
        call, problem = _parse(body) if closed else (None, "never closed")
        if call is None:
            self._notes.append(f"tool call {problem}: left in the answer")
            return list(self._emit(CALL + body + (CALLED if closed else "")))
        self._calls.append(call)
        self._held = ""
        return [Event("tool_call", body, call)]


def _call_end(text: str, final: bool) -> int:
    """Where the </tool_call> of a call's text begins: the first outside of its JSON strings, -1 when there is none yet. In a
    text that is complete and has none such, simply the first."""
    at = text.find(CALLED)
    first = at
    while at >= 0:
        if re.sub(r"\\.", "", text[:at], flags=re.DOTALL).count('"') % 2 == 0:
            return at
        at = text.find(CALLED, at + 1)
    return first if final else -1


def _parse(body: str) -> tuple[Mapping[str, Any] | None, str]:
    """A Hermes call's JSON as {"name", "arguments"}, or None and what is wrong."""
    try:
        call = json.loads(body)
        if isinstance(call, dict) and isinstance(call.get("arguments"), str):
            call["arguments"] = json.loads(call["arguments"])
    except (ValueError, RecursionError):
        return None, "is not JSON"
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None, "names no function"
    arguments = call.get("arguments", {})
    if not isinstance(arguments, dict):
        return None, "has arguments that are not an object"
    return {"name": call["name"], "arguments": arguments}, ""


def _partial(text: str, tags: tuple[str, ...]) -> int:
    """Length of the longest end of `text` that may begin one of `tags`."""
    longest = min(len(text), max(map(len, tags), default=1) - 1)
    return next((n for n in range(longest, 0, -1) if any(t.startswith(text[-n:]) for t in tags)), 0)
