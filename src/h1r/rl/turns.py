"""Rollouts with tools: a trace that ends in calls goes on behind their results, token in, token out, until it answers.

    turns = Turns(tokenizer, act_of, limit=4)            # act_of(problem) -> what answers its calls, or None
    grpo.run(..., turns=turns)

The whole conversation is one Trace: what the model wrote, bit for bit, and between it the tokens of the results, marked `forced`:
nobody drew them, so they get no advantage and no share in any mean. Each turn is one call of the generator for all conversations
that go on, so any Generator that takes token ids will do; each draws from streams of its own, whoever else goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from h1r.errors import ConfigError
from h1r.text import Tokenizer
from h1r.text.converse import given, message_of
from h1r.types import Floats, Generator, Message, Problem, Prompt, SamplingParams, StopReason, Trace

logger = logging.getLogger(__name__)

Act = Callable[[Sequence[Mapping[str, Any]]], Sequence[Message]]
"""Answers a turn's calls with tool messages; one whose "refused" is true tells the model what was wrong with its call."""


class Turns:
    """How conversations go on.

    act_of   problem -> Act of a fresh world, or None where calls end the trace
    limit    assistant turns of a conversation at most; a problem's meta["turns"] overrides it
    context  tokens that the generator can hold, prompt included: a conversation without room for another turn is cut
    """

    def __init__(
        self, tokenizer: Tokenizer, act_of: Callable[[Problem], Act | None], limit: int = 4, context: int | None = None
    ) -> None:
        if limit < 1:
            raise ConfigError(f"turns={limit}: a conversation has one turn or more")
        self.tokenizer, self.act_of, self.limit, self.context = tokenizer, act_of, limit, context

    def finish(
        self,
        generator: Generator,
        problems: Sequence[Problem],
        groups: Sequence[Sequence[Trace]],
        sampling: SamplingParams,
    ) -> list[list[Trace]]:
        """The groups with every conversation played to its end; `max_tokens` bounds a whole conversation, results included.

        A world of ours that fails aborts its trace, which is then unscored. Raises ConfigError for a generator that tells no
        token ids.
        """
        talks = [
            [_Talk(self, problem, trace, (place, i)) for i, trace in enumerate(group)]
            for place, (problem, group) in enumerate(zip(problems, groups, strict=True))
        ]
        every = [talk for group in talks for talk in group]
        turn = 1
        while on := [talk for talk in every if talk.answer_calls(sampling.max_tokens)]:
            room = max(sampling.max_tokens - len(talk.ids) for talk in on)
            prompts = [talk.asked(sampling.seed, turn) for talk in on]
            found = generator.generate(prompts, replace(sampling, n=1, max_tokens=room))
            for talk, (trace,) in zip(on, found, strict=True):
                talk.add(trace, sampling.max_tokens)
            turn += 1
        return [[talk.trace() for talk in group] for group in talks]


class _Talk:
    """One conversation: its tokens [T] and what belongs to each."""

    def __init__(self, turns: Turns, problem: Problem, first: Trace, place: tuple[int, int]) -> None:
        """place: of the problem among the round's, and of the trace in its group."""
        self._place = place
        self._turns, self._problem, self._act = turns, problem, turns.act_of(problem)
        self._limit = int(problem.meta.get("turns", turns.limit))
        self.prompt = first.prompt
        self._said: list[Message] = list(problem.messages)
        self.ids: list[int] = []
        self._parts: dict[str, list[Floats]] = {"logprobs": [], "raw_logprobs": [], "confidence": []}
        self._forced: list[int] = []
        self._versions: list[int] = []
        self._texts: list[str] = []
        self._count = self._refused = 0
        self._first = first
        self.add(first, 1 << 62)

    def asked(self, seed: int | None, turn: int) -> Prompt:
        """What the next turn continues, with a seed that no other turn, trace or problem of the round has."""
        own = (
            None if seed is None else int(np.random.SeedSequence((seed, *self._place, turn)).generate_state(1)[0]) >> 1
        )
        return Prompt(token_ids=(*self.prompt.token_ids, *self.ids), seed=own)

    def add(self, trace: Trace, most: int) -> None:
        """A turn that was written. Beyond `most` tokens of the whole it is cut."""
        if min(trace.token_ids, default=-1) < 0 and trace.stop is not StopReason.ABORT:
            raise ConfigError(
                "a conversation with tools goes on behind the tokens that were written, and this generator does not tell them: "
                "use the engine, or a server that returns token ids"
            )
        room = most - len(self.ids)
        if len(trace.token_ids) > room:
            trace = replace(
                trace, token_ids=trace.token_ids[:room], stop=StopReason.LENGTH, text="", reasoning="", content="", tool_calls=(),
                logprobs=trace.logprobs[:room], raw_logprobs=trace.raw_logprobs[:room], confidence=trace.confidence[:room],
                token_versions=trace.token_versions[:room], forced=tuple(i for i in trace.forced if i < room),
            )  # fmt: skip
        self._last = trace
        self._count += 1
        self._forced += [len(self.ids) + i for i in trace.forced]
        self.ids += trace.token_ids
        self._versions += trace.token_versions or (trace.version,) * len(trace.token_ids)
        for name, parts in self._parts.items():
            parts.append(getattr(trace, name))
        self._texts.append(trace.text or self._turns.tokenizer.decode(trace.token_ids))

    def answer_calls(self, most: int) -> bool:
        """Act on the newest turn's calls and append their results; whether a further turn is to be written."""
        last = self._last
        if self._act is None or last.stop is not StopReason.STOP or self._count >= self._limit:
            return False
        message, calls = message_of(last, self._turns.tokenizer)
        if not calls:
            return False
        try:
            results = [dict(r) for r in self._act(calls)]
        except Exception as e:  # the world is ours: its failure is nobody's reward
            logger.warning(
                "%s: its tools failed (%s: %s); the trace is unscored", self._problem.id, type(e).__name__, e
            )
            self._last = replace(last, stop=StopReason.ABORT)
            return False
        if not results:
            return False
        self._refused += sum(bool(r.pop("refused", False)) for r in results)
        self._said.append(message)
        new = given(self._said, results, self._turns.tokenizer, self._problem.tools, last)
        context = self._turns.context or 1 << 62
        if len(self.ids) + len(new) >= min(most, context - len(self.prompt.token_ids)):
            self._last = replace(last, stop=StopReason.LENGTH)
            return False
        self._said += results
        self._forced += range(len(self.ids), len(self.ids) + len(new))
        self.ids += new
        self._versions += [last.version] * len(new)
        for parts in self._parts.values():
            parts.append(np.zeros(len(new), np.float32))
        return True

    def trace(self) -> Trace:
        """All of it as one trace, whose reasoning, content and calls are the last turn's."""
        if self._count == 1:
            return replace(self._first, stop=self._last.stop)
        last, versions = self._last, self._versions
        message, calls = message_of(last, self._turns.tokenizer)
        said = message["content"] or message.get("reasoning_content") or calls
        joined: dict[str, Any] = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        return replace(
            last, prompt=self.prompt, index=self._first.index, token_ids=tuple(self.ids), forced=tuple(sorted(self._forced)),
            # a last turn without a word leaves no words at all: nobody must find an answer in an earlier one
            text="\n".join(self._texts) if said else "", content=str(message["content"]), tool_calls=tuple(calls),
            reasoning=str(message.get("reasoning_content", "")), token_versions=tuple(versions) if len(set(versions)) > 1 else (),
            turns=self._count, refused=self._refused, **joined,
        )  # fmt: skip
