"""Bench: how fast a model decodes and prefills here and what it costs in memory, beside what the machine allows.

    decode.decode({"0.5b": PRESETS["0.5b"]}, batches=(1, 8), contexts=(64, 8192))     # rows, JSON-able
    prefill.prefill(...)    quality.quality(...)    long.long(...)
    replay.replay(...)    memory.memory(...)    twin.twin(config)    roofline.throughput(model, baseline, hardware)

Weights are random: speed does not depend on them. Limits (bandwidth, products) are measured in the same run, because
machines are shared and drift; only figures of one run compare.
"""

from h1r.bench import decode, limits, long, memory, prefill, quality, replay, roofline, twin

__all__ = ["decode", "limits", "long", "memory", "prefill", "quality", "replay", "roofline", "twin"]
