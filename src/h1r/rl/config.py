"""The settings of a GRPO run, and the share of them each part reads."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from h1r.errors import ConfigError
from h1r.rl.advantage import Folding
from h1r.rl.backfill import ZERO_VARIANCE
from h1r.rl.group import Shaping
from h1r.train.guard import GuardConfig
from h1r.train.lora import LoraConfig
from h1r.train.loss import LOSSES, Policy
from h1r.train.optim import OptimConfig
from h1r.train.trainer import TrainerConfig

SHORT = 2000
"""Tokens over which a product of ratios still says something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoConfig:
    """One GRPO run. Defaults are Falcon-H1R's where the report gives one.

    group             traces per problem
    prompts_per_step  problems per round of rollouts, shared among all strata
    train_groups      groups a step trains on at most; 0: prompts_per_step. What is over goes to the cache
    max_rounds        rounds of rollouts while fewer than `fill` x train_groups groups teach something
    zero_variance     groups whose rewards are all equal: backfill (from the cache), reject, or duplicate others
    cache_capacity    groups kept at most;  cache_age  steps after which one is too old
    loss              grpo, dapo, dr_grpo, gspo, cispo, reinforce
    reduction, baseline, truncated, ce_weight, kl, entropy      see advantage.Folding
    clip_low, clip_high, correction, tis_cap, tis_low           see train.Policy
    temperature       of sampling, and of every log-probability; top_p and top_k must be off
    max_tokens        of a trace;  format_penalty, language_penalty, overlong  see group.Shaping
    ahead             steps whose rollouts are collected while earlier ones train: how far behind their weights may be. 0: in turn
    redo              how often rollouts are made again when their worker died
    updates           optimizer steps per batch of groups; above 1 the old log-probabilities are computed first
    mismatch_limit    largest KL between engine and trainer on fresh tokens before training stops
    guard             what counts as a gradient spike, and when a run without finite gradients ends (train.GuardConfig)
    curriculum        weigh strata by their running pass rate
    length, bf16, checkpointing, workers, lora, optim           see train.TrainerConfig
    """

    steps: int = 100
    group: int = 16
    prompts_per_step: int = 16
    train_groups: int = 0
    max_rounds: int = 1
    fill: float = 0.5
    zero_variance: str = "backfill"
    cache_capacity: int = 64
    cache_age: int = 4
    loss: str = "grpo"
    reduction: str = "token"
    baseline: str = "std"
    truncated: str = "score"
    clip_low: float = 0.2
    clip_high: float = 0.28
    correction: str = "tis"
    tis_cap: float = 2.0
    tis_low: float = 0.5
    ce_weight: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    format_penalty: float = 0.0
    language_penalty: float = 0.0
    overlong: int = 0
    ahead: int = 0
    redo: int = 2
    updates: int = 1
    mismatch_limit: float = 0.01
    guard: GuardConfig = field(default_factory=GuardConfig)
    curriculum: bool = False
    seed: int = 0
    length: int = 8192
    bf16: str = "off"
    checkpointing: bool = False
    workers: int = 0
    lora: LoraConfig | None = None
    save_every: int = 10
    keep: int = 2
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=2e-6, schedule="constant", warmup=10))

    def __post_init__(self) -> None:
        def require(ok: bool, what: str) -> None:
            if not ok:
                raise ConfigError(what)

        require(self.group >= 2, f"group={self.group}: an advantage needs two traces or more")
        require(self.prompts_per_step >= 1, f"prompts_per_step={self.prompts_per_step}: must be 1 or more")
        require(self.train_groups >= 0, f"train_groups={self.train_groups}: must be 0 (prompts_per_step) or more")
        require(self.max_rounds >= 1, f"max_rounds={self.max_rounds}: must be 1 or more")
        require(0 <= self.fill <= 1, f"fill={self.fill}: must be in [0, 1]")
        require(
            self.zero_variance in ZERO_VARIANCE,
            f"zero_variance={self.zero_variance!r}: must be one of {', '.join(ZERO_VARIANCE)}",
        )
        policies = [name for name, formula in LOSSES.items() if formula is not None]
        require(self.loss in policies, f"loss={self.loss!r}: must be one of {', '.join(policies)}")
        require(
            self.top_p == 1 and self.top_k == 0,
            f"top_p={self.top_p}, top_k={self.top_k}: a truncated sampler has another support than the policy that is "
            "trained, so their ratio is wrong; set top_p=1 and top_k=0 and lower the temperature instead",
        )
        require(self.ahead >= 0 and self.redo >= 0, f"ahead={self.ahead}, redo={self.redo}: must be 0 or more")
        require(
            self.correction != "sequence" or self.max_tokens <= SHORT,
            f"correction=sequence multiplies the ratios of up to max_tokens={self.max_tokens} tokens: with a spread of s per "
            f"token only exp(-{self.max_tokens} s^2) of the traces keeps any weight (s=0.03: "
            f"{math.exp(-self.max_tokens * 0.03**2):.0e}); use tis, icepop or sequence_mask, or max_tokens up to {SHORT}",
        )
        require(self.updates >= 1, f"updates={self.updates}: must be 1 or more")
        require(self.mismatch_limit > 0, f"mismatch_limit={self.mismatch_limit}: must be above 0")
        require(self.save_every >= 1 and self.keep >= 1, "save_every and keep must be 1 or more")
        self.trainer(), self.folding(), self.shaping()

    @property
    def wanted(self) -> int:
        """Groups a step trains on at most."""
        return self.train_groups or self.prompts_per_step

    @property
    def enough(self) -> int:
        """Groups that teach something with which a step stops generating."""
        return math.ceil(self.fill * self.wanted)

    def trainer(self) -> TrainerConfig:
        """What this run's trainer must be built with: log-probabilities at the sampling temperature, the clips."""
        return TrainerConfig(
            steps=self.steps * self.updates,
            length=self.length,
            temperature=self.temperature,
            bf16=self.bf16,
            checkpointing=self.checkpointing,
            workers=self.workers,
            lora=self.lora,
            optim=self.optim,
            policy=Policy(
                clip_low=self.clip_low,
                clip_high=self.clip_high,
                correction=self.correction,
                tis_cap=self.tis_cap,
                tis_low=self.tis_low,
            ),
        )

    def folding(self) -> Folding:
        return Folding(
            reduction=self.reduction,
            baseline=self.baseline,
            truncated=self.truncated,
            max_tokens=self.max_tokens,
            ce_weight=self.ce_weight,
            kl=self.kl,
            entropy=self.entropy,
        )

    def shaping(self) -> Shaping:
        return Shaping(
            format_penalty=self.format_penalty,
            language_penalty=self.language_penalty,
            overlong=self.overlong,
            max_tokens=self.max_tokens,
        )
