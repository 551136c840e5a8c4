"""What the machine can do at best, measured now: bytes read from memory, operations of a matrix product, a second."""

from __future__ import annotations

import platform
import time
from typing import Any, NamedTuple

import torch

from h1r.engine import native


class Limits(NamedTuple):
    """bandwidth: B/s of one long read; products: {dtype: operations/s of a large matrix product}; threads of torch."""

    bandwidth: float
    products: dict[str, float]
    threads: int


def measure(megabytes: int = 512, size: int = 1024, rounds: int = 5, dtypes: tuple[str, ...] = ("float32",)) -> Limits:
    """Best of `rounds`, in about a second. Of bfloat16 what the faster of its own product and fp32's does: a processor
    without instructions for it is slower in it by far."""
    if native.available():
        bandwidth = native.read_bandwidth(megabytes, rounds)
    else:
        data = torch.ones(megabytes << 18, dtype=torch.float32)
        data.sum()
        bandwidth = data.numel() * 4 / min(_seconds(lambda: data.sum()) for _ in range(rounds))
    products = {name: _product(name, size, rounds) for name in dtypes}
    if "bfloat16" in products:
        products["bfloat16"] = max(products["bfloat16"], products.get("float32") or _product("float32", size, rounds))
    return Limits(bandwidth, products, torch.get_num_threads())


def _product(dtype: str, size: int, rounds: int) -> float:
    a = torch.ones(size, size, dtype=getattr(torch, dtype))
    a @ a
    return float(2.0 * size**3 / min(_seconds(lambda: a @ a) for _ in range(rounds)))


def product_dtype(format: str) -> str:
    """The dtype whose matrix product bounds a weight format."""
    return "float32" if format == "float32" else "bfloat16"


def machine() -> dict[str, Any]:
    """What ran: processor, cores, software."""
    import os

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            name = next((line.partition(":")[2].strip() for line in f if line.startswith("model name")), name)
    except OSError:
        pass
    return {"processor": name, "cores": os.cpu_count(), "torch": torch.__version__, "threads": torch.get_num_threads()}


def _seconds(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
