"""Conversations with tools as one trace: ids bit for bit, results that nobody drew, worlds that fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from h1r import model as models
from h1r.cli import grpo as command
from h1r.cli import wire
from h1r.data import procedural
from h1r.data.procedural import world
from h1r.engine import LLM
from h1r.errors import ConfigError, DataError
from h1r.rl import Folding, Group, GrpoConfig, Sampler, Turns, advantages, grpo
from h1r.rl.backfill import Backfill, choose
from h1r.rl.group import mixed
from h1r.rl.journal import Journal
from h1r.rl.measure import of_groups
from h1r.text import Tokenizer, row
from h1r.train import LocalTrainer
from h1r.types import Problem, Prompt, SamplingParams, Score, StopReason, Trace

NANO = Path(__file__).parents[2] / "models" / "nano"
TOKENIZER = Tokenizer.from_folder(NANO)
NOTHING = choose([], 1, Backfill(1, 1), "reject", 0)
STOP = TOKENIZER.stop_ids[0]
FORECAST = procedural.tools.TOOLS["forecast"]
PROBLEM = Problem(
    id="p", messages=({"role": "user", "content": "How warm in Rome Monday?"},), kind="math", gold="21", tools=(FORECAST,),
    meta={"world": {"forecast": [[{"city": "Rome", "day": "Monday"}, "21"]]}, "turns": 4},
)  # fmt: skip


def call(city: str) -> str:
    body = json.dumps({"name": "forecast", "arguments": {"city": city, "day": "Monday"}})
    return f"<think>\ncall\n</think>\n\n<tool_call>\n{body}\n</tool_call>"


class Scripted:
    """Writes what it is told, in the order of the calls; remembers its prompts and seeds."""

    def __init__(self, *turns: list[str]) -> None:
        self.turns, self.prompts, self.sampling = list(turns), [], []

    def generate(self, prompts, sampling, watches=None):
        texts = self.turns.pop(0)
        self.prompts.append(prompts)
        self.sampling.append(sampling)
        assert len(texts) == len(prompts) * sampling.n
        out = [
            [said(texts[i * sampling.n + k], p, k, sampling.max_tokens) for k in range(sampling.n)]
            for i, p in enumerate(prompts)
        ]
        return out

    def load(self, path, version): ...


def said(text: str, prompt: Prompt, index: int, most: int) -> Trace:
    ids = (*TOKENIZER.encode(text), STOP)[:most]
    numbers = np.linspace(-1, -0.1, len(ids), dtype=np.float32)
    stop = StopReason.STOP if ids[-1] == STOP else StopReason.LENGTH
    return Trace(
        prompt=prompt, token_ids=ids, stop=stop, logprobs=numbers, raw_logprobs=numbers, confidence=-numbers, index=index,
        text=TOKENIZER.decode(ids[:-1] if stop is StopReason.STOP else ids),
    )  # fmt: skip


def play(
    generator: Scripted, act_of=world.act_of, problem: Problem = PROBLEM, n: int = 1, most: int = 4000
) -> list[Trace]:
    prompt = wire.prompt_of(TOKENIZER)(problem)
    sampling = SamplingParams(n=n, max_tokens=most, seed=7)
    first = generator.generate([prompt], sampling)
    (group,) = Turns(TOKENIZER, act_of).finish(generator, [problem], first, sampling)
    return group


def test_a_conversation_is_one_trace() -> None:
    answer = "<think>\nRome: 21\n</think>\n\n\\boxed{21}"
    generator = Scripted([call("Rome"), answer], [answer])
    played, plain = play(generator, n=2)
    ids, new = played.token_ids, set(played.forced)
    drawn = [t for i, t in enumerate(ids) if i not in new]
    assert drawn == [*TOKENIZER.encode(call("Rome")), STOP, *TOKENIZER.encode(answer), STOP], (
        "what was written, bit for bit"
    )
    assert "<tool_response>\n21\n</tool_response>" in TOKENIZER.decode([ids[i] for i in played.forced])
    # what the model reads in its second turn is what a server would render
    asked = [*PROBLEM.messages, {"role": "assistant", "content": "", "reasoning_content": "call", "tool_calls": [
        {"name": "forecast", "arguments": {"city": "Rome", "day": "Monday"}}]}, {"role": "tool", "content": "21"}]  # fmt: skip
    second = generator.prompts[1][0].token_ids
    assert second == (*played.prompt.token_ids, *ids[: played.forced[-1] + 1])
    assert TOKENIZER.decode(second).endswith(TOKENIZER.decode(wire_ids(asked))[-60:])
    assert (played.turns, played.refused, played.content, played.stop) == (2, 0, "\\boxed{21}", StopReason.STOP)
    assert len(played.logprobs) == len(played.confidence) == len(ids) and not played.logprobs[list(new)].any()
    assert generator.sampling[1].n == 1 and generator.prompts[1][0].seed is not None
    assert generator.sampling[1].max_tokens == 4000 - played.forced[-1] - 1
    assert plain.turns == 1 and plain.token_ids == (*TOKENIZER.encode(answer), STOP) and plain.forced == ()


def wire_ids(messages) -> tuple[int, ...]:
    return wire.prompt_of(TOKENIZER)(replace(PROBLEM, messages=tuple(messages))).token_ids


def test_what_goes_wrong_in_a_call_is_told_to_the_model() -> None:
    generator = Scripted([call("Atlantis")], ["<think>\nno\n</think>\n\nI do not know"])
    (trace,) = play(generator)
    assert (trace.turns, trace.refused) == (2, 1)
    assert "Error: forecast knows nothing of" in TOKENIZER.decode([trace.token_ids[i] for i in trace.forced])
    act = world.act_of(PROBLEM)
    assert act is not None
    for wrong, why in (
        ({"name": "mail", "arguments": {}}, "there is no tool 'mail'"), ({"name": "forecast", "arguments": "{"}, "not JSON"),
        ({"name": "forecast", "arguments": [1]}, "must be an object"),
    ):  # fmt: skip
        (message,) = act([wrong])
        assert why in message["content"] and message["refused"]
    with pytest.raises(DataError, match=r"meta\.world must be"):
        world.act_of(replace(PROBLEM, meta={"world": {"forecast": 3}}))


def test_bounds_of_turns_and_tokens() -> None:
    (trace,) = play(
        Scripted([call("Rome")], [call("Rome")]), problem=replace(PROBLEM, meta={**PROBLEM.meta, "turns": 2})
    )
    assert trace.turns == 2 and len(trace.tool_calls) == 1 and trace.stop is StopReason.STOP
    first = len(TOKENIZER.encode(call("Rome"))) + 1
    (cut,) = play(Scripted([call("Rome")]), most=first + 3)
    assert cut.stop is StopReason.LENGTH and cut.turns == 1 and len(cut.token_ids) == first
    answer = "<think>\nRome: 21\n</think>\n\n\\boxed{21}"
    (whole,) = play(Scripted([call("Rome")], [answer]))
    (cut,) = play(Scripted([call("Rome")], [answer]), most=len(whole.token_ids) - 4)
    assert cut.stop is StopReason.LENGTH and len(cut.token_ids) == len(whole.token_ids) - 4


def test_streams_do_not_depend_on_who_else_goes_on() -> None:
    """The second trace continues with the same seed whether or not the first one does; no two have one."""
    seeds = []
    for first in (call("Rome"), "<think>\nx\n</think>\n\nno"):
        generator = Scripted([first, call("Rome")], ["a"] * (2 if first == call("Rome") else 1))
        play(generator, n=2)
        seeds.append([p.seed for p in generator.prompts[1]])
    assert seeds[0][1:] == seeds[1] and seeds[0][0] != seeds[0][1]


def test_results_are_not_the_models_words() -> None:
    """Neither the language of a result nor an earlier turn's answer counts for the trace."""
    russian = replace(
        PROBLEM,
        meta={
            "world": {"forecast": [[{"city": "Rome", "day": "Monday"}, "\u0442\u0435\u043f\u043b\u043e " * 9]]},
            "turns": 4,
        },
    )
    answer = "<think>\nRome: 21\n</think>\n\n\\boxed{21}"
    (trace,) = play(Scripted([call("Rome")], [answer]), problem=russian)
    assert "\u0442" not in trace.text and not mixed(trace, russian)
    early = call("Rome").replace("<tool_call>", "\\boxed{21}\n<tool_call>")
    (cut,) = play(Scripted([early], ["<think>\n"]), most=len(TOKENIZER.encode(early)) + 45)
    assert cut.turns == 2 and cut.text == "" and wire.grader().score(PROBLEM, cut).value == 0.0


def test_a_conversation_that_outgrows_the_context_is_cut() -> None:
    generator = Scripted([call("Rome")])
    prompt = wire.prompt_of(TOKENIZER)(PROBLEM)
    first = generator.generate([prompt], SamplingParams(max_tokens=4000))
    context = len(prompt.token_ids) + len(first[0][0].token_ids) + 3
    ((trace,),) = Turns(TOKENIZER, world.act_of, context=context).finish(
        generator, [PROBLEM], first, SamplingParams(max_tokens=4000)
    )
    assert trace.stop is StopReason.LENGTH and trace.turns == 1


def test_a_generator_without_token_ids_is_told() -> None:
    prompt = Prompt(token_ids=(1,))
    blind = Trace(prompt=prompt, token_ids=(-1, -1), stop=StopReason.STOP, text=call("Rome"))
    with pytest.raises(ConfigError, match="does not tell them"):
        Turns(TOKENIZER, world.act_of).finish(Scripted(), [PROBLEM], [[blind]], SamplingParams())


def test_the_journal_keeps_conversations_to_the_bit(tmp_path: Path) -> None:
    answer = "<think>\nRome: 21\n</think>\n\n\\boxed{21}"
    traces = tuple(
        replace(t, raw_logprobs=t.raw_logprobs[:0])
        for t in play(Scripted([call("Rome"), call("Oslo")], [answer, answer]), n=2)
    )
    group = Group(
        uid="1.0.0",
        problem=PROBLEM,
        traces=traces,
        scores=(Score(1.0, ""), Score(0.0, "no")),
        rewards=(1.0, 0.0),
        version=0,
    )
    journal = Journal(tmp_path / "journal.jsonl")
    journal.rollout(1, 0, "k", [group])
    journal.score(1, 0, [group])
    found = journal.groups({"p": PROBLEM}.__getitem__, lambda s: True)["1.0.0"]
    assert [t.turns for t in found.traces] == [2, 2] and [t.refused for t in found.traces] == [0, 1]
    for one, two in zip(advantages([group], Folding(), 0), advantages([found], Folding(), 0), strict=True):
        assert one.token_ids == two.token_ids and one.streams.keys() == two.streams.keys()
        assert all(np.array_equal(one.streams[n], two.streams[n]) for n in one.streams)
    assert of_groups([group], [], NOTHING, Backfill(1, 1), 0) == of_groups([found], [], NOTHING, Backfill(1, 1), 0)


def test_a_world_that_fails_is_nobodys_reward() -> None:
    def act_of(problem: Problem):
        def act(calls):
            raise OSError("the world ended")

        return act

    (trace,) = play(Scripted([call("Rome")]), act_of)
    assert trace.stop is StopReason.ABORT


def test_results_have_no_share_in_any_mean() -> None:
    answer = "<think>\nRome: 21\n</think>\n\n\\boxed{21}"
    traces = play(Scripted([call("Rome"), answer], [answer]), n=2)
    scores = (Score(1.0, ""), Score(0.0, ""))
    group = Group(uid="1.0.0", problem=PROBLEM, traces=tuple(traces), scores=scores, rewards=(1.0, 0.0), version=0)
    rows = advantages([group], Folding(baseline="mean", ce_weight=1.0), 0)
    drawn = [len(t.token_ids) - len(t.forced) for t in traces]
    assert drawn[0] < len(traces[0].token_ids)
    for r, t, a in zip(rows, traces, (0.5, -0.5), strict=True):
        own = np.array([i not in t.forced for i in range(len(t.token_ids))])
        policy = r.streams["policy"][len(t.prompt.token_ids) :]
        np.testing.assert_allclose(policy[own], a / sum(drawn), rtol=1e-6)
        assert not policy[~own].any()
    assert sum(float(r.streams["measure"].sum()) for r in rows) == pytest.approx(1.0)
    assert sum(float(r.streams["mismatch"].sum()) for r in rows) == pytest.approx(1.0)
    assert float(rows[0].streams["ce"].sum()) == pytest.approx(1.0)


def test_playing_trains_what_the_worked_trace_trains() -> None:
    """A played problem is the same SFT row: only where the prompt ends differs."""
    for index in range(200):
        problem = procedural.sample(index, split="train", domains=procedural.PLAYED)
        played = world.played(problem)
        assert played.messages[-1]["role"] == "user" and world.act_of(played) is not None
        one, two = row(problem, TOKENIZER), row(played, TOKENIZER)
        assert one.token_ids == two.token_ids
        if index < 3:
            act = world.act_of(played)
            assert act is not None
            calls = [c for m in played.solution for c in m.get("tool_calls", ())]
            told = [m["content"] for m in played.solution if m["role"] == "tool"]
            assert [m["content"] for c in calls for m in act([c["function"]])] == told


def test_environments_have_their_shares() -> None:
    problems = [
        Problem(id=f"{e}{d}{i}", messages=(), kind="math", difficulty=d, meta={"environment": e})
        for e, levels in (("a", (0.0, 0.5, 1.0)), ("b", (0.0,))) for d in levels for i in range(5)
    ]  # fmt: skip
    sampler = Sampler(problems, 0, shares={"a": 1.0, "b": 3.0})
    drawn = [p.meta["environment"] for _ in range(10) for p in sampler.draw(8)]
    assert drawn.count("b") == 60 and len(sampler.strata) == 4
    three = Sampler(
        [replace(p, id=f"{e} {p.id}", meta={"environment": e}) for e in "abc" for p in problems[:7]], 0, curriculum=True,
        shares={"a": 1.0, "b": 2.5, "c": 0.5},
    )  # fmt: skip
    for step in range(40):
        some = three.draw(9)
        for p in some:
            three.record(p, (step % 5) / 4)
        for name, share in (("a", 2.25), ("b", 5.625), ("c", 1.125)):
            assert abs(sum(p.meta["environment"] == name for p in some) - share) < 1.5, "its share of every step"
    again = Sampler(problems, 0, shares={"a": 1.0, "b": 3.0})
    again.restore(sampler.state())
    assert [p.id for p in again.draw(7)] == [p.id for p in sampler.draw(7)]
    assert {p.meta["environment"] for p in Sampler(problems, 0, shares={"a": 1.0, "b": 0.0}).draw(40)} == {"a"}
    with pytest.raises(ConfigError, match="without a share: b"):
        Sampler(problems, 0, shares={"a": 1.0})


def test_recipes_of_environments() -> None:
    one = command.ProblemSource(name="tools", count=20, turns=3, weight=2.0)
    problems, shares = command.practised(command.GrpoRecipe(model="m", out="o", environments=(one,)))
    assert shares == {"tools": 2.0} and len(problems) == 20
    assert all(
        p.id.startswith("tools/") and p.meta["turns"] == 3 and p.messages[-1]["role"] == "user" for p in problems
    )
    twice = command.GrpoRecipe(model="m", out="o", environments=(one, one))
    with pytest.raises(ConfigError, match="a name of its own"):
        command.practised(twice)
    both = command.GrpoRecipe(model="m", out="o", environments=(one,), data=command.ProblemSource(count=3))
    with pytest.raises(ConfigError, match="give one of them"):
        command.practised(both)


def test_engine_and_trainer_agree_over_turns(tmp_path: Path) -> None:
    """The committed model, its real calls, the journal and the update."""
    config = GrpoConfig(steps=1, group=3, prompts_per_step=2, max_tokens=160, length=2048, seed=1)
    model, _ = models.load(NANO, dtype=torch.float32)
    llm = LLM(NANO, dtype="float32", memory_bytes=1 << 27)
    trainer = LocalTrainer(model, config.trainer())
    source = command.ProblemSource(count=30, turns=4)
    problems = command.practice(source)
    recipe = command.GrpoRecipe(model="", out="", data=source)
    turns = command.turns_of(recipe, TOKENIZER)
    (metrics,) = grpo.run(
        llm, wire.grader(), trainer, problems, wire.prompt_of(TOKENIZER), config, tmp_path, sync=command.in_memory(model, llm),
        turns=turns,
    )  # fmt: skip
    assert metrics["mismatch_kl"] < 1e-9 and metrics["env/all/turns"] > 1.5 and metrics["pass"] > 0
    found = Journal(tmp_path / "journal.jsonl").groups({p.id: p for p in problems}.__getitem__, lambda s: True)
    traces = [t for g in found.values() for t in g.traces]
    assert (
        len(traces) == 6
        and max(t.turns for t in traces) >= 2
        and all(len(t.logprobs) == len(t.token_ids) for t in traces)
    )
    kept = of_groups(list(found.values()), [], NOTHING, Backfill(1, 1), 0)
    assert kept["env/all/turns"] == metrics["env/all/turns"] and kept["env/all/refused"] == metrics["env/all/refused"]


def test_a_judge_scores_what_only_it_can() -> None:
    problem = Problem(id="j", messages=(), kind="judge", gold="yes")
    trace = Trace(prompt=Prompt(), token_ids=(1,), stop=StopReason.STOP, content="yes")
    judge = wire.Judge("j", lambda p, t: Score(float(t.content == p.gold), "judged"))
    assert wire.grader(None, judge).score(problem, trace) == Score(1.0, "judged")
    assert wire.grader().score(problem, trace).value is None
    with pytest.raises(ConfigError, match=r"judge\.name 'x' without judge\.url"):
        command.judge_of(command.GrpoRecipe(model="m", out="o", judge=command.JudgeSource(name="x")))
