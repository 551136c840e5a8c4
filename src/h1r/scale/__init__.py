"""Scale: workers of a Ray cluster behind the same protocols, replicas of a server, and a launcher for vLLM.

    with scale.cluster():
        pool = generators(4, make_engine)           # a Generator: prompts are spread over four actors
        groups = pool.generate(prompts, sampling)   # a dead actor is replaced, and WorkerLost raised

Actors hold an engine, a grader or an app; loops stay with the caller. Ray is imported when first used.
"""

from h1r.scale.broadcast import Source
from h1r.scale.cluster import cluster, require
from h1r.scale.pool import GeneratorPool, GraderPool, generators, graders
from h1r.scale.ranks import TrainerGroup, on_ranks
from h1r.scale.replicas import Fleet, replicas
from h1r.scale.served import Served
from h1r.scale.vllm import Server, command, launch

__all__ = [
    "Fleet",
    "GeneratorPool",
    "GraderPool",
    "Served",
    "Server",
    "Source",
    "TrainerGroup",
    "cluster",
    "command",
    "generators",
    "graders",
    "launch",
    "on_ranks",
    "replicas",
    "require",
]
