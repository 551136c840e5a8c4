"""What the released DeepConf code (facebookresearch/deepconf, main) computes from the same confidences, to be compared with.

    released(records) -> {method: Voted}            its seven votes over finished traces, answers as raw strings
    released_online(warmup, final, keep_fraction)   its bar, its voters and their weights
    stop_index(confidence, window, bar)             where its processor ends a trace

It rounds token confidences to three decimals; group confidences too where they set the bar (`min_conf`), not where they weigh
votes. Answers that are empty do not vote. Ties: the answer seen first. Its percentile is 100 (1 - keep_fraction).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from h1r.search.confidence import Stats, bar_of, groups, statistics
from h1r.search.deepconf import Window
from h1r.search.replay import Record
from h1r.search.vote import tally

WINDOW = 2048
TOP = 0.1  # of the two filtered votes


class Voted(NamedTuple):
    """answer, how many traces voted, and the mean confidence of the voters (None for the majority)."""

    answer: str | None
    num_votes: int
    confidence: float | None


class Online(NamedTuple):
    """bar: what min_conf must reach. answer: by min_conf; voters: of warm-up first, then of the final phase; min_confs alike."""

    bar: float
    answer: str | None
    voters: tuple[int, ...]
    min_confs: tuple[float, ...]


def released(records: Sequence[Record], window: int = WINDOW) -> Mapping[str, Voted]:
    """Its `compute_all_voting_results`."""
    valid = [r for r in records if r.answer]
    stats = [_stats(r.confidence, window) for r in valid]
    answers = [str(r.answer) for r in valid]
    measures = {
        "mean_confidence_weighted": [s.mean for s in stats],
        "tail_confidence_weighted": [s.tail for s in stats],
        "bottom_window_weighted": [s.bottom for s in stats],
        "min_window_weighted": [s.lowest for s in stats],
    }
    out = {"majority": Voted(_winner(answers, [1.0] * len(answers)), len(answers), None)}
    out |= {name: _weighted(answers, weights) for name, weights in measures.items()}
    for name, own in (
        ("tail", measures["tail_confidence_weighted"]),
        ("bottom_window", measures["bottom_window_weighted"]),
    ):
        bar = bar_of(own, TOP) if own else 0.0
        kept = [(a, w) for a, w in zip(answers, own, strict=True) if w >= bar]
        out[f"top10_{name}_filtered"] = _weighted([a for a, _ in kept], [w for _, w in kept])
    return out


def released_online(
    warmup: Sequence[Record], final: Sequence[Record], keep_fraction: float, window: int = WINDOW
) -> Online:
    """Its online mode on finished traces: those below the bar count as stopped and do not vote."""
    lows = [min_conf(r.confidence, window) for r in (*warmup, *final)]
    bar = bar_of(lows[: len(warmup)], keep_fraction)
    voters = [i for i, (r, low) in enumerate(zip((*warmup, *final), lows, strict=True)) if low >= bar and r.answer]
    every = [*warmup, *final]
    answer = _winner([str(every[i].answer) for i in voters], [lows[i] for i in voters])
    return Online(bar, answer, tuple(voters), tuple(lows))


def min_conf(confidence: npt.NDArray[np.float64], window: int = WINDOW) -> float:
    """Its `min_conf`: the smallest rounded group confidence; the plain mean of a trace shorter than a window.

    Sums of three-decimal numbers fall on a rounding tie once in `window` times, and then the order of summation decides: windows
    that may be the smallest are summed again from left to right, as there.
    """
    values = [round(float(c), 3) for c in confidence]
    if len(values) < window:
        return sum(values) / len(values) if values else 0.0
    means = groups(values, window)
    near = np.flatnonzero(means <= means.min() + 1.5e-3)
    return min(round(sum(values[i : i + window]) / window, 3) for i in near.tolist())


def stop_index(confidence: Sequence[float] | npt.NDArray[np.float64], window: int, bar: float) -> int | None:
    """Tokens after which the trace is ended: the first full window whose mean is below the bar; None: never."""
    ring = Window(window)
    for count, value in enumerate(confidence, 1):
        mean = ring.push(float(value))
        if mean is not None and mean < bar:
            return count
    return None


def _stats(confidence: npt.NDArray[np.float64], window: int) -> Stats:
    """Statistics of rounded tokens; its windows are not rounded again where they weigh votes."""
    return statistics([round(float(c), 3) for c in confidence], window, window)


def _weighted(answers: Sequence[str], weights: Sequence[float]) -> Voted:
    mean = float(np.mean(weights)) if len(weights) else None
    return Voted(_winner(answers, weights), len(answers), mean)


def _winner(answers: Sequence[str], weights: Sequence[float]) -> str | None:
    return tally(list(zip(answers, weights, strict=True))).value
