"""Losses: each a plain sum over tokens of per-token weights, so no loss depends on micro-batches, packs or ranks.

Streams (see types.Row; every reduction is folded in before they come here):

    ce        weight of -log p                          policy   advantage x mask x reduction
    kl        weight of KL(policy || reference)         entropy  weight of the entropy bonus
    old       log p of the policy at generation; absent: the current one, held fixed (one update per batch)
    sampled   log p under which the engine drew the token; present: truncated importance sampling
    ref       log p of the reference policy             measure, mismatch   weights of metrics only

Notation: l = logp - old, rho = exp(l), A = policy. The coefficient c of -grad log p for each loss (unit-tested):

    reinforce            A
    grpo, dapo, dr_grpo  rho A, 0 where (A > 0 and rho > 1 + high) or (A < 0 and rho < 1 - low)
    gspo                 s A with s = exp(mean of l over the document), 0 where s is clipped as above
    cispo                clip(rho, 1 - low, 1 + high) A, never 0

What the generator and the trainer disagree about, r = p_old / p_sampled, multiplies A as CORRECTIONS say.

grpo, dapo and dr_grpo share one formula and differ in their reduction and advantage, which are folded into A.
Sources: arXiv:2402.03300 (GRPO), 2503.14476 (DAPO), 2503.20783 (Dr.GRPO), 2507.18071 (GSPO), 2506.13585 (CISPO);
truncated importance sampling as in Falcon-H1R, arXiv:2601.02346 section 3.2; IcePop as in arXiv:2510.18855.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from h1r.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How far a policy loss trusts a ratio.

    clip_low, clip_high  the ratio is held in [1 - clip_low, 1 + clip_high]
    correction           what r = p_old / p_sampled, the generator's part of the ratio, does to a token's loss (see CORRECTIONS)
    tis_cap              the largest r; 0 switches the correction off
    tis_low              the smallest r that icepop, mask and sequence_mask let pass
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    correction: str = "tis"
    tis_cap: float = 2.0
    tis_low: float = 0.5

    def __post_init__(self) -> None:
        if not (0 <= self.clip_low <= 1 and self.clip_high >= 0):
            raise ConfigError(
                f"clip_low={self.clip_low}, clip_high={self.clip_high}: low must be in [0, 1], high 0 or more"
            )
        if self.tis_cap < 0:
            raise ConfigError(f"tis_cap={self.tis_cap}: must be 0 (off) or more")
        if self.correction not in CORRECTIONS:
            raise ConfigError(f"correction={self.correction!r}: must be one of {', '.join(CORRECTIONS)}")
        if self.correction not in ("tis", "sequence") and self.tis_cap and not 0 <= self.tis_low < self.tis_cap:
            raise ConfigError(f"tis_low={self.tis_low}: must be at least 0 and below tis_cap={self.tis_cap}")


class Terms(NamedTuple):
    """loss: scalar, with its graph. metrics: name -> detached scalar; each a sum, so packs and ranks add up."""

    loss: Tensor
    metrics: dict[str, Tensor]


class Tokens(NamedTuple):
    """What a policy loss reads, all [M] f32 but `documents` [M] int64: the document number of each token."""

    logp: Tensor
    old: Tensor
    weight: Tensor
    documents: Tensor


def reinforce(tokens: Tokens, policy: Policy) -> Tensor:
    """-A log p: [M] -> scalar."""
    return -(tokens.weight * tokens.logp).sum()


def clipped(tokens: Tokens, policy: Policy) -> Tensor:
    """-min(rho A, clip(rho) A): [M] -> scalar."""
    ratio = _ratio(tokens.logp - tokens.old)
    bounded = ratio.clamp(1 - policy.clip_low, 1 + policy.clip_high)
    return -torch.minimum(ratio * tokens.weight, bounded * tokens.weight).sum()


def gspo(tokens: Tokens, policy: Policy) -> Tensor:
    """-min(s A, clip(s) A), s = exp(mean log-ratio over the document's tokens with A != 0): [M] -> scalar."""
    sums = _by_document(tokens.logp - tokens.old, tokens.weight != 0, tokens.documents)
    ratio = _ratio(sums[0] / sums[1].clamp(min=1))[tokens.documents]
    bounded = ratio.clamp(1 - policy.clip_low, 1 + policy.clip_high)
    return -torch.minimum(ratio * tokens.weight, bounded * tokens.weight).sum()


def cispo(tokens: Tokens, policy: Policy) -> Tensor:
    """-fixed(clip(rho)) A log p: [M] -> scalar."""
    ratio = _ratio((tokens.logp - tokens.old).detach()).clamp(1 - policy.clip_low, 1 + policy.clip_high)
    return -(ratio * tokens.weight * tokens.logp).sum()


LOSSES: dict[str, Callable[[Tokens, Policy], Tensor] | None] = {
    "sft": None,  # cross-entropy alone
    "reinforce": reinforce,
    "grpo": clipped,
    "dapo": clipped,
    "dr_grpo": clipped,
    "gspo": gspo,
    "cispo": cispo,
}


def tis(log_ratio: Tensor, mask: Tensor, documents: Tensor, policy: Policy) -> Tensor:
    """min(r, cap): truncated importance sampling, Falcon-H1R's. [M] -> [M]."""
    return _ratio(log_ratio).clamp(max=policy.tis_cap)


def icepop(log_ratio: Tensor, mask: Tensor, documents: Tensor, policy: Policy) -> Tensor:
    """r where low <= r <= cap, else 0: a token the two engines disagree about teaches nothing. [M] -> [M]."""
    ratio = _ratio(log_ratio)
    return ratio * _inside(ratio, policy)


def token_mask(log_ratio: Tensor, mask: Tensor, documents: Tensor, policy: Policy) -> Tensor:
    """1 where low <= r <= cap, else 0: [M] -> [M]."""
    return _inside(_ratio(log_ratio), policy)


def sequence_mask(log_ratio: Tensor, mask: Tensor, documents: Tensor, policy: Policy) -> Tensor:
    """r of the tokens of documents whose geometric mean of r lies in [low, cap], 0 for the others: [M] -> [M]."""
    sums = _by_document(log_ratio, mask, documents)
    return _ratio(log_ratio) * _inside(_ratio(sums[0] / sums[1].clamp(min=1)), policy)[documents]


def sequence(log_ratio: Tensor, mask: Tensor, documents: Tensor, policy: Policy) -> Tensor:
    """min(product of r over the document, cap), for short traces only: [M] -> [M]."""
    return _ratio(_by_document(log_ratio, mask, documents)[0]).clamp(max=policy.tis_cap)[documents]


CORRECTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Policy], Tensor]] = {
    "tis": tis,
    "icepop": icepop,
    "mask": token_mask,
    "sequence_mask": sequence_mask,
    "sequence": sequence,
}
"""Each (log r [M], which tokens train [M], documents [M], policy) -> what multiplies their loss [M], held fixed."""


def _inside(ratio: Tensor, policy: Policy) -> Tensor:
    return ((ratio >= policy.tis_low) & (ratio <= policy.tis_cap)).to(ratio.dtype)


def _by_document(values: Tensor, mask: Tensor, documents: Tensor) -> Tensor:
    """Sums of masked values and of the mask over each document: [M] -> [2,S]."""
    held = mask.to(values.dtype)
    sums = values.new_zeros(2, int(documents[-1]) + 1)
    return sums.index_add(1, documents, torch.stack((values * held, held)))


def terms(
    name: str, logp: Tensor, entropy: Tensor | None, streams: Mapping[str, Tensor], documents: Tensor, policy: Policy
) -> Terms:
    """The loss `name` and its metrics: logp and every stream [M] f32, documents [M] int64 -> scalars.

    entropy [M] f32 is read by policy losses only. A `ce` stream adds cross-entropy to whatever the loss is; `kl` and
    `entropy` streams add their terms to a policy loss.
    Raises ConfigError for an unknown name.
    """
    if name not in LOSSES:
        raise ConfigError(f"loss={name!r}: unknown; known: {', '.join(LOSSES)}")
    loss = logp.new_zeros(())
    metrics: dict[str, Tensor] = {}
    if "ce" in streams:
        loss = loss - (streams["ce"] * logp).sum()
        metrics["ce"] = loss.detach()
    policy_loss = LOSSES[name]
    if policy_loss is not None and "policy" in streams:
        assert entropy is not None, "a policy loss reads the entropy"
        old = streams.get("old", logp.detach())
        weight = streams["policy"]
        if "sampled" in streams and policy.tis_cap > 0:
            correct = CORRECTIONS[policy.correction]
            weight = weight * correct(old - streams["sampled"], weight != 0, documents, policy)
        loss = loss + policy_loss(Tokens(logp, old, weight, documents), policy)
        loss = loss + _regularisers(logp, old, entropy, streams)
        metrics |= _measures(logp.detach(), old, entropy.detach(), streams, documents, policy)
    metrics["loss"] = loss.detach()
    return Terms(loss, metrics)


def _regularisers(logp: Tensor, old: Tensor, entropy: Tensor, streams: Mapping[str, Tensor]) -> Tensor:
    """rho-weighted k3 to the reference (the form whose gradient is unbiased) minus the entropy bonus: [M] -> scalar."""
    out = logp.new_zeros(())
    if "kl" in streams:
        log_ratio = streams["ref"] - logp
        out = out + (streams["kl"] * _ratio(logp - old) * _k3(log_ratio)).sum()
    if "entropy" in streams:
        assert entropy.requires_grad, "an entropy bonus needs an entropy that carries a gradient"
        out = out - (streams["entropy"] * entropy).sum()
    return out


def _measures(
    logp: Tensor, old: Tensor, entropy: Tensor, streams: Mapping[str, Tensor], documents: Tensor, policy: Policy
) -> dict[str, Tensor]:
    """Sums under the metric weights: entropy, clip fractions, importance ratios and the engine-trainer gap."""
    out: dict[str, Tensor] = {}
    if "measure" in streams:
        measure, ratio = streams["measure"], (logp - old).exp()
        out["entropy"] = (measure * entropy).sum()
        out["clip_low"] = (measure * ((ratio < 1 - policy.clip_low) & (streams["policy"] < 0))).sum()
        out["clip_high"] = (measure * ((ratio > 1 + policy.clip_high) & (streams["policy"] > 0))).sum()
    if "sampled" in streams:
        log_ratio = old - streams["sampled"]
        ratio = _ratio(log_ratio)
        if "measure" in streams:
            correct = CORRECTIONS[policy.correction]
            trains = streams["policy"] != 0
            capped = correct(log_ratio, trains, documents, policy) if policy.tis_cap > 0 else torch.ones_like(ratio)
            out["tis_mean"], out["tis_square"] = (measure * capped).sum(), (measure * capped.square()).sum()
        if "mismatch" in streams:
            out["mismatch_kl"] = (streams["mismatch"] * _k3(log_ratio)).sum()
            out["mismatch_abs"] = (streams["mismatch"] * log_ratio.abs()).sum()
    return out


def _k3(log_ratio: Tensor) -> Tensor:
    """r - 1 - log r, the low-variance estimate of a KL, exact near r = 1."""
    held = log_ratio.clamp(-20.0, 20.0)
    return torch.expm1(held) - held


def _ratio(log_ratio: Tensor) -> Tensor:
    """exp, held finite: beyond e^20 a ratio carries no information, only infinities."""
    return log_ratio.clamp(-20.0, 20.0).exp()
