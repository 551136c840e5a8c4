"""Rewards, advantages, and the folding of every reduction into per-token weights."""

from __future__ import annotations

import numpy as np
import pytest

from h1r.errors import ConfigError
from h1r.rl import Folding, Group, GrpoConfig, Shaping, advantage, advantages, centred, reward, trivial
from h1r.types import Problem, Prompt, Score, StopReason, Trace


def trace(length, stop=StopReason.STOP, **fields):
    logprobs = -np.arange(1, length + 1, dtype=np.float32)
    prompt = Prompt(token_ids=(7, 8, 9))
    return Trace(prompt=prompt, token_ids=tuple(range(length)), stop=stop, logprobs=logprobs, **fields)


def group(lengths, rewards, uid="1.0.0", version=0, stops=None):
    stops = stops or [StopReason.STOP] * len(lengths)
    return Group(
        uid=uid,
        problem=Problem(id=uid, messages=(), kind="math"),
        traces=tuple(trace(n, stop) for n, stop in zip(lengths, stops)),
        scores=tuple(Score(r, "") for r in rewards),
        rewards=tuple(rewards),
        version=version,
    )


def test_baselines():
    rewards = [1.0, 0.0, None, 0.5, 0.5]
    np.testing.assert_allclose(centred(rewards, "mean"), [0.5, -0.5, 0, 0, 0])
    deviation = np.std([1, 0, 0.5, 0.5], ddof=1)
    np.testing.assert_allclose(centred(rewards, "std"), np.array([0.5, -0.5, 0, 0, 0]) / (deviation + 1e-6))
    np.testing.assert_allclose(centred(rewards, "loo"), np.array([0.5, -0.5, 0, 0, 0]) * 4 / 3)
    # leave one out, said directly: own reward minus the mean of the others
    assert centred(rewards, "loo")[0] == pytest.approx(1.0 - np.mean([0, 0.5, 0.5]))


def test_an_unscored_trace_moves_no_advantage():
    assert centred([1.0, 0.0, None], "std")[:2] == centred([1.0, 0.0], "std")
    assert centred([1.0, None, None]) == [0.0, 0.0, 0.0]


def test_trivial_is_exact_equality():
    value = 0.1 + 0.2
    assert trivial([value] * 16) and trivial([1.0, None, 1.0]) and trivial([1.0, None]) and trivial([])
    assert not trivial([0.3, value])


@pytest.mark.parametrize("reduction", ["token", "sequence", "constant"])
def test_reduction_is_folded_in(reduction):
    groups = [group([2, 6], [1.0, 0.0]), group([4, 8], [0.0, 1.0], uid="1.0.1")]
    rows = advantages(groups, Folding(reduction=reduction, baseline="mean", max_tokens=10), version=0)
    lengths, signs = np.array([2, 6, 4, 8]), np.array([0.5, -0.5, -0.5, 0.5])
    share = {"token": np.full(4, 1 / 20), "sequence": 1 / (4 * lengths), "constant": np.full(4, 1 / 40)}[reduction]
    got = np.array([row.streams["policy"][3] for row in rows])
    np.testing.assert_allclose(got, signs * share, rtol=1e-6)
    for row, length in zip(rows, lengths):
        assert len(row.token_ids) == 3 + length
        assert not row.streams["policy"][:3].any()
        np.testing.assert_array_equal(row.streams["sampled"][3:], -np.arange(1, length + 1))
    assert sum(row.streams["measure"].sum() for row in rows) == pytest.approx(1, abs=1e-6)


def test_advantages_of_the_token_mean_sum_to_zero_over_equal_lengths():
    rows = advantages([group([5] * 4, [1.0, 0.0, 1.0, 1.0])], Folding(), version=0)
    assert sum(row.streams["policy"].sum() for row in rows) == pytest.approx(0, abs=1e-6)


def test_only_fresh_tokens_measure_the_mismatch():
    groups = [group([3, 5], [1.0, 0.0], version=4), group([2, 2], [1.0, 0.0], uid="0.0.1", version=3)]
    rows = advantages(groups, Folding(), version=4)
    assert [row.streams["mismatch"].sum() for row in rows] == pytest.approx([3 / 8, 5 / 8, 0, 0], abs=1e-6)


def test_unscored_and_cut_traces_do_not_train():
    stops = [StopReason.STOP, StopReason.STOP, StopReason.LENGTH]
    one = group([3, 3, 3], [1.0, None, 0.0], stops=stops)
    assert [row.id for row in advantages([one], Folding(), 0)] == ["1.0.0/0", "1.0.0/2"]
    masked = advantages([one], Folding(truncated="mask", baseline="mean"), 0)
    assert [row.id for row in masked] == ["1.0.0/0"]
    # the cut trace still counts in the baseline, not among the tokens
    assert masked[0].streams["policy"][3] == pytest.approx(0.5 / 3)


def test_cross_entropy_falls_on_correct_traces_alone():
    rows = advantages([group([2, 6, 3], [1.0, 0.0, 1.0])], Folding(ce_weight=0.1), 0)
    assert [row.streams["ce"].sum() for row in rows] == pytest.approx([0.1 * 2 / 5, 0, 0.1 * 3 / 5])


def test_rewards_are_shaped():
    shaping = Shaping(format_penalty=0.25, overlong=4, max_tokens=10)
    whole = {"reasoning": "so", "content": "5"}
    assert reward(trace(5, **whole), Score(1.0, ""), shaping) == 1.0
    assert reward(trace(5, content="5"), Score(1.0, ""), shaping) == 0.75
    assert reward(trace(8, **whole), Score(1.0, ""), shaping) == 0.5  # DAPO: 2 of the 4 tokens of the buffer used
    assert reward(trace(10, StopReason.LENGTH, **whole), Score(0.0, ""), shaping) == -1.0


def test_our_failures_are_never_rewards():
    assert reward(trace(5), Score(None, "sandbox died"), Shaping()) is None
    assert reward(trace(5, StopReason.ABORT), Score(0.0, ""), Shaping()) is None
    assert reward(trace(0), Score(0.0, ""), Shaping()) is None


def test_missing_logprobs_are_refused():
    bare = group([2, 2], [1.0, 0.0])
    stripped = Trace(prompt=Prompt(token_ids=(1,)), token_ids=(1, 2), stop=StopReason.STOP)
    broken = Group(
        uid="1.0.0", problem=bare.problem, traces=(stripped,) * 2, scores=bare.scores, rewards=bare.rewards, version=0
    )
    with pytest.raises(ConfigError, match="0 log-probabilities for 2 tokens"):
        advantages([broken], Folding(), 0)


def test_forced_tokens_train_nothing():
    """The closing of a thought that the engine forced was no choice: no weight, but its log-probability stays."""
    logprobs = np.array([-1.0, -2.0, -3.0, -4.0], np.float32)
    trace = Trace(
        prompt=Prompt(token_ids=(7, 8)), token_ids=(1, 2, 3, 4), stop=StopReason.STOP, logprobs=logprobs, forced=(1, 2)
    )
    made = advantage.row(trace, {"policy": 0.5, "mismatch": 0.25})
    assert made.streams["policy"].tolist() == [0, 0, 0.5, 0, 0, 0.5]
    assert made.streams["mismatch"].tolist() == [0, 0, 0.25, 0, 0, 0.25]
    assert made.streams["sampled"].tolist() == [0, 0, -1, -2, -3, -4]


@pytest.mark.parametrize(
    ("asked", "written", "off"),
    [
        ("What is 2 + 3?", "2 + 3 = 5, so the answer is 5", 0.0),
        ("What is 2 + 3?", "\u0442\u0430\u043a: 2 + 3 = 5", 0.5),
        ("Let \u03b1 = 2", "\u03b1 + 3 = 5", 0.0),
        ("\u0421\u043a\u043e\u043b\u044c\u043a\u043e?", "\u043f\u044f\u0442\u044c", 0.0),
        ("\u0421\u043a\u043e\u043b\u044c\u043a\u043e?", "five", 0.5),
    ],
)
def test_a_trace_in_another_script_loses_the_language_penalty(asked, written, off):
    problem = Problem(id="p", messages=({"role": "user", "content": asked},), kind="math")
    trace = Trace(prompt=Prompt(), token_ids=(1, 2), stop=StopReason.STOP, text=written)
    got = reward(trace, Score(1.0, ""), Shaping(language_penalty=0.5), problem)
    assert got == 1.0 - off


def test_products_over_long_traces_are_refused_with_their_figure():
    with pytest.raises(ConfigError, match=r"max_tokens=48000.*s=0.03: 2e-19"):
        GrpoConfig(correction="sequence", max_tokens=48000)
    assert GrpoConfig(correction="sequence", max_tokens=512).trainer().policy.correction == "sequence"
