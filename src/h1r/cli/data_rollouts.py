"""What rollouts of a model tell: pass rates and worked traces; and difficulty without them, by length or by label."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from h1r.data import difficulty, read
from h1r.data.curate import text_of
from h1r.errors import DataError
from h1r.types import Message, Problem, Prompt, SamplingParams, StopReason, Trace

Generate = Callable[..., list[list[Trace]]]


def by_length(source: str, table: str) -> int:
    """The rank of each solution's length within its domain; problems already in the table are left as they are."""
    known = difficulty.read(table)
    lengths: dict[str, int] = {}
    domains: dict[str, str] = {}
    for problem in read(source):
        if problem.id not in known and problem.solution:
            lengths[problem.id] = len(text_of(problem.solution).split())
            domains[problem.id] = problem.domain
    difficulty.append(table, difficulty.from_lengths(lengths, domains))
    return len(lengths)


def by_labels(source: str, table: str, field: str) -> int:
    """The word or number each problem's `meta` says under `field`: easy, medium, hard, or 0 to 1."""
    known = difficulty.read(table)
    labels = {}
    for problem in read(source):
        if problem.id not in known:
            if field not in problem.meta:
                raise DataError(
                    f"{source}: problem {problem.id} has no field {field!r} in its meta; it has {sorted(problem.meta)}"
                )
            labels[problem.id] = problem.meta[field]
    difficulty.append(table, difficulty.from_labels(labels))
    return len(labels)


def generator(model: str, name: str) -> tuple[Generate, Callable[[Problem], Prompt]]:
    """What writes traces, and how problems become its prompts: a checkpoint folder, or a server's address."""
    from h1r.cli import wire

    if model.startswith(("http://", "https://")):
        from h1r.endpoint import Endpoint

        return Endpoint(model, name).generate, lambda p: Prompt(messages=p.messages, tools=p.tools)
    llm = wire.load_llm(model)
    assert llm.tokenizer is not None
    return llm.generate, wire.prompt_of(llm.tokenizer)


def by_rollouts(source: str, table: str, model: str, name: str, sampling: SamplingParams) -> int:
    """sampling.n attempts of `model` at every problem that the table lacks; each batch is on disk before the next."""
    from h1r.cli import wire
    from h1r.cli.progress import bar

    generate, render = generator(model, name)
    score = wire.scorer()

    def attempt(problems: Sequence[Problem]) -> list[list[difficulty.Attempt]]:
        groups = generate([render(p) for p in problems], sampling)
        return [
            [difficulty.Attempt(wire.answer_of(t), score(p, t).value == 1.0, t.stop.value == "length") for t in traces]
            for p, traces in zip(problems, groups, strict=True)
        ]

    known = difficulty.read(table)
    problems = [p for p in read(source) if p.id not in known]
    with bar("difficulty", len(problems)) as progress:
        done = 0
        called = name or Path(model).name
        for _ in difficulty.measure(problems, attempt, Path(table), batch=max(1, 512 // sampling.n), source=called):
            done += 1
            progress.advance(done)
    return done


def by_teacher(source: str, out: str, model: str, name: str, sampling: SamplingParams) -> int:
    """sampling.n worked traces of `model` for every problem, appended to `out`; those it has are not made again."""
    from h1r.cli.progress import bar
    from h1r.data import teach

    generate, render = generator(model, name)

    tokens = 0

    def reply(problems: Sequence[Problem], n: int) -> list[list[Message | None]]:
        nonlocal tokens
        groups = generate([render(p) for p in problems], sampling)
        tokens += sum(len(t.token_ids) for traces in groups for t in traces)
        return [[message(t) for t in traces] for traces in groups]

    problems = list(read(source))
    with bar("generate", len(problems) * sampling.n) as progress:
        done, start = 0, time.perf_counter()
        for _ in teach(problems, reply, out, n=sampling.n, batch=max(1, 256 // sampling.n)):
            done += 1
            progress.advance(done, f"{tokens / (time.perf_counter() - start):,.0f} tok/s")
    return done


def message(trace: Trace) -> Message | None:
    """A finished trace as an assistant turn; None for one that was cut or failed, which the next run tries again."""
    if trace.stop is not StopReason.STOP:
        return None
    out: dict[str, Any] = {"role": "assistant", "content": trace.content, "reasoning_content": trace.reasoning}
    return out | ({"tool_calls": list(trace.tool_calls)} if trace.tool_calls else {})
