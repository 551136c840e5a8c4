"""Keeps a trace's thought within bounds: a budget, room for an answer, a way out of loops.

A thought begins with <think> (or the prompt had opened it) and is closed by </think>, given as token ids. When a bound is
reached the closing tokens are forced, one after another, and the model goes on with its answer. A model that never
thinks is never forced.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from h1r.types import SamplingParams

PERIOD, REPEATS, SPAN = 512, 4, 96
"""A loop: the same up to PERIOD tokens REPEATS times in a row, SPAN tokens or more repeating what stands before them."""

LANDING = 16.0  # nats on the next closing token at the end of a soft landing
RESERVE = 1024  # tokens kept for the answer at most, where nobody chose


class Marks(NamedTuple):
    """Token ids of <think> and </think>."""

    open: tuple[int, ...]
    close: tuple[int, ...]


@dataclass(slots=True)
class Loop:
    """Finds a periodic tail: run[p-1] counts how many of the newest tokens equal the one p before them."""

    recent: npt.NDArray[np.int64] = field(default_factory=lambda: np.full(PERIOD, -1, np.int64))  # newest first
    run: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(PERIOD, np.int64))

    def push(self, token: int) -> bool:
        """Whether the trace now goes in circles."""
        self.run = np.where(self.recent == token, self.run + 1, 0)
        self.recent = np.concatenate(([token], self.recent[:-1]))
        need = np.maximum((REPEATS - 1) * np.arange(1, PERIOD + 1), SPAN)
        return bool((self.run >= need).any())


@dataclass(slots=True)
class Thought:
    """One trace's thought.

    open      inside the thought; over: it was closed
    count     tokens of the thought so far, <think> and </think> not counted
    budget    the most it may have; end: the trace's token at which the closing is forced, to leave room for an answer
    pending   closing tokens still to be forced; why: "budget", "reserve" or "loop" once they were
    forced    positions of forced tokens in the trace
    """

    marks: Marks
    budget: int | None
    landing: int
    end: int
    loop: Loop | None
    open: bool = False
    over: bool = False
    count: int = 0
    pending: list[int] = field(default_factory=list)
    why: str = ""
    forced: list[int] = field(default_factory=list)
    tail: list[int] = field(default_factory=list)

    def push(self, token: int, position: int) -> bool:
        """Take the trace's newest token; `position` counts from 0. True: a loop outside the thought ends the trace."""
        looping = self.loop is not None and self.loop.push(token)
        if self.pending:
            self.forced.append(position)
            self.pending.pop(0)
            self.open, self.over = bool(self.pending), not self.pending
            if self.over and self.loop is not None:
                self.loop = Loop()  # the answer may repeat what the thought did
            return False
        longest = max(len(self.marks.open), len(self.marks.close))
        self.tail = [*self.tail[-longest + 1 :], token] if longest > 1 else [token]
        if not self.open:
            if not self.over and self._ends_with(self.marks.open):
                self.open, self.count = True, 0
                self._check(position, False)
                return False
            return looping
        self.count += 1
        if self._ends_with(self.marks.close):
            self.open, self.over = False, True
            return False
        self._check(position, looping)
        return False

    @property
    def pull(self) -> tuple[int, float] | None:
        """What a soft landing adds to the logit of the next closing token: (token, nats)."""
        if not self.open or self.pending or not self.landing or self.budget is None:
            return None
        late = self.count + 1 - (self.budget - self.landing)
        begun = next(
            n for n in range(len(self.marks.close) - 1, -1, -1) if n == 0 or self._ends_with(self.marks.close[:n])
        )
        return (self.marks.close[begun], LANDING * late / self.landing) if late > 0 else None

    def _check(self, position: int, looping: bool) -> None:
        """Begin to close the thought when a bound is reached."""
        if self.budget is not None and self.count >= self.budget:
            self.why = "budget"
        elif position + 1 >= self.end:
            self.why = "reserve"
        elif looping:
            self.why = "loop"
        else:
            return
        self.pending = list(self.marks.close)

    def _ends_with(self, mark: tuple[int, ...]) -> bool:
        return tuple(self.tail[-len(mark) :]) == mark


def begin(
    marks: Marks | None, sampling: SamplingParams, prompt: Items[int], limit: int, ends: Items[int] = ()
) -> Thought | None:
    """The watch over a new trace; None when nothing bounds it. limit: tokens the trace may have; ends: as in `inside`."""
    reserve = sampling.answer_reserve
    if sampling.thinking_budget is None and not sampling.loop_breaker and reserve is None:
        return None
    if reserve is None:
        reserve = min(limit // 4, RESERVE) if sampling.thinking_budget is not None else 0
    known = marks or Marks((), ())
    thought = Thought(
        known, sampling.thinking_budget, sampling.thinking_landing,
        limit - reserve - len(known.close) if reserve else limit + 1, Loop() if sampling.loop_breaker else None,
    )  # fmt: skip
    if marks is None:
        thought.over = True
    elif inside(marks, prompt, ends):
        thought.open = True
        thought._check(-1, False)
    return thought


def inside(marks: Marks | None, prompt: Items[int], ends: Items[int] = ()) -> bool:
    """Whether a prompt ends in a thought: its last <think> is followed neither by </think> nor by an end of turn."""
    if marks is None:
        return False
    opened = _last(prompt, marks.open)
    return opened > _last(prompt, marks.close) and not any(token in ends for token in prompt[opened:])


def _last(ids: Items[int], mark: tuple[int, ...]) -> int:
    """Where `mark` begins for the last time in `ids`; -1 when it does not."""
    first = mark[0]
    for i in range(len(ids) - len(mark), -1, -1):
        if ids[i] == first and tuple(ids[i : i + len(mark)]) == mark:
            return i
    return -1
