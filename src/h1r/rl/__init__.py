"""Reinforcement learning: groups of traces become weighted rows, rows become a better policy, every event journaled.

grpo.run(generator, grader, trainer, problems, render, config, run_dir)   -> yields metrics
advantages(groups, folding, version)                                      -> [Row]
inspect(run_dir, step)                                                    -> a step recomputed from its journal
"""

from h1r.rl import grpo
from h1r.rl.advantage import Folding, advantages
from h1r.rl.backfill import Backfill
from h1r.rl.config import GrpoConfig
from h1r.rl.group import Group, Shaping, centred, reward, trivial
from h1r.rl.inspect import inspect
from h1r.rl.journal import Journal
from h1r.rl.sampler import Sampler, stratum
from h1r.rl.turns import Turns

__all__ = [
    "Backfill",
    "Folding",
    "Group",
    "GrpoConfig",
    "Journal",
    "Sampler",
    "Shaping",
    "Turns",
    "advantages",
    "centred",
    "grpo",
    "inspect",
    "reward",
    "stratum",
    "trivial",
]
