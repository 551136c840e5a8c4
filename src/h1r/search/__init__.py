"""Test-time search over traces: confidence statistics, votes, DeepConf online and offline, replay of recorded traces.

    result = online(generate, prompt, sampling, DeepConfConfig(budget=64), answer_of, same)
    answer = vote(traces, answer_of, same, method="tail", keep_fraction=0.1)
    points = sweep([record(traces, answer_of, correct)], configs, repeats=64, seed=0)

Works on any `generate` (types.Generator); which answers count as equal is an argument.
"""

from h1r.search import parity
from h1r.search.confidence import Stats, bar_of, groups, slide, statistics, token_confidence
from h1r.search.deepconf import DeepConfConfig, DeepConfResult, DeepConfWatch, Window, offline, online
from h1r.search.replay import Outcome, Point, Record, record, replay, sweep
from h1r.search.vote import METHODS, Classes, tally, vote, weight_of

__all__ = [
    "METHODS",
    "Classes",
    "DeepConfConfig",
    "DeepConfResult",
    "DeepConfWatch",
    "Outcome",
    "Point",
    "Record",
    "Stats",
    "Window",
    "bar_of",
    "groups",
    "offline",
    "online",
    "parity",
    "record",
    "replay",
    "slide",
    "statistics",
    "sweep",
    "tally",
    "token_confidence",
    "vote",
    "weight_of",
]
