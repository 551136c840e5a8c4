"""Every policy loss against its gradient coefficient, to 1e-6."""

from __future__ import annotations

import math

import pytest
import torch

from h1r.errors import ConfigError
from h1r.train.loss import CORRECTIONS, LOSSES, Policy, Terms, terms

LOW, HIGH = 0.2, 0.28
DOCUMENTS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])


def draw(seed=0):
    """logp, old and a per-document advantage of both signs; ratios reach well past both clips."""
    rng = torch.Generator().manual_seed(seed)
    logp = -3 * torch.rand(10, generator=rng, dtype=torch.float64) - 0.1
    old = logp - 0.6 * torch.randn(10, generator=rng, dtype=torch.float64)
    weight = torch.tensor([1.3, -0.7, 0.4, -1.1], dtype=torch.float64)[DOCUMENTS] / 10
    return logp, old, weight


def gradient(name, logp, streams, policy):
    logp = logp.clone().requires_grad_()
    terms(name, logp, torch.zeros_like(logp), streams, DOCUMENTS, policy).loss.backward()
    return -logp.grad


def kept(ratio, weight):
    """1 unless (A > 0 and ratio > 1 + high) or (A < 0 and ratio < 1 - low)."""
    return (~((weight > 0) & (ratio > 1 + HIGH)) & ~((weight < 0) & (ratio < 1 - LOW))).double()


def expected(name, logp, old, weight):
    ratio = (logp - old).exp()
    if name == "reinforce":
        return weight
    if name in ("grpo", "dapo", "dr_grpo"):
        return ratio * weight * kept(ratio, weight)
    if name == "cispo":
        return ratio.clamp(1 - LOW, 1 + HIGH) * weight
    means = torch.stack([(logp - old)[d == DOCUMENTS].mean() for d in range(4)])
    s = means.exp()[DOCUMENTS]
    return s * weight * kept(s, weight)


@pytest.mark.parametrize("name", [n for n, formula in LOSSES.items() if formula])
@pytest.mark.parametrize("seed", range(5))
def test_gradient_is_the_coefficient_table(name, seed):
    logp, old, weight = draw(seed)
    policy = Policy(clip_low=LOW, clip_high=HIGH, tis_cap=0)
    got = gradient(name, logp, {"policy": weight, "old": old}, policy)
    torch.testing.assert_close(got, expected(name, logp, old, weight), rtol=0, atol=1e-6)


def test_the_draws_reach_every_branch():
    branches = torch.zeros(4)
    for seed in range(5):
        logp, old, weight = draw(seed)
        ratio = (logp - old).exp()
        for i, mask in enumerate(
            [
                (weight > 0) & (ratio > 1 + HIGH),
                (weight < 0) & (ratio < 1 - LOW),
                (weight > 0) & (ratio < 1 - LOW),
                (weight < 0) & (ratio > 1 + HIGH),
            ]
        ):
            branches[i] += mask.sum()
    assert branches.min() >= 1


def test_importance_sampling_multiplies_and_is_capped():
    logp, old, weight = draw(1)
    sampled = old - torch.linspace(-1, 1.5, 10, dtype=torch.float64)
    got = gradient("grpo", logp, {"policy": weight, "old": old, "sampled": sampled}, Policy(tis_cap=2.0))
    tis = (old - sampled).exp().clamp(max=2.0)
    assert tis.max() == 2.0 and tis.min() < 0.5
    torch.testing.assert_close(got, tis * expected("grpo", logp, old, weight), rtol=0, atol=1e-6)


def corrected(name, ratio):
    """What multiplies each token's loss, by the definitions."""
    inside = (ratio >= 0.5) & (ratio <= 2.0)
    by_document = [ratio[d == DOCUMENTS].log() for d in range(4)]
    mean = torch.stack([part.mean().exp() for part in by_document])[DOCUMENTS]
    return {
        "tis": ratio.clamp(max=2.0),
        "icepop": ratio * inside,
        "mask": inside.double(),
        "sequence_mask": ratio * ((mean >= 0.5) & (mean <= 2.0)),
        "sequence": torch.stack([part.sum().exp() for part in by_document])[DOCUMENTS].clamp(max=2.0),
    }[name]


@pytest.mark.parametrize("name", list(CORRECTIONS))
def test_corrections_multiply_every_token_by_their_definition(name):
    logp, old, weight = draw(1)
    sampled = old - torch.tensor([-1.0, -0.3, 0.2, 0.1, -0.1, 0.9, 1.2, 0.8, 0.6, -1.4], dtype=torch.float64)
    streams = {"policy": weight, "old": old, "sampled": sampled}
    got = gradient("grpo", logp, streams, Policy(correction=name, tis_cap=2.0, tis_low=0.5))
    want = corrected(name, (old - sampled).exp())
    assert len(want.unique()) > 1
    torch.testing.assert_close(got, want * expected("grpo", logp, old, weight), rtol=0, atol=1e-9)


def test_a_correction_that_lets_nothing_pass_is_refused():
    with pytest.raises(ConfigError, match="tis_low=3"):
        Policy(correction="icepop", tis_low=3.0)
    with pytest.raises(ConfigError, match="correction='seq': must be one of tis, icepop"):
        Policy(correction="seq")


def test_without_old_the_current_policy_is_held_fixed():
    logp, _, weight = draw(2)
    got = gradient("grpo", logp, {"policy": weight}, Policy())
    torch.testing.assert_close(got, weight, rtol=0, atol=1e-12)


def test_cross_entropy_and_kl_add_their_gradients():
    logp, _, weight = draw(3)
    ce = torch.linspace(0, 1, 10, dtype=torch.float64)
    ref = logp + 0.3
    streams = {"policy": weight, "old": logp.clone(), "ce": ce, "kl": torch.full_like(ce, 0.1), "ref": ref}
    got = gradient("grpo", logp, streams, Policy())
    # d/dl [rho k3] at rho = 1 with x = ref - l = 0.3: k3 + dk3/dl = (e^x - 1 - x) + (1 - e^x) = -x
    torch.testing.assert_close(got, weight + ce + 0.1 * 0.3, rtol=0, atol=1e-9)


def test_sft_is_the_weighted_cross_entropy_and_ignores_policy_streams():
    logp, _, weight = draw(4)
    ce = torch.linspace(0, 1, 10, dtype=torch.float64)
    out: Terms = terms("sft", logp, None, {"ce": ce, "policy": weight}, DOCUMENTS, Policy())
    assert out.loss.item() == pytest.approx(-(ce * logp).sum().item(), abs=1e-12)
    assert set(out.metrics) == {"ce", "loss"}


def test_metrics_are_weighted_sums():
    logp = torch.log(torch.tensor([0.5, 0.2, 0.9], dtype=torch.float64))
    old = torch.log(torch.tensor([0.25, 0.4, 0.9], dtype=torch.float64))
    sampled = torch.log(torch.tensor([0.25, 0.2, 0.9], dtype=torch.float64))
    third = torch.full((3,), 1 / 3, dtype=torch.float64)
    streams = {"policy": torch.tensor([1.0, -1.0, 1.0]).double(), "old": old, "sampled": sampled}
    out = terms("grpo", logp, third, streams | {"measure": third, "mismatch": third}, torch.zeros(3).long(), Policy())
    assert out.metrics["clip_high"].item() == pytest.approx(1 / 3)  # ratio 2, advantage above 0
    assert out.metrics["clip_low"].item() == pytest.approx(1 / 3)  # ratio 1/2, advantage below 0
    assert out.metrics["mismatch_kl"].item() == pytest.approx((2 - 1 - math.log(2)) / 3)
    assert out.metrics["mismatch_abs"].item() == pytest.approx(math.log(2) / 3)
    assert out.metrics["entropy"].item() == pytest.approx(1 / 3)


def test_unknown_loss_names_the_known_ones():
    with pytest.raises(ConfigError, match="dr_grpo"):
        terms("ppo", torch.zeros(1), None, {}, torch.zeros(1).long(), Policy())
