"""Writes traces: continuous batching over paged K/V and fixed state slots, sampling, and `LLM`, the library's face.

request    what is worked on            scheduler  what runs next (no tensors)
memory     who owns which page, slot    runner     carries it out (no policy)
sampler    logits to tokens             engine     the four in one step
loop       one engine, many threads     llm        text in and out
"""

from h1r.engine.engine import Engine
from h1r.engine.llm import LLM
from h1r.engine.loop import Loop, Ticket
from h1r.engine.options import EngineConfig
from h1r.engine.request import Event

__all__ = ["LLM", "Engine", "EngineConfig", "Event", "Loop", "Ticket"]
