"""The sampler against distributions written out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from h1r.engine.request import Request, Sequence
from h1r.engine.sampler import Sampler
from h1r.errors import CheckpointError
from h1r.ops.draw import Cuts, invert, key, penalise, ranked, thresholds, uniforms
from h1r.types import Prompt, SamplingParams

V = 40
CPU = torch.device("cpu")


def sequences(
    count: int, sampling: SamplingParams, seed: int = 0, prompt: tuple[int, ...] = (1, 2, 3)
) -> list[Sequence]:
    r = Request(id=0, prompt=Prompt(token_ids=prompt), sampling=sampling, seed=seed, limit=100)
    return [Sequence(request=r, index=i, slot=i, length=len(prompt) - 1) for i in range(count)]


def logits_row(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, V, generator=torch.Generator().manual_seed(seed)) * 2


def exact(logits: torch.Tensor, p: SamplingParams) -> np.ndarray:
    """The distribution [V] in plain loops, float64."""
    x = logits[0].double().numpy() / (p.temperature or 1.0)
    keep = np.ones(V, bool)
    if p.top_k:
        keep &= x >= np.sort(x)[-p.top_k]
    probability = np.where(keep, np.exp(x - x.max()), 0)
    probability /= probability.sum()
    if p.top_p < 1:
        keep &= np.array([probability[probability > q].sum() < p.top_p for q in probability])
    keep &= probability >= p.min_p * probability.max()
    probability = np.where(keep, probability, 0)
    return probability / probability.sum()


CASES = [
    SamplingParams(),
    SamplingParams(temperature=0.6, top_p=0.95),
    SamplingParams(temperature=1.7, top_k=5),
    SamplingParams(top_k=12, top_p=0.7),
    SamplingParams(temperature=0.8, min_p=0.1),
    SamplingParams(temperature=0.9, top_k=20, top_p=0.9, min_p=0.05),
    SamplingParams(top_p=1e-6),
]


@pytest.mark.parametrize("params", CASES)
def test_distribution_is_the_exact_one(params: SamplingParams) -> None:
    row, count = logits_row(), 20000
    draws = Sampler(V, CPU).draw(row.expand(count, V).contiguous(), sequences(count, params))
    want = exact(row, params)
    got = np.bincount(draws.token_ids, minlength=V) / count
    assert not got[want == 0].any()
    # five standard deviations of each frequency
    assert (np.abs(got - want) <= 5 * np.sqrt(want * (1 - want) / count) + 1e-12).all()
    # the reported log-probability is the exact one of that distribution
    assert np.abs(np.array(draws.logprobs) - np.log(want[draws.token_ids])).max() < 2e-6
    raw = row[0].double().log_softmax(-1).numpy()
    assert np.abs(np.array(draws.raw_logprobs) - raw[draws.token_ids]).max() < 2e-6
    assert abs(draws.confidence[0] + np.sort(raw)[-20:].mean()) < 2e-6


def test_mixed_batch_equals_each_alone() -> None:
    rows = torch.cat([logits_row(i) for i in range(len(CASES) + 1)])
    every = [*CASES, SamplingParams(temperature=0)]
    traces = [replace_slot(sequences(1, p, seed=7)[0], i) for i, p in enumerate(every)]
    together = Sampler(V, CPU).draw(rows, traces)
    for i, p in enumerate(every):
        alone = Sampler(V, CPU).draw(rows[i : i + 1], sequences(1, p, seed=7))
        assert alone.token_ids[0] == together.token_ids[i]
        assert abs(alone.logprobs[0] - together.logprobs[i]) < 1e-6
    assert together.token_ids[-1] == int(rows[-1].argmax())
    assert abs(together.logprobs[-1] - together.raw_logprobs[-1]) < 1e-6


def replace_slot(s: Sequence, slot: int) -> Sequence:
    s.slot = slot
    return s


def test_equal_logits_stay_together() -> None:
    row = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])
    for cut in (Cuts(*map(np.array, ([2], [1.0], [0.0]))), Cuts(*map(np.array, ([0], [0.6], [0.0])))):
        cut = Cuts(cut.top_k, cut.top_p.astype(np.float32), cut.min_p.astype(np.float32))
        assert float(thresholds(row, cut)[0]) == 1.0


@pytest.mark.parametrize("flat", [0.01, 0.5, 3.0])
def test_near_and_far_cuts_agree(flat: float) -> None:
    """Flat rows need every token, peaked ones a few: thresholds against a plain loop, at a large vocabulary."""
    rows = torch.randn(6, 3000, generator=torch.Generator().manual_seed(4)) * flat
    rows[5, :300] = 5.0  # a tie across the first look
    cuts = Cuts(
        np.array([0, 0, 40, 200, 0, 0]),
        np.array([0.9, 0.3, 0.8, 1, 1, 0.5], np.float32),
        np.array([0, 0, 0, 0, 0.2, 0], np.float32),
    )
    for row, floor, k, p, m in zip(rows, thresholds(rows, cuts), *cuts, strict=True):
        x = row.double()
        keep = x >= (x.sort(descending=True).values[k - 1] if k else -torch.inf)
        probability = torch.where(keep, x, -torch.inf).softmax(-1)
        ordered = probability.sort(descending=True).values
        edge = ordered[(ordered.cumsum(0) - ordered < p).sum() - 1] if p < 1 else 0.0
        keep &= (probability >= edge) & (probability >= m * probability.max())
        # at most one token differs, where the mass comes within rounding of p
        assert abs(int(keep.sum()) - int((row >= floor).sum())) <= 1
        alone = thresholds(row[None], Cuts(np.array([k]), np.array([p], np.float32), np.array([m], np.float32)))
        assert float(alone[0]) == float(floor)


def test_uniforms_are_uniform_and_their_own() -> None:
    keys = np.array([key(s, j, i) for s in range(4) for j in range(10) for i in range(25)], np.uint64)
    assert len(set(keys.tolist())) == len(keys)
    u = np.stack([uniforms(keys, np.full(len(keys), t, np.uint64)) for t in range(100)])
    assert u.min() >= 0 and u.max() < 1
    counts = np.histogram(u, bins=50, range=(0, 1))[0]
    expected = u.size / 50
    assert ((counts - expected) ** 2 / expected).sum() < 90  # chi-square, 49 degrees of freedom: p = 3e-4
    # neighbours in position and in stream are uncorrelated: five standard deviations
    for a, b in ((u[1:], u[:-1]), (u[:, 1:], u[:, :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(a.size)


def test_inverse_cdf_never_returns_what_is_excluded() -> None:
    row = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    ends = torch.tensor([0.0, 0.5 - 1e-12, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    tokens, logp = invert(row.expand(4, 5), torch.full((4,), -torch.inf), ends)
    assert tokens.tolist() == [1, 1, 3, 3]
    assert np.allclose(logp.numpy(), np.log(0.5), atol=1e-7)
    floor = torch.full((2,), 0.5)
    tokens, logp = invert(torch.tensor([[0.0, 1.0, -90.0, 0.5]]).expand(2, 4), floor, torch.tensor([0.6, 0.7]).double())
    share = 1 / (1 + np.exp(-0.5))  # 0.622 of the kept mass is token 1's
    assert tokens.tolist() == [1, 3]
    assert np.allclose(logp.numpy(), np.log([share, 1 - share]), atol=1e-6)


def test_ranked_is_sorted_top() -> None:
    for size in (40, 9000):
        x = torch.randn(3, size, generator=torch.Generator().manual_seed(1))
        assert torch.equal(ranked(x, 20), x.topk(20).values)
        assert torch.equal(ranked(x, size), x.sort(-1, descending=True).values)


def test_penalties_bias_and_their_counts() -> None:
    row = logits_row(3)
    bias = {4: 3.0, 9: -50.0}
    params = SamplingParams(
        temperature=0,
        repetition_penalty=1.5,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logit_bias=bias,
        max_tokens=50,
    )
    s = sequences(1, params)[0]
    sampler, written = Sampler(V, CPU), []
    for _ in range(12):
        x = row[0].double().clone()
        for token, value in bias.items():
            x[token] += value
        for token in range(V):
            count = written.count(token)
            if count or token in (1, 2, 3):
                x[token] = x[token] / 1.5 if x[token] > 0 else x[token] * 1.5
            x[token] -= 0.25 * count + 0.5 * (count > 0)
        draws = sampler.draw(row, [s])
        assert draws.token_ids[0] == int(x.argmax())
        assert abs(draws.logprobs[0] - float(x.log_softmax(-1).max())) < 1e-5
        assert abs(draws.raw_logprobs[0] - float(row[0].log_softmax(-1)[draws.token_ids[0]])) < 1e-5
        written.append(draws.token_ids[0])
        s.token_ids.append(written[-1])
        s.length += 1
    assert len(set(written)) > 3
    # another sequence in the same slot starts from its own counts, and coming back restores the first one's
    other = replace_slot(sequences(2, replace(params, logit_bias={}))[1], 0)
    sampler.draw(row, [other])
    assert sampler.counts is not None and int(sampler.counts[0].sum()) == 1
    sampler.draw(row, [s])
    assert int(sampler.counts[0].sum()) == 13


def test_a_plain_row_keeps_its_exact_number_beside_a_biased_one() -> None:
    logits = torch.randn(2, V, generator=torch.Generator().manual_seed(3)) * 3
    plain, biased = sequences(2, SamplingParams(max_tokens=50))
    biased = sequences(2, SamplingParams(max_tokens=50, logit_bias={5: 2.0}))[1]
    draws = Sampler(V, CPU).draw(logits, [plain, biased])
    assert draws.logprobs[0] == draws.raw_logprobs[0] and draws.logprobs[1] != draws.raw_logprobs[1]
    alone = Sampler(V, CPU).draw(logits[:1], [plain])
    assert (draws.token_ids[0], draws.logprobs[0]) == (alone.token_ids[0], alone.logprobs[0])


def test_penalise_is_identity_at_neutral() -> None:
    x = torch.randn(2, V, generator=torch.Generator().manual_seed(2))
    counts = torch.ones(2, V, dtype=torch.int32)
    out = penalise(x, counts, counts > 0, torch.ones(2), torch.zeros(2), torch.zeros(2))
    assert torch.equal(out, x)


def test_ends_and_likeliest() -> None:
    row = logits_row(5)
    best = int(row.argmax())
    params = SamplingParams(temperature=0, logprobs=3, max_tokens=9)
    s = sequences(2, params)
    s[0].request.stop_ids = (0, 1, best)
    draws = Sampler(V, CPU).draw(row.expand(2, V).contiguous(), s)
    assert draws.ended.tolist() == [1, 1]
    want = row[0].log_softmax(-1).topk(3)
    assert [i for i, _ in draws.top[1]] == want.indices.tolist()
    assert np.allclose([v for _, v in draws.top[1]], want.values.numpy(), atol=1e-6)
    s = sequences(1, params)
    s[0].request.limit, s[0].length = 5, 2 + 4
    assert Sampler(V, CPU).draw(row, s).ended.tolist() == [2]


def test_broken_logits_are_named() -> None:
    row = logits_row()
    row[0, 3] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        Sampler(V, CPU).draw(row, sequences(1, SamplingParams()))
