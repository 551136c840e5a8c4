"""Prometheus counters of one app. Names mirror vLLM's where the meaning is the same; ours alone begin with h1r."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 1200)


class Metrics:
    """Counters and histograms fed by handlers, and gauges read off the engine when asked (None: it is not here)."""

    def __init__(self, loop: Any, model: str) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._label = {"model_name": model}

        def counter(name: str, words: str, *labels: str) -> Any:
            made = Counter(name, words, ["model_name", *labels], registry=self.registry)
            return made if labels else made.labels(model)

        def histogram(name: str, words: str) -> Any:
            return Histogram(name, words, ["model_name"], buckets=SECONDS, registry=self.registry).labels(model)

        self.prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens read")
        self.generation_tokens = counter("vllm:generation_tokens", "Tokens written")
        self._success = counter("vllm:request_success", "Finished traces, by reason", "finished_reason")
        self.first_token = histogram("vllm:time_to_first_token_seconds", "Arrival to first token")
        self.per_token = histogram("vllm:inter_token_latency_seconds", "Mean time between a trace's tokens")
        self.whole = histogram("vllm:e2e_request_latency_seconds", "Arrival to the end of the answer")
        self.rejected = counter("h1r:requests_rejected", "Requests refused because too many were in flight")
        self.disconnected = counter("h1r:requests_disconnected", "Clients that left before their answer")
        self.forked = counter(
            "h1r:forked_prefill_tokens", "Prompt tokens not computed again because a state was forked"
        )
        self.saved = counter("h1r:deepconf_saved_tokens", "Tokens DeepConf did not have to write (estimate)")
        self.stopped = counter("h1r:deepconf_stopped_traces", "Traces DeepConf ended early")
        if loop is not None:
            self.registry.register(_Engine(loop, model))

    def finished(self, reason: str) -> None:
        """One trace ended."""
        self._success.labels(self._label["model_name"], reason).inc()

    def exposition(self) -> bytes:
        """The text Prometheus scrapes."""
        return generate_latest(self.registry)


class _Engine:
    """Gauges of queues and memory, read without stopping the engine: each is one number, torn reads are harmless."""

    def __init__(self, loop: Any, model: str) -> None:
        self._loop, self._engine, self._model = loop, loop.engine, model
        self._seen = 0, 0.0

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        scheduler, memory = self._engine.scheduler, self._engine.memory
        gauges = {
            "vllm:num_requests_running": ("Sequences in memory", len(scheduler.resident)),
            "vllm:num_requests_waiting": ("Requests not begun", len(scheduler.waiting)),
            "vllm:num_requests_swapped": ("Sequences parked on the host", len(scheduler.parked)),
            "vllm:kv_cache_usage_perc": ("Share of K/V pages held", memory.pages.used / max(1, memory.pages.limit)),
            "h1r:state_slots_used": ("State slots held", memory.slots.used),
            "h1r:state_slots": ("State slots there may be", memory.slots.limit),
            "h1r:state_slot_usage_perc": ("Share of state slots held", memory.slots.used / max(1, memory.slots.limit)),
            "h1r:achieved_bytes_per_second": (
                "Bytes steps had to move over their time, since last asked",
                self._rate(),
            ),
            "h1r:weights_version": ("Version of the weights in use", self._engine.version),
        }
        for name, (words, value) in gauges.items():
            family = GaugeMetricFamily(name, words, labels=["model_name"])
            family.add_metric([self._model], float(value))
            yield family
        counters = {
            "h1r:step_bytes": ("Bytes steps had to move: weights, states, keys and values", self._loop.traffic.bytes),
            "h1r:step_seconds": ("Time of steps", self._loop.traffic.seconds),
            "h1r:prefix_cached_tokens": ("Prompt tokens not computed again: kept states", scheduler.prefixes.tokens),
        }
        for name, (words, value) in counters.items():
            counted = CounterMetricFamily(name, words, labels=["model_name"])
            counted.add_metric([self._model], float(value))
            yield counted

    def _rate(self) -> float:
        """Over the steps since the last call; 0 where there was none."""
        traffic, (moved, seconds) = self._loop.traffic, self._seen
        self._seen = traffic.bytes, traffic.seconds
        return (traffic.bytes - moved) / (traffic.seconds - seconds) if traffic.seconds > seconds else 0.0
