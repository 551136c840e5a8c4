"""Groups to rows: advantages centred within each group, with every reduction folded into per-token weights.

After this the trainer only sums, so the gradient cannot depend on micro-batches, packs or ranks. Streams of a row (see
train.loss): policy, measure on every generated token that trains; mismatch on those the current weights wrote; sampled;
ce on correct traces when asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from h1r.errors import ConfigError
from h1r.rl.group import Group, centred
from h1r.types import Floats, Row, StopReason, Trace

REDUCTIONS = ("token", "sequence", "constant")
BASELINES = ("mean", "std", "loo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Folding:
    """How advantages become weights.

    reduction   token: one mean over the tokens of the step (DAPO). sequence: the mean over traces of each trace's token
                mean (GRPO). constant: sum over tokens / (traces x max_tokens) (Dr.GRPO)
    baseline    mean, std (GRPO: divided by the group's deviation) or loo (leave one out)
    truncated   traces cut by max_tokens train like others (score), or count in the baseline only (mask)
    ce_weight   of the cross-entropy on correct traces, a mean over their tokens (Falcon-H1R)
    kl, entropy weights of the KL to the reference and of the entropy bonus
    """

    reduction: str = "token"
    baseline: str = "std"
    truncated: str = "score"
    max_tokens: int = 256
    ce_weight: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("reduction", REDUCTIONS), ("baseline", BASELINES), ("truncated", ("score", "mask"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(known)}")
        if min(self.ce_weight, self.kl, self.entropy) < 0:
            raise ConfigError(f"ce_weight={self.ce_weight}, kl={self.kl}, entropy={self.entropy}: must be 0 or more")


def advantages(groups: Sequence[Group], folding: Folding, version: int) -> list[Row]:
    """One row per trace that trains, in order. `version`: of the current weights."""
    chosen: list[tuple[Group, int, float]] = []
    for group in groups:
        values = centred(group.rewards, folding.baseline)
        for i, trace in enumerate(group.traces):
            cut = folding.truncated == "mask" and trace.stop is StopReason.LENGTH
            if group.rewards[i] is not None and not cut:
                chosen.append((group, i, values[i]))
    lengths = [group.traces[i].drawn for group, i, _ in chosen]
    new = [fresh(group, i, version) for group, i, _ in chosen]
    total_new = sum(float(part.sum()) for part in new)
    correct = sum(n for n, (group, i, _) in zip(lengths, chosen) if _is_correct(group, i))
    rows = []
    for (group, i, advantage), length, own in zip(chosen, lengths, new):
        share = weight_of_token(folding, length, sum(lengths), len(chosen))
        weights: dict[str, Floats | float] = {"policy": advantage * share, "measure": 1 / sum(lengths)}
        weights["mismatch"] = own / total_new if total_new else 0.0
        if folding.ce_weight:
            weights["ce"] = folding.ce_weight / correct if _is_correct(group, i) else 0.0
        if folding.kl:
            weights["kl"] = folding.kl * share
        if folding.entropy:
            weights["entropy"] = folding.entropy * share
        rows.append(row(group.traces[i], weights, id=f"{group.uid}/{i}"))
    return rows


def fresh(group: Group, i: int, version: int) -> Floats:
    """1 for each token of trace i that the weights `version` drew, else 0: [T] f32."""
    trace = group.traces[i]
    versions = trace.token_versions or (group.version,) * len(trace.token_ids)
    out = (np.asarray(versions) == version).astype(np.float32)
    out[list(trace.forced)] = 0.0
    return out


def weight_of_token(folding: Folding, length: int, tokens: int, traces: int) -> float:
    """The reduction's factor of one token, in a trace of `length` among `traces` traces with `tokens` tokens in all."""
    if folding.reduction == "token":
        return 1 / tokens
    return 1 / (traces * (length if folding.reduction == "sequence" else folding.max_tokens))


def row(trace: Trace, weights: Mapping[str, Floats | float], id: str = "") -> Row:
    """Prompt and trace as one row; each weight on every generated token, and the engine's log-probabilities."""
    if not trace.prompt.token_ids:
        raise ConfigError(
            "a prompt without token ids cannot be trained on: render problems with the trainer's tokenizer"
        )
    if len(trace.logprobs) != len(trace.token_ids):
        raise ConfigError(
            f"the generator gave {len(trace.logprobs)} log-probabilities for {len(trace.token_ids)} tokens: RL needs "
            "one per token; ask the endpoint for log-probabilities, or use the engine"
        )
    streams: dict[str, Floats] = {name: _after(trace, value) for name, value in weights.items()}
    for values in streams.values():  # a forced token was nobody's choice
        values[[len(trace.prompt.token_ids) + i for i in trace.forced]] = 0.0
    streams["sampled"] = _after(trace, trace.logprobs)
    return Row(token_ids=(*trace.prompt.token_ids, *trace.token_ids), streams=streams, id=id)


def _after(trace: Trace, values: Floats | float) -> Floats:
    """Zeros over the prompt, `values` over the trace: [prompt + T] f32."""
    prompt = len(trace.prompt.token_ids)
    out = np.zeros(prompt + len(trace.token_ids), np.float32)
    out[prompt:] = values
    return out


def _is_correct(group: Group, i: int) -> bool:
    value = group.scores[i].value
    return value is not None and value >= 1.0
