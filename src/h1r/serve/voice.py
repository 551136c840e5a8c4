"""One choice while it is written: text taken apart into reasoning, answer and calls, whose arguments stream.

A call counts as one from the moment its arguments begin, whole or streamed, even if the model breaks it off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from h1r.serve import answers
from h1r.serve.flight import Token
from h1r.text import Splitter
from h1r.text.split import CALL, CALLED

HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)', re.DOTALL)
"""A call up to its arguments, in the order and form the template shows."""


class Voice:
    """One choice.

    offered  the client gave tools: calls are calls, not text
    bound    a grammar holds all that follows the thought; opened: the prompt ended inside a thought
    single   the choice ends with its first call
    said     calls so far, as OpenAI writes them
    """

    def __init__(
        self, stops: Sequence[str], offered: bool, *, bound: bool = False, opened: bool = False, single: bool = False
    ) -> None:
        self.splitter = Splitter(opened, bound)
        self.scan = answers.StopScan(stops)
        self.offered, self.single = offered, single
        self.tokens: list[Token] = []
        self.said: list[dict[str, Any]] = []
        self.reasoning = ""
        self.content = ""
        self.reason: str | None = None
        self._call = CallScan()
        self._heard = 0

    @property
    def cut(self) -> bool:
        """Nothing of what follows is shown: a stop string was found, or the one call is complete."""
        return self.scan.hit is not None or (self.single and bool(self.said) and not self._call.open)

    def hear(self, text: str) -> dict[str, Any]:
        """More text: the delta it makes, possibly empty."""
        self._heard += len(text)
        delta = self._delta(self.splitter.feed(text))
        return self._peek(delta)

    def end(self, whole: str) -> dict[str, Any]:
        """The text is complete: the delta of what was not heard yet, or held back."""
        delta = self._peek(self._delta(self.splitter.feed(whole[self._heard :])))
        for key, value in self._delta(self.splitter.finish()).items():
            delta[key] = delta[key] + value if key in delta else value
        rest = self.scan.flush()
        if rest and not self.cut:
            self.content += rest
            delta["content"] = delta.get("content", "") + rest
        return delta

    def _delta(self, events: Sequence[Any]) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        for event in events:
            if event.kind == "reasoning":
                self.reasoning += event.text
                delta["reasoning"] = delta.get("reasoning", "") + event.text
            elif event.kind == "tool_call" and self.offered:
                self._end_call(delta, event)
            elif event.kind == "recall":
                # sent as an answer already; whole answers are put right, streams cannot be
                self.reasoning, self.content = self.content + self.scan.flush(), ""
            elif self._call.open:
                # the text of a call that was announced but does not parse
                self._call = CallScan()
            elif not self.cut:
                shown = self.scan.push(event.text if event.kind == "content" else f"{CALL}{event.text}{CALLED}")
                self.content += shown
                if shown:
                    delta["content"] = delta.get("content", "") + shown
        if "reasoning" in delta:
            delta["reasoning_content"] = delta["reasoning"]
        return delta

    def _peek(self, delta: dict[str, Any]) -> dict[str, Any]:
        """With what is known of a call that is still being written."""
        text = self.splitter.call
        if text is not None and self.offered and not self.cut:
            self._announce(delta, text)
        return delta

    def _announce(self, delta: dict[str, Any], text: str) -> None:
        """Send the name and the arguments that `text`, all of a call so far, adds."""
        if self.cut:
            return
        known = self._call.open
        piece = self._call.read(text)
        made = delta.setdefault("tool_calls", [])
        if self._call.open and not known:
            self.said.append(answers.tool_call(self._call.name, ""))
            made.append({"index": len(self.said) - 1} | answers.tool_call(self._call.name, "", self.said[-1]["id"]))
        if piece:
            self.said[-1]["function"]["arguments"] += piece
            if made and made[-1]["index"] == len(self.said) - 1:
                made[-1]["function"]["arguments"] += piece
            else:
                made.append({"index": len(self.said) - 1, "function": {"arguments": piece}})
        if not made:
            del delta["tool_calls"]

    def _end_call(self, delta: dict[str, Any], event: Any) -> None:
        """A call is complete and parses."""
        if self.cut:
            return
        self._announce(delta, event.text)
        if not self._call.open:
            # another order of keys, or arguments in a string: it comes in one piece
            arguments = json.dumps(event.call["arguments"], ensure_ascii=False)
            self.said.append(answers.tool_call(event.call["name"], arguments))
            delta.setdefault("tool_calls", []).append({"index": len(self.said) - 1} | self.said[-1])
        self._call = CallScan()


class CallScan:
    """Finds the name and the raw arguments in the text of a call while it grows."""

    def __init__(self) -> None:
        self.open = False
        self.name = ""
        self._at = 0
        self._depth = 0
        self._quoted = self._escaped = self._done = False

    def read(self, text: str) -> str:
        """text: all of the call so far. Returns the arguments it adds; `open` once they have begun."""
        if not self.open:
            head = HEAD.match(text)
            if head is None:
                return ""
            try:
                self.name = json.loads(head[1])
            except ValueError:
                return ""
            self.open, self._at = True, head.end()
        start = self._at
        while self._at < len(text) and not self._done:
            self._step(text[self._at])
            self._at += 1
        return text[start : self._at]

    def _step(self, c: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._quoted:
            self._quoted, self._escaped = c != '"', c == "\\"
        elif c == '"':
            self._quoted = True
        elif c in "{[":
            self._depth += 1
        elif c in "}]":
            self._depth -= 1
            self._done = self._depth == 0
