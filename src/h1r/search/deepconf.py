"""DeepConf: think many times in parallel, end traces that lose confidence, vote with the rest (arXiv:2508.15260).

Online (Algorithm 2): `warmup` traces run to their end; the bar is the quantile of their lowest group confidences that
`keep_fraction` of them reach; every further trace ends at the first full window whose mean falls below the bar. Traces
that reach the bar and answered vote, weighted by confidence. Optionally all stop when the vote's winner holds a share
`consensus`. keep_fraction 0.1 is the paper's "DeepConf-low", 0.9 its "DeepConf-high".
Offline: all traces run to their end, the best `keep_fraction` vote. Plain majority is always reported beside the vote.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from h1r.errors import ConfigError, DataError
from h1r.search.confidence import Stats, bar_of, statistics
from h1r.search.vote import METHODS, AnswerOf, Same, remember, tally, weight_of
from h1r.types import Answer, Prompt, SamplingParams, StopReason, Trace, Watch

Generate = Callable[[Sequence[Prompt], SamplingParams, Sequence[Watch | None] | None], list[list[Trace]]]

CUT = frozenset({StopReason.LOW_CONFIDENCE, StopReason.CONSENSUS, StopReason.ABORT})
"""Traces that ended for these reasons were not finished: they do not vote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepConfConfig:
    """keep_fraction  share of traces confident enough to vote (never a percentile)
    window     tokens of a group; nothing is ended before a trace has that many, so keep it below usual lengths
    warmup     traces that run to their end and set the bar
    budget     traces in all, warm-up included
    consensus  end everything when the winner holds this share of the weight; None: never
    method     weight of a vote: one of vote.METHODS
    rolling    start all traces at once and set the bar, for running traces too, when the warm-up ones are done
    seed       for sampling that names none: the two phases must draw differently
    """

    keep_fraction: float = 0.1
    window: int = 2048
    warmup: int = 16
    budget: int = 512
    consensus: float | None = None
    method: str = "min_window"
    rolling: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.keep_fraction <= 1:
            raise ConfigError(f"keep_fraction={self.keep_fraction}: must be above 0 and at most 1")
        if self.window < 1:
            raise ConfigError(f"window={self.window}: must be 1 token or more")
        if not 1 <= self.warmup <= self.budget:
            raise ConfigError(f"warmup={self.warmup}: must be from 1 to the budget of {self.budget} traces")
        if self.consensus is not None and not 0.5 < self.consensus <= 1:
            raise ConfigError(f"consensus={self.consensus}: must be above 0.5 and at most 1, or left out")
        if self.method not in METHODS:
            raise ConfigError(f"method={self.method!r}: use one of {', '.join(METHODS)}")


class Window:
    """Mean of the last `size` values in constant time: a ring and a running sum, taken afresh at every wrap so that
    rounding errors cannot add up."""

    __slots__ = ("_at", "_ring", "_sum", "count", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 0
        self._ring = [0.0] * size
        self._at = 0
        self._sum = 0.0

    def push(self, value: float) -> float | None:
        """Take one value in; the window's mean once it is full, None before."""
        self._sum += value - self._ring[self._at]
        self._ring[self._at] = value
        self._at += 1
        self.count += 1
        if self._at == self.size:
            self._at = 0
            self._sum = math.fsum(self._ring)
        return self._sum / self.size if self.count >= self.size else None

    @property
    def mean(self) -> float:
        """Of the last `size` values; of all while there are fewer."""
        return self._sum / max(1, min(self.count, self.size))


class DeepConfWatch:
    """Ends the traces of one prompt (a types.Watch). Constant work per token.

    bar        group confidence below which a trace ends; None: not known yet
    warmup     traces with an index below it are never ended for low confidence; when all of them have finished and
               `bar` is None, their lowest groups set it
    votes      (answer, weight) of traces that finished elsewhere and count towards consensus
    """

    def __init__(
        self,
        config: DeepConfConfig,
        answer_of: AnswerOf | None = None,
        same: Same | None = None,
        bar: float | None = None,
        warmup: int = 0,
        votes: Sequence[tuple[str, float]] = (),
    ) -> None:
        assert config.consensus is None or answer_of is not None, "consensus needs answer_of"
        self.config = config
        self.warmup = warmup
        self._answer_of, self._same = answer_of, remember(same)
        self._bar = bar
        self._windows: dict[int, Window] = {}
        self._lowest: dict[int, float] = {}
        self._running: set[int] = set()
        self._done: dict[int, tuple[str | None, Stats]] = {}
        self._votes = list(votes)
        self.agreed = False

    @property
    def bar(self) -> float | None:
        """The bar in force. Setting it applies to running traces too, what they have written included."""
        return self._bar

    @bar.setter
    def bar(self, value: float | None) -> None:
        self._bar = value

    def step(self, traces: Sequence[int], confidences: Sequence[float]) -> Mapping[int, StopReason]:
        """See types.Watch. A trace ends when any full window of it has been below the bar."""
        for index, confidence in zip(traces, confidences, strict=True):
            if index not in self._windows:
                self._windows[index] = Window(self.config.window)
                self._running.add(index)
            mean = self._windows[index].push(float(confidence))
            if mean is not None:
                self._lowest[index] = min(mean, self._lowest.get(index, math.inf))
        if self.agreed:
            return dict.fromkeys(self._running, StopReason.CONSENSUS)
        if self._bar is None:
            return {}
        low = (i for i in traces if i >= self.warmup and self._lowest.get(i, math.inf) < self._bar)
        return dict.fromkeys(low, StopReason.LOW_CONFIDENCE)

    def finish(self, index: int, trace: Trace) -> None:
        """See types.Watch. May set the bar (last warm-up trace) and may find consensus."""
        self._running.discard(index)
        self._windows.pop(index, None)
        if trace.stop in CUT:
            return
        answer = self._answer_of(trace) if self._answer_of else None
        stats = statistics(trace.confidence, self.config.window, self.config.window)
        self._done[index] = (answer, stats)
        if self._bar is None:
            early = [self._done[i][1].lowest for i in range(self.warmup) if i in self._done]
            if not self.warmup or len(early) < self.warmup:
                return
            self._bar = bar_of(early, self.config.keep_fraction)
            newcomers = list(self._done.values())
        else:
            newcomers = [(answer, stats)]
        for given, measured in newcomers:
            if given is not None and measured.lowest >= self._bar:
                self._votes.append((given, weight_of(measured, self.config.method)))
        if self.config.consensus is not None and self._votes:
            self.agreed = tally(self._votes, self._same).share >= self.config.consensus


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepConfResult:
    """What parallel thinking found, and what it cost.

    answer    the filtered, weighted vote; where nobody passed the filter with an answer, the majority (fallback True)
    majority  plain majority of the traces that ran to their end
    voters    indices into traces of those that voted
    tokens    generated in all, ended traces included; warmup_tokens of them in the warm-up
    saved     estimate of the tokens that ended and never started traces would have cost more
    """

    answer: Answer
    majority: Answer
    traces: tuple[Trace, ...]
    stats: tuple[Stats, ...]
    answers: tuple[str | None, ...]
    voters: tuple[int, ...]
    bar: float
    tokens: int
    warmup_tokens: int
    saved: float
    stopped: int
    fallback: bool = False


def online(
    generate: Generate,
    prompt: Prompt,
    sampling: SamplingParams,
    config: DeepConfConfig,
    answer_of: AnswerOf,
    same: Same | None = None,
) -> DeepConfResult:
    """Algorithm 2 on any `generate` (see types.Generator); `sampling.n` is ignored, the config's budget counts."""
    seed = config.seed if sampling.seed is None else sampling.seed
    same = remember(same)
    if config.rolling:
        watch = DeepConfWatch(config, answer_of, same, warmup=config.warmup)
        (traces,) = generate([prompt], replace(sampling, n=config.budget, seed=seed), [watch])
        return _result(traces, config, answer_of, same, watch.bar)
    (traces,) = generate([prompt], replace(sampling, n=config.warmup, seed=seed), None)
    warm = list(traces)
    bar = bar_of([s.lowest for s in _measure(warm, config)], config.keep_fraction)
    votes = [
        (a, weight_of(s, config.method)) for a, s, ok in _ballots(warm, config, answer_of, bar) if ok and a is not None
    ]
    agreed = config.consensus is not None and bool(votes) and tally(votes, same).share >= config.consensus
    later = config.budget - config.warmup
    if later and not agreed:
        watch = DeepConfWatch(config, answer_of, same, bar=bar, votes=votes)
        # A seed of its own, else the second phase would repeat the first phase's traces.
        (more,) = generate([prompt], replace(sampling, n=later, seed=(seed + 0x9E3779B9) % 2**31), [watch])
        warm += [replace(t, index=config.warmup + i) for i, t in enumerate(more)]
    return _result(warm, config, answer_of, same, bar)


def offline(
    traces: Sequence[Trace], config: DeepConfConfig, answer_of: AnswerOf, same: Same | None = None
) -> DeepConfResult:
    """Filter and weigh traces that all ran to their end: the best `keep_fraction` of those that answered vote, by the
    statistic the method weighs with (lowest group for majority). `warmup`, `budget` and `consensus` play no part."""
    answers = [None if t.stop in CUT else answer_of(t) for t in traces]
    measure = "min_window" if config.method == "majority" else config.method
    values = [weight_of(s, measure) for s in _measure(traces, config)]
    eligible = [v for v, a in zip(values, answers, strict=True) if a is not None]
    bar = bar_of(eligible, config.keep_fraction) if eligible else 0.0
    return _result(traces, config, answer_of, same, bar, values, launched=len(traces))


def _measure(traces: Sequence[Trace], config: DeepConfConfig) -> list[Stats]:
    for trace in traces:
        if len(trace.confidence) == 0 and trace.token_ids:
            raise DataError(
                f"trace {trace.index} has tokens but no confidences; the generator must report the 20 likeliest "
                "log-probabilities per token"
            )
    return [statistics(t.confidence, config.window, config.window) for t in traces]


def _ballots(
    traces: Sequence[Trace], config: DeepConfConfig, answer_of: AnswerOf, bar: float
) -> list[tuple[str | None, Stats, bool]]:
    """Per trace its answer, its statistics, and whether it votes."""
    out = []
    for trace, stats in zip(traces, _measure(traces, config), strict=True):
        answer = None if trace.stop in CUT else answer_of(trace)
        out.append((answer, stats, answer is not None and stats.lowest >= bar))
    return out


def _result(
    traces: Sequence[Trace],
    config: DeepConfConfig,
    answer_of: AnswerOf,
    same: Same | None,
    bar: float | None,
    values: Sequence[float] | None = None,
    launched: int | None = None,
) -> DeepConfResult:
    """values: what is compared with the bar, when not the lowest group."""
    bar = -math.inf if bar is None else bar
    ballots = _ballots(traces, config, answer_of, bar)
    answers = tuple(a for a, _, _ in ballots)
    stats = tuple(s for _, s, _ in ballots)
    compared = values if values is not None else [s.lowest for s in stats]
    voters = tuple(i for i, a in enumerate(answers) if a is not None and compared[i] >= bar)
    majority = tally([(a, 1.0) for a in answers if a is not None], same)
    chosen = tally([(str(answers[i]), weight_of(stats[i], config.method)) for i in voters], same)
    fallback = chosen.value is None and majority.value is not None
    lengths = [len(t.token_ids) for t in traces]
    return DeepConfResult(
        answer=majority if fallback else chosen,
        majority=majority,
        traces=tuple(traces),
        stats=stats,
        answers=answers,
        voters=voters,
        bar=bar,
        tokens=sum(lengths),
        warmup_tokens=sum(lengths[: config.warmup]),
        saved=_saved(traces, launched or config.budget),
        stopped=sum(t.stop in CUT for t in traces),
        fallback=fallback,
    )


def _saved(traces: Sequence[Trace], budget: int) -> float:
    """Tokens not generated, estimated: an ended trace would have run on as the finished ones of at least its length
    did on average, a trace never started would have had their mean length."""
    full = [len(t.token_ids) for t in traces if t.stop not in CUT]
    if not full:
        return 0.0
    saved = max(0, budget - len(traces)) * sum(full) / len(full)
    for trace in traces:
        if trace.stop in CUT:
            written = len(trace.token_ids)
            longer = [n - written for n in full if n >= written]
            saved += sum(longer) / len(longer) if longer else 0.0
    return saved
